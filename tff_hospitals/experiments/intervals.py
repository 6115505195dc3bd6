"""Intervals over patients, seeds and splits by a paired bootstrap: what may be said of two methods on the same tests.

Every resample draws patients within each hospital, seeds, and splits, with replacement; all methods meet the same
draws, so that what makes a patient easy for one and the other cancels in their difference (Efron and Tibshirani 1993,
An introduction to the bootstrap, ch. 8 and 13; percentile intervals). A patient with several test records is drawn with
all of them, and in all splits at once: the same patient tested twice is not two.

Splits of one data set train on overlapping records, so that their results scatter less than those of independent
training sets. Their spread is therefore widened as if each added test records over training records of its own variance
(Nadeau and Bengio 2003, Inference for the generalization error, Machine Learning 52, sec. 3).

>>> found = Predictions("binary", [0, 1] * 50, [0.0] * 100, [1] * 80 + [0] * 20, [0.5] * 100)
>>> resamples = Resamples([{"a": range(60), "b": range(40)}], seeds=1)
>>> [round(float(end), 2) for end in interval(resamples.draw(METRICS["accuracy"], [found]).scores)]
[0.68, 0.82]
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from tff_hospitals.training.metrics import METRICS, Metric, Predictions, default_headline
from tff_hospitals.training.record_counts import Draws

__all__ = ["METRICS", "Drawn", "Resamples", "differences", "headline_of", "interval"]

_RESAMPLES = 1000
_FEWEST = 200
_CELLS = 2e7  # counts in memory; larger test sets need fewer resamples to be as exact
_ROOT = 20221


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """A method's figure in every resample, NaN where nothing defines it.

    Attributes:
      table: float64 [runs, hospitals, resamples].
      weights: float64 [resamples, runs], how much each run counts.
      ids: of the hospitals.
    """

    table: np.ndarray
    weights: np.ndarray
    ids: tuple[str, ...]

    @functools.cached_property
    def scores(self) -> np.ndarray:
        """The mean over hospitals, then over runs: float64 [resamples]."""
        known = np.isfinite(self.table)
        total, count = np.where(known, self.table, 0.0).sum(axis=1), known.sum(axis=1)
        return self._over_runs(np.divide(total, count, out=np.full(total.shape, math.nan), where=count > 0))

    def of_hospital(self, hospital_id: str) -> np.ndarray:
        """The mean over runs of one hospital's figure: float64 [resamples]."""
        return self._over_runs(self.table[:, self.ids.index(hospital_id)])

    def _over_runs(self, values: np.ndarray) -> np.ndarray:
        return (self.weights * values.T).sum(axis=1)


class Resamples:
    """How often each test record, seed and split counts in every resample.

    Args:
      patients: for each split, by hospital in the order of the predictions, a number for the patient of each test
        record, the same in every split.
      seeds: runs of each method on each split.
      overlap: test records over training records; widens the spread of several splits.
    """

    def __init__(self, patients: Sequence[Mapping[str, Sequence[int]]], seeds: int, overlap: float = 0.0):
        self.ids = tuple(patients[0])
        everybody = {
            one: np.unique(np.concatenate([np.asarray(of[one], np.int64) for of in patients])) for one in self.ids
        }
        records = sum(len(of[one]) for of in patients for one in self.ids)
        self.count = int(min(_RESAMPLES, max(_FEWEST, _CELLS / max(1, records))))
        generator = np.random.default_rng(_ROOT)
        shares = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=self.count) / seeds
        drawn = {}
        for one, known in everybody.items():
            if len(known):
                counts = generator.multinomial(len(known), np.full(len(known), 1 / len(known)), size=self.count)
                drawn[one] = counts.astype(np.float64)
        self._parts = [_parts(of, everybody, drawn) for of in patients]
        splits = len(patients)
        if splits > 1:
            often = generator.multinomial(splits, np.full(splits, 1 / splits), size=self.count) / splits
            often = 1 / splits + math.sqrt(1 + splits * overlap) * (often - 1 / splits)
            shares = (often[:, :, None] * shares[:, None, :]).reshape(self.count, splits * seeds)
        self._shares = shares

    def draw(self, metric: Metric, runs: Sequence[Predictions]) -> Drawn:
        """A metric of a method in every resample.

        Args:
          metric: of the task.
          runs: the predictions of each split and, within it, of each seed; hospitals in order.
        """
        fits = len(runs) == self._shares.shape[1]
        weights = self._shares if fits else np.full([self.count, len(runs)], 1 / len(runs))
        seeds = max(1, len(runs) // len(self._parts))
        table = np.full([len(runs), len(self.ids), self.count], math.nan)
        for number, run in enumerate(runs):
            for place, rows, drawn in self._parts[min(number // seeds, len(self._parts) - 1)]:
                table[number, place] = metric.compute(run[rows], Draws(drawn))
        return Drawn(table, weights, self.ids)


def _parts(
    of: Mapping[str, Sequence[int]], everybody: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray]
) -> list[tuple[int, slice, np.ndarray]]:
    """Place of each hospital, its rows among the predictions of a split, and how often each of them is drawn."""
    found, start = [], 0
    for place, (one, patients) in enumerate(of.items()):
        rows = slice(start, start + len(patients))
        if len(patients):
            found.append((place, rows, drawn[one][:, np.searchsorted(everybody[one], np.asarray(patients))]))
        start = rows.stop
    return found


def interval(scores: np.ndarray) -> tuple[float, float] | None:
    """The middle 95 % of the resamples; None where more than a tenth of them define nothing."""
    known = scores[np.isfinite(scores)]
    if len(known) < 0.9 * len(scores) or not len(known):
        return None
    low, high = np.quantile(known, (0.025, 0.975))
    return float(low), float(high)


def differences(metric: str, scores: Sequence[np.ndarray | None]) -> dict[str, object]:
    """Lower and upper ends of the 95 % interval of (row minus column) for every pair of rows; None where unknown."""
    ends: dict[str, list[list[float | None]]] = {"low": [], "high": []}
    for first in scores:
        found = [None if first is None or other is None else interval(first - other) for other in scores]
        ends["low"].append([None if one is None else one[0] for one in found])
        ends["high"].append([None if one is None else one[1] for one in found])
    return {"metric": metric, **ends}


def headline_of(predictions: Predictions) -> tuple[str, str]:
    """The default headline metric for these test records, and why."""
    if predictions.task == "regression":
        return default_headline(predictions.task, {})
    classes, counts = np.unique(predictions.labels, return_counts=True)
    return default_headline(predictions.task, {int(one): int(count) for one, count in zip(classes, counts)})
