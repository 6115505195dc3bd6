"""Partitions: every record in exactly one site, seeded, stable, and refused by name where they cannot hold."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals.partitions import PARTITIONS, partition, site_ids

OPTIONS = {"iid": {}, "dirichlet": {"alpha": 0.3}, "quantity_skew": {"alpha": 0.5}, "missing_classes": {}}
LABELS = np.arange(1000) % 10


def split(kind, labels=LABELS, sites=7, seed=0, **options):
    return partition(kind, labels, sites=sites, streams=Streams.from_seed(seed), **{**OPTIONS[kind], **options})


def test_every_partition_is_tested_here():
    assert set(OPTIONS) == set(PARTITIONS)


@pytest.mark.parametrize("kind", PARTITIONS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_record_is_in_exactly_one_site(kind, data):
    labels = np.array(data.draw(st.lists(st.integers(0, 4), min_size=12, max_size=80)))
    labels[:5] = np.arange(5)
    sites = data.draw(st.integers(2, 6))
    made = split(kind, labels, sites, seed=data.draw(st.integers(0, 2**40)), min_records=0)
    everything = np.concatenate(made.rows)
    assert len(made.rows) == len(made.ids) == sites
    assert np.array_equal(np.sort(everything), np.arange(len(labels)))
    assert made.words.startswith("simulated: ")


@pytest.mark.parametrize("kind", PARTITIONS)
def test_same_seed_same_sites_and_another_seed_others(kind):
    first, again, other = split(kind), split(kind), split(kind, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(first.rows, again.rows))
    assert any(not np.array_equal(a, b) for a, b in zip(first.rows, other.rows))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("iid", "5a1994dc76b8"),
        ("dirichlet", "5343c294496e"),
        ("quantity_skew", "604eedf9aaef"),
        ("missing_classes", "ba139e1c56b3"),
    ],
)
def test_partitions_do_not_change_between_versions(kind, expected):
    made = split(kind)
    digest = hashlib.sha256(b"|".join(rows.astype("<i8").tobytes() for rows in made.rows)).hexdigest()[:12]
    assert digest == expected


def test_iid_sizes_differ_by_one_at_most():
    sizes = [len(rows) for rows in split("iid", sites=7).rows]
    assert sorted(sizes) == [142] * 1 + [143] * 6


def test_dirichlet_alpha_moves_from_one_label_to_the_pools_mix():
    def largest_share(alpha):
        made = split("dirichlet", np.arange(4000) % 10, sites=20, alpha=alpha)
        return np.mean([np.bincount(rows % 10, minlength=10).max() / len(rows) for rows in made.rows])

    # With ten equal labels the largest share is .1 at best; a site of nearly one label is close to 1; alpha 10 is the
    # uniform distribution on mixes, whose largest share is (1 + 1/2 + .. + 1/10) / 10 = .293 on average.
    assert largest_share(1e6) < 0.16
    assert largest_share(10.0) == pytest.approx(0.293, abs=0.06)
    assert largest_share(1e-3) > 0.8


def test_dirichlet_follows_the_pools_mix_of_labels():
    labels = np.repeat([0, 1], [900, 100])
    made = split("dirichlet", labels, sites=5, alpha=1e7)
    assert [int(labels[rows].sum()) for rows in made.rows] == pytest.approx([20] * 5, abs=12)


def test_quantity_skew_makes_unequal_sizes_and_equal_mixes():
    made = split("quantity_skew", np.arange(20_000) % 2, sites=10, alpha=0.5)
    sizes = np.array([len(rows) for rows in made.rows])
    assert sizes.min() >= 1
    assert sizes.max() > 3 * np.median(sizes)
    large = [np.mean(rows % 2) for rows in made.rows if len(rows) > 1000]
    assert large == pytest.approx([0.5] * len(large), abs=0.05)
    even = split("quantity_skew", np.arange(20_000) % 2, sites=10, alpha=1e6)
    assert [len(rows) for rows in even.rows] == pytest.approx([2000] * 10, rel=0.02)


@pytest.mark.parametrize(("sites", "missing"), [(2, 5), (4, 7), (10, 9), (100, 3)])
def test_missing_classes_lacks_just_so_many_and_loses_none(sites, missing):
    made = split("missing_classes", sites=sites, missing_per_site=missing)
    present = [set((rows % 10).tolist()) for rows in made.rows]
    assert {len(labels) for labels in present} == {10 - missing}
    assert set().union(*present) == set(range(10))
    sizes = [len(rows) for rows in made.rows]
    assert min(sizes) > 0


def test_missing_labels_by_site_id():
    made = split("missing_classes", sites=3, missing_labels={"site-0002": [0, 1, 2]})
    present = [set((rows % 10).tolist()) for rows in made.rows]
    assert present == [set(range(10)), set(range(3, 10)), set(range(10))]
    assert "site-0002 lacks 0, 1, 2" in made.words


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("iidd", {}, "did you mean 'iid'"),
        ("iid", {"sites": 0}, "sites=0: must be >= 1"),
        ("iid", {"sites": 1001}, "must be <= 1000: 1000 records"),
        ("iid", {"sites": 300, "min_records": 4}, "must be <= 250"),
        ("iid", {"alpha": 1.0}, "iid option='alpha': must be one of none at all"),
        ("dirichlet", {"alpha": 0.0}, "alpha=0.0: must be >= 1e-06"),
        ("dirichlet", {"alpha": float("nan")}, "alpha=nan"),
        ("quantity_skew", {"sites": 200, "alpha": 0.05, "min_records": 4}, "must leave every site 4 or more records"),
        ("missing_classes", {"missing_per_site": 10}, "must be >= 0 and <= 9"),
        ("missing_classes", {"sites": 4, "missing_per_site": 9}, "must be <= 7: 4 sites with 1 labels each"),
        ("missing_classes", {"missing_labels": {"site-9": [1]}}, "did you mean 'site-000"),
        (
            "missing_classes",
            {"sites": 2, "missing_labels": [[3], [3]]},
            r"every site would lack label 3 \(100 records\)",
        ),
        ("missing_classes", {"sites": 2, "missing_labels": [[11], []]}, r"\[11\]: must be among"),
        ("missing_classes", {"sites": 2, "missing_labels": [[1]]}, "must have 2 lists"),
        ("missing_classes", {"missing_labels": {}, "missing_per_site": 1}, "excludes missing_labels"),
    ],
)
def test_what_cannot_hold_is_refused_by_name(kind, options, words):
    with pytest.raises(InvalidInput, match=words):
        partition(kind, LABELS, **{"sites": 7, "streams": Streams.from_seed(0), **options})


def test_sites_keep_their_ids_when_others_are_added():
    assert site_ids(12)[:3] == site_ids(3) == ("site-0001", "site-0002", "site-0003")
    assert list(site_ids(9999)) == sorted(site_ids(9999))
