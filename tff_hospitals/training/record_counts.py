"""How often test records count in a figure: as drawn for a bootstrap interval, or once in the group that is theirs.

A metric is written once in terms of sums over records; whether these are over every record of many resamples or over
each hospital's own records is decided here. Groups cost as much as their records, however many groups there are.

>>> Draws([[1, 1, 1], [0, 2, 1]]).total(np.array([1.0, 2.0, 4.0]))
array([7., 8.])
>>> Groups([2, 1]).total(np.array([1.0, 2.0, 4.0]))
array([3., 4.])
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """A quotient that is NaN where there is nothing to divide by."""
    return np.divide(above, below, out=np.full(np.shape(above), math.nan), where=below > 0)


class RecordCounts(abc.ABC):
    """Sums over records, one result for each resample or group ("row")."""

    rows: int
    """Resamples or groups."""

    @abc.abstractmethod
    def total(self, values: np.ndarray) -> np.ndarray:
        """Sums of values [records] or [records, k]: [rows] or [rows, k]."""

    @abc.abstractmethod
    def present(self, member: np.ndarray) -> np.ndarray:
        """How many records there are of each class [records, k], drawn or not: [rows, k] or [1, k]."""

    @abc.abstractmethod
    def centred(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values [records] less their own mean, and the largest distance from it: [rows] or [1]."""

    @abc.abstractmethod
    def areas(self, positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Of all pairs of a positive and a negative record, the share that is ranked rightly [rows]; ties count half.

        Without pairs, or with a score that is not a number, NaN.
        """

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Means of values [records] or [records, k]; NaN of no records."""
        return ratio(self.total(values), self.total(np.ones(values.shape)))


class Draws(RecordCounts):
    """Resamples of the same records.

    Args:
      counts: [resamples, records], how often each record was drawn.
    """

    def __init__(self, counts: Any):
        self._counts = np.asarray(counts, np.float64)
        self.rows = len(self._counts)

    def total(self, values: np.ndarray) -> np.ndarray:
        return self._counts @ values

    def present(self, member: np.ndarray) -> np.ndarray:
        return member.sum(axis=0)[None]

    def centred(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distance = values - (values.mean() if len(values) else 0.0)
        return distance, np.max(np.abs(distance), initial=0.0)[None]

    def areas(self, positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
        if not len(scores) or np.isnan(scores).any():
            return np.full(self.rows, math.nan)
        order = np.argsort(scores)
        starts = np.flatnonzero(np.diff(scores[order], prepend=-math.inf))
        ones = np.add.reduceat(self._counts[:, order] * positive[order], starts, axis=1)  # by distinct score, rising
        others = np.add.reduceat(self._counts[:, order] * ~positive[order], starts, axis=1)
        right = (ones * (np.cumsum(others, axis=1) - others / 2)).sum(axis=1)
        return ratio(right, ones.sum(axis=1) * others.sum(axis=1))


class Groups(RecordCounts):
    """Groups of records that follow each other, every record once in its own.

    Args:
      sizes: records of each group, 0 for an empty one.
    """

    def __init__(self, sizes: Sequence[int]):
        self.rows = len(sizes)
        self._of = np.repeat(np.arange(self.rows), sizes)
        self._filled = np.flatnonzero(sizes)
        self._starts = np.cumsum(sizes)[self._filled] - np.asarray(sizes)[self._filled]

    def _by_group(self, reduce: np.ufunc, values: np.ndarray) -> np.ndarray:
        found = np.zeros([self.rows, *values.shape[1:]])
        if len(self._filled):
            found[self._filled] = reduce.reduceat(np.asarray(values, np.float64), self._starts, axis=0)
        return found

    def total(self, values: np.ndarray) -> np.ndarray:
        return self._by_group(np.add, values)

    def present(self, member: np.ndarray) -> np.ndarray:
        return self.total(member)

    def centred(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distance = values - self.mean(values)[self._of]
        return distance, self._by_group(np.maximum, np.abs(distance))

    def areas(self, positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
        if not len(scores):
            return np.full(self.rows, math.nan)
        known = ~np.isnan(scores)
        order = np.lexsort((np.where(known, scores, 0.0), self._of))
        one = positive[order].astype(np.float64)
        first = np.diff(self._of[order], prepend=-1) > 0
        tie = np.cumsum(first | (np.diff(scores[order], prepend=math.nan) != 0)) - 1  # runs of one score in a group
        others = np.bincount(tie, weights=1 - one)
        before = np.cumsum(others) - others  # the negative records before each run, those of earlier groups included
        start = tie[first.nonzero()[0]]
        below = (before + others / 2)[tie] - before[start][np.cumsum(first) - 1]
        right = self.total(one * below)
        found = ratio(right, self.total(positive) * self.total(~positive))
        return np.where(self.total(~known) > 0, math.nan, found)
