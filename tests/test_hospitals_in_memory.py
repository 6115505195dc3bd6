"""Records in memory become hospitals as they are, or are refused by hospital."""

from __future__ import annotations

import numpy as np
import pytest

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import DataSecret, HospitalDataset

KEY = DataSecret(bytes(range(32)), False, None)


def pair(records, width=3, start=0):
    rows = np.arange(start, start + records)
    return np.tile(rows[:, None] * 1.0, (1, width)), rows % 2


class Batches:
    def __init__(self, *elements):
        self.elements = elements

    def as_numpy_iterator(self):
        return iter(self.elements)


def test_arrays_become_hospitals_and_nothing_is_lost():
    arrays = {"north": pair(40), "south": pair(60, start=40)}
    dataset = HospitalDataset.from_arrays(arrays, task="binary", secret=KEY)
    again = HospitalDataset.from_arrays(arrays, task="binary", secret=KEY)
    assert dataset.fingerprint() == again.fingerprint()
    assert dataset.ids == ("north", "south")
    assert dataset.feature_shape == (3,)
    rows = np.concatenate([part.features[:, 0] for h in dataset for part in (h.train, h.test)])
    assert sorted(rows) == list(range(100))
    assert min(dataset.records(False).values()) > 0
    features, labels = pair(40)
    single = Batches(*zip(features, labels))
    batches = Batches((features[:30], labels[:30]), (features[30:], labels[30:]))
    for given in (single, batches):
        same = HospitalDataset.from_arrays({**arrays, "north": given}, task="binary", secret=KEY)
        assert same.fingerprint() == dataset.fingerprint()
    assert HospitalDataset.from_arrays(arrays, task="binary").secret != dataset.secret


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"south": (np.ones((4, 2)), np.arange(4) % 2)}, "records of south"),
        ({"south": (np.ones((4, 3)), np.arange(3))}, r"records of south=\(\(4, 3\), \(3,\)\): must have shapes"),
        ({"south": (np.ones(4), np.arange(4))}, "one column is"),
        ({"south": (np.ones((4, 3)), np.array([0, 1, 0.5, 1]))}, "must be whole class numbers"),
        ({"south": (np.ones((4, 3)), np.array([0, 1, 2, 1]))}, "must lie in 0 to 1"),
        ({"south": (np.full((4, 3), 1e39), np.array([0, 1, 0, 1]))}, "must be finite"),
        ({"south": (np.full((4, 3), "a"), np.array([0, 1, 0, 1]))}, "must be numbers"),
        ({"south": np.ones((4, 3))}, "must be a pair"),
        ({"south": Batches()}, "must hold at least one element"),
    ],
)
def test_what_does_not_fit_is_named_by_hospital(change, words):
    with pytest.raises(InvalidInput, match=words):
        HospitalDataset.from_arrays({"north": pair(40), **change}, task="binary", secret=KEY)


def test_the_number_of_classes_is_stated_and_not_counted():
    with pytest.raises(InvalidInput, match="num_classes=None: must be given for multiclass"):
        HospitalDataset.from_arrays({"north": pair(40)}, task="multiclass", secret=KEY)
    with pytest.raises(InvalidInput, match="num_classes=3: must be 2 for binary"):
        HospitalDataset.from_arrays({"north": pair(40)}, task="binary", num_classes=3, secret=KEY)
    assert HospitalDataset.from_arrays({"north": pair(40)}, task="multiclass", num_classes=5).num_classes == 5
