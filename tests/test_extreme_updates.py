"""One hospital's broken update: no aggregator lets it into the sum, in compiled code or out of it, and it is named."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.plan.mechanisms import MECHANISMS, HospitalLevel
from tff_hospitals.plan.parts import CohortPlan, PrivacyPlan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes.aggregators.building import build_aggregator
from tff_hospitals.training.loop import build_model, train
from tff_hospitals.training.results import TrainingError

pytestmark = pytest.mark.tensorflow

SPECS = (tf.TensorSpec([3, 2], tf.float32), tf.TensorSpec([5], tf.float32))
SIZE, HOSPITALS, CLIP = 11, 4, 2.0
LEVEL = [
    name for name, mechanism in MECHANISMS.items() if isinstance(mechanism, HospitalLevel) and not mechanism.runs_on
]
VARIANTS = [
    *((name, {}) for name in LEVEL),
    *(
        (name, {"secure_sum": True})
        for name in LEVEL
        if MECHANISMS[name].linear and not MECHANISMS[name].always_secure and not MECHANISMS[name].corrects
    ),
    *((name, {"zeroing": kind}) for name in LEVEL if MECHANISMS[name].zeroing for kind in ("fixed", "quantile")),
]
IDS = [name + "".join(f"-{value}" for value in options.values()) for name, options in VARIANTS]
BESIDE = {"scaffold": SIZE, "mime_lite": SIZE, "fedprox_adaptive": 1, "agnostic": 1}  # numbers sent beside an update
EXTREMES = [np.nan, np.inf, -np.inf, 1e30, -3.4e38, 1e-30, 1e-42, -1e-45, 0.0, 1.0]


def build(name, options):
    privacy = PrivacyPlan(mechanism=name, clip_norm=CLIP, **options)
    aggregator = build_aggregator(SPECS, privacy, CohortPlan(), HOSPITALS, rounds=8, largest_weight=7.0)
    return aggregator, aggregator.initial_state(np.array([3, 4], np.int64), 0.0)


def update(values, name):
    values = np.asarray(values, np.float32)
    beside = (tf.constant(values[: BESIDE[name]]),) if name in BESIDE else ()
    return tf.constant(values[:6].reshape(3, 2)), tf.constant(values[6:]), *beside


def runner(name, options, compiled):
    """A function of one update and its weight: its contribution, and the mean of it and of a sound one."""
    aggregator, state = build(name, options)
    parameters = aggregator.parameters(state)
    noise = aggregator.server_noise(state)
    quiet = aggregator.no_hospital_noise()
    if "signs" in quiet:  # the rotation is public; without its signs nothing could be decoded
        quiet = collections.OrderedDict(quiet, signs=noise["signs"])

    def run(one, weight):
        sent = aggregator.prepare(parameters, one, weight, quiet)
        sound = aggregator.prepare(parameters, update(np.linspace(-0.5, 0.5, SIZE), name), tf.constant(2.0), quiet)
        mean, _, _ = aggregator.finish(state, tf.nest.map_structure(tf.add, sent, sound), noise)
        return sent, mean

    return tf.function(run, jit_compile=compiled, autograph=False)


@pytest.fixture(scope="module")
def runners():
    return {}


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "xla"])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.sampled_from(EXTREMES), min_size=SIZE, max_size=SIZE),
    weight=st.sampled_from([1.0, 7.0]),
)
def test_no_update_makes_a_contribution_that_is_not_finite(name, options, compiled, values, weight, runners):
    key = (name, str(options), compiled)
    run = runners.setdefault(key, None) or runners.__setitem__(key, runner(name, options, compiled)) or runners[key]
    sent, mean = run(update(values, name), tf.constant(weight))
    for leaf in tf.nest.flatten((sent, mean)):
        assert np.isfinite(np.asarray(leaf, np.float64)).all()
    if MECHANISMS[name].private:
        size = float(tf.linalg.global_norm(list(mean)))
        assert size <= CLIP * (1 + 1e-2)  # of the mean of two clipped updates
    if not np.isfinite(np.asarray(values, np.float32)).all():
        _, without = run(update(np.zeros(SIZE), name), tf.constant(0.0 if not MECHANISMS[name].private else weight))
        for one, other in zip(mean, without):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


BASE = Plan().replace(
    rounds=2,
    client={"local_steps": 2, "local_epochs": None, "batch_size": 20, "learning_rate": 0.1},
    privacy={"clip_norm": 0.5, "delta": 1e-2},
)


def with_a_broken_hospital():
    """Three hospitals; the features of one record at the second are finite and far out of range."""
    dataset = toy.hospitals()
    broken = dataset.hospitals[1]
    features = np.array(broken.train.features)
    features[0] = 3e38
    part = dataclasses.replace(broken.train, features=features)
    hospitals = (dataset.hospitals[0], dataclasses.replace(broken, train=part), dataset.hospitals[2])
    return dataclasses.replace(dataset, hospitals=hospitals)


@pytest.mark.parametrize("runtime", ["compiled", "native"])
def test_a_protected_hospital_with_a_broken_update_counts_as_zero_and_the_run_goes_on(runtime):
    dataset = with_a_broken_hospital()
    plan = (
        METHODS["fixed_clip"]
        .plan(BASE, None)
        .replace(privacy={"target_epsilon": None, "noise_multiplier": 0.1}, model={"name": "mlp"})
    )
    run = train(plan, dataset, runtime=runtime, model=build_model(plan, toy.hospitals()))
    assert all(np.isfinite(weight).all() for weight in run.weights)
    said = [text for text in run.summary["warnings"] if "was not finite and counted as zero" in text]
    assert said
    assert all("'site_1'" in text for text in said)


@pytest.mark.parametrize("runtime", ["compiled", "native"])
def test_an_unprotected_run_ends_and_names_the_hospital_from_its_own_report(runtime):
    dataset = with_a_broken_hospital()
    plan = METHODS["weighted_mean"].plan(BASE, None).replace(model={"name": "mlp"})
    with pytest.raises(TrainingError, match=r"round 1: the update of hospital 'site_1' has norm"):
        train(plan, dataset, runtime=runtime, model=build_model(plan, toy.hospitals()))
