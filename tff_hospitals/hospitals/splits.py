"""Splits one hospital's records into a train and a test part: seeded, stratified by label, unbiased in size.

Systematic sampling: the records are laid out by label, shuffled within each label, and every (1 / fraction)-th is a
test record, counted from a random start. So each class is tested in its proportion (within one record), a class with
two records always keeps one for training, and a hospital with a single record still has it for training: with 1,000
small hospitals the pooled test part holds the asked share on average, whatever rounding does to each.
"""

from __future__ import annotations

import numpy as np

from tff_hospitals.foundations.random_streams import Streams


def shuffled(generator: np.random.Generator, count: int) -> np.ndarray:
    """A uniformly random order of `count` things, int64.

    By sorting uniform numbers: the same on every platform and numpy version, which `permutation` does not promise.
    """
    return np.argsort(generator.random(count), kind="stable")


def test_rows(labels: np.ndarray, test_fraction: float, streams: Streams) -> np.ndarray:
    """Row numbers (sorted) of the test records.

    Args:
      labels: of shape [records]; classes or numbers.
      test_fraction: share of test records, 0 <= . <= 0.5.
      streams: the hospital's stream for its split.

    >>> rows = test_rows(np.repeat([0, 1], [60, 40]), 0.2, Streams.from_seed(0))
    >>> len(rows), int((rows >= 60).sum())
    (20, 8)
    """
    generator = streams.generator()
    start = generator.random()
    order = np.lexsort((generator.random(len(labels)), labels))
    marks = np.floor(start + test_fraction * np.arange(len(labels) + 1))
    chosen = order[np.diff(marks) > 0]
    if len(chosen) == len(labels):  # a single record is for training
        chosen = chosen[1:]
    return np.sort(chosen)


def train_rows(records: int, tested: np.ndarray) -> np.ndarray:
    """The other row numbers, sorted."""
    kept = np.ones(records, bool)
    kept[tested] = False
    return np.flatnonzero(kept)
