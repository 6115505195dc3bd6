"""Layers that mix the records of a batch, however seldom they do it, are found before a private run begins."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tff_hospitals.models import FunctionalModel, ModelSignature, mixing

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
def test_a_layer_that_mixes_records_is_refused_under_privacy_alone(name):
    model = model_of(MIXING[name]())
    (problem,) = model.problems(under_dp=True)
    assert "depends on other records of its batch" in problem.bound
    assert model.problems(under_dp=False) == []


def test_real_records_are_looked_at_too():
    def rare(x):  # mixes where a code that only real records have is among them
        return tf.where(tf.reduce_any(tf.equal(x, 77.125)), x - tf.reduce_mean(x, axis=0), x)

    model = model_of(layer(rare))
    records = np.full((5, *SHAPE), 77.125, np.float32)
    assert model.problems(under_dp=True) == []
    assert model.problems(under_dp=True, records=records)


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
