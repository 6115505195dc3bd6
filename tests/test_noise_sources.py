"""Where noise comes from: keys, with the same bits in every graph, or the operating system."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from toy import hospitals

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes import exact_normals, noise, noise_sources, system_noise
from tff_hospitals.processes.exact_normals import Words
from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow
KEY = np.array([3, -4], np.int64)
ZERO = tf.constant(0)


def words(*values):
    return Words(*(tf.constant(value, tf.uint32) for value in values))


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_the_cipher_gives_the_published_answers(key, counter, expected):
    """The known answers that Salmon et al. publish with their code (20 rounds)."""
    assert tuple(int(word) for word in exact_normals.threefry(words(*key), words(*counter))) == expected


def test_draws_are_bit_equal_compiled_in_a_graph_and_one_operation_at_a_time():
    count = 400_000
    compiled = exact_normals.exact_normals(tf.constant(KEY), ZERO, ZERO, count).numpy()
    graph = tf.function(exact_normals._draw, autograph=False)(tf.constant(KEY), ZERO, ZERO, count).numpy()
    eager = exact_normals._draw(tf.constant(KEY), ZERO, ZERO, count).numpy()
    np.testing.assert_array_equal(compiled.view(np.int32), graph.view(np.int32))
    np.testing.assert_array_equal(compiled.view(np.int32), eager.view(np.int32))


def test_draws_are_those_of_the_formula_in_double_precision():
    rows = np.random.default_rng(0).integers(0, 2**32, (2, 1_000_000), dtype=np.uint32)
    rows[0, :6] = [0, 1, 2**32 - 1, 2**32 - 2, 2**31, 2**31 - 1]  # both ends of the radius, and its middle
    first, second = (one.numpy() for one in exact_normals.normals_of_words(words(*rows), ZERO))
    depth, turn = ((row >> 1).astype(np.float64) + 0.5 for row in rows)
    radius = np.sqrt(-2 * np.log(depth / 2**31))
    side = np.where(rows[1] & 1, -1.0, 1.0)
    for drawn, expected in (
        (first, radius * np.cos(np.pi * turn / 2**31)),
        (second, side * radius * np.sin(np.pi * turn / 2**31)),
    ):
        assert np.isfinite(drawn).all()
        assert np.max(np.abs(drawn - expected) / np.maximum(1.0, radius)) < 3e-7


def test_draws_are_standard_normal_and_no_others():
    """Moments, the whole distribution and both tails of ten million numbers; 1 % more spread would be seen."""
    drawn = noise.unit_normals(KEY, [10_000_000]).numpy().astype(np.float64)
    count = drawn.size
    assert abs(drawn.mean()) < 5 / np.sqrt(count)
    assert abs(drawn.var() - 1.0) < 5 * np.sqrt(2 / count)
    assert abs((drawn**3).mean()) < 5 * np.sqrt(15 / count)
    assert abs((drawn**4).mean() - 3.0) < 5 * np.sqrt(96 / count)
    assert stats.kstest(drawn[:1_000_000], "norm").pvalue > 1e-4
    assert stats.kstest(1.01 * drawn[:1_000_000], "norm").pvalue < 1e-4
    for bound in (3.0, 4.0, 5.0):
        for tail in (drawn > bound, drawn < -bound):
            assert stats.binomtest(int(tail.sum()), count, stats.norm.sf(bound)).pvalue > 1e-4
    following = np.corrcoef(drawn[:-1], drawn[1:])[0, 1]
    pairs = np.corrcoef(drawn[::2] ** 2, drawn[1::2] ** 2)[0, 1]
    assert abs(pairs) < 5 / np.sqrt(count / 2)
    halves = np.corrcoef(drawn[: count // 2], drawn[count // 2 :])[0, 1]
    assert abs(following) < 5 / np.sqrt(count)
    assert abs(halves) < 5 / np.sqrt(count / 2)


def test_many_keys_at_once_give_what_each_gives_alone():
    keys = np.arange(8, dtype=np.int64).reshape(4, 2)
    together = noise.unit_normals(keys, [3, 5], stream=2, position=tf.range(4)).numpy()
    assert together.shape == (4, 3, 5)
    for at in range(4):
        alone = noise.unit_normals(keys[at], [3, 5], stream=2, position=at).numpy()
        np.testing.assert_array_equal(together[at], alone)


def test_neighbouring_keys_streams_and_positions_are_uncorrelated():
    count = 200_000
    base = noise.unit_normals(np.array([1, 2], np.int64), [count]).numpy()
    for other in (
        noise.unit_normals(np.array([1, 3], np.int64), [count]),
        noise.unit_normals(np.array([2, 2], np.int64), [count]),
        noise.unit_normals(np.array([2, 1], np.int64), [count]),
        noise.unit_normals(np.array([1 + 2**32, 2], np.int64), [count]),
        noise.unit_normals(np.array([1, 2], np.int64), [count], stream=1),
        noise.unit_normals(np.array([1, 2], np.int64), [count], position=1),
    ):
        assert abs(np.corrcoef(base, other.numpy())[0, 1]) < 5 / np.sqrt(count)


def test_a_scalar_draw_and_an_empty_one():
    assert noise.unit_normals(KEY, []).shape == ()
    np.testing.assert_array_equal(noise.unit_normals(KEY, [3]), noise.unit_normals(KEY, [4])[:3])
    assert noise.unit_normals(KEY, [0]).shape == (0,)
    assert noise_sources.SystemSource().normals(KEY, [0]).shape == (0,)


def test_the_operating_system_is_asked_for_every_number(monkeypatch):
    """No draw repeats, also in one traced graph, and all bytes come from the system's source."""
    asked = []
    real = os.urandom
    monkeypatch.setattr(os, "urandom", lambda count: asked.append(count) or real(count))
    source = noise_sources.SystemSource()
    draw = tf.function(lambda: source.normals(KEY, [100]))
    first, second = draw().numpy(), draw().numpy()
    assert asked == [800, 800]
    assert len(set(first) | set(second)) == 200
    both = tf.function(lambda: (source.normals(KEY, [100]), source.normals(KEY, [100])))()
    assert not np.array_equal(*both)  # two operations with the same inputs are not taken for one


