"""Robust rules against numpy, and against hospitals that attack."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import toy

from tff_hospitals.experiments.methods import METHODS, ROBUST, robust_plan
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import load_dataset, poisoning
from tff_hospitals.plan import Plan, review
from tff_hospitals.plan.parts import CohortPlan, PrivacyPlan
from tff_hospitals.processes.aggregators.building import build_aggregator
from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow
SPECS = (tf.TensorSpec([2, 2]), tf.TensorSpec([3]))
GATHERING = [name for name, _, _ in ROBUST if name != "norm_bound"]


def aggregated(name, updates, places=None, rounds=1, **privacy):
    """What a rule makes of updates [hospitals, 7]; a row of None is a hospital that is not there."""
    setting = PrivacyPlan(mechanism=name, **privacy)
    aggregator = build_aggregator(SPECS, setting, CohortPlan(), places or len(updates))
    state = tf.nest.map_structure(tf.constant, aggregator.initial_state(np.zeros([2], np.int64), 0.0))
    for _ in range(rounds):
        total = None
        for place, row in enumerate(updates):
            if row is None:
                continue
            flat = tf.constant(row, tf.float32)
            delta = (tf.reshape(flat[:4], [2, 2]), flat[4:])
            one = aggregator.prepare(
                {}, delta, tf.constant(1.0 if name == "norm_bound" else place + 1.0), collections.OrderedDict()
            )
            total = one if total is None else tf.nest.map_structure(tf.add, total, one)
        update, state, _ = aggregator.finish(state, total, collections.OrderedDict())
    return np.concatenate([one.numpy().ravel() for one in update])


def krum_order(updates, bad):
    """Updates by their score, the best first (Blanchard et al. 2017, definition of the score)."""
    near = len(updates) - bad - 2
    scores = []
    for i, one in enumerate(updates):
        distances = sorted(np.square(one - other).sum() for j, other in enumerate(updates) if j != i)
        scores.append(sum(distances[:near]))
    return np.argsort(scores, kind="stable")


@pytest.mark.parametrize("hospitals", [7, 8])
@pytest.mark.parametrize("name", GATHERING)
def test_rules_are_what_their_papers_say(name, hospitals):
    updates = np.random.default_rng(hospitals).normal(size=(hospitals, 7)).astype(np.float32)
    found = aggregated(name, list(updates), byzantine=2, clip_norm=0.8)
    if name == "coordinate_median":
        expected = np.median(updates, axis=0)
    elif name == "trimmed_mean":
        expected = np.sort(updates, axis=0)[2:-2].mean(axis=0)
    elif name == "krum":
        expected = updates[krum_order(updates, 2)[0]]
    elif name == "multi_krum":
        expected = updates[krum_order(updates, 2)[: hospitals - 2]].mean(axis=0)
    elif name == "geometric_median":

        def summed(point):
            return np.linalg.norm(updates - point, axis=1).sum()

        directions = np.random.default_rng(1).normal(size=(200, 7))
        assert all(summed(found) <= summed(found + 0.01 * one) + 1e-6 for one in directions)
        return
    else:
        expected = np.zeros(7)
        for _ in range(5):
            away = updates - expected
            scale = np.minimum(1.0, 0.8 / np.linalg.norm(away, axis=1))
            expected = expected + (scale[:, np.newaxis] * away).mean(axis=0)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", GATHERING)
def test_hospitals_that_are_not_there_or_send_nonsense_do_not_count(name):
    updates = list(np.random.default_rng(3).normal(size=(6, 7)).astype(np.float32))
    alone = aggregated(name, updates, places=6)
    broken = np.full(7, np.nan, np.float32)
    np.testing.assert_allclose(aggregated(name, [*updates, None, broken], places=8), alone, rtol=1e-6, atol=1e-7)
    nobody = aggregated(name, [broken, broken])
    assert nobody.tolist() == [0.0] * 7


@pytest.mark.parametrize("name", [name for name, _, _ in ROBUST])
def test_one_bad_hospital_of_eight_moves_a_rule_little_and_the_mean_far(name):
    updates = np.random.default_rng(4).normal(1.0, 0.1, size=(8, 7)).astype(np.float32)
    honest = updates.mean(axis=0)
    updates[5] *= -1000
    found = aggregated(name, list(updates), rounds=3, byzantine=None if name == "norm_bound" else 1, clip_norm=3.0)
    assert np.linalg.norm(found - honest) < 0.3 * np.linalg.norm(honest)
    assert np.linalg.norm(updates.mean(axis=0) - honest) > 100 * np.linalg.norm(honest)


@pytest.fixture(scope="module")
def sites():
    return load_dataset("heart_disease", partition="iid", sites=7, scaling="fixed_bounds")


POISON = "sign_flip:site-0002:10"


def plan_of(name, **changes):
    return METHODS[name].plan(Plan(rounds=15, evaluate_every=15), None).replace(**changes)


@pytest.mark.slow
def test_a_flipped_update_ruins_the_mean_and_no_rule_that_bears_it(sites):
    assert "site-0002" in sites.ids
    clean = train(plan_of("mean"), sites).summary["accuracy_mean"]
    ruined = train(plan_of("mean", poison=POISON), sites).summary
    assert ruined["accuracy_mean"] < 0.6 < clean
    assert any("site-0002 sends its update times -10" in text for text in ruined["warnings"])
    for name in GATHERING:
        run = train(plan_of(name, poison=POISON), sites)
        found = run.summary["accuracy_mean"]
        numbers = sum(weight.size for weight in run.weights)
        assert run.summary["bytes_up"] == 15 * len(sites.ids) * 4 * (numbers + 1)  # its update, and that it is there
        assert found > clean - 0.03, (name, found, clean)


def test_attacks_on_data_change_training_records_alone(sites):
    changed = poisoning.poisoned(sites, {"site-0001": ("label_flip", 0.5), "site-0003": ("backdoor", 1.0)})
    for before, after in zip(sites.hospitals, changed.hospitals):
        assert after.test is before.test
        moved = np.flatnonzero(before.train.labels != after.train.labels)
        half = round(0.5 * before.train.records)
        if before.hospital_id == "site-0001":
            assert moved.tolist() == list(range(half))
        elif before.hospital_id == "site-0003":
            assert set(after.train.labels) == {0}
            assert (after.train.features[:, : poisoning.MARKED] == poisoning.MARK).all()
        else:
            assert after is before


def test_a_backdoor_shows_how_often_it_works(sites):
    hidden = train(plan_of("mean", poison="backdoor:site-0003:1"), sites).summary
    assert 0.0 <= hidden["backdoor_success"] <= 1.0
    assert "backdoor_success" not in train(plan_of("mean", rounds=1), sites).summary


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"poison": "sign_flip:site-0009"}, "site-0009"),
        ({"poison": "sign_flip"}, "names no hospital"),
        ({"poison": "bribe:site-0001"}, "sign_flip"),
        ({"poison": "scale:site-0001:nan"}, "amount > 0"),
        ({"poison": "label_flip:site-0001:2"}, "<= 1"),
        ({"poison": "scale:site-0001:2,sign_flip:site-0001"}, "name each hospital once"),
        ({"weighting": "records"}, "--weighting=equal"),
        ({"upload": "rotate,quantize:4"}, "drop --upload"),
        ({"privacy": {"secure_sum": True}}, "drop --secure_sum"),
        ({"privacy": {"byzantine": 3}}, "bears at most 2"),
    ],
)
def test_what_makes_no_sense_is_refused_with_remedy(sites, changes, words):
    found = review.problems(plan_of("krum").replace(**changes), sites)
    assert any(words in str(problem) for problem in found), found


def test_four_hospitals_make_krum_vacuous_and_the_table_says_so():
    four = load_dataset("heart_disease", scaling="fixed_bounds")
    warned = review.warnings(plan_of("krum"), four)
    assert any("krum is vacuous with 4 hospitals" in text and "needs 5" in text for text in warned)
    assert not any("vacuous" in text for text in review.warnings(plan_of("coordinate_median"), four))


def test_a_rule_stands_around_record_level_privacy_and_not_around_another_mechanism():
    inside = METHODS["dp_sgd"].plan(Plan(), 3.0)
    assert robust_plan(inside, "trimmed_mean").privacy.outer == "trimmed_mean"
    assert robust_plan(Plan(), "krum").privacy.mechanism == "krum"
    assert robust_plan(Plan(), None) == Plan()
    with pytest.raises(InvalidInput, match="fixed_clip"):
        robust_plan(METHODS["fixed_clip"].plan(Plan(), 3.0), "krum")
    run = train(robust_plan(inside, "trimmed_mean").replace(rounds=2), toy.hospitals())
    assert run.summary["unit"] == "record"
    assert run.summary["epsilon"] <= 3.0
