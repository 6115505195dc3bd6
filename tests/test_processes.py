"""The pure pieces by hand, and against TFF's and TensorFlow Privacy's own where those are sound."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from few_fast import few_fast
from scipy import stats

from tff_hospitals.accounting import split_adaptive_noise
from tff_hospitals.plan.parts import ClientPlan, CohortPlan, PrivacyPlan, ServerPlan
from tff_hospitals.processes import client_optimizers, finalizers, noise
from tff_hospitals.processes.aggregators.building import build_aggregator

pytestmark = pytest.mark.tensorflow

SPECS = (tf.TensorSpec([2], tf.float32), tf.TensorSpec([], tf.float32))
KEY = np.array([3, 4], np.int64)


def update(*values):
    return (tf.constant(values[:2], tf.float32), tf.constant(values[2], tf.float32))


def aggregate(aggregator, state, updates, weights=None):
    weights = [1.0] * len(updates) if weights is None else weights
    parameters = aggregator.parameters(state)
    total = None
    for one, weight in zip(updates, weights):
        contribution = aggregator.prepare(parameters, one, tf.constant(weight), aggregator.no_hospital_noise())
        total = contribution if total is None else tf.nest.map_structure(tf.add, total, contribution)
    return aggregator.finish(state, total, aggregator.server_noise(state))


def build(mechanism, hospitals=4, cohort=None, noise_multiplier=0.0, **privacy):
    plan = PrivacyPlan(mechanism=mechanism, **privacy)
    aggregator = build_aggregator(SPECS, plan, cohort or CohortPlan(), hospitals)
    return aggregator, aggregator.initial_state(KEY, noise_multiplier)


def flat(tensors):
    return np.concatenate([np.ravel(tensor) for tensor in tensors])


def test_weighted_mean_by_hand():
    aggregator, state = build("none")
    mean, _, _ = aggregate(aggregator, state, [update(1, 2, 3), update(5, 6, 7)], [3.0, 1.0])
    assert flat(mean).tolist() == [2.0, 3.0, 4.0]


def test_fixed_clip_without_noise_by_hand():
    # The norms are 5 and 1; the first is scaled by 2 / 5 and the second left alone.
    aggregator, state = build("fixed_clip", clip_norm=2.0)
    mean, after, _ = aggregate(aggregator, state, [update(3, 4, 0), update(0, 0, 1)])
    assert flat(mean) == pytest.approx([0.6, 0.8, 0.5])
    assert int(after["round"]) == 1


def test_zero_noise_and_a_wide_clip_is_the_plain_mean():
    updates = [update(1, 2, 3), update(-1, 0, 5), update(0, 0, 0)]
    for mechanism in ("fixed_clip", "adaptive_clip"):
        aggregator, state = build(mechanism, clip_norm=100.0)
        mean, _, _ = aggregate(aggregator, state, updates)
        assert flat(mean) == pytest.approx(np.mean([flat(one) for one in updates], axis=0), rel=1e-6)


def test_poisson_cohorts_are_divided_by_their_expected_size():
    cohort = CohortPlan(kind="poisson", sampling_probability=0.5)
    aggregator, state = build("fixed_clip", hospitals=8, cohort=cohort, clip_norm=10.0)
    mean, _, _ = aggregate(aggregator, state, [update(4, 0, 0)])
    assert flat(mean).tolist() == [1.0, 0.0, 0.0]  # one came, four were expected


@pytest.mark.parametrize("mechanism", ["fixed_clip", "adaptive_clip"])
def test_one_hospital_moves_the_sum_by_at_most_the_clip_norm(mechanism):
    generator = np.random.default_rng(1)
    for _ in range(50):
        size = 10 ** generator.uniform(-3, 4)
        clip = 10 ** generator.uniform(-2, 2)
        aggregator, state = build(mechanism, clip_norm=clip)
        one = update(*(size * generator.normal(size=3)))
        contribution = aggregator.prepare(
            aggregator.parameters(state), one, tf.constant(1e6), aggregator.no_hospital_noise()
        )
        assert np.linalg.norm(flat(contribution["delta"])) <= clip * (1 + 1e-6)


def noise_of(mechanism, noise_multiplier, rounds, clip_norm=2.0, hospitals=4):
    """What the server added to a sum of zeros, in every round."""
    aggregator, state = build(mechanism, hospitals, noise_multiplier=noise_multiplier, clip_norm=clip_norm)
    draws, norms = [], []
    for _ in range(rounds):
        norms.append(float(state["clip_norm"]))
        mean, state, _ = aggregate(aggregator, state, [update(0, 0, 0)] * hospitals)
        draws.append(flat(mean) * hospitals)
    return np.array(draws), np.array(norms)


def scale_is_accepted(draws, scale):
    """Two-sided chi-square test of the standard deviation of centred normal draws, level 1e-6."""
    statistic = float(np.sum((draws / scale) ** 2))
    tail = stats.chi2.cdf(statistic, draws.size)
    return bool(min(tail, 1 - tail) > 5e-7)


@pytest.mark.parametrize("factor", [2 / 3, 1.0, 3 / 2])
def test_fixed_clip_noise_has_the_right_scale_and_no_other(factor):
    draws, _ = noise_of("fixed_clip", noise_multiplier=0.7, rounds=400)
    assert scale_is_accepted(draws, factor * 0.7 * 2.0) is (factor == 1.0)


@pytest.mark.parametrize("factor", few_fast([2 / 3, 1.0, 3 / 2], [3 / 2]))
def test_adaptive_clip_noise_follows_the_norm_that_clipped(factor):
    draws, norms = noise_of("adaptive_clip", noise_multiplier=0.3, rounds=400)
    assert norms.std() > 0.1  # the norm really moves
    scaled = draws / (split_adaptive_noise(0.3, bit_noise_stddev=0.2) * norms[:, None])
    assert scale_is_accepted(scaled, factor) is (factor == 1.0)


def test_noise_never_repeats_between_rounds_or_keys():
    draws, _ = noise_of("fixed_clip", noise_multiplier=1.0, rounds=100)
    assert len({tuple(row) for row in draws}) == 100
    other = noise.unit_normals(np.array([3, 5], np.int64), [3])
    assert not np.array_equal(other, noise.unit_normals(KEY, [3]))


def test_noise_of_two_hospitals_is_uncorrelated():
    first = noise.unit_normals(KEY, [200_000]).numpy()
    second = noise.unit_normals(np.array([3, 5], np.int64), [200_000]).numpy()
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(200_000)


def test_adaptive_clip_converges_to_the_median_of_known_norms():
    """Norms 1, 2, ..., 9: the median is 5. With the sign of the bit wrong the norm would run away."""
    updates = [update(size, 0, 0) for size in range(1, 10)]
    aggregator, state = build("adaptive_clip", hospitals=9, clip_norm=0.1, clip_learning_rate=0.2)
    for _ in range(200):
        _, state, _ = aggregate(aggregator, state, updates)
    assert 4.0 <= float(state["clip_norm"]) <= 6.0


@pytest.mark.parametrize("name", ["fixed_clip", "adaptive_clip"])
def test_clipping_agrees_with_tensorflow_privacy(name):
    """Without noise the queries of TensorFlow Privacy give the same sums and the same next clip norm."""
    import tensorflow_privacy as tfp

    generator = np.random.default_rng(5)
    rounds = [[update(*generator.normal(size=3)) for _ in range(10)] for _ in range(5)]
    aggregator, state = build(name, hospitals=10, clip_norm=1.0)
    if name == "fixed_clip":
        query = tfp.GaussianSumQuery(l2_norm_clip=1.0, stddev=0.0)
    else:
        query = tfp.QuantileAdaptiveClipSumQuery(
            initial_l2_norm_clip=1.0,
            noise_multiplier=0.0,
            target_unclipped_quantile=0.5,
            learning_rate=0.2,
            clipped_count_stddev=0.0,
            expected_num_records=10,
            geometric_update=True,
        )
    theirs = query.initial_global_state()
    for updates in rounds:
        mean, state, _ = aggregate(aggregator, state, updates)
        parameters = query.derive_sample_params(theirs)
        sample = query.initial_sample_state(updates[0])
        for one in updates:
            sample = query.accumulate_record(parameters, sample, one)
        total, theirs, _ = query.get_noised_result(sample, theirs)
        assert flat(mean) * 10 == pytest.approx(flat(total), rel=1e-5)
        if name == "adaptive_clip":
            their_norm = tf.nest.flatten(query.derive_sample_params(theirs))[0]
            assert float(state["clip_norm"]) == pytest.approx(float(their_norm), rel=1e-5)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adagrad", "adam", "yogi"])
def test_server_optimisers_agree_with_tff(name):
    import tensorflow_federated as tff

    server = ServerPlan(
        optimizer="sgd" if name == "momentum" else name, learning_rate=0.3, momentum=0.9 if name == "momentum" else 0.0
    )
    library = tff.learning.optimizers
    theirs = {
        "sgd": lambda: library.build_sgdm(0.3),
        "momentum": lambda: library.build_sgdm(0.3, momentum=0.9),
        "adagrad": lambda: library.build_adagrad(0.3, epsilon=server.epsilon),
        "adam": lambda: library.build_adam(0.3, server.beta_1, server.beta_2, server.epsilon),
        "yogi": lambda: library.build_yogi(0.3, server.beta_1, server.beta_2, server.epsilon),
    }[name]()
    ours = finalizers.build_finalizer(server)
    weights = (tf.constant([1.0, -2.0]), tf.constant(0.5))
    their_weights, their_state = weights, theirs.initialize(SPECS)
    state = tf.nest.map_structure(tf.constant, ours.initial_state(SPECS))
    generator = np.random.default_rng(2)
    for _ in range(5):
        gradient = update(*generator.normal(size=3))
        weights, state = ours.apply(state, weights, gradient)
        their_state, their_weights = theirs.next(their_state, their_weights, gradient)
        assert flat(weights) == pytest.approx(flat(their_weights), rel=2e-6)


def test_lamb_is_algorithm_2_of_its_paper():
    server = ServerPlan(optimizer="lamb", learning_rate=0.3)
    ours = finalizers.build_finalizer(server)
    weights, state = (
        (tf.constant([1.0, -2.0]), tf.constant(0.0)),
        tf.nest.map_structure(tf.constant, ours.initial_state(SPECS)),
    )
    expected, first, second = [np.array([1.0, -2.0]), np.array(0.0)], [0.0, 0.0], [0.0, 0.0]
    generator = np.random.default_rng(2)
    for number in range(1, 6):
        values = generator.normal(size=3)
        weights, state = ours.apply(state, weights, update(*values))
        for i, gradient in enumerate((values[:2], values[2])):
            first[i] = server.beta_1 * first[i] + (1 - server.beta_1) * gradient
            second[i] = server.beta_2 * second[i] + (1 - server.beta_2) * gradient**2
            root = np.sqrt(second[i] / (1 - server.beta_2**number))
            tiny = server.epsilon / np.sqrt(1 - server.beta_2**number)  # added before the correction, as in TFF
            step = first[i] / (1 - server.beta_1**number) / (root + tiny)
            own = np.linalg.norm(expected[i])
            trust = own / np.linalg.norm(step) if own > 0 else 1.0
            expected[i] = expected[i] - 0.3 * trust * step
        assert flat(weights) == pytest.approx([*expected[0], expected[1]], rel=1e-5)


@pytest.mark.parametrize("decay", [None, 0.1])
def test_client_adam_agrees_with_keras(decay):
    optimizer = client_optimizers.Adam(weight_decay=decay)
    variable = tf.Variable([1.0, -1.0])
    keras = tf.keras.optimizers.Adam(0.01) if decay is None else tf.keras.optimizers.AdamW(0.01, decay)
    weights = (tf.constant([1.0, -1.0]),)
    slots = optimizer.initial_slots(weights)
    generator = np.random.default_rng(0)
    for _ in range(10):
        gradient = tf.constant(generator.normal(size=2), tf.float32)
        keras.apply_gradients([(gradient, variable)])
        weights, slots = optimizer.step(weights, slots, (gradient,), tf.constant(0.01))
        assert weights[0].numpy() == pytest.approx(variable.numpy(), rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.1, 0.1, 0.1, 0.1, 0.1]),
        ("inverse_sqrt", [0.1, 0.1 / 2**0.5, 0.1 / 3**0.5, 0.05, 0.1 / 5**0.5]),
        ("exponential:0.5", [0.1, 0.05, 0.025, 0.0125, 0.00625]),
        ("step:2:0.1", [0.1, 0.1, 0.01, 0.01, 0.001]),
    ],
)
def test_learning_rate_schedules_by_hand(schedule, rates):
    client = ClientPlan(learning_rate=0.1, learning_rate_schedule=schedule)
    found = [float(client_optimizers.learning_rate_at(client, tf.constant(number))) for number in range(5)]
    assert found == pytest.approx(rates, rel=1e-6)


def test_unflatten_keeps_order():
    assert [tensor.numpy().tolist() for tensor in noise.unflatten(tf.constant([1.0, 2.0, 3.0]), SPECS)] == [
        [1.0, 2.0],
        3.0,
    ]
