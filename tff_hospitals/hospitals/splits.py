"""Which records are for testing: decided for each record by itself.

A record's side must not depend on its neighbours: if it did, one record that leaves would move others between training
and testing, and the trained model would tell of it. So there are two rules, and a data set says which one it used
(`HospitalDataset.split_rule`):

* *given*: the published test rows, or a column of the schema that says train or test;
* *by record*: a keyed hash of the record's id and the seed, compared with the test fraction. The id is the patient's
  where the schema names a patient column (all visits of a patient lie on one side), else that of an id column, else
  the record's own cells (equal records lie on one side). A row number is no id: rows move when one is removed.

The number of test records is then binomial, and a hospital with few records may have none for one of the two.

>>> from tff_hospitals.hospitals.secret import public_secret
>>> ids = [b"%d" % number for number in range(1000)]
>>> int(by_record(public_secret("example"), ids, test_fraction=0.2, seed=0).sum())
211
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tff_hospitals.hospitals.secret import DataSecret


def shuffled(generator: np.random.Generator, count: int) -> np.ndarray:
    """A uniformly random order of `count` things, int64.

    By sorting uniform numbers: the same on every platform and numpy version, which `permutation` does not promise.
    """
    return np.argsort(generator.random(count), kind="stable")


def content_ids(values: np.ndarray, labels: np.ndarray) -> list[bytes]:
    """Each record's own cells as its id: equal records have equal ids.

    Args:
      values: of shape [records, ..] in original units; NaN stands for a cell that is filled in later.
      labels: of shape [records].
    """
    if values.dtype != np.uint8:  # one form of zero and of NaN
        values = np.where(np.isnan(values), np.nan, values + 0.0).astype("<f8")
    cells = np.ascontiguousarray(values).reshape(len(labels), -1)
    answers = np.asarray(labels, "<f8")[:, np.newaxis]
    return [cell.tobytes() + answer.tobytes() for cell, answer in zip(cells, answers)]


def draws(secret: DataSecret, purpose: str, ids: Sequence[bytes], seed: int) -> np.ndarray:
    """For each id a number in [0, 1) that follows from secret, purpose, seed and the id alone."""
    purposed = secret.child(purpose)
    known = {one: purposed.uniform(seed, one) for one in dict.fromkeys(ids)}
    return np.array([known[one] for one in ids], np.float64)


def by_record(
    secret: DataSecret, ids: Sequence[bytes], *, test_fraction: float, seed: int, number: int = 0
) -> np.ndarray:
    """True for the records that are for testing, bool of shape [records].

    Args:
      secret: of the data set.
      ids: one per record; records of one id lie on one side.
      test_fraction: chance of each id to be for testing, 0 < . <= 0.5.
      seed: another seed gives another split.
      number: of repeated splits with one seed; public, each is independent of the others.
    """
    return draws(secret, f"split {number}" if number else "split", ids, seed) < test_fraction
