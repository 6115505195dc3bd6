"""What self-tests measure: false alarms and power by simulation, decisions together, and what a verdict needs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tff_hospitals.audits import promise
from tff_hospitals.audits.bounds.bound import bound
from tff_hospitals.audits.self_tests import covariance, independence, keys, looks, loudness, noises
from tff_hospitals.audits.self_tests.findings import FAMILY_WISE, SELF_TESTS, Finding, settle
from tff_hospitals.audits.self_tests.measures import (
    POWER,
    AtMost,
    Correlation,
    Loudness,
    Shape,
    Share,
    Spread,
    differences,
    draws_for_loudness,
)
from tff_hospitals.plan.parts import PrivacyPlan

REPETITIONS = 20_000


def uniform(values):
    """P-values that are too small too often: the largest excess over the identity, beyond its own noise."""
    p = np.sort(values)
    for level in (0.001, 0.01, 0.05, 0.2):
        share = (p <= level).mean()
        assert share <= level + 4 * np.sqrt(level / len(p)) + 1e-4, f"{share} of the p-values are at most {level}"


@pytest.mark.slow
def test_p_values_of_sound_noise_and_batches_are_not_too_small():
    generator = np.random.default_rng(0)
    total = np.square(generator.normal(size=(REPETITIONS, 50))).sum(axis=1)
    uniform([Loudness(one, 50).p_value for one in total])
    counts = generator.binomial(4000, 0.02, REPETITIONS)
    uniform([Share(int(one), 4000, 0.02).p_value for one in counts])
    sizes = generator.binomial(199, 0.02, (REPETITIONS // 4, 300))
    uniform([Spread.of(row, 199, 0.02).p_value for row in sizes])
    uses = generator.binomial(1500, 0.125, (REPETITIONS // 4, 30))
    uniform([Spread.of(row, 1500, 0.125).p_value for row in uses])
    rows = generator.normal(size=(REPETITIONS // 10, 4, 40))
    upper = np.triu_indices(4, 1)
    largest = [np.abs(np.corrcoef(row)[upper]).max() for row in rows]
    uniform([Correlation(one, 40, 6).p_value for one in largest])
    uniform([Shape.of(generator.normal(size=200)).p_value for _ in range(1000)])
    uniform([covariance.of_rows(row).p_value for row in generator.normal(size=(REPETITIONS // 10, 6, 30))])


@pytest.mark.parametrize("ratio", [0.9, 1.1])
def test_noise_that_is_off_by_a_tenth_is_found_as_often_as_promised(ratio):
    """The stated number of draws, the smallest share of the error that an audit of a thousand tests leaves to one."""
    generator, error = np.random.default_rng(1), SELF_TESTS / 1000
    draws = draws_for_loudness(error)
    low, high = Loudness(1.0, draws).limits(error)
    seen = np.sqrt(np.square(ratio * generator.normal(size=(2000, draws))).mean(axis=1))
    found = ((seen < low) | (seen > high)).mean()
    assert found > POWER - 0.02
    assert Loudness(1.0, draws).power(error) == pytest.approx(POWER, abs=0.01)
    assert Loudness(1.0, draws // 2).power(error) < 0.7
    quiet, loud = Loudness(1.0, draws).range(error)
    assert quiet == pytest.approx(0.9, abs=0.012)
    assert loud == pytest.approx(1.1, abs=0.012)


def test_powers_of_the_other_measures_hold_in_simulations():
    generator, error = np.random.default_rng(2), 1e-4
    one = Correlation(0.0, 600, 100)
    common = generator.normal(size=(4000, 600))
    pairs = [0.5 * common + np.sqrt(0.75) * generator.normal(size=common.shape) for _ in range(2)]
    r = np.einsum("ij,ij->i", *(a - a.mean(1, keepdims=True) for a in pairs)) / (
        600 * pairs[0].std(1) * pairs[1].std(1)
    )
    assert (np.abs(r) > one.limits(error)[1]).mean() == pytest.approx(one.power(error), abs=0.02)
    flat = np.sqrt(12) * (generator.random((400, 3000)) - 0.5)
    found = np.mean([Shape.of(row).p_value < error for row in flat])
    assert found >= Shape(0.0, 3000).power(error) - 0.02
    shares = generator.binomial(200_000, 0.9 * 0.02, 4000)
    low, high = Share(0, 200_000, 0.02).limits(error)
    outside = (shares < low * 4000) | (shares > high * 4000)
    assert outside.mean() >= Share(0, 200_000, 0.02).power(error) - 0.02


def test_one_error_probability_covers_all_tests_together():
    """A hundred sound tests raise no more alarms than one test would; a broken one among them is found."""
    generator = np.random.default_rng(3)

    def audit(ratio):
        values = np.square(generator.normal(size=(100, 200))).sum(axis=1)
        values[0] *= ratio**2
        return settle([Finding("loudness", str(k), None, Loudness(v, 200), "") for k, v in enumerate(values)], 0.05)

    alarms = np.mean([not all(one.passed for one in audit(1.0)) for _ in range(300)])
    assert alarms <= 0.05 + 3 * np.sqrt(0.05 / 300)
    assert not audit(0.6)[0].passed
    assert FAMILY_WISE == 1e-3


def test_exact_findings_cost_no_error_and_what_is_no_number_fails():
    exact = Finding("clipping", "records", "a", AtMost(1.2, 1.1), "")
    sound = Finding("loudness", "noise", "a", Loudness(100.0, 100), "")
    nan = Finding("clipping", "records", "b", AtMost(float("nan"), 1.1), "")
    equal = Finding("ledger", "events", "a", differences(0, "a round"), "")
    settled = settle([exact, sound, nan, equal])
    assert [one.passed for one in settled] == [False, True, False, True]
    assert [one.p_value is None for one in settled] == [True, False, True, True]
    assert settled[0].power == 1.0
    assert settled[0].name == "clipping: records"


# ----------------------------------------------------------------------------------------------- loudness, independence


def observed(values, hospitals=("a", "b"), rounds=6, runs=("this run", "seed 2")):
    """Noise [runs, hospitals, rounds, parts, parameters] of two tensors."""
    made = [
        noises.Noise(hospital, number + 1, run, values[i, j, number])
        for i, run in enumerate(runs)
        for j, hospital in enumerate(hospitals)
        for number in range(rounds)
    ]
    return noises.Observed("noise", made, {"kernel": slice(0, 8), "bias": slice(8, 10)}, "this run")


def normals(seed=0):
    return np.random.default_rng(seed).normal(size=(2, 2, 6, 20, 10))


def failed(seen, others=()):
    found = settle([*loudness.check(seen, "loudness"), *covariance.check(seen), *independence.check(seen, others)])
    return {(one.name, one.hospital) for one in found if not one.passed}


def test_sound_noise_raises_no_alarm():
    assert not any(failed(observed(normals(seed))) for seed in range(20))


def test_a_silent_round_tensor_or_hospital_is_named():
    values = normals()
    values[:, 1, 3] = 0.0
    assert ("loudness: noise, round 4", "b") in failed(observed(values))
    values = normals()
    values[..., 8:] *= 0.3
    names = failed(observed(values))
    assert ("loudness: noise, bias", "a") in names
    assert ("loudness: noise, kernel", "a") not in names
    values = normals()
    values[:, 1] *= 0.7
    names = failed(observed(values))
    assert ("loudness: noise", "b") in names
    assert ("loudness: noise", "a") not in names


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("rounds", "independence: noise, hospitals and rounds"),
        ("hospitals", "independence: noise, hospitals and rounds"),
        ("steps", "independence: noise, steps"),
        ("tensors", "independence: noise, tensors and their numbers"),
        ("seeds", "independence: noise, seeds"),
        ("runs", "independence: noise, runs"),
        ("shifted", "independence: noise, repeats"),
    ],
)
def test_noise_that_is_used_twice_is_found_wherever_it_is(fault, name):
    values, others = normals(1), ()
    if fault == "rounds":
        values[:, :, 4] = values[:, :, 1]
    elif fault == "hospitals":
        values[:, 1] = np.sqrt(0.7) * values[:, 0] + np.sqrt(0.3) * values[:, 1]  # in part
    elif fault == "steps":
        values[:, :, :, 7] = values[:, :, :, 2]
    elif fault == "tensors":
        values[..., 8:] = values[..., :2]
    elif fault == "seeds":
        values[1] = -values[0]
    elif fault == "runs":
        others = [dataclasses.replace(one, run="other") for one in observed(values).of_this_run()]
    else:
        values[0, 1, 2, 5] = values[0, 0, 4, 11]
    assert name in {one for one, _ in failed(observed(values), others)}


def test_uniform_noise_of_the_right_deviation_is_not_normal():
    flat = np.sqrt(12) * (np.random.default_rng(4).random((2, 2, 6, 60, 10)) - 0.5)
    assert ("shape: noise is normal", "a") in failed(observed(flat))


def test_noise_that_hangs_together_otherwise_than_declared_is_found_at_both_ends():
    """A coefficient that is off by the correlation that the test says it notices; rows that were made orthogonal."""
    generator, error = np.random.default_rng(5), 5e-7
    found = 0
    for _ in range(200):
        rows = generator.normal(size=(8, 2500))
        measure = covariance.of_rows(rows)
        smallest = float(measure.notices(error).rpartition(" ")[2])
        rows[5] = np.sqrt(1 - smallest**2) * rows[5] + smallest * rows[2]
        found += covariance.of_rows(rows).p_value < error
    assert found / 200 == pytest.approx(POWER, abs=0.05)
    assert measure.power(error) > 0.99
    alike = np.linalg.qr(generator.normal(size=(2500, 8)))[0].T * 50
    assert covariance.of_rows(alike).p_value < error


def test_what_another_library_draws_is_said_not_to_be_tested():
    for name, ours in (("dp_sgd", True), ("tff_gaussian_fixed", False), ("tfp_dp_sgd", False)):
        assert (keys.foreign(PrivacyPlan(mechanism=name)) == "") == ours


def test_looks_spend_what_there_is_on_rounds_first_then_on_steps_and_seeds():
    small = looks.choose(hospitals=4, rounds=15, steps=5, parameters=14, smallest=1, error=5e-7)
    assert (len(small.rounds), small.steps, small.left_out) == (15, (1, 2, 3, 4, 5), 0)
    assert 15 * 5 * (1 + small.seeds) >= draws_for_loudness(5e-7)
    long = looks.choose(hospitals=20, rounds=5000, steps=100, parameters=14, smallest=1, error=5e-7)
    assert len(long.rounds) * 20 <= looks.MOST_RUNS
    assert long.left_out == 5000 - len(long.rounds)
    assert long.rounds[-1] == 4999
    assert long.steps == (100,)


# ------------------------------------------------------------------------------------------------------------- verdicts


def test_a_verdict_needs_tests_and_one_contradiction_breaks_it():
    names = ("loudness: noise on records", "clipping: records", "batches: no record twice")
    ledger = "ledger: events of every round, record level"
    tests = settle(
        [
            Finding(*name.split(": ", 1), hospital, AtMost(0.0, 0.0), "")
            for name in (*names, ledger)
            for hospital in ("a", "b")
        ]
    )
    sound = bound("record", "a", "pairs", proved=0.5, stated=1.0, tight=0.9, confidence=0.999)
    broken = bound("record", "a", "pairs", proved=1.5, stated=1.0, tight=0.9, confidence=0.999)
    nothing = bound("record", None, "guesses", proved=2.0, stated=np.inf, tight=np.inf, confidence=0.999)

    def outcome(tests, bounds, units=("record",)):
        gaps = promise.gaps(units, ("a", "b"), tests)
        return promise.verdict(units, tests, bounds, gaps), gaps

    assert outcome(tests, [sound]) == ("pass", [])
    assert outcome(tests, [sound, broken])[0] == "broken promise"
    assert outcome([], [])[0] == "too little tested"
    without = [one for one in tests if (one.name, one.hospital) != ("clipping: records", "b")]
    assert outcome(without, [sound]) == ("too little tested", ["record level, b: no test of the clipping"])
    assert outcome([], [nothing], units=()) == ("no promise", [])
    assert [promise.EXIT_CODES[name] for name in ("pass", "broken promise", "too little tested", "no promise")] == [
        0,
        1,
        3,
        3,
    ]
    assert nothing.words.startswith("NO PROMISE")
