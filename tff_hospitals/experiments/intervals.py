"""Intervals over patients and seeds by a paired bootstrap: what may be said of two methods on the same test records.

Every resample draws test records within each hospital, and seeds, with replacement; all methods meet the same draws, so
that what makes a record easy for one and the other cancels in their difference (Efron and Tibshirani 1993, An
introduction to the bootstrap, ch. 8 and 13; percentile intervals).

>>> found = Predictions("binary", [0, 1] * 50, [0.0] * 100, [1] * 80 + [0] * 20, [0.5] * 100)
>>> resamples = Resamples({"a": 60, "b": 40}, seeds=1)
>>> [round(float(end), 2) for end in interval(resamples.scores(METRICS["accuracy"], [found]))]
[0.68, 0.82]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tff_hospitals.training.metrics import METRICS, Metric, Predictions, default_headline

__all__ = ["METRICS", "Resamples", "differences", "headline_of", "interval"]

_RESAMPLES = 1000
_FEWEST = 200
_CELLS = 2e7  # counts in memory; larger test sets need fewer resamples to be as exact
_ROOT = 20221


class Resamples:
    """How often each test record and each seed counts in every resample.

    Args:
      sizes: test records by hospital, in the order of the predictions.
      seeds: runs of each method.
    """

    def __init__(self, sizes: Mapping[str, int], seeds: int):
        records = max(1, sum(sizes.values()))
        self.count = int(min(_RESAMPLES, max(_FEWEST, _CELLS / records)))
        generator = np.random.default_rng(_ROOT)
        self._seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=self.count) / seeds
        self._parts: list[tuple[slice, np.ndarray]] = []
        start = 0
        for size in sizes.values():
            if size:
                drawn = generator.multinomial(size, np.full(size, 1 / size), size=self.count).astype(np.float64)
                self._parts.append((slice(start, start + size), drawn))
            start += size

    def scores(self, metric: Metric, runs: Sequence[Predictions]) -> np.ndarray:
        """The mean over hospitals and seeds in every resample, NaN where no hospital defines it.

        Args:
          metric: of the task.
          runs: the predictions of each seed, hospitals in order.

        Returns:
          float64 [resamples].
        """
        by_seed = [_mean_defined([metric.compute(run[rows], drawn) for rows, drawn in self._parts]) for run in runs]
        shares = self._seeds if len(runs) == self._seeds.shape[1] else np.full([self.count, len(runs)], 1 / len(runs))
        return (shares * np.stack(by_seed, axis=1)).sum(axis=1)


def _mean_defined(values: Sequence[np.ndarray]) -> np.ndarray:
    table = np.stack(values) if values else np.full([1, 1], math.nan)
    known = np.isfinite(table)
    total = np.where(known, table, 0.0).sum(axis=0)
    return np.divide(total, known.sum(axis=0), out=np.full(table.shape[1], math.nan), where=known.any(axis=0))


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
