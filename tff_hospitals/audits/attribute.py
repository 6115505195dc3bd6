"""Attribute inference: what a model or an update adds to guessing a hidden column of a training record.

The attacker knows a record's other columns and its label. Much of a hidden column can be guessed from these alone (an
imputation learnt on other patients), and a good model reflects that; it is not a leak. Only the *gain* of the attack
over the imputation is, and it is reported with an exact interval.

Source: Fredrikson, Jha and Ristenpart 2015 (model inversion), ACM CCS; the baseline: Jayaraman and Evans 2022,
arXiv:2209.01292, who show that most published gains vanish against imputation.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from tff_hospitals.audits.statistics import Interval, clopper_pearson
from tff_hospitals.foundations.validation import Problem, one_of, raise_if

if TYPE_CHECKING:
    from tff_hospitals.audits.gradients import Tensors
    from tff_hospitals.hospitals import Hospital, HospitalDataset, Schema
    from tff_hospitals.models import FunctionalModel

BANDS = 3  # equal shares that a numeric column is cut into


@dataclasses.dataclass(frozen=True)
class Gain:
    """What the attack adds to the imputation.

    Attributes:
      attribute, records: the hidden column and how many training records were attacked.
      baseline, attack: share of records guessed rightly by imputation alone, and with the model or update.
      gain: attack - baseline; `interval` is exact given the records on which the two differ.
      values: the values (or bands) guessed between.
    """

    attribute: str
    records: int
    baseline: float
    attack: float
    gain: float
    interval: Interval
    values: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Hidden:
    """A hidden column: the columns that encode it, what each value writes there, and how to read the truth."""

    name: str
    columns: tuple[int, ...]
    written: np.ndarray  # [values, columns], original units
    values: tuple[str, ...]
    cuts: np.ndarray | None

    def truth(self, raw: np.ndarray) -> np.ndarray:
        """Positions [records] of the true values, from records in original units."""
        cells = raw[:, self.columns]
        if self.cuts is not None:
            return np.searchsorted(self.cuts, cells[:, 0], side="right")
        return np.abs(cells[:, None, :] - self.written[None]).sum(axis=2).argmin(axis=1)


def check_attribute(dataset: HospitalDataset, attribute: str) -> Schema:
    """The schema, when it has such an input column.

    Raises:
      validation.InvalidInput: no table, the target itself, or an unknown column (with the nearest known ones).
    """
    schema = dataset.schema
    if schema is None:
        bound = f"needs a table with a schema, and {dataset.name} has none"
        raise_if([Problem("attribute", attribute, bound, "attack a table such as heart_disease")])
    elif attribute == schema.target.name:
        known = ", ".join(feature.name for feature in schema.features)
        bound = "is the target: predicting it is what the model is for"
        raise_if([Problem("attribute", attribute, bound, f"take an input column: {known}")])
    else:
        raise_if([one_of("attribute", attribute, [feature.name for feature in schema.features])])
    return schema  # type: ignore[return-value]


def infer_from_model(
    dataset: HospitalDataset,
    hospital: Hospital,
    model: FunctionalModel,
    weights: Tensors,
    frozen: Tensors,
    attribute: str,
    *,
    confidence: float = 0.95,
) -> Gain:
    """Guesses a column of a hospital's training records with the final model.

    Every value is tried; its weight is the imputation's probability without the label, times the probability that the
    model gives the label with it (Bayes' rule).

    Args:
      dataset, hospital: the table, and whose records are attacked; other patients are all test records.
      model, weights, frozen: the attacked model.
      attribute: name of an input column of the schema.
      confidence: of the interval of the gain.
    """
    schema = check_attribute(dataset, attribute)
    hidden, raw, others = _prepare(schema, dataset, hospital, attribute)
    labels = hospital.train.labels
    prior = _imputed(hidden, others, raw, None, None)
    with_label = _imputed(hidden, others, raw, np.concatenate([h.test.labels for h in dataset]), labels)
    losses = _losses(dataset, hospital, model, weights, frozen, _variants(hidden, hospital, raw), labels)
    return _gain(hidden, raw, with_label.argmax(axis=1), (prior - losses).argmax(axis=1), confidence)


def infer_from_update(
    dataset: HospitalDataset,
    hospital: Hospital,
    model: FunctionalModel,
    weights: Tensors,
    frozen: Tensors,
    delta: Tensors,
    attribute: str,
    *,
    confidence: float = 0.95,
) -> Gain:
    """Guesses a column of a hospital's training records with one of its updates.

    The gradient of the record with each value is compared with the update. Were the update a multiple of that gradient
    plus Gaussian noise, its log likelihood would be -parameters / 2 * log(1 - cosine**2); this is added to the
    imputation's log probability with the label.

    Args:
      delta: the hospital's update from `weights`.
      (others): as for `infer_from_model`.
    """
    schema = check_attribute(dataset, attribute)
    hidden, raw, others = _prepare(schema, dataset, hospital, attribute)
    labels = hospital.train.labels
    with_label = _imputed(hidden, others, raw, np.concatenate([h.test.labels for h in dataset]), labels)
    from tff_hospitals.audits.per_record import RecordGradients

    variants, gradients = _variants(hidden, hospital, raw), RecordGradients(model, frozen)
    cosines = np.stack([gradients.cosines(weights, one, labels, delta) for one in variants], axis=1)
    parameters = sum(part.size for part in delta)
    fit = -0.5 * parameters * np.log(np.maximum(1.0 - np.clip(cosines, 0.0, 1.0) ** 2, 1e-9))
    return _gain(hidden, raw, with_label.argmax(axis=1), (with_label + fit).argmax(axis=1), confidence)


def _prepare(
    schema: Schema, dataset: HospitalDataset, hospital: Hospital, attribute: str
) -> tuple[_Hidden, np.ndarray, np.ndarray]:
    """The hidden column, the attacked records and other patients' records, in original units."""
    raw = hospital.restore(hospital.train.features)
    others = np.concatenate([h.restore(h.test.features) for h in dataset])
    feature = schema.feature(attribute)
    kept = [(at, column) for at, column in enumerate(schema.columns) if column.source == attribute]
    columns = tuple(at for at, column in kept if column.kind != "missing")
    if feature.is_number:
        cells = others[:, columns[0]]
        cuts = np.unique(np.quantile(cells, np.linspace(0, 1, BANDS + 1)[1:-1]))
        band = np.searchsorted(cuts, cells, side="right")
        middles = [
            float(np.median(cells[band == k])) if (band == k).any() else float(cells.mean())
            for k in range(len(cuts) + 1)
        ]
        edges = [f"{value:g}" for value in cuts]
        names = [f"below {edges[0]}", *(f"{a} to {b}" for a, b in zip(edges, edges[1:])), f"{edges[-1]} and over"]
        return _Hidden(attribute, columns, np.array(middles)[:, None], tuple(names), cuts), raw, others
    if feature.kind == "binary":
        return _Hidden(attribute, columns, np.array([[0.0], [1.0]]), feature.levels, None), raw, others
    written = np.eye(len(feature.levels))
    if feature.drop_first:
        written = written[:, 1:]
    return _Hidden(attribute, columns, written, feature.levels, None), raw, others


def _imputed(
    hidden: _Hidden, others: np.ndarray, raw: np.ndarray, other_labels: np.ndarray | None, labels: np.ndarray | None
) -> np.ndarray:
    """Log probability [records, values] of each value given the other columns (and the label), learnt on others."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kept = [at for at in range(raw.shape[1]) if at not in hidden.columns]

    def table(rows: np.ndarray, marks: np.ndarray | None) -> np.ndarray:
        return rows[:, kept] if marks is None else np.concatenate([rows[:, kept], marks[:, None]], axis=1)

    truth = hidden.truth(others)
    found = np.full((len(raw), len(hidden.values)), np.log(1e-3))
    if len(np.unique(truth)) < 2:
        found[:, truth[0]] = 0.0
        return found
    learner = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    learner.fit(table(others, other_labels), truth)
    found[:, learner[-1].classes_] = learner.predict_log_proba(table(raw, labels))
    return found


def _variants(hidden: _Hidden, hospital: Hospital, raw: np.ndarray) -> list[np.ndarray]:
    """The attacked records' features with each value written into the hidden column."""
    made = []
    for cells in hidden.written:
        changed = raw.copy()
        changed[:, hidden.columns] = cells
        scaled = changed if hospital.scaler is None else hospital.scaler.apply(changed)
        made.append(np.asarray(scaled, np.float32))
    return made


def _losses(
    dataset: HospitalDataset,
    hospital: Hospital,
    model: FunctionalModel,
    weights: Tensors,
    frozen: Tensors,
    variants: list[np.ndarray],
    labels: np.ndarray,
) -> np.ndarray:
    """Loss [records, values] of each record with each value."""
    from tff_hospitals.audits.shadows import Records, losses_of

    count = len(labels)
    everything = Records(np.concatenate(variants), np.tile(labels, len(variants)), np.zeros(0, int), np.zeros(0, bool))
    losses = losses_of(model, dataset, weights, frozen, everything)
    return losses.reshape(len(variants), count).T


def _gain(hidden: _Hidden, raw: np.ndarray, baseline: np.ndarray, attack: np.ndarray, confidence: float) -> Gain:
    truth = hidden.truth(raw)
    right, before = attack == truth, baseline == truth
    won, lost = int((right & ~before).sum()), int((~right & before).sum())
    interval = Interval(0.0, 0.0)
    if won + lost:
        share = clopper_pearson(won, won + lost, confidence)
        scale = (won + lost) / len(truth)
        interval = Interval(scale * (2 * share.low - 1), scale * (2 * share.high - 1))
    return Gain(
        hidden.name,
        len(truth),
        float(before.mean()),
        float(right.mean()),
        (won - lost) / len(truth),
        interval,
        hidden.values,
    )
