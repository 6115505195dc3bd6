"""Intervals over patients and seeds: coverage, pairing, and what is undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tff_hospitals.experiments.intervals import METRICS, Resamples, differences, headline_of, interval
from tff_hospitals.training.metrics import Predictions


def drawn_from(sizes, seeds):
    """One split, and every test record a patient of its own."""
    return Resamples([{one: range(size) for one, size in sizes.items()}], seeds)


def guesses(generator, records, chance):
    correct = generator.random(records) < chance
    labels = generator.integers(0, 2, records)
    return Predictions("binary", labels, np.zeros(records), correct, np.where(correct == labels, 0.9, 0.1))


def test_the_interval_covers_the_true_accuracy_about_as_often_as_it_says():
    """200 test sets of two hospitals; a model that is right with chance .8. Nominal 95 %; below 90 % would be wrong."""
    generator = np.random.default_rng(1)
    resamples = drawn_from({"a": 120, "b": 60}, 1)
    hits = 0
    for _ in range(200):
        low, high = interval(resamples.draw(METRICS["accuracy"], [guesses(generator, 180, 0.8)]).scores)
        hits += low <= 0.8 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_its_width_is_that_of_the_binomial_error():
    one = guesses(np.random.default_rng(2), 400, 0.7)
    low, high = interval(drawn_from({"a": 400}, 1).draw(METRICS["accuracy"], [one]).scores)
    share = one.correct.mean()
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(share * (1 - share) / 400), rel=0.1)


def test_the_same_records_cancel_in_a_difference():
    """Two models that differ at five of 200 records: told apart by pairs, lost in two intervals that overlap."""
    first = guesses(np.random.default_rng(3), 200, 0.7)
    better = Predictions("binary", first.labels, first.losses, first.correct.copy(), first.scores)
    better.correct[np.flatnonzero(better.correct == 0)[:8]] = 1
    resamples = drawn_from({"a": 100, "b": 100}, 1)
    scores = [resamples.draw(METRICS["accuracy"], [one]).scores for one in (first, better)]
    ends = [interval(one) for one in scores]
    assert ends[0][1] > ends[1][0]  # they overlap
    found = differences("accuracy", [*scores, None])
    assert found["low"][1][0] > 0
    assert found["high"][0][1] == pytest.approx(-found["low"][1][0])
    assert found["low"][0][2] is None


def test_seeds_that_differ_widen_it():
    one, other = (guesses(np.random.default_rng(4), 300, chance) for chance in (0.9, 0.6))
    same = interval(drawn_from({"a": 300}, 2).draw(METRICS["accuracy"], [one, one]).scores)
    apart = interval(drawn_from({"a": 300}, 2).draw(METRICS["accuracy"], [one, other]).scores)
    assert apart[1] - apart[0] > 1.5 * (same[1] - same[0])


def test_what_resamples_do_not_define_has_no_interval():
    ones = Predictions("binary", [1] * 20, [0.1] * 20, [1] * 20, np.linspace(0, 1, 20))
    resamples = drawn_from({"a": 20, "empty": 0}, 1)
    assert interval(resamples.draw(METRICS["auc"], [ones]).scores) is None
    assert interval(resamples.draw(METRICS["accuracy"], [ones]).scores) == (1.0, 1.0)
    nothing = drawn_from({"a": 0}, 1)
    assert interval(nothing.draw(METRICS["accuracy"], [ones[:0]]).scores) is None


def test_large_test_sets_take_fewer_resamples():
    assert drawn_from({"a": 100}, 1).count == 1000
    assert drawn_from({"a": 90_000}, 1).count == 222


def test_one_in_a_hundred_is_not_ranked_by_accuracy():
    labels = np.zeros(200)
    labels[:2] = 1
    name, why = headline_of(Predictions("binary", labels, labels, labels == 0, np.zeros(200)))
    assert name == "auc"
    assert "99.0 % of the test records are of one class" in why


def width(ends):
    return ends[1] - ends[0]


def test_every_hospital_has_an_interval_of_its_own_patients():
    one = guesses(np.random.default_rng(5), 400, 0.7)
    drawn = drawn_from({"large": 360, "small": 40, "empty": 0}, 1).draw(METRICS["accuracy"], [one])
    large, small = (interval(drawn.of_hospital(name)) for name in ("large", "small"))
    for rows, ends in ((slice(0, 360), large), (slice(360, 400), small)):
        share, records = one.correct[rows].mean(), len(one[rows])
        assert ends[0] < share < ends[1]
        assert width(ends) == pytest.approx(2 * 1.96 * math.sqrt(share * (1 - share) / records), rel=0.15)
    assert interval(drawn.of_hospital("empty")) is None


def test_a_patient_is_drawn_with_all_records():
    """Ten records of each of 40 patients, all alike: no more is known than of 40 records."""
    correct = np.repeat(np.random.default_rng(6).random(40) < 0.7, 10).astype(float)
    labels = np.ones(400)
    run = Predictions("binary", labels, 0 * labels, correct, 0.5 * labels)
    patients = np.repeat(np.arange(40), 10)
    together = interval(Resamples([{"a": patients}], 1).draw(METRICS["accuracy"], [run]).scores)
    apart = interval(drawn_from({"a": 400}, 1).draw(METRICS["accuracy"], [run]).scores)
    assert width(together) == pytest.approx(math.sqrt(10) * width(apart), rel=0.15)


def test_patients_who_are_tested_in_several_splits_do_not_count_as_more_patients():
    one = guesses(np.random.default_rng(7), 300, 0.7)
    single = interval(drawn_from({"a": 300}, 1).draw(METRICS["accuracy"], [one]).scores)
    again = Resamples([{"a": range(300)}] * 4, 1).draw(METRICS["accuracy"], [one] * 4)
    assert width(interval(again.scores)) == pytest.approx(width(single), rel=0.1)
    others = [{"a": range(300 * split, 300 * split + 300)} for split in range(4)]
    more = Resamples(others, 1).draw(METRICS["accuracy"], [one] * 4)
    # Splits are drawn too, and differ by their patients: at most the square root of two wider than the truth.
    assert 0.9 < width(interval(more.scores)) / (width(single) / 2) < 1.1 * math.sqrt(2)


def test_splits_that_differ_widen_it_the_more_the_less_is_trained_on():
    runs = [guesses(np.random.default_rng(seed), 300, chance) for seed, chance in enumerate((0.6, 0.7, 0.8, 0.9))]
    places = [{"a": range(300)}] * 4
    narrow, wide = (
        width(interval(Resamples(places, 1, overlap).draw(METRICS["accuracy"], runs).scores)) for overlap in (0, 0.5)
    )
    same = width(interval(Resamples(places, 1).draw(METRICS["accuracy"], [runs[1]] * 4).scores))
    assert same < narrow < wide
    assert wide == pytest.approx(math.sqrt(3) * narrow, rel=0.15)


def test_the_interval_over_splits_covers_about_as_often_as_it_says():
    """60 data sets of 400 patients, five splits each; a model's accuracy depends a little on what it was trained on."""
    generator = np.random.default_rng(8)
    hits = 0
    for _ in range(60):
        ease = generator.random(400)
        truth = 0.7
        patients, runs = [], []
        for _ in range(5):
            tested = np.flatnonzero(generator.random(400) < 0.3)
            skill = truth + 0.02 * generator.normal()
            correct = (ease[tested] < skill).astype(float)
            labels = np.ones(len(tested))
            patients.append({"a": tested})
            runs.append(Predictions("binary", labels, 0 * labels, correct, 0.5 * labels))
        low, high = interval(Resamples(patients, 1, overlap=0.3 / 0.7).draw(METRICS["accuracy"], runs).scores)
        hits += low <= truth <= high
    assert hits >= 52  # of 60; nominal 57