@pytest.mark.parametrize("factor", [2 / 3, 1.0, 3 / 2])
def test_noise_of_the_operating_system_has_its_scale_and_no_other(factor):
    drawn = noise_sources.SystemSource().normals(KEY, [300, 100]).numpy().astype(np.float64)
    tail = stats.chi2.cdf(((drawn / factor) ** 2).sum(), drawn.size)
    assert bool(min(tail, 1 - tail) > 1e-9) is (factor == 1.0)


@pytest.mark.parametrize("mean", [0.0, 0.4, 63.0, 64.0, 3e4, 1e8])
def test_poisson_numbers_follow_their_distribution(mean):
    """Chi-square over twenty bins of nearly equal chance, on both sides of where the method changes."""
    drawn = system_noise.poisson([100_000], mean)
    assert drawn.shape == (100_000,)
    if mean == 0.0:
        assert not drawn.any()
        return
    edges = np.unique(stats.poisson.ppf(np.linspace(0.05, 0.95, 19), mean))
    chances = np.diff(np.concatenate([[0.0], stats.poisson.cdf(edges, mean), [1.0]]))
    seen = np.bincount(np.searchsorted(edges, drawn, side="left"), minlength=len(chances))
    statistic = np.sum((seen - chances * drawn.size) ** 2 / (chances * drawn.size))
    assert stats.chi2.sf(statistic, len(chances) - 1) > 1e-9


def test_a_plan_chooses_its_source():
    assert type(noise_sources.source_of(PrivacyPlan())) is noise_sources.Source
    assert type(noise_sources.source_of(PrivacyPlan(secure_noise=True))) is noise_sources.SystemSource


@pytest.mark.parametrize("mechanism", ["dp_sgd", "fixed_clip", "tree", "local_dp", "discrete_gaussian", "skellam"])
def test_secure_runs_take_their_noise_from_the_operating_system(mechanism, monkeypatch):
    """Keys alone would give the same weights again: with the same keys and batches the noise still differs."""
    monkeypatch.setattr("tff_hospitals.foundations.random_streams.Streams.from_operating_system", _same_root)
    plan = Plan(rounds=2, weighting="equal", seed=1).replace(
        client={"local_steps": 3, "local_epochs": None, "batch_size": 4},
        privacy={"mechanism": mechanism, "noise_multiplier": 1.0, "secure_noise": True},
    )
    dataset = hospitals((30, 40, 50))
    first, second = train(plan, dataset), train(plan, dataset)
    assert any((one != other).any() for one, other in zip(first.weights, second.weights))
    keyed = plan.replace(privacy={"secure_noise": False})
    third, fourth = train(keyed, dataset), train(keyed, dataset)
    assert all((one == other).all() for one, other in zip(third.weights, fourth.weights))


def _same_root():
    from tff_hospitals.foundations.random_streams import Streams

    return Streams.from_seed(5)


def test_what_needs_repeatable_noise_refuses_secure_noise(tmp_path):
    plan = Plan(rounds=1).replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.0, "secure_noise": True})
    dataset = hospitals((30, 40))
    with pytest.raises(InvalidInput, match=r"runtime='native'.*Remedy: use --runtime=compiled"):
        train(plan, dataset, runtime="native")
    with pytest.raises(InvalidInput, match=r"store_updates=1.*nobody can repeat"):
        train(plan, dataset, run_dir=tmp_path, store_updates=1)
    assert not list(tmp_path.iterdir())
