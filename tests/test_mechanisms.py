"""What every private mechanism must show, over the registry: what is added there is tested by being named there."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats

from tff_hospitals.accounting import tree_noise
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.plan.discretisation import discretise
from tff_hospitals.plan.mechanisms import MECHANISMS, HospitalLevel
from tff_hospitals.plan.parts import ClientPlan, CohortPlan, PrivacyPlan
from tff_hospitals.processes import discrete_noise, modular, noise, noise_sources
from tff_hospitals.processes.aggregators import noise_shares, secure_sum
from tff_hospitals.processes.aggregators.building import build_aggregator
from tff_hospitals.processes.local_training import LocalTraining
from tff_hospitals.processes.record_level.base import Batch
from tff_hospitals.training.loop import build_model

pytestmark = pytest.mark.tensorflow

SPECS = (tf.TensorSpec([3, 2], tf.float32), tf.TensorSpec([5], tf.float32))
SIZE = 11
HOSPITALS = 4
KEY = np.array([3, 4], np.int64)
LEVEL = [
    name
    for name, one in MECHANISMS.items()
    if isinstance(one, HospitalLevel) and one.private and not one.runs_on  # of TFF's own: test_tff_rows
]
SHARES = [name for name in LEVEL if MECHANISMS[name].noise_by == "shares"]
VARIANTS = [
    *((name, {}) for name in LEVEL),
    ("adaptive_clip", {"zeroing": "quantile"}),
    ("fixed_clip", {"zeroing": "fixed", "zeroing_norm": 1e5}),
    *((name, {"secure_sum": True}) for name in LEVEL if name not in SHARES),
    ("adaptive_clip", {"zeroing": "quantile", "secure_sum": True}),
]
IDS = [name + "".join(f"-{key}" for key in options) for name, options in VARIANTS]
NOISE = {"adaptive_clip": 0.2}
every_variant = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)


def build(name, options, noise_multiplier=0.0, hospitals=HOSPITALS, rounds=64, **more):
    privacy = PrivacyPlan(mechanism=name, **{**options, **more})
    aggregator = build_aggregator(SPECS, privacy, CohortPlan(), hospitals, rounds=rounds)
    return aggregator, aggregator.initial_state(KEY, noise_multiplier)


def update(values):
    values = np.asarray(values, np.float32)
    return (tf.constant(values[:6].reshape(3, 2)), tf.constant(values[6:]))


def flat(tensors):
    return np.concatenate([np.ravel(tensor) for tensor in tensors])


def hospital_key(hospital, round_number=0):
    return Streams.from_seed(1).child("hospital", f"site_{hospital}", "round", round_number, "noise").key()


def contribution(aggregator, state, one, key):
    parameters = aggregator.parameters(state)
    return aggregator.prepare(parameters, one, tf.constant(1.0), aggregator.hospital_noise(parameters, key))


def one_round(aggregator, state, updates, round_number=0):
    total = None
    for hospital, one in enumerate(updates):
        sent = contribution(aggregator, state, one, hospital_key(hospital, round_number))
        total = sent if total is None else tf.nest.map_structure(tf.add, total, sent)
    return aggregator.finish(state, total, aggregator.server_noise(state))


def rounding_of(aggregator, state):
    """The largest error that whole numbers bring into one coordinate of the mean."""
    if isinstance(aggregator, noise_shares.NoiseInShares):
        return float(np.sqrt(aggregator.dimension) / state["scale"])
    if isinstance(aggregator, secure_sum.SecureSum):
        parameters = aggregator.parameters(state)
        return float(aggregator.inner.resolutions(parameters, aggregator.steps)["delta"])
    return 0.0


@every_variant
def test_without_noise_and_with_a_wide_clip_it_is_the_plain_mean(name, options):
    generator = np.random.default_rng(0)
    aggregator, state = build(name, options, clip_norm=20.0)
    updates = [generator.normal(size=SIZE) for _ in range(HOSPITALS)]
    mean, _, _ = one_round(aggregator, state, [update(one) for one in updates])
    np.testing.assert_allclose(
        flat(mean), np.mean(updates, axis=0), rtol=1e-5, atol=1e-6 + rounding_of(aggregator, state)
    )


@every_variant
def test_without_noise_it_is_the_mean_of_clipped_updates(name, options):
    generator = np.random.default_rng(1)
    aggregator, state = build(name, options, clip_norm=2.0)
    updates = [scale * generator.normal(size=SIZE) for scale in (0.1, 1.0, 5.0, 100.0)]
    clipped = [one * min(1.0, 2.0 / np.linalg.norm(one)) for one in updates]
    if options.get("zeroing") == "quantile":  # 100 times a normal is beyond 2 * 10 + 1
        clipped[3] = np.zeros(SIZE)
    mean, _, _ = one_round(aggregator, state, [update(one) for one in updates])
    np.testing.assert_allclose(
        flat(mean), np.mean(clipped, axis=0), rtol=1e-5, atol=1e-6 + rounding_of(aggregator, state)
    )


def noise_of(name, options, multiplier, rounds, clip_norm=2.0):
    """What was added to a sum of zeros in every round, in units of multiplier times sensitivity."""
    aggregator, state = build(name, options, multiplier, clip_norm=clip_norm, rounds=rounds)
    draws = []
    for number in range(rounds):
        sensitivity = float(state["clip_norm"])
        scale = float(state["noise_multiplier"]) * sensitivity  # the values' part where counts take the rest
        if name in SHARES:
            scale = multiplier * float(state["norm_bound"]) / float(state["scale"])
        if name == "local_dp":
            scale *= np.sqrt(HOSPITALS)
        mean, state, measured = one_round(aggregator, state, [update(np.zeros(SIZE))] * HOSPITALS, number)
        own = 1.0
        if name == "tree":  # the residual of each round has a deviation of its own
            own = np.sqrt(np.square(tree_noise.residual_matrix(rounds)[number]).sum())
        assert float(measured["noise_norm"]) == pytest.approx(scale * own * np.sqrt(SIZE) / HOSPITALS, rel=1e-4)
        draws.append(flat(mean) * HOSPITALS / scale)
    return independent(np.array(draws), rounds) if name == "tree" else np.array(draws)


def independent(residuals, rounds):
    """Residuals of one tree depend on each other; as many independent unit normals, if the tree is what it should be.

    They are R z of unit normals z of the nodes: the inverse of a root of R R' takes their covariance away.
    """
    matrix = tree_noise.residual_matrix(rounds).astype(np.float64)
    return linalg.solve_triangular(np.linalg.cholesky(matrix @ matrix.T), residuals.astype(np.float64), lower=True)


def scale_is_accepted(draws, scale):
    """Two-sided chi-square test of the deviation of centred draws, level 1e-6."""
    statistic = float(np.sum((draws / scale) ** 2))
    tail = stats.chi2.cdf(statistic, draws.size)
    return bool(min(tail, 1 - tail) > 5e-7)


@every_variant
def test_the_noise_has_the_right_scale_and_no_other(name, options):
    rounds = 128 if name == "tree" else 64
    draws = noise_of(name, options, NOISE.get(name, 0.7), rounds=rounds)
    assert draws.shape == (rounds, SIZE)
    assert [scale_is_accepted(draws, factor) for factor in (2 / 3, 1.0, 3 / 2)] == [False, True, False]


def test_the_draws_of_a_tree_are_tested_as_independent_ones():
    """What a tree adds in neighbouring rounds is correlated, the numbers that the test above takes are not."""
    draws = noise_of("tree", {}, 0.7, rounds=128)
    correlation = np.corrcoef(draws)[np.triu_indices(128, 1)]
    assert abs(correlation.mean()) < 5 / np.sqrt(len(correlation) * SIZE)
    following = [float(np.mean(draws[:-lag] * draws[lag:])) for lag in (1, 2, 4, 8)]
    assert np.abs(following).max() < 5 / np.sqrt(120 * SIZE)
    matrix = tree_noise.residual_matrix(128).astype(np.float64)
    raw = np.linalg.cholesky(matrix @ matrix.T) @ draws
    assert abs(np.mean(raw[:-1] * raw[1:])) > 5 * np.mean(raw**2) / np.sqrt(127 * SIZE)


VECTORS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=SIZE, max_size=SIZE)


@every_variant
@settings(max_examples=25, deadline=None)
@given(values=VECTORS, clip=st.floats(0.01, 100.0))
def test_one_hospital_moves_the_unnoised_sum_by_at_most_the_stated_bound(name, options, values, clip):
    """Blanking a hospital out takes away exactly its contribution, whose norm is bounded whatever its data are."""
    aggregator, state = build(name, options, clip_norm=clip)
    parameters = aggregator.parameters(state)
    if isinstance(aggregator, noise_shares.NoiseInShares):
        quiet = aggregator.no_hospital_noise()
        shown = collections.OrderedDict(
            quiet,
            signs=aggregator.server_noise(state)["signs"],
            rounding=tf.random.stateless_uniform([aggregator.dimension], seed=KEY),
        )
        rounded = aggregator.rounded(parameters, update(values), shown).numpy().astype(float)
        grid = aggregator.grid(0.0)
        assert np.linalg.norm(rounded) <= grid.l2_sensitivity
        assert np.abs(rounded).sum() <= grid.l1_sensitivity
        return
    sent = aggregator.prepare(parameters, update(values), tf.constant(1e6), aggregator.no_hospital_noise())
    if isinstance(aggregator, secure_sum.SecureSum):
        units = aggregator.inner.resolutions(parameters, aggregator.steps)
        sent = {
            part: tf.nest.map_structure(
                lambda whole, part=part: tf.cast(modular.centred(whole, secure_sum.BITS), tf.float32) * units[part],
                value,
            )
            for part, value in sent.items()
        }
    assert np.linalg.norm(flat(sent["delta"])) <= clip * (1 + 1e-6)
    assert set(sent) <= {"delta", "count", "below", "below_zeroing"}  # nothing else leaves the hospital
    for part in ("below", "below_zeroing"):
        if part in sent:
            assert abs(float(sent[part])) == 0.5


@pytest.mark.parametrize("name", [*SHARES, "local_dp"])
def test_noise_of_two_hospitals_is_uncorrelated_and_a_stolen_key_tells_nothing(name):
    specs = (tf.TensorSpec([4096], tf.float32),)
    privacy = PrivacyPlan(mechanism=name)
    aggregator = build_aggregator(specs, privacy, CohortPlan(), HOSPITALS)
    parameters = aggregator.parameters(aggregator.initial_state(KEY, 1.0))
    field = "delta" if name == "local_dp" else "share"

    def drawn(key):
        return np.asarray(aggregator.hospital_noise(parameters, key)[field], float)

    first, second, later = drawn(hospital_key(0)), drawn(hospital_key(1)), drawn(hospital_key(0, 1))
    assert drawn(hospital_key(0)).tolist() == first.tolist()
    for other in (second, later):
        assert abs(np.corrcoef(first, other)[0, 1]) < 5 / np.sqrt(4096)
    # Who knows all of hospital 0's stream can draw its children; its sibling's key is no child of it.
    stolen = Streams.from_seed(1).child("hospital", "site_0")
    reachable = {
        tuple(stolen.child(*path).key()) for path in (("site_1",), ("round", 0, "noise"), ("hospital", "site_1"))
    }
    assert tuple(hospital_key(1)) not in reachable
    assert tuple(hospital_key(0)) in reachable


# ------------------------------------------------------------------------------------------------- record-level methods

RECORD = [
    ("dp_sgd", "flat"),
    ("dp_sgd", "per_layer"),
    ("dp_sgd", "automatic"),
    ("dp_sgd", "adaptive"),
    ("dp_ftrl_local", "flat"),
]
STEPS = 13


@pytest.fixture(scope="module")
def model():
    from tff_hospitals.plan.plan import Plan

    return build_model(Plan(), toy.hospitals())


def element(work, steps=STEPS, records=20, batch=4, noise_multiplier=0.0, empty=False, key=KEY):
    generator = np.random.default_rng(3)
    return collections.OrderedDict(
        features=tf.constant(generator.normal(size=(records, 5)), tf.float32),
        labels=tf.constant(generator.integers(0, 2, records), tf.int64),
        indices=tf.constant(generator.integers(0, records, (steps, batch)), tf.int32),
        mask=tf.zeros([steps, batch]) if empty else tf.ones([steps, batch]),
        steps=tf.constant(steps),
        expected_batch=tf.constant(float(batch)),
        noise_multiplier=tf.constant(noise_multiplier, tf.float32),
        key=tf.constant(key),
        weight=tf.constant(1.0),
        frozen=(),
    )


def batch_of(frame, features, labels, mask, start_norm=2.0):
    return Batch(
        features, labels, mask, (), None, frame["expected_batch"], frame["noise_multiplier"], tf.constant(start_norm)
    )


def client_work(model, mechanism, style, clip_norm=2.0, **privacy):
    plan = PrivacyPlan(mechanism=mechanism, clip_style=style, clip_norm=clip_norm, **privacy)
    return LocalTraining(model, ClientPlan(learning_rate=0.1), plan, max_local_steps=STEPS)


def weights_of(model):
    return tuple(tf.zeros(spec.shape) for spec in model.trainable_specs)


@pytest.mark.parametrize(("mechanism", "style"), [one for one in RECORD if one[1] != "automatic"])
def test_record_level_without_noise_and_with_a_wide_clip_is_plain_training(model, mechanism, style):
    private = client_work(model, mechanism, style, clip_norm=1e4, clip_learning_rate=0.02)
    plain = client_work(model, "none", "flat")
    found = private(weights_of(model), tf.constant(0), element(private)).delta
    expected = plain(weights_of(model), tf.constant(0), element(plain)).delta
    np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("mechanism", "style"), RECORD)
def test_record_level_noise_has_the_right_scale_and_no_other(model, mechanism, style):
    """Empty batches leave the noise alone: its sum over the steps of a round, for many rounds."""
    work = client_work(model, mechanism, style, clip_learning_rate=0.0)
    multiplier = 1.5
    scale = 0.1 * multiplier * 2.0 / 4
    scale *= np.sqrt(tree_noise.prefix_variance(STEPS) if mechanism == "dp_ftrl_local" else STEPS)
    if style == "adaptive":
        scale /= np.sqrt(0.9)  # a tenth of the privacy goes to the count
    frame = element(work, noise_multiplier=multiplier, empty=True)

    @tf.function(autograph=False)
    def run(key):
        return work(weights_of(model), tf.constant(0), collections.OrderedDict(frame, key=key)).delta

    draws = np.array([flat(run(tf.constant(hospital_key(0, number)))) for number in range(150)]) / scale
    assert [scale_is_accepted(draws, factor) for factor in (2 / 3, 1.0, 3 / 2)] == [False, True, False]


@pytest.mark.parametrize("style", ["flat", "per_layer", "automatic", "adaptive"])
@settings(max_examples=15, deadline=None)
@given(clip=st.floats(0.01, 10.0), size=st.floats(0.01, 1e4), record=st.integers(0, 5))
def test_one_record_moves_the_sum_of_a_step_by_at_most_the_clip_norm(model, style, clip, size, record):
    work = client_work(model, "dp_sgd", style)
    generator = np.random.default_rng(record)
    features = tf.constant(size * generator.normal(size=(6, 5)), tf.float32)
    labels = tf.constant(generator.integers(0, 2, 6), tf.int64)
    frame = element(work, batch=1)  # expected batch 1: the sum itself
    row = tf.zeros([work.noise_width])

    def total(mask):
        batch = batch_of(frame, features, labels, tf.constant(mask, tf.float32))
        gradients, _, _ = work.rule.gradients(weights_of(model), batch, row, tf.constant(clip, tf.float32))
        return flat(gradients)

    without = np.ones(6)
    without[record] = 0.0
    assert np.linalg.norm(total(np.ones(6)) - total(without)) <= clip * (1 + 1e-5) + 1e-6


def test_the_adaptive_norm_of_records_converges_to_their_median(model):
    """A norm that ran away would show a bit of the wrong sign."""
    from tff_hospitals.models import per_record

    work = client_work(model, "dp_sgd", "adaptive", clip_norm=0.05, clip_learning_rate=0.2)
    frame = element(work, records=9, batch=9)
    mask = tf.ones([9])
    _, norms, _ = per_record.clipped_gradient_sum(
        model, weights_of(model), (), frame["features"], frame["labels"], mask, 1.0
    )
    clip = tf.constant(0.05)
    batch = batch_of(frame, frame["features"], frame["labels"], mask, start_norm=0.05)
    step = tf.function(
        lambda clip: work.rule.gradients(weights_of(model), batch, tf.zeros([work.noise_width]), clip)[2]
    )
    for _ in range(150):
        clip = step(clip)
    ordered = np.sort(norms.numpy())
    assert ordered[3] <= float(clip) <= ordered[5]


# -------------------------------------------------------------------------------------- against the reference libraries


def test_tree_noise_is_that_of_tensorflow_privacy_at_the_level_of_variance():
    """`TreeResidualSumQuery` sums to prefixes whose variance is ours, step by step."""
    import tensorflow_privacy as tfp

    size, steps = 20_000, 8
    generator = tfp.tree_aggregation.GaussianNoiseGenerator(1.0, tf.TensorSpec([size]), seed=7)
    theirs = tfp.tree_aggregation.EfficientTreeAggregator(generator)
    state = theirs.init_state()
    matrix = tree_noise.prefix_matrix(steps)
    ours = matrix @ np.random.default_rng(0).normal(size=(matrix.shape[1], size))
    for step in range(steps):
        noised, state = theirs.get_cumsum_and_update(state)
        variance = tree_noise.prefix_variance(step + 1)
        assert np.var(noised.numpy()) == pytest.approx(variance, rel=0.06)
        assert np.var(ours[step]) == pytest.approx(variance, rel=0.06)


def test_the_tree_at_the_server_is_the_matrix_of_the_tree():
    """Growing it node by node from the state gives what the matrix gives at once; a restart begins anew."""
    aggregator, state = build("tree", {"restart_every": 5}, 1.0, rounds=10, clip_norm=1.0)
    nodes, residuals = [], []
    for number in range(10):
        drawn = aggregator.server_noise(state)["nodes"].numpy()
        step = number % 5 + 1
        nodes += [drawn[level] for level in range(3) if step % 2**level == 0]
        mean, state, _ = one_round(aggregator, state, [update(np.zeros(SIZE))] * HOSPITALS, number)
        residuals.append(flat(mean) * HOSPITALS)
    per_tree = len(nodes) // 2
    for tree in (0, 1):
        expected = tree_noise.residual_matrix(5) @ np.array(nodes[tree * per_tree : (tree + 1) * per_tree])
        np.testing.assert_allclose(residuals[5 * tree : 5 * tree + 5], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("source", [noise_sources.Source(), noise_sources.SystemSource()])
@pytest.mark.parametrize("stddev", [0.5, 3.0, 200.0])
def test_discrete_samplers_follow_their_distributions(stddev, source):
    """Chi-square against the exact probabilities, and against TensorFlow Privacy's sampler by its moments."""
    key, size = hospital_key(5), 40_000
    for name, exact in (("discrete_gaussian", None), ("skellam", stats.skellam(stddev**2 / 2, stddev**2 / 2))):
        draws = getattr(source, name)(key, [size], tf.constant(stddev)).numpy()
        reach = int(6 * stddev) + 3
        support = np.arange(-reach, reach + 1)
        weights = np.exp(-(support**2) / (2 * stddev**2)) if exact is None else exact.pmf(support)
        probabilities = weights / weights.sum()
        edges = np.unique(np.quantile(draws, np.linspace(0, 1, 12)).round().astype(int))
        bins = np.searchsorted(edges, draws, side="right")
        expected = np.bincount(np.searchsorted(edges, support, side="right"), probabilities, minlength=edges.size + 1)
        seen = np.bincount(bins, minlength=expected.size)
        used = expected * size > 5
        statistic = np.sum((seen[used] - expected[used] * size) ** 2 / (expected[used] * size))
        assert stats.chi2.sf(statistic, used.sum() - 1) > 1e-6
    from tensorflow_privacy.privacy.dp_query import discrete_gaussian_utils

    if stddev == 3.0:
        theirs = discrete_gaussian_utils.sample_discrete_gaussian(tf.constant(3), [size]).numpy()
        ours = discrete_noise.discrete_gaussian(key, [size], tf.constant(3.0)).numpy()
        assert np.var(ours) == pytest.approx(np.var(theirs), rel=0.06)


