"""Every defence against the attacks: what each one changes, measured on the same model and records.

>>> [variant.name for variant in variants(Plan())][:3]
['none', 'clipping', 'dp_sgd']
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from tff_hospitals.audits import membership, statistics
from tff_hospitals.audits.reconstruction import choose_attack, rebuild
from tff_hospitals.audits.threat_models import DEFENCES
from tff_hospitals.plan import review
from tff_hospitals.plan.plan import Plan

if TYPE_CHECKING:
    from tff_hospitals.communication import Chain
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.models import FunctionalModel

# The plan without any mechanism of its own; adaptive clipping of records is one too.
_PLAIN = {
    "mechanism": "none",
    "noise_multiplier": None,
    "target_epsilon": None,
    "conversion": None,
    "outer": "none",
    "outer_noise_multiplier": None,
    "outer_target_epsilon": None,
    "zeroing": "none",
    "clip_style": "flat",
    "secure_sum": False,
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A run with one defence: its plan, and how a probe of it is made.

    Attributes:
      name: in `threat_models.DEFENCES`.
      detail: its strength, in words.
      plan: with the defence.
      steps, batch: of the update that is inverted.
      chain: encoders of the upload.
      retrained: whether the trained model differs, so that membership is attacked anew.
      trainable: pattern of the only layers that are trained.
    """

    name: str
    detail: str
    plan: Plan
    steps: int = 1
    batch: int = 1
    chain: str = ""
    retrained: bool = True
    trainable: str | None = None


@dataclasses.dataclass(frozen=True)
class DefenceRow:
    """One row of the table: outcomes of the attacks under one defence; None where an attack does not apply."""

    defence: str
    title: str
    detail: str
    stops: tuple[str, ...]
    hampers: tuple[str, ...]
    reconstruction_error: float | None
    label_accuracy: float | None
    membership_auc: float | None
    membership_interval: tuple[float, float] | None


def variants(plan: Plan, epsilon: float = 8.0) -> list[Variant]:
    """The defences, each put around the same plan without its own mechanism."""
    plain = plan.replace(
        privacy=_PLAIN,
        stopping={"max_epsilon": None, "outer_max_epsilon": None},
        upload="",
        broadcast="",
        error_feedback=False,
        skip_below=None,
    )
    noisy = plain.replace(privacy={"mechanism": "dp_sgd", "target_epsilon": epsilon})
    strict = plain.replace(privacy={"mechanism": "dp_sgd", "target_epsilon": 1.0})
    silent = plain.replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 1e-6})
    server = plain.replace(weighting="equal", privacy={"mechanism": "fixed_clip", "target_epsilon": epsilon})
    found = [
        Variant("none", "one record, one local step", plain),
        Variant("clipping", f"clip norm {plan.privacy.clip_norm:g}", silent, retrained=False),
        Variant("dp_sgd", f"epsilon {epsilon:g}", noisy),
        Variant("dp_sgd", "epsilon 1", strict),
        Variant("hospital_noise", f"epsilon {epsilon:g}", server),
        Variant("local_steps", "five local steps", plain, steps=5, retrained=False),
        Variant("local_steps", "eight records in the step", plain, batch=8, retrained=False),
        Variant("quantisation", "4 bits a value", plain, chain="quantize:4", retrained=False),
        Variant("sparsification", "largest tenth of the values", plain, chain="topk:0.1", retrained=False),
        Variant("secure_sum", "sum of four updates of one record each", plain, batch=4, retrained=False),
    ]
    if plan.model.name in ("mlp", "cnn"):
        found.append(Variant("partial_layers", "output layer only", plain, trainable="output"))
    return found


def defence_table(
    plan: Plan,
    dataset: HospitalDataset,
    model: FunctionalModel,
    *,
    records: int = 16,
    shadow_models: int = 12,
    epsilon: float = 8.0,
) -> list[DefenceRow]:
    """Attacks records of the data set under each defence.

    Args:
      plan: whose sizes and rates are kept.
      dataset, model: of a run.
      records: how many are rebuilt under each defence.
      shadow_models: of each membership attack; 0 leaves these out.
      epsilon: of the noisy defences.
    """
    from tff_hospitals.foundations.random_streams import Streams
    from tff_hospitals.training.loop import build_model

    key = Streams.from_seed(plan.seed).child("model").key()
    rows = []
    for variant in variants(plan, epsilon):
        if review.problems(variant.plan, dataset):
            continue  # a target that these hospitals cannot reach is no defence here
        used = model
        chosen = variant.plan
        if variant.trainable is not None:
            options = {**dict(plan.model.options), "trainable": [variant.trainable]}
            chosen = variant.plan.replace(model={"options": options})
            used = build_model(chosen, dataset)
        weights, frozen = used.initial_weights(key)
        made = rebuild(
            chosen,
            dataset,
            used,
            weights,
            frozen,
            attack=choose_attack(used),
            records=records,
            steps=variant.steps,
            batch=variant.batch,
            chain=_chain(variant.chain),
            examples=0,
            iterations=60,
        )
        outcome = None
        if shadow_models and variant.retrained:
            outcome = _membership(chosen, dataset, used, shadow_models)
        entry = DEFENCES[variant.name]
        rows.append(
            DefenceRow(
                variant.name,
                entry.title,
                variant.detail,
                entry.stops,
                entry.hampers,
                made.error,
                made.label_accuracy,
                None if outcome is None else outcome.auc,
                None if outcome is None else (outcome.auc_interval.low, outcome.auc_interval.high),
            )
        )
    return rows


def _chain(text: str) -> Chain | None:
    if not text:
        return None
    from tff_hospitals.communication import parse_chain

    return parse_chain(text)


def _membership(plan: Plan, dataset: HospitalDataset, model: FunctionalModel, shadow_models: int) -> statistics.Outcome:
    from tff_hospitals.audits.shadows import Records, losses_of, train_shadows
    from tff_hospitals.training.loop import train

    records = Records.of(dataset)
    once = plan.replace(evaluate_every=plan.rounds, checkpoint_every=plan.rounds)
    run = train(once, dataset, model=model)
    shadows = train_shadows(plan, dataset, model, records, count=max(4, shadow_models))
    losses = losses_of(model, dataset, run.weights, run.frozen, records)
    scores = membership.calibrated(np.asarray(losses), shadows)
    return statistics.evaluate(scores[records.member], scores[~records.member], fprs=())
