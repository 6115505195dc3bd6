"""Lower bounds on epsilon: exact for known mechanisms, close to the ledger for ours, above it where noise lacks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from few_fast import few_fast

from tff_hospitals.accounting.loss_shapes import GaussianPart, PoissonPart
from tff_hospitals.accounting.trade_off import trade_off
from tff_hospitals.audits import loading
from tff_hospitals.audits.bounds import guesses, pairs, proving
from tff_hospitals.audits.self_tests.findings import NotTested
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import load_dataset
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes import noise
from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow

ONE = ((GaussianPart(mu_squared=1.0), 1),)


# ---------------------------------------------------------------------------------------------------------------- pairs


def test_pairs_bound_the_gaussian_mechanism_tightly_and_seldom_too_high():
    """Epsilon 3.14 at delta 1e-3: of 300 audits at most 5 % may prove more, and most prove 85 % of it."""
    generator, delta = np.random.default_rng(0), 1e-3
    proved = []
    for _ in range(300):
        right = pairs.right_answers(generator.normal(1, 1, 8000), generator.normal(0, 1, 8000))
        proved.append(pairs.judge(right=right, pairs=8000, promised=ONE, delta=delta, confidence=0.95))
    tight = proved[0].promised_epsilon
    assert tight == pytest.approx(3.1387, abs=1e-3)
    too_high = np.mean([one.lower_bound > tight * 1.002 for one in proved])
    assert too_high <= 0.05 + 3 * np.sqrt(0.05 / 300)
    assert np.mean([not one.passed for one in proved]) <= 0.05 + 3 * np.sqrt(0.05 / 300)
    assert np.median([one.lower_bound for one in proved]) > 0.9 * tight


def test_what_pairs_say_that_they_would_notice_they_notice():
    generator, confidence = np.random.default_rng(1), 0.999
    for count in (500, 5000):
        ratio = pairs.noticed(count, ONE, confidence)
        found = 0
        for _ in range(400):
            right = pairs.right_answers(generator.normal(1 / ratio, 1, count), generator.normal(0, 1, count))
            found += pairs.lower_limit(right, count, confidence) > trade_off(ONE).area
        assert found / 400 == pytest.approx(0.95, abs=0.04)
    sampled = ((PoissonPart(0.02, 2.4), 1500),)
    wanted = pairs.pairs_to_notice(0.85, sampled, confidence)
    assert pairs.noticed(wanted, sampled, confidence) == pytest.approx(0.85, abs=2e-3)
    assert pairs.noticed(3, sampled, confidence) == 0.0


def test_pairs_that_must_be_right_or_wrong():
    alike = pairs.judge(right=500, pairs=1000, promised=ONE, delta=1e-3, confidence=0.999)
    assert (alike.lower_bound, alike.passed) == (0.0, True)
    sure = pairs.judge(right=1000, pairs=1000, promised=ONE, delta=1e-3, confidence=0.999)
    assert not sure.passed
    assert sure.lower_bound > 8
    assert pairs.right_answers(np.ones(5), np.ones(5)) == 0  # ties are wrong
    with pytest.raises(InvalidInput, match="right=11"):
        pairs.judge(right=11, pairs=10, promised=ONE, delta=1e-3, confidence=0.999)


# -------------------------------------------------------------------------------------------------------------- one run


def test_the_curve_bound_of_one_run_holds_for_gaussian_noise_and_beats_pure_privacy():
    generator, canaries, delta = np.random.default_rng(2), 1000, 1e-3
    proved, pure = [], []
    for _ in range(20):
        coins = generator.random(canaries) < 0.5
        scores = coins + generator.normal(size=canaries)
        found = guesses.guess_and_bound(scores, coins, delta=delta, confidence=0.95, promised=ONE)
        proved.append(found.lower_bound)
        pure.append(guesses.guess_and_bound(scores, coins, delta=delta, confidence=0.95).lower_bound)
    tight = pairs.judge(right=1, pairs=2, promised=ONE, delta=delta, confidence=0.9).promised_epsilon
    assert np.mean(np.array(proved) > tight) <= 0.05 + 3 * np.sqrt(0.05 / 20)
    assert np.median(proved) > 1.3 * np.median(pure)
    assert np.median(proved) > 0.45 * tight


# --------------------------------------------------------------------------------------------------- healthy mechanisms


@pytest.fixture(scope="module")
def heart():
    return load_dataset("heart_disease")


def trained(heart, method, epsilon, rounds=15, **changes):
    plan = METHODS[method].plan(Plan(rounds=rounds, evaluate_every=rounds, checkpoint_every=rounds), epsilon)
    return loading.in_memory(train(plan.replace(**changes), heart), heart)


def of_unit(found, unit):
    assert not [one for one in found if isinstance(one, NotTested)]
    return [one for one in found if one.unit == unit and one.notices_below is not None]


@pytest.mark.parametrize(
    ("method", "epsilon"),
    few_fast(
        [("dp_sgd", 1.0), ("dp_sgd", 3.0), ("dp_sgd", 8.0), ("dp_ftrl_local", 3.0), ("dp_mf_local", 3.0)],
        slow=[("dp_sgd", 3.0)],
    ),
)
def test_records_prove_at_least_half_of_the_ledger(heart, method, epsilon):
    found = of_unit(proving.all_bounds(trained(heart, method, epsilon), 30_000), "record")
    assert {one.hospital for one in found} == set(heart.ids)
    for one in found:
        assert one.passed
        assert 0.5 * one.tight_epsilon <= one.lower_bound <= one.tight_epsilon < one.ledger_epsilon
        assert one.notices_below > 0.7
        assert "would have noticed noise below" in one.words


@pytest.mark.parametrize(
    ("method", "epsilon"),
    few_fast(
        itertools.product(["fixed_clip", "tree", "local_dp"], [1.0, 3.0, 8.0]),
        slow=[("fixed_clip", 8.0), ("tree", 8.0)],
    ),
)
def test_a_hospital_proves_at_least_seven_tenths_of_the_ledger(heart, method, epsilon):
    (one,) = of_unit(proving.all_bounds(trained(heart, method, epsilon), 30_000), "hospital")
    assert one.passed
    assert 0.7 * one.tight_epsilon <= one.lower_bound <= one.tight_epsilon
    assert one.notices_below > 0.84


@pytest.mark.slow
def test_noise_of_seven_tenths_is_contradicted_at_both_levels(heart, monkeypatch):
    sound = noise.unit_normals
    inside, server = (trained(heart, method, 3.0, rounds=5) for method in ("dp_sgd", "fixed_clip"))
    monkeypatch.setattr(noise, "unit_normals", lambda *args, **names: 0.7 * sound(*args, **names))
    for run, unit in ((inside, "record"), (server, "hospital")):
        found = of_unit(proving.all_bounds(run, 5000), unit)
        assert not any(one.passed for one in found)
        assert all(one.lower_bound > one.tight_epsilon for one in found)
        assert all(one.words.startswith(f"FAIL at {unit} level") for one in found)


def test_names_have_seeds_of_their_own():
    assert proving.hash_of("hungary") != proving.hash_of("cleveland")
