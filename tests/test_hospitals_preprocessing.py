"""Scaling: exact where it says exact, private where it says private."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import Feature, Schema, Target, decode, dp_moments, load_dataset
from tff_hospitals.hospitals.preprocessing import Scaling, Site, prepare

LOW, HIGH = np.array([18.0, -3.0]), np.array([100.0, 7.0])
STREAMS = Streams.from_seed(2)
SCHEMA = Schema(
    (Feature("age", low=20, high=100), Feature("dose", low=0, high=8, impute="median"), Feature("sex", "binary")),
    Target("ill"),
)


def site(hospital_id="north", values=((40, 2, 0, 1), (60, np.nan, 1, 0), (80, 4, 0, 0), (100, 8, 0, 1))):
    rows = np.array(values, float)
    matrix = np.stack([rows[:, 0], rows[:, 1], np.isnan(rows[:, 1]).astype(float), rows[:, 2]], axis=1)
    return Site(hospital_id, matrix, rows[:, 3].astype(np.int64), np.array([3]), np.array([0, 1, 2]))


def features_of(scaling, sites=None, **changes):
    schema = dataclasses.replace(SCHEMA, **changes)
    return prepare(sites or [site()], schema, scaling, STREAMS)


def test_per_hospital_by_hand():
    (made,), (scaler,), done = features_of(Scaling("per_hospital"))
    # Training ages 40, 60, 80: mean 60, sample deviation 20; doses 2, (median 3), 4: mean 3, deviation 1.
    np.testing.assert_allclose(made[:, 0], [-1, 0, 1, 2], atol=1e-6)
    np.testing.assert_allclose(made[:, 1], [-1, 0, 1, 5], atol=1e-6)
    np.testing.assert_allclose(scaler.restore(made)[:, 0], [40, 60, 80, 100], atol=1e-4)
    assert made.dtype == np.float32
    assert done.private is False
    assert done.events == ()


def test_pooled_uses_the_training_records_of_all_hospitals():
    other = site("south", ((0, 3, 0, 0), (0, 3, 0, 1), (0, 3, 0, 1), (50, 3, 0, 0)))
    (north, south), scalers, done = features_of(Scaling("pooled"), [site(), other])
    ages = np.array([40, 60, 80, 0, 0, 0.0])
    np.testing.assert_allclose(north[:3, 0], (ages[:3] - ages.mean()) / ages.std(ddof=1), rtol=1e-6)
    assert scalers[0] is scalers[1]
    assert south[3, 0] == pytest.approx((50 - ages.mean()) / ages.std(ddof=1), rel=1e-6)
    assert done.private is False


def test_fixed_bounds_learn_nothing():
    (made,), _, done = features_of(Scaling("fixed_bounds"))
    np.testing.assert_allclose(made[:, 0], [-1, 0, 1, 2])  # 20..100: middle 60, a quarter of the range 20
    assert made[:, 3].tolist() == [0, 1, 0, 0]
    assert done.private is False  # the median of the doses was still taken
    constants = (SCHEMA.features[0], dataclasses.replace(SCHEMA.features[1], impute=4.0), SCHEMA.features[2])
    assert features_of(Scaling("fixed_bounds"), features=constants)[2].private is True
    changed = site(values=((40, 2, 0, 1), (60, 1, 1, 0), (200, 4, 0, 0), (100, 8, 0, 1)))
    (other,), _, _ = features_of(Scaling("fixed_bounds"), [changed])
    assert other[2, 0] == 2.0  # outside the bounds: clipped
    np.testing.assert_array_equal(other[[0, 3], 0], made[[0, 3], 0])  # nobody else moved


def test_a_column_that_does_not_vary_is_only_centred():
    flat = site(values=((50, 1, 0, 1), (50, 1, 0, 0), (50, 1, 0, 0), (70, 1, 0, 1)))
    (made,), _, _ = features_of(Scaling("per_hospital"), [flat])
    assert made[:, 0].tolist() == [0, 0, 0, 20]


def test_a_median_of_nothing_is_the_middle_of_the_bounds():
    empty = site(values=((50, np.nan, 0, 1), (60, np.nan, 0, 0), (70, np.nan, 0, 0), (70, 1, 0, 1)))
    (made,), _, _ = features_of(Scaling("none"), [empty])
    assert made[:, 1].tolist() == [4, 4, 4, 1]


numbers = st.floats(-1e6, 1e6, allow_nan=False)


@settings(max_examples=150, deadline=None)
@given(
    values=arrays(float, st.tuples(st.integers(0, 6), st.just(2)), elements=numbers),
    record=arrays(float, 2, elements=numbers),
)
def test_one_record_moves_the_sums_no_further_than_the_sensitivity(values, record):
    before = dp_moments.sums(values, LOW, HIGH)
    after = dp_moments.sums(np.concatenate([values, record[None]]), LOW, HIGH)
    assert np.linalg.norm(after - before) <= dp_moments.sensitivity(2) + 1e-9


def test_the_sensitivity_is_reached():
    moved = dp_moments.sums(np.array([[100.0, -3.0]]), LOW, HIGH) - dp_moments.sums(np.zeros((0, 2)), LOW, HIGH)
    assert moved.tolist() == [1, 1, -1, 1, 1]
    assert np.linalg.norm(moved) == pytest.approx(dp_moments.sensitivity(2)) == pytest.approx(5**0.5)


def test_the_noise_has_the_stated_scale_and_no_other():
    values = np.array([[40.0, 1.0], [70.0, 2.0]])
    exact = dp_moments.sums(values, LOW, HIGH)
    draws = np.concatenate(
        [
            dp_moments.noised_sums(values, LOW, HIGH, noise_multiplier=1.5, streams=STREAMS.child(draw)) - exact
            for draw in range(400)
        ]
    )

    def accepts(scale):  # chi-square with 2,000 degrees of freedom: deviation sqrt(4,000)
        return abs(((draws / scale) ** 2).sum() - len(draws)) < 5 * np.sqrt(2 * len(draws))

    stated = 1.5 * 5**0.5
    assert accepts(stated)
    assert not accepts(stated * 2 / 3)
    assert not accepts(stated * 3 / 2)
    assert abs(draws.mean()) < 5 * stated / np.sqrt(len(draws))


def test_noise_of_two_hospitals_is_uncorrelated_and_repeats_with_the_seed():
    zeros = np.zeros((0, 2))

    def noise(hospital_id, seeds=600):
        streams = [Streams.from_seed(seed).child("dp_moments", hospital_id) for seed in range(seeds)]
        return np.stack([dp_moments.noised_sums(zeros, LOW, HIGH, noise_multiplier=1, streams=s) for s in streams])

    north, south = noise("north"), noise("south")
    correlation = np.corrcoef(north[:, 0], south[:, 0])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(600)
    assert np.array_equal(north, noise("north"))


def test_dp_moments_approach_the_truth_and_shrink_to_public_guesses():
    generator = np.random.default_rng(0)
    many = np.stack([generator.normal(60, 10, 200_000), generator.normal(1, 1, 200_000)], axis=1)
    sure = dp_moments.release(many, LOW, HIGH, noise_multiplier=1, streams=STREAMS)
    np.testing.assert_allclose(sure.means, [60, 1], atol=0.1)
    np.testing.assert_allclose(sure.deviations, [10, 1], rtol=0.02)
    unsure = dp_moments.release(many[:10], LOW, HIGH, noise_multiplier=1e6, streams=STREAMS)
    np.testing.assert_allclose(unsure.means, (LOW + HIGH) / 2, atol=1e-2)
    np.testing.assert_allclose(unsure.deviations, 0.15**0.5 * (HIGH - LOW) / 2, rtol=1e-2)


def test_dp_moments_tell_the_ledger_what_was_released():
    dataset = load_dataset("heart_disease", scaling="dp_moments", scaling_noise_multiplier=5.0)
    assert dataset.preprocessing.private is True
    assert [event["hospital_id"] for event in dataset.preprocessing.events] == list(dataset.ids)
    assert dataset.preprocessing.events[0] == {
        "unit": "record",
        "hospital_id": "cleveland",
        "kind": "gaussian",
        "noise_multiplier": 5.0,
        "count": 1,
    }
    again = load_dataset("heart_disease", scaling="dp_moments", scaling_noise_multiplier=5.0)
    secret = Streams.from_operating_system()
    other = load_dataset("heart_disease", scaling="dp_moments", scaling_noise_multiplier=5.0, scaling_streams=secret)
    assert dataset.fingerprint() == again.fingerprint() != other.fingerprint()
    # Yes/no columns and categories keep their public 0 and 1.
    assert set(np.unique(dataset.hospital("hungary").train.features[:, 1])) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scaling": "fixed"}, "did you mean 'fixed_bounds'"),
        ({"scaling": "dp_moments"}, "scaling_noise_multiplier=None: must be > 0"),
        ({"scaling": "dp_moments", "scaling_noise_multiplier": 0.0}, "must be > 0"),
        ({"scaling_noise_multiplier": 2.0}, "only used with dp_moments"),
    ],
)
def test_bad_scaling_is_refused(options, words):
    with pytest.raises(InvalidInput, match=words):
        load_dataset("heart_disease", **options)


def test_columns_without_public_bounds_cannot_be_scaled_by_them():
    open_ended = (Feature("age"), *SCHEMA.features[1:])
    with pytest.raises(InvalidInput, match=r"columns=\['age'\]: must have public bounds"):
        features_of(Scaling("fixed_bounds"), features=open_ended)


def test_decode_gives_categories_and_numbers_back():
    schema = Schema(
        (Feature("age", low=0, high=9), Feature("pain", "categorical", categories=("a", "b", "c"), drop_first=True)),
        Target("ill"),
    )
    rebuilt = np.array([[4.5, 0.1, 0.2], [3.0, 0.2, 0.9], [2.0, 0.8, 0.6]])
    assert decode(schema, rebuilt) == {"age": [4.5, 3.0, 2.0], "pain": ["a", "c", "b"]}
