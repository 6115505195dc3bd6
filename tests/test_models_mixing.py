"""Layers that mix the records of a batch, however seldom they do it, are found before a private run begins."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import toy

from tff_hospitals.models import FunctionalModel, ModelSignature, clipped_gradient_sum, mixing
from tff_hospitals.models.per_record import method_for
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow

SHAPE = (4,)
layers = tf.keras.layers


def model_of(*inner, shape=SHAPE):
    def build():
        return tf.keras.Sequential([layers.Input(shape), *inner, layers.Flatten(), layers.Dense(3)])

    return FunctionalModel(build, ModelSignature(shape, 3, "multiclass"))


def layer(function):
    return layers.Lambda(function)


@tf.custom_gradient
def mixed_gradient(inputs):
    return inputs, lambda gradient: gradient / tf.maximum(1.0, tf.reduce_max(tf.abs(gradient)))


class MixesInTraining(layers.Layer):
    def call(self, inputs, training=False):
        return inputs / tf.maximum(1.0, tf.reduce_max(tf.abs(inputs))) if training else inputs


MIXING = {
    "divided by the largest": lambda: layer(lambda x: x / tf.maximum(1.0, tf.reduce_max(tf.abs(x)))),
    "largest, beyond 1000": lambda: layer(lambda x: x / tf.maximum(1e3, tf.reduce_max(tf.abs(x)))),
    "batch mean, at large values": lambda: layer(
        lambda x: tf.where(tf.abs(tf.reduce_mean(x)) > 50.0, x - tf.reduce_mean(x, axis=0), x)
    ),
    "sorted across records": lambda: layer(lambda x: tf.sort(x, axis=0)),
    "threshold on the sum": lambda: layer(lambda x: tf.where(tf.reduce_sum(x) < -2e3, tf.zeros_like(x), x)),
    "neighbour at large values": lambda: layer(lambda x: x + tf.nn.relu(tf.roll(x, 1, axis=0) - 500.0)),
    "largest of any record, finite ones": lambda: layer(
        lambda x: x + tf.cast(tf.reduce_any(tf.math.is_nan(x)), tf.float32)
    ),
    "in the gradient alone": lambda: layer(mixed_gradient),
    "in training alone": MixesInTraining,
    "number of records": lambda: layer(lambda x: x / tf.cast(tf.shape(x)[0], tf.float32)),
    "activation": lambda: layers.Dense(
        4, name="inner", activation=lambda x: x / tf.maximum(1.0, tf.reduce_max(tf.abs(x)))
    ),
    "softmax over records": lambda: layers.Softmax(axis=0),
}


@pytest.mark.parametrize("name", MIXING)
def test_a_layer_that_mixes_records_is_refused_under_privacy_alone_and_named(name):
    mixing_layer = MIXING[name]()
    around = (
        layers.Dense(4, name="before"),
        tf.keras.Sequential([mixing_layer], name="block"),
        layers.Dense(4, name="behind"),
    )
    model = model_of(*around)
    (problem,) = model.problems(under_dp=True)
    assert "depends on other records of its batch" in problem.bound
    assert (problem.name, problem.value) == (f"layer block/{mixing_layer.name}", type(mixing_layer).__name__)
    assert model.problems(under_dp=False) == []


def test_the_layer_whose_gradient_mixes_is_named_and_not_one_that_has_the_same_input():
    inputs = layers.Input(SHAPE)
    both = layers.Add()([layers.Dense(4, name="beside")(inputs), layers.Lambda(mixed_gradient, name="mixer")(inputs)])
    model = FunctionalModel(
        lambda: tf.keras.Model(inputs, layers.Dense(3)(both)), ModelSignature(SHAPE, 3, "multiclass")
    )
    assert [problem.name for problem in model.problems(under_dp=True)] == ["layer mixer"]


class MixesByItself(tf.keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs):
        outputs = self.dense(inputs)
        return outputs - tf.reduce_mean(outputs, axis=0)


def test_a_model_that_mixes_between_its_layers_is_refused_as_a_whole():
    (problem,) = FunctionalModel(MixesByItself, ModelSignature(SHAPE, 3, "multiclass")).problems(under_dp=True)
    assert problem.name == "model"


@pytest.mark.parametrize(
    ("shape", "apart"),
    [((), True), ((3,), True), ((1, 3), True), ((4, 3), False), ((4, 1, 3), False), ((1, 1, 3), False)],
)
@pytest.mark.parametrize("operation", [lambda x, y: x * y, lambda x, y: y + x, lambda x, y: x - y])
def test_constants_of_more_axes_than_records_are_not_taken_for_arithmetic_of_single_records(shape, apart, operation):
    """Times a constant [4, 1, 3] the records were the second axis, and the mean over it was one over records."""

    def build():
        inputs = layers.Input(SHAPE)
        outputs = operation(
            layers.Dense(3)(inputs), np.arange(1.0, 1.0 + np.prod(shape), dtype=np.float32).reshape(shape)
        )
        return tf.keras.Model(inputs, layers.GlobalAveragePooling1D()(outputs) if len(shape) == 3 else outputs)

    model = FunctionalModel(build, ModelSignature(SHAPE, 3, "multiclass"))
    assert mixing.known_to_keep_records_apart(model.keras) == apart
    if shape == (4, 1, 3):
        assert [problem.name.startswith("layer tf.") for problem in model.problems(under_dp=True)] == [True]


def test_real_records_are_looked_at_too():
    def rare(x):  # mixes where a code that only real records have is among them
        return tf.where(tf.reduce_any(tf.equal(x, 77.125)), x - tf.reduce_mean(x, axis=0), x)

    model = model_of(layer(rare))
    records = np.full((5, *SHAPE), 77.125, np.float32)
    assert model.problems(under_dp=True) == []
    assert model.problems(under_dp=True, records=records)


def rare_layer():
    return layer(lambda x: tf.where(tf.reduce_any(tf.equal(x, 77.125)), 1e3 * (x - tf.reduce_mean(x, axis=0)), x))


def rare_loss(labels, outputs):
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs)
    return tf.where(tf.reduce_any(tf.equal(labels, 2)), losses * (1.0 + tf.reduce_sum(outputs**2)), losses)


def rare_activation(outputs):
    rare = tf.reduce_any(tf.equal(outputs, 77.125))
    return tf.where(rare, 1e3 * (outputs - tf.reduce_mean(outputs, axis=0)), outputs)


@pytest.mark.parametrize(
    ("inner", "loss"),
    [
        (rare_layer, None),
        (lambda: layers.Dense(4, activation=rare_activation, kernel_initializer="identity"), None),
        (lambda: layers.Dense(4), rare_loss),
    ],
    ids=["layer", "activation", "loss"],
)
@pytest.mark.parametrize("method", ["auto", "ghost"])
def test_what_passes_every_look_is_still_bounded_record_by_record(inner, loss, method):
    """A part of a user's own that mixes for rare records alone: one of them moved the clipped sum by 9 clip norms."""
    records, clip_norm = 12, 0.1

    def build():
        return tf.keras.Sequential([layers.Input(SHAPE), inner(), layers.Dense(3)])

    model = FunctionalModel(build, ModelSignature(SHAPE, 3, "multiclass"), loss=loss)
    assert [problem for problem in model.problems(under_dp=True) if loss is None] == []
    features = np.random.default_rng(1).normal(size=(records, *SHAPE)).astype(np.float32)
    labels = (np.arange(records) % 2).astype(np.int64)
    weights = model.initial_weights(np.array([1, 2], np.int64))

    def summed(rare):
        x, y = features.copy(), labels.copy()
        if rare:
            x[5], y[5] = 77.125, 2
        mask = np.ones(records, np.float32)
        mask[5] = float(rare)  # with the record, and blanked out
        return clipped_gradient_sum(model, *weights, x, y, mask, clip_norm, method=method)[0]

    moved = np.sqrt(sum(float(np.sum((one - two) ** 2)) for one, two in zip(summed(True), summed(False))))
    assert moved <= clip_norm * (1 + 1e-4)
    assert method_for(model)[0] in ("vectorized", "loop")
    assert "known to compute every record by itself" in method_for(model)[1]