def test_the_rotation_is_tffs():
    from tensorflow_federated.python.aggregators import hadamard

    values = np.random.default_rng(0).normal(size=64).astype(np.float32)
    theirs = hadamard.fast_walsh_hadamard_transform(tf.constant(values)[tf.newaxis])[0].numpy()
    ours = modular.walsh_hadamard(tf.constant(values)[tf.newaxis])
    np.testing.assert_allclose(ours[0].numpy() / 8.0, theirs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(modular.walsh_hadamard(ours)[0].numpy() / 64.0, values, rtol=1e-4, atol=1e-5)


def test_our_grid_is_as_fine_as_tffs():
    """TFF's heuristic, at the same bits and with as many deviations as ours keeps free, gives about our scale."""
    from tensorflow_federated.python.aggregators import distributed_dp

    grid = discretise(clip_norm=1.0, noise_multiplier=1.0, modulus_bits=16, shares=100, parameters=1000)
    theirs = distributed_dp._heuristic_scale_factor(1.1 / 10, 1.0, 16, 100, 1024, 6.0).numpy()
    assert grid.scale == pytest.approx(float(theirs), rel=0.01)
    assert grid.overflow_odds < 1e-4


def test_sums_do_not_leave_the_modulus_even_when_all_hospitals_agree():
    """The worst case for the modulus: equal updates of full norm, with noise, decoded right in every coordinate."""
    worst = np.zeros(SIZE)
    worst[0] = 5.0
    aggregator, state = build("skellam", {"modulus_bits": 14}, 0.5, hospitals=HOSPITALS, clip_norm=5.0)
    for number in range(30):
        mean, state, measured = one_round(aggregator, state, [update(worst)] * HOSPITALS, number)
        assert np.linalg.norm(flat(mean) - worst) < 4 * float(measured["noise_norm"])


def test_zeroing_drops_what_is_huge_or_no_number_and_its_bound_follows():
    aggregator, state = build("fixed_clip", {"zeroing": "fixed", "zeroing_norm": 3.0}, clip_norm=100.0)
    good, huge, broken = np.full(SIZE, 2.0), np.full(SIZE, 4.0), np.full(SIZE, np.nan)
    mean, _, _ = one_round(aggregator, state, [update(one) for one in (good, huge, broken, good)])
    np.testing.assert_allclose(flat(mean), np.full(SIZE, 1.0), rtol=1e-6)

    aggregator, state = build("fixed_clip", {"zeroing": "quantile", "zeroing_norm": 1e3}, clip_norm=100.0)
    followed = []
    for number in range(200):
        _, state, _ = one_round(aggregator, state, [update(good)] * HOSPITALS, number)
        followed.append(float(state["zeroing_norm"]))
    # The largest coordinate is 2. Above it the norm creeps down by 10**-0.02 a round, below it leaps up by 10**0.98.
    assert 1.9 < min(followed[150:]) < max(followed[150:]) < 20


def test_every_noise_key_is_used_once():
    """The streams of record noise, model noise and shares under one hospital key are different."""
    drawn = [
        noise.unit_normals(KEY, [4], stream=stream, position=position).numpy().tolist()
        for stream in range(3)
        for position in range(3)
    ]
    assert len({tuple(one) for one in drawn}) == 9
