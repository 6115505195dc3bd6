"""What a model is worth on test records: one declaration for each metric, computed for many resamples of them at once.

A metric is a function of predictions and of how often each record counts: once for the figure itself, as often as it
was drawn for a bootstrap interval. What the records do not define (recall without positives, AUC of one class, anything
of no records) is NaN, never 0 or 1. So is the recall of a class of one record, and an AUC against it: one patient would
make it 0 or 1, and the figure would be about that patient.

>>> found = Predictions(
...     "binary",
...     labels=[1, 1, 1, 0, 0],
...     losses=[0.1, 0.2, 2.0, 0.3, 0.4],
...     correct=[1, 1, 0, 1, 1],
...     scores=[0.9, 0.8, 0.1, 0.3, 0.2],
... )
>>> {name: round(value, 3) for name, value in evaluate(found).items()}  # doctest: +NORMALIZE_WHITESPACE
{'loss': 0.6, 'accuracy': 0.8, 'auc': 0.667, 'balanced_accuracy': 0.833, 'sensitivity': 0.667, 'specificity': 1.0,
 'f1': 0.8, 'brier': 0.198, 'calibration_error': 0.34}
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tff_hospitals.training.record_counts import Groups, RecordCounts, ratio

CLASSIFICATION = ("binary", "multiclass")
CALIBRATION_BINS = 10
_FEWEST_OF_A_CLASS = 2
UNEQUAL = 2 / 3
"""From this share of one class on, accuracy says more about the classes than about the model."""


class Predictions:
    """What a model said about test records, as float64.

    Where the loss of a record is not finite, the model said nothing about it: its score and correctness become NaN.

    Args:
      task: "binary", "multiclass" or "regression".
      labels: [records].
      losses: [records], as the model is trained.
      correct: [records], 1 where the most probable class is the label; not used for regression.
      scores: [records] probability of class 1 or the predicted value, or [records, classes].
    """

    def __init__(self, task: str, labels: Any, losses: Any, correct: Any, scores: Any):
        self.task = task
        self.labels, self.losses, self.correct, self.scores = (
            np.array(one, np.float64) for one in (labels, losses, correct, scores)
        )
        for values in (self.correct, self.scores):
            values[~np.isfinite(self.losses)] = math.nan

    def __len__(self) -> int:
        return len(self.losses)

    def __getitem__(self, rows: Any) -> Predictions:
        parts = (self.labels, self.losses, self.correct, self.scores)
        return Predictions(self.task, *(part[rows] for part in parts))

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """The records of several parts, in their order."""
        columns = ([getattr(part, name) for part in parts] for name in ("labels", "losses", "correct", "scores"))
        return cls(parts[0].task, *(np.concatenate(column) for column in columns))

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.scores.shape[1] if self.scores.ndim == 2 else 2

    @property
    def guesses(self) -> np.ndarray:
        """The most probable class of each record."""
        if self.scores.ndim == 2:
            return np.argmax(self.scores, axis=1)
        return np.where(self.correct == 1, self.labels, 1 - self.labels)


@dataclasses.dataclass(frozen=True)
class Metric:
    """One figure of merit.

    Attributes:
      name: in files and flags.
      label: in sentences.
      tasks: where it exists.
      compute: predictions and how often their records count to a value for each resample or group; NaN where
        undefined.
      higher_is_better: which way is up.
      percent: whether it reads as a percentage.
      low, high: bounds, None: none.
      short: in tables; "" is the label.
    """

    name: str
    label: str
    tasks: tuple[str, ...]
    compute: Callable[[Predictions, RecordCounts], np.ndarray]
    higher_is_better: bool = True
    percent: bool = False
    low: float | None = 0.0
    high: float | None = 1.0
    short: str = ""


def _recalls(found: Predictions, counts: RecordCounts) -> np.ndarray:
    """[rows, classes]; NaN for a class of one record or none."""
    member = found.labels[:, None] == np.arange(found.classes)
    recalls = ratio(counts.total(member * found.correct[:, None]), counts.total(member))
    return np.where(counts.present(member) < _FEWEST_OF_A_CLASS, math.nan, recalls)


def _mean_of_classes(values: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """The mean over the classes whose recall is known; NaN with fewer than two of them."""
    present = np.isfinite(recalls)
    total = np.where(present, values, 0.0).sum(axis=1)
    return np.where(present.sum(axis=1) >= 2, ratio(total, present.sum(axis=1)), math.nan)


def _balanced_accuracy(found: Predictions, counts: RecordCounts) -> np.ndarray:
    recalls = _recalls(found, counts)
    return _mean_of_classes(recalls, recalls)


def _sensitivity(found: Predictions, counts: RecordCounts) -> np.ndarray:
    return _recalls(found, counts)[:, 1]


def _specificity(found: Predictions, counts: RecordCounts) -> np.ndarray:
    return _recalls(found, counts)[:, 0]


def _f1(found: Predictions, counts: RecordCounts) -> np.ndarray:
    """Of class 1, or the mean over the classes whose recall is known (macro)."""
    classes = np.arange(found.classes)
    said, member = found.guesses[:, None] == classes, found.labels[:, None] == classes
    values = ratio(2 * counts.total(said & member), counts.total(said.astype(float) + member))
    mean = _mean_of_classes(values, _recalls(found, counts))
    return np.where(np.isfinite(mean), values[:, 1], math.nan) if found.task == "binary" else mean


def _auc(found: Predictions, counts: RecordCounts) -> np.ndarray:
    if found.scores.ndim == 1:
        return _area(found.labels == 1, found.scores, counts)
    return np.mean([_area(found.labels == c, found.scores[:, c], counts) for c in range(found.classes)], axis=0)


def _area(positive: np.ndarray, scores: np.ndarray, counts: RecordCounts) -> np.ndarray:
    """The area of one class against the others; NaN with one record on either side."""
    sides = counts.present(np.stack([positive, ~positive], axis=1))
    return np.where(sides.min(axis=1) < _FEWEST_OF_A_CLASS, math.nan, counts.areas(positive, scores))


def _brier(found: Predictions, counts: RecordCounts) -> np.ndarray:
    """Squared distance of the probabilities from what happened (Brier 1950)."""
    if found.scores.ndim == 1:
        return counts.mean((found.scores - found.labels) ** 2)
    happened = found.labels[:, None] == np.arange(found.classes)
    return counts.mean(((found.scores - happened) ** 2).sum(axis=1))


def _calibration_error(found: Predictions, counts: RecordCounts) -> np.ndarray:
    """Expected calibration error over ten bins of equal width (Naeini, Cooper and Hauskrecht 2015).

    Of class 1 for two classes, of the most probable class for more. Few records make it too large by chance.
    """
    stated, happened = (
        (found.scores, found.labels) if found.scores.ndim == 1 else (found.scores.max(axis=1), found.correct)
    )
    place = np.clip(np.floor(stated * CALIBRATION_BINS), 0, CALIBRATION_BINS - 1)
    inside = (place[:, None] == np.arange(CALIBRATION_BINS)) * (stated - happened)[:, None]
    return ratio(np.abs(counts.total(inside)).sum(axis=1), counts.total(np.ones(len(stated))))


def _rmse(found: Predictions, counts: RecordCounts) -> np.ndarray:
    return np.sqrt(counts.mean((found.scores - found.labels) ** 2))


def _mae(found: Predictions, counts: RecordCounts) -> np.ndarray:
    return counts.mean(np.abs(found.scores - found.labels))


def _r2(found: Predictions, counts: RecordCounts) -> np.ndarray:
    """Share of the labels' variance that is explained; undefined where all labels are equal."""
    centred, largest = counts.centred(found.labels)
    spread = counts.mean(centred**2) - counts.mean(centred) ** 2
    explained = 1 - ratio(counts.mean((found.scores - found.labels) ** 2), spread)
    return np.where(spread > 1e-12 * largest**2, explained, math.nan)


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "loss",
            "loss",
            (*CLASSIFICATION, "regression"),
            lambda found, counts: counts.mean(found.losses),
            higher_is_better=False,
            low=None,
            high=None,
        ),
        Metric("accuracy", "accuracy", CLASSIFICATION, lambda one, counts: counts.mean(one.correct), percent=True),
        Metric("auc", "AUC", CLASSIFICATION, _auc),
        Metric(
            "balanced_accuracy",
            "balanced accuracy",
            CLASSIFICATION,
            _balanced_accuracy,
            percent=True,
            short="bal. accuracy",
        ),
        Metric("sensitivity", "sensitivity", ("binary",), _sensitivity, percent=True),
        Metric("specificity", "specificity", ("binary",), _specificity, percent=True),
        Metric("f1", "F1", CLASSIFICATION, _f1),
        Metric("brier", "Brier score", CLASSIFICATION, _brier, higher_is_better=False, high=2.0),
        Metric("calibration_error", "calibration error", CLASSIFICATION, _calibration_error, higher_is_better=False),
        Metric("rmse", "RMSE", ("regression",), _rmse, higher_is_better=False, high=None),
        Metric("mae", "MAE", ("regression",), _mae, higher_is_better=False, high=None),
        Metric("r2", "R2", ("regression",), _r2, low=None),
    )
}