@pytest.mark.parametrize(("scale", "apart"), [(0.5, True), ([1.0, 2.0, 3.0], True), ([[[1.0]], [[2.0]]], False)])
def test_an_array_among_a_layers_settings_may_move_the_axis_of_records(scale, apart):
    def build():
        inputs = layers.Input(SHAPE)
        outputs = layers.Rescaling(np.array(scale, np.float32))(layers.Dense(3)(inputs))
        return tf.keras.Model(inputs, outputs if apart else layers.GlobalAveragePooling1D()(outputs))

    model = FunctionalModel(build, ModelSignature(SHAPE, 3, "multiclass"))
    assert mixing.known_to_keep_records_apart(model.keras) == apart


def test_a_method_that_was_replaced_in_one_layer_makes_it_one_of_the_users_own():
    convolution = layers.Conv1D(2, 2)
    model = model_of(convolution, shape=(4, 2))
    assert mixing.known_to_keep_records_apart(model.keras)
    found = convolution.convolution_op
    convolution.convolution_op = lambda inputs, kernel: found(inputs - tf.reduce_mean(inputs, axis=0), kernel)
    assert not mixing.known_to_keep_records_apart(model.keras)


class Binned(layers.Layer):
    """Sums each record's features by their whole part; what lies outside of the bins is left out."""

    def build(self, shape):
        self.scale = self.add_weight("scale", shape[1:], initializer="ones")

    def call(self, inputs):
        records, bins = tf.shape(inputs)[0], tf.cast(tf.floor(inputs), tf.int32)
        places = tf.where((bins < 0) | (bins >= 3), -1, bins + 3 * tf.range(records)[:, None])
        values = tf.reshape(inputs * self.scale, [-1])
        return tf.reshape(tf.math.unsorted_segment_sum(values, tf.reshape(places, [-1]), 3 * records), [records, 3])


