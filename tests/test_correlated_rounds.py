"""Correlated noise at the server: what rounds add is C^-1 z, what the ledger says is the strategy's sensitivity."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import toy

from tff_hospitals.accounting.strategies import sensitivity_of
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import load_dataset
from tff_hospitals.plan import Plan, mechanisms, noise, review
from tff_hospitals.plan.mechanisms.base import HospitalSetting
from tff_hospitals.plan.parts import CohortPlan, PrivacyPlan
from tff_hospitals.processes.aggregators.building import build_aggregator
from tff_hospitals.training.loop import train
from tff_hospitals.training.results import TrainingError
from tff_hospitals.training.round_inputs import RoundDrawer
from tff_hospitals.training.separation import Separation
from tff_hospitals.training.write_ahead import WriteAhead

pytestmark = pytest.mark.tensorflow

NAMES = ["blt", "banded_mf"]
SPECS = (tf.TensorSpec([3, 2]), tf.TensorSpec([5]))
COHORT = CohortPlan("cyclic", hospitals_per_round=2)
ROUNDS = 24
EVERYBODY = {"kind": "all", "hospitals_per_round": None}


def run_rounds(aggregator, rounds):
    """The updates that rounds of zero contributions give: noise alone, float32 [rounds, parameters]."""
    state = tf.nest.map_structure(tf.constant, aggregator.initial_state(np.array([3, 4], np.int64), 2.0))
    found, normals = [], []
    for _ in range(rounds):
        draws = aggregator.server_noise(state)
        zeros = tuple(tf.zeros(spec.shape) for spec in SPECS)
        prepared = aggregator.prepare(aggregator.parameters(state), zeros, tf.constant(1.0), collections.OrderedDict())
        normals.append(draws["delta"].numpy())
        update, state, _ = aggregator.finish(state, prepared, draws)
        found.append(np.concatenate([tensor.numpy().ravel() for tensor in update]))
    return np.array(found), np.array(normals)


@pytest.mark.parametrize("name", NAMES)
def test_rounds_add_the_rows_of_the_inverse_strategy(name):
    privacy = PrivacyPlan(mechanism=name, clip_norm=0.5)
    aggregator = build_aggregator(SPECS, privacy, COHORT, 12, rounds=ROUNDS)
    added, normals = run_rounds(aggregator, ROUNDS)
    strategy = mechanisms.named(name).strategy_of(HospitalSetting(privacy, ROUNDS, COHORT, 12))
    inverse = strategy.inverse_coefficients()
    assert np.abs(inverse[1:]).max() > 0.05  # else this would test independent noise
    matrix = np.array([[inverse[t - s] if t >= s else 0.0 for s in range(ROUNDS)] for t in range(ROUNDS)])
    np.testing.assert_allclose(added, 2.0 * 0.5 * matrix @ normals, rtol=2e-5, atol=2e-5)


def test_buffers_that_turn_add_the_rows_of_their_inverse_too():
    """With rounds enough, the optimised strategy keeps two vectors for a pair: as many as it has buffers."""
    privacy, rounds = PrivacyPlan(mechanism="blt", clip_norm=0.5), 60
    aggregator = build_aggregator(SPECS, privacy, COHORT, 12, rounds=rounds)
    strategy = mechanisms.named("blt").strategy_of(HospitalSetting(privacy, rounds, COHORT, 12))
    assert "pair" in dict(strategy.settings)
    assert np.iscomplexobj(strategy.inverse_buffers()[0])
    assert aggregator.kept == 3
    added, normals = run_rounds(aggregator, rounds)
    np.testing.assert_allclose(added, 2.0 * 0.5 * strategy.inverse_matrix() @ normals, rtol=2e-5, atol=4e-5)


@pytest.mark.parametrize("name", NAMES)
def test_prefix_sums_carry_less_noise_than_independent_draws(name):
    """The realised noise of the last model, over many parameters: C^-1 says its deviation, to 3 % with 5,000 draws."""
    privacy = PrivacyPlan(mechanism=name, clip_norm=1.0)
    wide = (tf.TensorSpec([5000]),)
    aggregator = build_aggregator(wide, privacy, COHORT, 12, rounds=ROUNDS)
    state = tf.nest.map_structure(tf.constant, aggregator.initial_state(np.array([5, 6], np.int64), 1.0))
    total = np.zeros(5000)
    for _ in range(ROUNDS):
        draws = aggregator.server_noise(state)
        prepared = aggregator.prepare(
            aggregator.parameters(state), (tf.zeros([5000]),), tf.constant(1.0), collections.OrderedDict()
        )
        update, state, _ = aggregator.finish(state, prepared, draws)
        total += update[0].numpy()
    strategy = mechanisms.named(name).strategy_of(HospitalSetting(privacy, ROUNDS, COHORT, 12))
    expected = float(np.sqrt(np.square(np.cumsum(strategy.inverse_coefficients())).sum()))
    assert total.std() == pytest.approx(expected, rel=0.03)
    assert expected < 0.8 * np.sqrt(ROUNDS)


@pytest.fixture(scope="module")
def twelve():
    return load_dataset("digits", partition="iid", sites=12)


def plan_of(name, **changes):
    base = Plan().replace(
        rounds=12,
        weighting="equal",
        cohort={"kind": "cyclic", "hospitals_per_round": 2},
        client={"local_steps": 2, "batch_size": 8},
        privacy={"mechanism": name, "target_epsilon": 8.0, "delta": 1e-2},
    )
    return base.replace(**changes)


@pytest.mark.parametrize("name", NAMES)
def test_the_ledger_states_the_sensitivity_and_keeps_the_target(name, twelve):
    plan = plan_of(name)
    run = train(plan, twelve)
    (event, count), *others = run.ledger.events("hospital", twelve.ids[0])
    strategy = mechanisms.named(name).strategy_of(noise.hospital_setting(plan, twelve))
    assert not others
    assert count == 1
    assert event.kind == "matrix"
    assert event.steps == 12
    exact = sensitivity_of(strategy, participations=2, min_separation=6)
    assert exact.exact
    assert event.sensitivity == pytest.approx(exact.value, rel=1e-12)
    assert 7.9 < run.summary["epsilon"] <= 8.0


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_stops_early_is_charged_for_its_rounds_alone(name, twelve):
    plan = plan_of(name, rounds=12)
    release = next(iter(noise.make(plan, twelve).releases.values()))
    costs = [release.in_round(number, 1, 2)[0].sensitivity for number in range(12)]
    assert all(earlier <= later + 1e-12 for earlier, later in zip(costs, costs[1:]))
    assert costs[0] < costs[-1]
    with pytest.raises(ValueError, match="planned for 12 rounds"):
        release.in_round(12, 1, 2)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("banded_mf", {"privacy": {"noise_bands": 7}}, "at most 6, the rounds between two participations"),
        (
            "banded_mf",
            {"privacy": {"noise_bands": 2}, "cohort": {"kind": "all", "hospitals_per_round": None}},
            "at most 1",
        ),
        ("blt", {"server": {"momentum": 0.9}}, "not as momentum does"),
        ("banded_mf", {"server": {"momentum": 0.9}}, "not as momentum does"),
        ("blt", {"privacy": {"noise_buffers": 5}}, "<= 4"),
        ("blt", {"privacy": {"noise_bands": 2}}, "banded_mf"),
        ("blt", {"privacy": {"zeroing": "fixed"}}, "is only used with"),
        ("blt", {"weighting": "records"}, "equal weights"),
        ("blt", {"privacy": {"secure_sum": True}}, "the noise of blt is real-valued"),
        ("banded_mf", {"privacy": {"secure_sum": True}}, "take discrete_gaussian or skellam"),
        ("banded_mf", {"privacy": {"noise_bands": 2}, "cohort": {"kind": "fixed_size"}}, "at most 1"),
    ],
)
def test_what_breaks_the_promise_is_refused_before_training(name, changes, words, twelve):
    problems = review.problems(plan_of(name).replace(**changes), twelve)
    assert any(words in str(problem) for problem in problems), problems


def test_the_field_s_names_lead_to_ours():
    with pytest.raises(InvalidInput, match="take banded_mf or blt"):
        mechanisms.named("matrix-factorisation")


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_goes_on_with_the_same_noise(name, twelve, tmp_path):
    plan = plan_of(name, checkpoint_every=5)
    whole = train(plan, twelve, run_dir=tmp_path / "whole")
    resumed = toy.killed_and_resumed(plan, twelve, tmp_path / "cut", after=7)
    for one, other in zip(whole.weights, resumed.weights):
        np.testing.assert_array_equal(one, other)
    assert whole.ledger == resumed.ledger
    with pytest.raises(InvalidInput, match="laid out as a whole for the 12 rounds"):
        train(plan.replace(rounds=14), twelve, run_dir=tmp_path / "whole")


@pytest.mark.parametrize("name", ["blt", "tree"])
def test_a_cohort_that_is_not_the_planned_one_is_refused_before_it_trains(name, twelve, monkeypatch):
    """Groups of two come back after six rounds; one of round 1 slips into round 4, which the ledger would not see."""
    planned, charged = RoundDrawer.cohort, []

    def cohort(self, number):
        ids = planned(self, number)
        return (planned(self, 0)[0], *ids[1:]) if number == 3 else ids

    monkeypatch.setattr(RoundDrawer, "cohort", cohort)
    monkeypatch.setattr(WriteAhead, "before", lambda self, inputs: charged.extend(one.number for one in inputs))
    with pytest.raises(TrainingError, match=r"round 4: .* took part 3 rounds before.* at least 6"):
        train(plan_of(name, evaluate_every=1), twelve)
    assert charged == [0, 1, 2]


def test_a_run_that_goes_on_knows_who_took_part_before_and_rounds_follow_each_other(twelve):
    """After a resume at round 4 the groups of rounds 1 to 4 are still away; without a strategy nobody is."""

    def looks(plan, start, number, like):
        made = noise.make(plan, twelve)
        drawer = RoundDrawer(plan, twelve, made, Streams.from_seed(3))
        one = drawer.draw(number, drawer.cohort(like))
        Separation(made, drawer, start).check([one])

    looks(plan_of("blt"), 4, 4, 4)
    looks(plan_of("blt"), 6, 6, 0)
    with pytest.raises(TrainingError, match="took part 4 rounds before"):
        looks(plan_of("blt"), 4, 4, 0)
    with pytest.raises(TrainingError, match="round 6 instead of 5"):
        looks(plan_of("blt"), 4, 5, 5)
    looks(plan_of("fixed_clip"), 4, 5, 0)