def metrics_of(task: str) -> tuple[Metric, ...]:
    """The metrics that exist for a task, in the order of `METRICS`."""
    return tuple(metric for metric in METRICS.values() if task in metric.tasks)


def evaluate(found: Predictions) -> dict[str, float]:
    """Every metric of the task, each record counted once."""
    return evaluate_parts(found, {"": slice(None)})[""]


def evaluate_parts(found: Predictions, parts: Mapping[str, slice]) -> dict[str, dict[str, float]]:
    """Every metric of the task on each part of the records, all parts in one pass.

    Args:
      found: predictions of all records.
      parts: which records belong to a part.

    >>> found = Predictions("regression", labels=[1, 2, 5], losses=[0, 0, 4], correct=[0, 0, 0], scores=[1, 2, 3])
    >>> {name: values["mae"] for name, values in evaluate_parts(found, {"va": slice(0, 2), "all": slice(3)}).items()}
    {'va': 0.0, 'all': 0.6666666666666666}
    """
    numbers = np.arange(len(found))
    rows = [numbers[part] for part in parts.values()]
    counts = Groups([len(part) for part in rows])
    every = found[np.concatenate(rows)] if rows else found
    by_metric = {metric.name: metric.compute(every, counts) for metric in metrics_of(found.task)}
    return {
        name: {metric: float(values[index]) for metric, values in by_metric.items()} for index, name in enumerate(parts)
    }


