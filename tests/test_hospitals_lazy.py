"""Hospitals that are made on access: the same records, bounded memory, refused by name when they do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from tff_hospitals.foundations.signature import ModelSignature
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import Part, load_dataset
from tff_hospitals.hospitals.lazy import LazyPart, PartStore, lazy_hospital, load_part

MANY = {"sites": 5, "records_per_site": 12, "features": 3, "test_records_per_site": 4}


def counting(records, features=2, dtype=np.float32):
    """A maker that counts how often it is asked."""
    calls = []

    def make(*_):
        calls.append(1)
        return Part(np.full((records, features), len(calls), dtype), np.zeros(records, np.int64))

    return make, calls


def test_lazy_sites_hold_the_same_records():
    eager, lazy = load_dataset("synthetic", **MANY), load_dataset("synthetic", **MANY, lazy=True)
    assert eager.ids == lazy.ids
    assert eager.records() == lazy.records()
    for one, other in zip(eager.hospitals, lazy.hospitals):
        np.testing.assert_array_equal(one.train.features, other.train.features)
        np.testing.assert_array_equal(one.train.labels, other.train.labels)
        np.testing.assert_array_equal(one.test.features, other.test.features)


def test_large_data_sets_are_lazy_by_themselves():
    # 300 sites of 2,000 records with 1,000 features: 2.4 GB, of which nothing is made here.
    made = load_dataset("synthetic", sites=300, records_per_site=2000, features=1000)
    assert all(isinstance(hospital.train, LazyPart) for hospital in made.hospitals)
    assert not isinstance(load_dataset("synthetic", **MANY).hospitals[0].train, LazyPart)


def test_the_name_of_a_lazy_data_set_depends_on_all_that_it_is_made_of():
    names = {load_dataset("synthetic", **MANY, lazy=True, **other).fingerprint() for other in ({}, {"seed": 1})}
    names.add(load_dataset("synthetic", **MANY, lazy=True, label_noise=0.5).fingerprint())
    names.add(load_dataset("synthetic", **{**MANY, "records_per_site": 13}, lazy=True).fingerprint())
    assert len(names) == 4
    assert load_dataset("synthetic", **MANY, lazy=True).fingerprint() in names


def test_features_and_labels_of_one_part_are_made_once():
    make, calls = counting(3)
    part = LazyPart("train part of north", 3, make)
    assert part.records == 3
    assert calls == []
    assert part.features.shape == (3, 2)
    assert part.labels.shape == (3,)
    assert len(calls) == 1
    assert load_part(part).features[0, 0] == 1


def test_a_store_keeps_the_last_used_parts_within_its_bound():
    store = PartStore(bound_bytes=100)  # a part of 3 records has 3 * 2 * 4 + 3 * 8 = 48 bytes
    makers = [counting(3) for _ in range(4)]
    parts = [LazyPart(f"part {number}", 3, make, store) for number, (make, _) in enumerate(makers)]
    for part in parts:
        part.load()
    assert store.kept_bytes == 96
    parts[3].load()
    parts[0].load()
    assert [len(calls) for _, calls in makers] == [2, 1, 1, 1]


def test_a_part_larger_than_the_bound_is_given_all_the_same():
    store = PartStore(bound_bytes=1)
    make, _ = counting(3)
    assert LazyPart("part", 3, make, store).features.shape == (3, 2)


def test_another_number_of_records_is_refused_by_name():
    make, _ = counting(4)
    with pytest.raises(InvalidInput, match="records in train part of north=4: must be 3"):
        LazyPart("train part of north", 3, make).load()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_are_refused_by_name_when_they_are_read(dtype):
    make, _ = counting(4, dtype=dtype)
    north = lazy_hospital("north", 4, 4, make, PartStore(), ModelSignature((2,), 2, "binary"))
    with pytest.raises(InvalidInput, match=rf"(?s)train part of north.*{np.dtype(dtype).name}.*must be float32"):
        north.train.load()


def test_a_lazy_site_without_records_is_refused_before_anything_is_read():
    from dataclasses import replace

    dataset = load_dataset("synthetic", **MANY, lazy=True)
    make, calls = counting(0)
    empty = lazy_hospital("north", 0, 4, make, PartStore(), ModelSignature((3,), 2, "binary"))
    with pytest.raises(InvalidInput, match="training records of north"):
        replace(dataset, hospitals=(*dataset.hospitals, empty))
    assert calls == []
