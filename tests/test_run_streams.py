"""No two runs share noise: what an attacker would take away from two released models, and what stays common."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import types

import numpy as np
import pytest
import toy

from tff_hospitals.experiments.comparison import Comparison
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.foundations import extensions
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.hospitals import load_dataset
from tff_hospitals.hospitals.secret import DataSecret
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes import noise
from tff_hospitals.training.loop import train, train_seeds
from tff_hospitals.training.round_inputs import RoundDrawer
from tff_hospitals.training.run_streams import HARMLESS, release_name, run_streams

pytestmark = pytest.mark.tensorflow

PRIVATE = Plan(rounds=3, weighting="equal", seed=1).replace(
    client={"local_steps": 5, "batch_size": 10, "learning_rate": 0.01},
    privacy={"mechanism": "dp_sgd", "noise_multiplier": 5.0},
)
MECHANISMS = ("dp_sgd", "dp_ftrl_local", "fixed_clip", "tree", "local_dp", "discrete_gaussian", "skellam")


@pytest.fixture(scope="module")
def dataset():
    return toy.hospitals((60, 50, 40))


def flat(run):
    return np.concatenate([np.ravel(weight) for weight in run.weights])


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_two_released_models_of_one_seed_do_not_undo_each_other(dataset, mechanism):
    """With common noise 2 * w(5) - w(10) is the model without noise: to 4e-6 (DP-SGD) and 1e-7 (clipping)."""
    clip_norm = 1.0 if mechanism.startswith("dp_") else 1e-3

    def released(noise_multiplier):
        privacy = {"mechanism": mechanism, "noise_multiplier": noise_multiplier, "clip_norm": clip_norm}
        return flat(train(PRIVATE.replace(privacy=privacy), dataset))

    tiny = 1e-3 if mechanism in ("discrete_gaussian", "skellam") else 1e-6
    without, five, ten = released(tiny), released(5.0), released(10.0)
    noise_of_five = np.abs(five - without).mean()
    assert noise_of_five > 1e-5
    assert np.abs(2 * five - ten - without).mean() > 0.5 * noise_of_five


def drawn_noise(plan, dataset, count=20_000):
    """The noise of a run as it is drawn: by each hospital in the first round, and by the server."""
    streams = run_streams(plan, dataset)
    keys = [streams.server_noise(), *(streams.hospital_noise(one, 0) for one in dataset.ids)]
    return np.concatenate([noise.unit_normals(key, [count]).numpy() for key in keys])


def test_noises_of_any_two_runs_of_the_default_comparison_are_uncorrelated():
    """They were .98 to .997 between the targets of one method and seed, and 1 between methods."""
    dataset = load_dataset("heart_disease", scaling="fixed_bounds")
    asked = Comparison(tuple(METHODS), (1.0, 5.0), (42, 43, 44))
    plans = [plan.replace(seed=seed) for method, plan in asked.method_plans() for seed in asked.seeds if method.private]
    rows = np.stack([drawn_noise(plan, dataset, 5_000) for plan in plans])
    assert len(rows) > 60
    correlations = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlations).max() < 0.05


def test_whatever_changes_a_release_changes_its_noise(dataset):
    other_data = toy.hospitals((60, 50, 41))
    other_key = dataclasses.replace(dataset, secret=DataSecret(bytes(32), False, None))

    class Edited:
        identity = "another activation"

    variants = {
        "itself": run_streams(PRIVATE, dataset),
        "seed": run_streams(PRIVATE.replace(seed=2), dataset),
        "rounds": run_streams(PRIVATE.replace(rounds=4), dataset),
        "noise": run_streams(PRIVATE.replace(privacy={"noise_multiplier": 5.5}), dataset),
        "clip": run_streams(PRIVATE.replace(privacy={"clip_norm": 0.9}), dataset),
        "data": run_streams(PRIVATE, other_data),
        "key": run_streams(PRIVATE, other_key),
        "model": run_streams(PRIVATE, dataset, Edited()),
        "extended": run_streams(PRIVATE, dataset, continues=["the run before"]),
    }
    draws = {
        name: (tuple(one.server_noise()), tuple(one.hospital_noise("site_0", 0)), tuple(one.upload("site_0", 0)))
        for name, one in variants.items()
    }
    for one, other in itertools.combinations(draws.values(), 2):
        assert not set(one) & set(other)
    for field in HARMLESS:
        again = run_streams(PRIVATE.replace(**{field: 2}), dataset)
        assert tuple(again.server_noise()) == draws["itself"][0], field


def test_an_edited_extension_has_noise_of_its_own(dataset, tmp_path, monkeypatch):
    """Its code may change what is released under the same plan: equal noise would then cancel out."""
    module = types.ModuleType("own_code_of_a_test")
    file = tmp_path / "own_code_of_a_test.py"
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    without = release_name(PRIVATE, dataset)
    monkeypatch.setattr(extensions, "_loaded", [module.__name__])
    names = []
    for code in ("CLIP = 1", "CLIP = 2", "CLIP = 1"):
        file.write_text(code)
        names.append(release_name(PRIVATE, dataset))
    assert names[0] == names[2]
    assert len({without, *names}) == 3


def test_a_repeated_run_is_the_same_release_and_its_name_says_so(dataset):
    once, again = train(PRIVATE, dataset), train(PRIVATE.replace(evaluate_every=3), dataset)
    assert flat(once).tolist() == flat(again).tolist()
    assert release_name(PRIVATE, dataset) == release_name(PRIVATE.replace(evaluate_every=3), dataset)
    assert release_name(PRIVATE, dataset) != release_name(PRIVATE.replace(rounds=4), dataset)


def test_what_methods_are_compared_on_stays_common(dataset):
    """Initial weights always; cohorts and batches where no guarantee rests on their sampling."""
    plain, clipped = Plan(seed=1), PRIVATE.replace(privacy={"mechanism": "fixed_clip"})
    noisy = clipped.replace(privacy={"noise_multiplier": 9.0})
    assert run_streams(plain, dataset).weights().tolist() == run_streams(PRIVATE, dataset).weights().tolist()
    drawn = [
        RoundDrawer(plan, dataset, noise_plan.make(plan, dataset)).draw(0)
        for plan in (clipped, noisy, clipped.replace(privacy={"secure_noise": True}))
    ]
    for one in drawn[1:]:
        for mine, theirs in zip(drawn[0].cohort, one.cohort):
            np.testing.assert_array_equal(mine.schedule.indices, theirs.schedule.indices)
            assert mine.key.tolist() != theirs.key.tolist()


def test_sampling_that_amplifies_is_as_secret_as_the_noise(dataset):
    """Two runs that share their Poisson batches cost more together than their epsilons say; a seed may be guessed."""
    first, second = (
        RoundDrawer(plan, dataset, noise_plan.make(plan, dataset)).draw(0).cohort[0].schedule
        for plan in (PRIVATE, PRIVATE.replace(privacy={"noise_multiplier": 5.5}))
    )
    guessed = RoundDrawer(PRIVATE, dataset, noise_plan.make(PRIVATE, dataset), Streams.from_seed(1)).draw(0).cohort[0]
    assert not _same_batches(first, second)
    assert not _same_batches(first, guessed.schedule)
    sampled = PRIVATE.replace(
        cohort={"kind": "poisson", "sampling_probability": 0.5}, privacy={"mechanism": "fixed_clip"}
    )
    cohorts = [
        [RoundDrawer(plan, dataset, noise_plan.make(plan, dataset)).cohort(number) for number in range(20)]
        for plan in (sampled, sampled.replace(privacy={"noise_multiplier": 5.5}))
    ]
    assert cohorts[0] != cohorts[1]


def _same_batches(one, other):
    return one.indices.shape == other.indices.shape and bool((one.indices == other.indices).all())


def test_the_order_of_a_cyclic_cohort_outlives_a_process(dataset):
    """With noise from the operating system it was drawn again on resume: the tree's period was then false."""
    plan = PRIVATE.replace(
        cohort={"kind": "cyclic", "hospitals_per_round": 1},
        privacy={"mechanism": "tree", "secure_noise": True},
    )
    orders = [
        [RoundDrawer(plan, dataset, noise_plan.make(plan, dataset)).cohort(number) for number in range(3)]
        for _ in range(8)
    ]
    assert all(order == orders[0] for order in orders)
    keys = {tuple(run_streams(plan, dataset).server_noise()) for _ in range(8)}
    assert len(keys) == 8


def test_seeds_that_train_together_share_no_noise(dataset):
    runs = train_seeds([PRIVATE.replace(seed=seed, rounds=1) for seed in (1, 2)], dataset)
    assert flat(runs[0]).tolist() != flat(runs[1]).tolist()
    assert drawn_noise(PRIVATE, dataset, 10)[:10].tolist() != drawn_noise(PRIVATE.replace(seed=2), dataset, 10).tolist()
