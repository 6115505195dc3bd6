"""Banded noise inside hospitals: batches, noise and events as declared, bands chosen with a reason."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import toy
from few_fast import few_fast
from scipy import stats

from tff_hospitals.accounting import MechanismEvent, epsilon_of
from tff_hospitals.accounting.strategies import sensitivity_of
from tff_hospitals.hospitals import load_dataset
from tff_hospitals.plan import Plan, noise, review
from tff_hospitals.plan.mechanisms import dp_mf_local
from tff_hospitals.plan.parts import ClientPlan, PrivacyPlan
from tff_hospitals.processes.local_training import LocalTraining
from tff_hospitals.training.loop import build_model, train
from tff_hospitals.training.round_inputs import RoundDrawer

pytestmark = pytest.mark.tensorflow
STEPS = 12


@pytest.fixture(scope="module")
def heart():
    return load_dataset("heart_disease", scaling="fixed_bounds")


def plan_of(rounds=15, client=None, **privacy):
    settings = {"mechanism": "dp_mf_local", "target_epsilon": 8.0, **privacy}
    return Plan(rounds=rounds).replace(privacy=settings, client=client or {})


@pytest.mark.parametrize("bands", [1, 4])
def test_the_noise_of_a_round_has_the_covariance_of_the_strategy(bands):
    """C times what the steps add is white: a chi-square of 20 blocks, two-sided, and the same noise not multiplied."""
    privacy = PrivacyPlan(mechanism="dp_mf_local", clip_norm=1.0, noise_bands=bands)
    model = build_model(Plan(), toy.hospitals())
    work = LocalTraining(model, ClientPlan(), privacy, max_local_steps=STEPS)
    blocks = [work.noise_block(tf.constant([7, number], tf.int64), 0).numpy() for number in range(20)]
    added = np.concatenate(blocks, axis=1).astype(np.float64)  # [steps, draws]
    column = dp_mf_local.strategy_of(bands, STEPS).coefficients()
    strategy = np.array([[column[t - s] if t >= s else 0.0 for s in range(STEPS)] for t in range(STEPS)])
    low, high = stats.chi2.ppf([5e-4, 1 - 5e-4], added.size)

    def white(noise_of_steps):
        normals = strategy @ noise_of_steps
        covariance = np.corrcoef(normals)
        off = np.abs(covariance[np.triu_indices(STEPS, 1)]).max()
        return low <= np.square(normals).sum() <= high and off < 4.5 / np.sqrt(added.shape[1])

    assert white(added)
    assert not white(1.15 * added)
    assert not white(added / 1.15)
    if bands > 1:
        assert not white(np.roll(added, 1, axis=0))
        assert not white(np.random.default_rng(1).normal(size=added.shape))


def test_a_record_takes_part_in_the_turns_of_its_group_alone(heart):
    plan = plan_of(noise_bands=4)
    planned = noise.make(plan, heart)
    drawer = RoundDrawer(plan, heart, planned)
    joined, turns = 0, 0
    for number in range(3):
        for hospital in drawer.draw(number).cohort:
            schedule = hospital.schedule
            step, place = np.nonzero(schedule.mask)
            assert set((schedule.indices[step, place] - step) % 4) == {0}
            joined += schedule.examples
            turns += schedule.steps * schedule.expected_batch
    assert abs(joined - turns) < 5 * np.sqrt(turns)
    chance = planned.releases["cleveland"].event.sampling_probability
    assert chance == pytest.approx(4 / planned.settings["cleveland"].steps_per_epoch)


@pytest.mark.parametrize("target", few_fast([1.0, 8.0], [8.0], []))
def test_the_ledger_of_a_run_counts_every_turn_and_keeps_the_target(heart, target):
    """Training certifies the ledger by dp_accounting; here the events are counted by hand beside it."""
    plan = plan_of(rounds=2, client={"local_steps": 10}, target_epsilon=target, noise_bands=4)
    run = train(plan, heart)
    ((event, count),) = run.ledger.events("record", "hungary")
    assert (event.kind, count) == ("poisson_gaussian", 2 * 3)  # 10 steps in turns of 4 groups: at most 3 each
    setting = noise.make(plan, heart).settings["hungary"]
    by_hand = MechanismEvent(
        "poisson_gaussian",
        noise_multiplier=noise.make(plan, heart).multipliers["hungary"],
        sampling_probability=4 / setting.steps_per_epoch,
    )
    epsilon = epsilon_of([(by_hand, 6)], run.summary["delta"], adjacency="replace_special", conversion="rdp")
    assert 0.98 * target < epsilon <= target
    assert run.summary["epsilon"] <= target
    settings = tuple(noise.make(plan, heart).settings.values())
    table = {str(one.bands): one.error for one in dp_mf_local.choices(settings, run.summary["delta"])}
    assert run.summary["error_by_bands"] == {**table, "chosen": 4}


def test_passes_are_one_matrix_mechanism_a_round_with_the_sensitivity_of_all_passes(heart):
    plan = plan_of(rounds=2, record_sampling="same_order", noise_bands=5)
    planned = noise.make(plan, heart)
    setting = planned.settings["switzerland"]
    ((event, count),) = planned.releases["switzerland"].whole_run(2, setting.steps)
    begun = dataclasses.replace(dp_mf_local.strategy_of(5, setting.longest), steps=setting.steps)
    often = -(-setting.steps // setting.steps_per_epoch)
    exact = sensitivity_of(begun, participations=often, min_separation=setting.steps_per_epoch)
    assert exact.exact
    assert (event.kind, count) == ("matrix", 2)
    assert event.sensitivity == pytest.approx(exact.value)
    assert often > 1


def test_the_planner_takes_the_number_of_bands_of_least_error(heart):
    for target, more_than_one in ((1.0, False), (8.0, True)):
        planned = noise.make(plan_of(target_epsilon=target), heart)
        settings = tuple(planned.settings.values())
        table = dp_mf_local.choices(settings, planned.delta)
        best = min(table, key=lambda one: one.error)
        assert settings[0].privacy.noise_bands == best.bands
        assert (best.bands > 1) == more_than_one
        assert [one.bands for one in table] == [1, 2, 4, 8]


def test_one_band_is_dp_sgd(heart):
    own = noise.make(plan_of(noise_bands=1), heart)
    plain = noise.make(plan_of(mechanism="dp_sgd"), heart)
    assert dict(own.multipliers) == pytest.approx(dict(plain.multipliers), rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"privacy": {"noise_bands": 9}}, "must be at most 8"),
        ({"privacy": {"clip_style": "adaptive"}}, "one clip norm for all steps"),
        ({"client": {"momentum": 0.9}}, "set --client_momentum=0"),
        ({"client": {"optimizer": "adam"}}, "--client_optimizer=sgd"),
        ({"privacy": {"record_sampling": "weekly"}}, "cyclic_poisson"),
        ({"privacy": {"noise_bands": 0}}, ">= 1"),
    ],
)
def test_what_it_cannot_do_is_refused_with_remedy(heart, changes, words):
    found = review.problems(plan_of().replace(**changes), heart)
    assert any(words in str(problem) for problem in found), found