def default_headline(task: str, class_counts: Mapping[int, int]) -> tuple[str, str]:
    """The metric that methods are ranked by, and why.

    Args:
      task: of the model.
      class_counts: test records of each class, all hospitals together.

    >>> default_headline("binary", {0: 198, 1: 2})
    ('auc', '99.0 % of the test records are of one class: a model that always says so has that accuracy')
    >>> default_headline("binary", {0: 60, 1: 40})[0], default_headline("regression", {})[0]
    ('accuracy', 'rmse')
    """
    if task == "regression":
        return "rmse", "the target is a number"
    total = sum(class_counts.values())
    share = max(class_counts.values()) / total if total else 0.0
    if share <= UNEQUAL:
        return "accuracy", f"no class has more than {100 * UNEQUAL:.0f} % of the test records"
    why = f"{100 * share:.1f} % of the test records are of one class: a model that always says so has that accuracy"
    return ("auc" if task == "binary" else "balanced_accuracy"), why


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of what is defined; None where nothing is."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if known else None


def summary_fields(
    by_hospital: Mapping[str, Mapping[str, float]], pooled: Mapping[str, float]
) -> dict[str, float | dict[str, float] | None]:
    """What a run's summary says of an evaluation, for every metric that it holds, and always for accuracy.

    Args:
      by_hospital: metrics by hospital id.
      pooled: metrics of all test records together.

    Returns:
      `{metric}_mean` over the hospitals where it is defined, `{metric}_pooled_mean` and `{metric}_per_hospital`.
    """
    found: dict[str, float | dict[str, float] | None] = {}
    for name in METRICS:
        if name in pooled or name == "accuracy":
            values = {of: metrics.get(name, math.nan) for of, metrics in by_hospital.items()}
            found[f"{name}_mean"] = mean_of(values.values())
            found[f"{name}_pooled_mean"] = pooled.get(name)
            found[f"{name}_per_hospital"] = values
    return found
