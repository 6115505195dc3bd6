"""Reconstruction as an audit runs it: what a server gets out of one record's update, and out of the updates of the run.

The *probe* is the worst case that a protocol allows: a hospital that trains one step on one record, under the run's own
clipping and noise. The *stored updates* are what hospitals really sent.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.audits import analytic, labels, picture
from tff_hospitals.audits.gradient_matching import GradientMatching
from tff_hospitals.audits.gradients import Tensors, first_dense_layer
from tff_hospitals.audits.probe import Probe
from tff_hospitals.foundations.validation import InvalidInput

if TYPE_CHECKING:
    from tff_hospitals.audits.loading import LoadedRun
    from tff_hospitals.communication import Chain
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.models import FunctionalModel
    from tff_hospitals.plan.plan import Plan


@dataclasses.dataclass(frozen=True)
class Rebuilt:
    """One record beside its rebuilt copy.

    Attributes:
      hospital_id: whose record.
      label, guessed_label: the true class, and the one read off the gradient (None for regression).
      record, rebuilt: features.
      error: `picture.relative_error`; psnr, ssim: of images.
    """

    hospital_id: str
    label: float
    guessed_label: int | None
    record: np.ndarray
    rebuilt: np.ndarray
    error: float
    psnr: float | None
    ssim: float | None


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """What an attack rebuilt.

    Attributes:
      attack: `analytic` or `gradient_matching`.
      records: how many were attacked.
      error: median `picture.relative_error`: 0 exact, about 1 for guessing the mean record.
      label_accuracy: share of labels read off rightly (None for regression).
      examples: the first few, for people.
    """

    attack: str
    records: int
    error: float
    label_accuracy: float | None
    examples: tuple[Rebuilt, ...]


def feature_bounds(dataset: HospitalDataset) -> tuple[np.ndarray, np.ndarray]:
    """Bounds [feature_shape] within which an attacker may assume features to lie: the range of test records."""
    tests = np.concatenate(
        [h.test.features for h in dataset if h.test.records] or [dataset.hospitals[0].train.features]
    )
    low, high = tests.min(axis=0).astype(np.float64), tests.max(axis=0).astype(np.float64)
    if len(dataset.feature_shape) >= 2:
        return np.full(dataset.feature_shape, float(low.min())), np.full(dataset.feature_shape, float(high.max()))
    return low, np.maximum(high, low + 1e-6)


def spread_of(dataset: HospitalDataset) -> np.ndarray:
    """Standard deviation of each feature over all training records; for images of all pixels together."""
    features = dataset.pooled_train().features.astype(np.float64)
    if len(dataset.feature_shape) >= 2:
        return np.full(dataset.feature_shape, float(features.std(axis=0).mean()))
    return np.asarray(features.std(axis=0))


def choose_attack(model: FunctionalModel) -> str:
    """`analytic` where the model has the layer for it, else `gradient_matching`."""
    try:
        first_dense_layer(model)
    except InvalidInput:
        return "gradient_matching"
    return "analytic"


def rebuild(
    plan: Plan,
    dataset: HospitalDataset,
    model: FunctionalModel,
    weights: Tensors,
    frozen: Tensors,
    *,
    attack: str,
    records: int,
    steps: int = 1,
    batch: int = 1,
    chain: Chain | None = None,
    examples: int = 5,
    iterations: int = 200,
) -> Reconstruction:
    """Rebuilds training records from the updates that they cause under the plan's mechanism.

    Args:
      plan, dataset, model: of the run.
      weights, frozen: the broadcast model.
      attack: `analytic` or `gradient_matching`.
      records: how many records are attacked, spread over the hospitals.
      steps: local steps in an update.
      batch: records in an update; each record's nearest rebuilt one counts.
      chain: encoders of the upload.
      examples: kept for people.
      iterations: of gradient matching.

    Raises:
      validation.InvalidInput: the model lacks the layer that the analytic attack needs.
    """
    rate = 0.1
    if attack == "analytic":
        first_dense_layer(model)
    probe = Probe(plan, dataset, model, weights, frozen, steps=steps, learning_rate=rate, chain=chain)
    low, high = feature_bounds(dataset)
    spread = spread_of(dataset)
    search = None
    if attack == "gradient_matching":
        image = len(model.feature_shape) >= 2
        search = GradientMatching(
            model,
            weights,
            frozen,
            steps=steps,
            learning_rate=rate,
            low=low,
            high=high,
            objective="squared",
            total_variation=1e-4 if image and model.feature_shape[0] > 12 else 0.0,
        )
    found: list[Rebuilt] = []
    for number in range(-(-records // batch)):
        hospital = dataset.hospitals[number % len(dataset.hospitals)]
        part = hospital.train
        first = (number // len(dataset.hospitals)) * batch
        at = (np.arange(batch) + first) % part.records
        features, truth = part.features[at], part.labels[at]
        noise = probe.noise_multiplier(hospital.hospital_id)
        seen = probe(features, truth, number=number, noise_multiplier=noise)
        guessed = None
        if model.task != "regression" and batch == 1:
            guessed = labels.recover_label(model, seen.gradient)
        if search is not None:
            known = truth if guessed is None else np.array([guessed])
            rebuilt = search(seen, known, iterations=iterations, seed=plan.seed + number).features
        elif batch == 1:
            rebuilt = analytic.recover_one(model, seen.gradient)[None]
        else:
            rebuilt = analytic.recover(model, seen.gradient)
        rebuilt = np.clip(np.nan_to_num(rebuilt), low, high)
        for record, label in zip(features, truth):
            errors = [picture.relative_error(record, one, spread) for one in rebuilt]
            best = rebuilt[int(np.argmin(errors))] if errors else np.clip(np.zeros_like(record), low, high)
            found.append(_compared(hospital.hospital_id, label, guessed, record, best, spread, float(high.max())))
    right = [one.guessed_label == one.label for one in found if one.guessed_label is not None]
    return Reconstruction(
        attack,
        len(found),
        float(np.median([one.error for one in found])),
        float(np.mean(right)) if right else None,
        tuple(found[:examples]),
    )


def other_attacks(
    plan: Plan, dataset: HospitalDataset, model: FunctionalModel, weights: Tensors, frozen: Tensors, *, batch: int = 16
) -> list[dict[str, Any]]:
    """What the other attacks reach under the same mechanism: gradient matching, and a malicious server's planted layer.

    Args:
      plan, dataset, model, weights, frozen: as for `rebuild`.
      batch: records in the update that meets the planted layer.

    Returns:
      one dict per attack that applies: name, records, median error or share of records recovered exactly.
    """
    found: list[dict[str, Any]] = []
    matched = rebuild(plan, dataset, model, weights, frozen, attack="gradient_matching", records=4, iterations=150)
    found.append({"attack": "gradient_matching", "records": matched.records, "error": matched.error})
    try:
        part = max((hospital.train for hospital in dataset), key=lambda one: one.records)
        others = np.concatenate([h.test.features for h in dataset if h.test.records] or [part.features])
        planted = analytic.plant(model, weights, others)
    except InvalidInput:
        return found
    probe = Probe(plan, dataset, model, weights, frozen, learning_rate=1.0)
    count = min(batch, part.records)
    seen = probe(part.features[:count], part.labels[:count], weights=planted)
    candidates = analytic.recover_planted(model, seen.gradient)
    share = analytic.share_recovered(candidates, part.features[:count])
    found.append({"attack": "planted_layer", "records": count, "share_recovered": share})
    return found


def _compared(
    hospital_id: str,
    label: Any,
    guessed: int | None,
    record: np.ndarray,
    rebuilt: np.ndarray,
    spread: np.ndarray,
    brightest: float,
) -> Rebuilt:
    image = record.ndim >= 2
    return Rebuilt(
        hospital_id,
        float(label),
        guessed,
        record,
        rebuilt,
        picture.relative_error(record, rebuilt, spread),
        picture.psnr(record, rebuilt, brightest) if image else None,
        picture.ssim(record, rebuilt, brightest) if image else None,
    )


def from_stored(run: LoadedRun) -> list[dict[str, Any]]:
    """What the analytic attack gets out of each stored update of the run: the share of records recovered exactly, and
    how near the nearest candidate comes to a record.

    Raises:
      records.RecordError: nothing was stored.
      validation.InvalidInput: the model lacks the layer that the attack needs.
    """
    low, high = feature_bounds(run.dataset)
    spread = spread_of(run.dataset)
    found = []
    for stored in run.stored_rounds():
        for one, delta in stored.deltas.items():
            part = run.dataset.hospital(one).train
            candidates = np.clip(np.nan_to_num(analytic.recover(run.model, delta)), low, high)
            nearest = _nearest(part.features, candidates, spread)
            found.append(
                {
                    "round": stored.number,
                    "hospital": one,
                    "share_recovered": analytic.share_recovered(candidates, part.features),
                    "nearest_error": nearest,
                }
            )
    return found


def _nearest(records: np.ndarray, candidates: np.ndarray, spread: np.ndarray) -> float:
    """The smallest `picture.relative_error` of any pair; infinite without candidates."""
    from scipy.spatial import distance

    scale = spread.ravel()
    varies = scale > 1e-9
    rows, made = (one.reshape(len(one), -1)[:, varies] / scale[varies] for one in (records, candidates))
    return float(distance.cdist(rows, made).min() / np.sqrt(varies.sum())) if len(made) else float("inf")