def test_what_is_in_no_segment_is_not_in_one_of_another_record():
    """TensorFlow's vectorised sums took it for the last segment of the record before: 2 clip norms."""
    model = model_of(Binned())
    assert model.problems(under_dp=True) == []
    assert method_for(model)[0] == "vectorized"
    features = np.random.default_rng(0).uniform(0.0, 3.0, (3, *SHAPE)).astype(np.float32)
    features[1] = -300.0
    rest = (np.arange(3), np.ones(3, np.float32), 0.1)
    weights = model.initial_weights(np.array([1, 2], np.int64))
    together, alone = (
        clipped_gradient_sum(model, *weights, features, *rest, method=method) for method in ("vectorized", "loop")
    )
    for found, expected in zip(tf.nest.flatten(together), tf.nest.flatten(alone)):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "inner",
    [
        lambda: [layer(lambda x: x * tf.nn.softmax(x))],
        lambda: [layer(lambda x: tf.clip_by_value(x, -5.0, 5.0)), layers.Dropout(0.5)],
        lambda: [layers.LayerNormalization(axis=1)],
        lambda: [layers.GaussianNoise(0.3), layers.UnitNormalization()],
        lambda: [layers.Embedding(8, 2)],
    ],
)
def test_layers_that_keep_records_apart_pass(inner):
    assert model_of(*inner()).problems(under_dp=True) == []


def test_a_run_says_that_its_gradients_were_found_record_by_record():
    plan = Plan(rounds=1, weighting="equal").replace(
        client={"local_steps": 1, "batch_size": 5}, privacy={"mechanism": "dp_sgd", "noise_multiplier": 2.0}
    )
    data = toy.hospitals(shape=SHAPE, classes=3)
    said = train(plan, data, model=model_of(layer(lambda x: 2.0 * x))).summary["statements"]
    assert any("clipping of every record's gradient: per-record gradients of the whole model" in text for text in said)
    assert not any("clipping" in text for text in train(plan, data).summary["statements"])


def test_layers_that_are_known_to_keep_records_apart_pass_the_probe_as_well(monkeypatch):
    image = (8, 8, 2)
    model = model_of(
        layers.Conv2D(4, 3, activation="relu"),
        layers.GroupNormalization(2),
        layers.MaxPooling2D(),
        layers.Dropout(0.2),
        layers.LayerNormalization(),
        shape=image,
    )
    assert mixing.known_to_keep_records_apart(model.keras)
    assert mixing.mixing(model) is None
    monkeypatch.setattr(mixing, "known_to_keep_records_apart", lambda _: False)
    assert mixing.mixing(model) is None
    assert list(model.mixing.values()) == [None]
