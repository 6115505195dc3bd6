"""The vectorised form of an operation gives each record what it gives it alone; where it does not, it is not used.

And no records at all are as good as some.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.ops.parallel_for.pfor import _pfor_converter_registry, wrap

from tff_hospitals.models import FunctionalModel, ModelSignature, clipped_gradient_sum
from tff_hospitals.models.per_record import method_for
from tff_hospitals.models.vectorizing import of_each_record

pytestmark = pytest.mark.tensorflow

KEY = np.array([11, 22], np.int64)
RECORDS, SHAPE = 4, (3, 4, 5)
layers = tf.keras.layers

OF_AN_AXIS = {
    "roll": lambda x, axis: tf.roll(x, 1, axis),
    "roll by a number of the record": lambda x, axis: tf.roll(x, tf.cast(x[0, 0, 0] > 0, tf.int32) + 1, axis),
    "roll of two axes": lambda x, axis: tf.roll(x, [1, -2], [axis, 0]),
    "reverse": lambda x, axis: tf.reverse(x, [axis]),
    "cumsum": lambda x, axis: tf.cumsum(x, axis, exclusive=True, reverse=True),
    "cumprod": lambda x, axis: tf.math.cumprod(x, axis),
    "cumulative log sum": lambda x, axis: tf.math.cumulative_logsumexp(x, axis),
    "concat": lambda x, axis: tf.concat([x, tf.ones(SHAPE)], axis),
    "stack": lambda x, axis: tf.stack([x, 2.0 * x], axis),
    "unstack": lambda x, axis: tf.unstack(x, axis=axis)[1],
    "split": lambda x, axis: tf.split(x, [1, x.shape[axis] - 1], axis)[1],
    "expand": lambda x, axis: 2.0 * tf.expand_dims(x, axis),
    "sum": lambda x, axis: tf.reduce_sum(x, axis),
    "largest": lambda x, axis: tf.reduce_max(x, axis, keepdims=True),
    "place of the largest": lambda x, axis: tf.cast(tf.argmax(x, axis), tf.float32),
    "gather": lambda x, axis: tf.gather(x, [2, 0, 2], axis=axis),
    "gather of the record": lambda x, axis: tf.gather(x, tf.cast(tf.abs(x[0, 0]), tf.int32), axis=axis),
    "sort": lambda x, axis: tf.sort(x, axis=axis),
    "softmax": lambda x, axis: tf.nn.softmax(x, axis=axis),
    "normalised": lambda x, axis: tf.math.l2_normalize(x, axis=axis),
    "repeat": lambda x, axis: tf.repeat(x, 2, axis=axis),
    "one hot": lambda x, axis: tf.one_hot(tf.cast(tf.abs(x[0]), tf.int32), 3, axis=min(axis, 2) if axis >= 0 else -1),
    "contracted": lambda x, axis: tf.tensordot(x, tf.ones([x.shape[axis], 2]), [[axis], [0]]),
}


@pytest.mark.parametrize("axis", [0, 2, -1, -2])
def test_an_axis_counted_from_either_end_is_one_of_the_record(axis):
    """`tf.roll` over the last axis rolled the records: each got the gradient of its neighbour, beside its clipping."""
    values = np.random.default_rng(0).normal(size=(RECORDS, *SHAPE)).astype(np.float32)

    def of_one(record):
        return {name: operation(record, axis) for name, operation in OF_AN_AXIS.items()}

    together = tf.function(lambda records: of_each_record(of_one, records), autograph=False)(tf.constant(values))
    alone = tf.function(of_one, input_signature=[tf.TensorSpec(SHAPE, tf.float32)], autograph=False)
    for row in range(RECORDS):
        expected = alone(tf.constant(values[row]))
        for name in OF_AN_AXIS:
            np.testing.assert_allclose(together[name][row], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


class Shifted(layers.Layer):
    """Shifts the features of a record, as windows of a picture are."""

    def build(self, shape):
        self.scale = self.add_weight("scale", shape[1:], initializer="ones")

    def call(self, inputs):
        return tf.roll(inputs * self.scale, 1, -1) * inputs


def shifted_model():
    def build():
        return tf.keras.Sequential([layers.Input((5,)), Shifted(), layers.Dense(3)])

    return FunctionalModel(build, ModelSignature((5,), 3, "multiclass"))


def moved_by(model, row):
    """How far the clipped sum of three records moves when one of them is left out, clipped to one."""
    features = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    features[row] = 300.0
    weights = model.initial_weights(KEY)
    everybody, without = np.ones(3, np.float32), np.ones(3, np.float32)
    without[row] = 0.0
    sums = [
        clipped_gradient_sum(model, *weights, features, [0, 1, 2], mask, 1.0, key=KEY)[0]
        for mask in (everybody, without)
    ]
    return np.sqrt(sum(float(np.sum((one - other) ** 2)) for one, other in zip(*sums)))


def test_a_record_moves_the_sum_of_a_model_that_shifts_features_by_the_clip_norm_at_most():
    model = shifted_model()
    assert method_for(model)[0] == "vectorized"
    assert all(moved_by(model, row) <= 1.0 + 1e-5 for row in range(3))


def test_a_vectorised_form_that_is_wrong_is_found_and_not_used(monkeypatch):
    def rolls_records(converted):
        rolled = tf.roll(converted.stacked_input(0), converted.unstacked_input(1), converted.unstacked_input(2) + 1)
        return wrap(rolled, True)

    monkeypatch.setitem(_pfor_converter_registry, "Roll", rolls_records)
    model = shifted_model()
    method, words = method_for(model)
    assert method == "loop"
    assert "vectorised form of it gives other gradients" in words
    assert all(moved_by(model, row) <= 1.0 + 1e-5 for row in range(3))


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "xla"])
@pytest.mark.parametrize("method", ["ghost", "vectorized", "loop"])
def test_of_no_records_the_sum_is_zero(method, compiled):
    """Compiled loops over records, and vectorised convolutions, could not be made of none."""

    def build():
        inside = layers.Conv2D(2, 3, activation="relu"), layers.Flatten(), layers.Dense(3)
        return tf.keras.Sequential([layers.Input((5, 5, 2)), *inside])

    model = FunctionalModel(build, ModelSignature((5, 5, 2), 3, "multiclass"))
    weights = model.initial_weights(KEY)

    @tf.function(jit_compile=compiled, autograph=False)
    def run(features, labels, mask):
        return clipped_gradient_sum(model, *weights, features, labels, mask, 0.5, method=method)

    total, norms, loss = run(tf.zeros([0, 5, 5, 2]), tf.zeros([0], tf.int64), tf.zeros([0]))
    assert [tuple(one.shape) for one in total] == [tuple(spec.shape) for spec in model.trainable_specs]
    assert not any(np.any(one) for one in total)
    assert norms.shape == (0,)
    assert loss == 0.0
