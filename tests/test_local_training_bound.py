"""A whole step of local training under DP: no record moves the weights by more than rate x clip norm / batch size.

On the functions that the compiled runtime compiles, and through TFF's client work in its own worker.
"""

from __future__ import annotations

import collections

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from test_models_clip_bound import ROUNDED, SIZES, record_of

from tff_hospitals.models import ModelSignature, build_model
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes.local_training import LocalTraining
from tff_hospitals.processes.rounds import METRICS

pytestmark = pytest.mark.tensorflow

SHAPE, HOSPITALS, RATE, CLIP, BATCH = (4,), 4, 0.5, 0.7, 2.0
CALM = np.array([0.3, -1.0, 0.5, 2.0], np.float32)
STYLES = ("flat", "per_layer", "automatic", "adaptive")


def client_work(style, compile_steps, mechanism="dp_sgd"):
    plan = Plan().replace(
        client={"learning_rate": RATE, "local_steps": 1, "proximal_mu": 0.1},
        privacy={"mechanism": mechanism, "clip_norm": CLIP, "clip_style": style, "noise_multiplier": 0.1},
    )
    model = build_model("mlp", ModelSignature(SHAPE, 2, "binary"), hidden_units=(5,))
    return LocalTraining(model, plan.client, plan.privacy, max_local_steps=1, compile_steps=compile_steps)


def element(record, together):
    """A hospital with one record, or (`together`) that one and a calm one; no noise, so that what it adds is seen."""
    return collections.OrderedDict(
        features=np.stack([record, CALM]).astype(np.float32),
        labels=np.array([1, 0], np.int64),
        indices=np.array([[0, 1]], np.int32),
        mask=np.array([[1.0, float(together)]], np.float32),
        steps=np.int32(1),
        expected_batch=np.float32(BATCH),
        noise_multiplier=np.float32(0.0),
        key=np.array([5, 6], np.int64),
        weight=np.float32(1.0),
        frozen=(),
    )


def weights_of(work, scale):
    return tuple(np.float32(scale) * weight for weight in work.model.initial_weights(np.array([1, 2]))[0])


def check(update_norms):
    """Of hospitals with one record and, in turn, with two."""
    bound = RATE * CLIP / BATCH * ROUNDED
    assert np.all(np.isfinite(update_norms))
    assert np.all(update_norms <= bound * np.array([1.0, 2.0] * (HOSPITALS // 2)))


records = st.lists(record_of(SHAPE), min_size=HOSPITALS // 2, max_size=HOSPITALS // 2)
scales = st.sampled_from([1.0, 1e-20, 1e6, 1e15])


def hospitals_of(drawn):
    return [element(record, together) for record in drawn for together in (False, True)]


@pytest.mark.parametrize("mechanism", ["dp_sgd", "dp_ftrl_local"])
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "xla"])
@pytest.mark.parametrize("style", STYLES)
def test_on_the_compiled_path(style, compiled, mechanism):
    work = client_work(style, False, mechanism)

    @tf.function(jit_compile=compiled, autograph=False)
    def step(weights, one):
        output = work(weights, tf.constant(0), one)
        return output.delta, output.metrics

    @hypothesis.settings(max_examples=30)
    @hypothesis.given(records, scales)
    def bounded(drawn, scale):
        weights = tuple(map(tf.constant, weights_of(work, scale)))
        norms = []
        for one in hospitals_of(drawn):
            delta, metrics = step(weights, tf.nest.map_structure(tf.constant, one))
            norms.append(np.sqrt(sum(np.sum(np.float64(part) ** 2) for part in delta)))
            assert float(metrics[METRICS.index("update_norm")]) == pytest.approx(norms[-1], rel=1e-4, abs=1e-6)
        # Weights that are large themselves take an update only to their own precision.
        if scale <= 1.0:
            check(np.array(norms))
        else:
            assert np.all(np.isfinite(norms))

    bounded()


@pytest.mark.parametrize("style", STYLES)
def test_through_the_tff_adapter(style):
    import tensorflow_federated as tff

    from tff_hospitals.processes import tff_adapters
    from tff_hospitals.runtimes.native.runtime import shared_context

    work = client_work(style, True)
    first = weights_of(work, 1.0)

    @tff.tensorflow.computation
    def first_weights():
        return tff.learning.models.ModelWeights(tuple(map(tf.constant, first)), ())

    weights_type = first_weights.type_signature.result
    process = tff_adapters.build_client_work(work, weights_type, HOSPITALS)

    @hypothesis.settings(max_examples=15)
    @hypothesis.given(records)
    def bounded(drawn):
        data = []
        for position, one in enumerate(hospitals_of(drawn)):
            one["place"] = np.eye(HOSPITALS, dtype=np.float32)[position]
            data.append(tf.data.Dataset.from_tensors(one))
        weights = tff.learning.models.ModelWeights(first, ())
        with tff.framework.get_context_stack().install(shared_context().context):
            output = process.next(np.int32(0), [weights] * HOSPITALS, data)
        for result in output.result:
            assert all(np.all(np.isfinite(part)) for part in result.update)
        check(np.asarray(output.measurements)[:, METRICS.index("update_norm")])

    bounded()


def test_one_number_of_1e30_moves_the_weights_no_further_than_any_other():
    """It moved a weight by 26,421 at a noise of .002 once: zero times infinity, and a maximum of NaN and a number."""
    work = client_work("flat", False)
    step = tf.function(lambda weights, one: work(weights, tf.constant(0), one).delta, jit_compile=True, autograph=False)
    weights = tuple(map(tf.constant, weights_of(work, 1.0)))
    for size in SIZES:
        delta = step(weights, tf.nest.map_structure(tf.constant, element(np.float32([size, 1, 1, 1]), True)))
        assert max(float(tf.reduce_max(tf.abs(part))) for part in delta) <= 2 * RATE * CLIP / BATCH * ROUNDED
