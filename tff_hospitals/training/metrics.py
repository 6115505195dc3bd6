"""What a model is worth on test records: one declaration for each metric, computed for many resamples of them at once.

A metric is a function of predictions and of how often each record counts: once for the figure itself, as often as it
was drawn for a bootstrap interval. What the records do not define (recall without positives, AUC of one class, anything
of no records) is NaN, never 0 or 1.

>>> found = Predictions(
...     "binary", labels=[1, 1, 1, 0], losses=[0.1, 0.2, 2.0, 0.3], correct=[1, 1, 0, 1], scores=[0.9, 0.8, 0.1, 0.3]
... )
>>> {name: round(value, 3) for name, value in evaluate(found).items()}  # doctest: +NORMALIZE_WHITESPACE
{'loss': 0.65, 'accuracy': 0.75, 'auc': 0.667, 'balanced_accuracy': 0.833, 'sensitivity': 0.667, 'specificity': 1.0,
 'f1': 0.8, 'brier': 0.237, 'calibration_error': 0.375}
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

CLASSIFICATION = ("binary", "multiclass")
CALIBRATION_BINS = 10
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
      compute: predictions and counts [resamples, records] to values [resamples]; NaN where undefined.
      higher_is_better: which way is up.
      percent: whether it reads as a percentage.
      low, high: bounds, None: none.
      short: in tables; "" is the label.
    """

    name: str
    label: str
    tasks: tuple[str, ...]
    compute: Callable[[Predictions, np.ndarray], np.ndarray]
    higher_is_better: bool = True
    percent: bool = False
    low: float | None = 0.0
    high: float | None = 1.0
    short: str = ""


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """A quotient that is NaN where there is nothing to divide by."""
    return np.divide(above, below, out=np.full(np.shape(above), math.nan), where=below > 0)


def _mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return _ratio(counts @ values, counts.sum(axis=1))


def _recalls(found: Predictions, counts: np.ndarray) -> np.ndarray:
    """[resamples, classes]; NaN for a class without records."""
    member = found.labels[:, None] == np.arange(found.classes)
    return _ratio(counts @ (member * found.correct[:, None]), counts @ member)


def _mean_of_classes(values: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """The mean over the classes that have records; NaN with fewer than two of them."""
    present = np.isfinite(recalls)
    total = np.where(present, values, 0.0).sum(axis=1)
    return np.where(present.sum(axis=1) >= 2, _ratio(total, present.sum(axis=1)), math.nan)


def _balanced_accuracy(found: Predictions, counts: np.ndarray) -> np.ndarray:
    recalls = _recalls(found, counts)
    return _mean_of_classes(recalls, recalls)


def _sensitivity(found: Predictions, counts: np.ndarray) -> np.ndarray:
    return _recalls(found, counts)[:, 1]


def _specificity(found: Predictions, counts: np.ndarray) -> np.ndarray:
    return _recalls(found, counts)[:, 0]


def _f1(found: Predictions, counts: np.ndarray) -> np.ndarray:
    """Of class 1, or the mean over the classes that have records (macro)."""
    classes = np.arange(found.classes)
    said, member = found.guesses[:, None] == classes, found.labels[:, None] == classes
    values = _ratio(2 * (counts @ (said & member)), counts @ (said.astype(float) + member))
    mean = _mean_of_classes(values, _recalls(found, counts))
    return np.where(np.isfinite(mean), values[:, 1], math.nan) if found.task == "binary" else mean


def _auc(found: Predictions, counts: np.ndarray) -> np.ndarray:
    if found.scores.ndim == 1:
        return _area(found.labels == 1, found.scores, counts)
    return np.mean([_area(found.labels == c, found.scores[:, c], counts) for c in range(found.classes)], axis=0)


def _area(positive: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Of all pairs of a positive and a negative record, the share that is ranked rightly; ties count half."""
    if not len(scores) or np.isnan(scores).any():
        return np.full(len(counts), math.nan)
    order = np.argsort(scores)
    starts = np.flatnonzero(np.diff(scores[order], prepend=-math.inf))
    ones = np.add.reduceat(counts[:, order] * positive[order], starts, axis=1)  # by distinct score, rising
    others = np.add.reduceat(counts[:, order] * ~positive[order], starts, axis=1)
    right = (ones * (np.cumsum(others, axis=1) - others / 2)).sum(axis=1)
    return _ratio(right, ones.sum(axis=1) * others.sum(axis=1))


def _brier(found: Predictions, counts: np.ndarray) -> np.ndarray:
    """Squared distance of the probabilities from what happened (Brier 1950)."""
    if found.scores.ndim == 1:
        return _mean((found.scores - found.labels) ** 2, counts)
    happened = found.labels[:, None] == np.arange(found.classes)
    return _mean(((found.scores - happened) ** 2).sum(axis=1), counts)


def _calibration_error(found: Predictions, counts: np.ndarray) -> np.ndarray:
    """Expected calibration error over ten bins of equal width (Naeini, Cooper and Hauskrecht 2015).

    Of class 1 for two classes, of the most probable class for more. Few records make it too large by chance.
    """
    stated, happened = (
        (found.scores, found.labels) if found.scores.ndim == 1 else (found.scores.max(axis=1), found.correct)
    )
    place = np.clip(np.floor(stated * CALIBRATION_BINS), 0, CALIBRATION_BINS - 1)
    inside = (place[:, None] == np.arange(CALIBRATION_BINS)) * (stated - happened)[:, None]
    return _ratio(np.abs(counts @ inside).sum(axis=1), counts.sum(axis=1))


def _rmse(found: Predictions, counts: np.ndarray) -> np.ndarray:
    return np.sqrt(_mean((found.scores - found.labels) ** 2, counts))


def _mae(found: Predictions, counts: np.ndarray) -> np.ndarray:
    return _mean(np.abs(found.scores - found.labels), counts)


def _r2(found: Predictions, counts: np.ndarray) -> np.ndarray:
    """Share of the labels' variance that is explained; undefined where all labels are equal."""
    centred = found.labels - (found.labels.mean() if len(found) else 0.0)
    spread = _mean(centred**2, counts) - _mean(centred, counts) ** 2
    varies = spread > 1e-12 * np.max(np.abs(centred), initial=0.0) ** 2
    return np.where(varies, 1 - _ratio(_mean((found.scores - found.labels) ** 2, counts), spread), math.nan)


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "loss",
            "loss",
            (*CLASSIFICATION, "regression"),
            lambda found, counts: _mean(found.losses, counts),
            higher_is_better=False,
            low=None,
            high=None,
        ),
        Metric("accuracy", "accuracy", CLASSIFICATION, lambda one, counts: _mean(one.correct, counts), percent=True),
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
    once = np.ones([1, len(found)])
    return {metric.name: float(metric.compute(found, once)[0]) for metric in metrics_of(found.task)}


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
