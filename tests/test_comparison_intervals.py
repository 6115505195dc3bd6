"""Intervals over patients and seeds: coverage, pairing, and what is undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tff_hospitals.experiments.intervals import METRICS, Resamples, differences, headline_of, interval
from tff_hospitals.training.metrics import Predictions


def guesses(generator, records, chance):
    correct = generator.random(records) < chance
    labels = generator.integers(0, 2, records)
    return Predictions("binary", labels, np.zeros(records), correct, np.where(correct == labels, 0.9, 0.1))


def test_the_interval_covers_the_true_accuracy_about_as_often_as_it_says():
    """200 test sets of two hospitals; a model that is right with chance .8. Nominal 95 %; below 90 % would be wrong."""
    generator = np.random.default_rng(1)
    resamples = Resamples({"a": 120, "b": 60}, seeds=1)
    hits = 0
    for _ in range(200):
        low, high = interval(resamples.scores(METRICS["accuracy"], [guesses(generator, 180, 0.8)]))
        hits += low <= 0.8 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_its_width_is_that_of_the_binomial_error():
    one = guesses(np.random.default_rng(2), 400, 0.7)
    low, high = interval(Resamples({"a": 400}, seeds=1).scores(METRICS["accuracy"], [one]))
    share = one.correct.mean()
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(share * (1 - share) / 400), rel=0.1)


def test_the_same_records_cancel_in_a_difference():
    """Two models that differ at five of 200 records: told apart by pairs, lost in two intervals that overlap."""
    first = guesses(np.random.default_rng(3), 200, 0.7)
    better = Predictions("binary", first.labels, first.losses, first.correct.copy(), first.scores)
    better.correct[np.flatnonzero(better.correct == 0)[:8]] = 1
    resamples = Resamples({"a": 100, "b": 100}, seeds=1)
    scores = [resamples.scores(METRICS["accuracy"], [one]) for one in (first, better)]
    ends = [interval(one) for one in scores]
    assert ends[0][1] > ends[1][0]  # they overlap
    found = differences("accuracy", [*scores, None])
    assert found["low"][1][0] > 0
    assert found["high"][0][1] == pytest.approx(-found["low"][1][0])
    assert found["low"][0][2] is None


def test_seeds_that_differ_widen_it():
    one, other = (guesses(np.random.default_rng(4), 300, chance) for chance in (0.9, 0.6))
    same = interval(Resamples({"a": 300}, seeds=2).scores(METRICS["accuracy"], [one, one]))
    apart = interval(Resamples({"a": 300}, seeds=2).scores(METRICS["accuracy"], [one, other]))
    assert apart[1] - apart[0] > 1.5 * (same[1] - same[0])


def test_what_resamples_do_not_define_has_no_interval():
    ones = Predictions("binary", [1] * 20, [0.1] * 20, [1] * 20, np.linspace(0, 1, 20))
    resamples = Resamples({"a": 20, "empty": 0}, seeds=1)
    assert interval(resamples.scores(METRICS["auc"], [ones])) is None
    assert interval(resamples.scores(METRICS["accuracy"], [ones])) == (1.0, 1.0)
    nothing = Resamples({"a": 0}, seeds=1)
    assert interval(nothing.scores(METRICS["accuracy"], [ones[:0]])) is None


def test_large_test_sets_take_fewer_resamples():
    assert Resamples({"a": 100}, 1).count == 1000
    assert Resamples({"a": 90_000}, 1).count == 222


def test_one_in_a_hundred_is_not_ranked_by_accuracy():
    labels = np.zeros(200)
    labels[:2] = 1
    name, why = headline_of(Predictions("binary", labels, labels, labels == 0, np.zeros(200)))
    assert name == "auc"
    assert "99.0 % of the test records are of one class" in why
