"""What a model may not be (impure, mixing records, of several outputs), and custom layers that are fine."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.models import FunctionalModel, ModelSignature

pytestmark = pytest.mark.tensorflow

KEY = np.array([1, 2], np.int64)
THREE = ModelSignature((4,), 3, "multiclass")
layers = tf.keras.layers


def functional(builder, signature=THREE, **options):
    return FunctionalModel(builder, signature, **options)


def random_batch(signature, records=6, seed=0):
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(records, *signature.feature_shape)).astype(np.float32)
    return features, generator.integers(signature.num_classes, size=records)


def one(*more, shape=(4,), last=3):
    return tf.keras.Sequential([layers.Input(shape), *more, layers.Dense(last)])


class Shift(layers.Layer):
    """Subtracts the mean of the batch: one record changes all others."""

    def call(self, inputs):
        return inputs - tf.reduce_mean(inputs, axis=0)


class Counter(layers.Layer):
    def build(self, _):
        self.calls = 0

    def call(self, inputs):
        self.calls += 1
        return inputs


class Collector(layers.Layer):
    def build(self, _):
        self.collected = []

    def call(self, inputs):
        self.collected.append(1)
        return inputs


class Writer(layers.Layer):
    def build(self, _):
        self.total = self.add_weight("total", (), trainable=False)

    def call(self, inputs):
        self.total.assign_add(1.0)
        return inputs


class Printer(layers.Layer):
    def call(self, inputs):
        tf.print("here")
        return inputs


class PythonCode(layers.Layer):
    def call(self, inputs):
        return tf.ensure_shape(tf.numpy_function(lambda x: x, [inputs], tf.float32), inputs.shape)


class Dice(layers.Layer):
    def call(self, inputs):
        return inputs + tf.random.uniform(tf.shape(inputs))


class NumpyDice(layers.Layer):
    """Draws one number while it is traced, which no graph shows."""

    def call(self, inputs):
        return inputs + np.random.normal()


COUNTED = []


class OutsideCounter(layers.Layer):
    def call(self, inputs):
        COUNTED.append(1)
        return inputs * float(len(COUNTED))


class Closure(layers.Layer):
    def build(self, _):
        weight = self.add_weight("hidden", ())
        self.read = lambda: weight * 1.0

    def call(self, inputs):
        return inputs * self.read()


class Listed(layers.Layer):
    """Keeps its weights in a list and a dictionary."""

    def build(self, shape):
        self.scales = [self.add_weight("scale", (shape[-1],), initializer="ones")]
        self.named = {"shift": self.add_weight("shift", (shape[-1],), initializer="zeros")}

    def call(self, inputs):
        return inputs * self.scales[0] + self.named["shift"]


class Branch(layers.Layer):
    """Python control flow over a tensor, which Keras lets autograph convert."""

    def build(self, _):
        self.gate = self.add_weight("gate", (), trainable=False)

    def call(self, inputs):
        if self.gate > 1e9:
            inputs = inputs * 0.0
        return inputs


def two_outputs():
    inputs = layers.Input((4,))
    return tf.keras.Model(inputs, [layers.Dense(3)(inputs), layers.Dense(3)(inputs)])


@pytest.mark.parametrize(
    ("builder", "named"),
    [
        (lambda: one(layers.BatchNormalization()), "layer batch_normalization=.*mix the records.*GroupNormalization"),
        (lambda: one(Shift()), "depends on other records"),
        (lambda: one(Counter()), "layer counter=.*'calls'"),
        (lambda: one(Collector()), "layer collector=.*'collected'"),
        (lambda: one(Writer()), "assign_add"),
        (lambda: one(Printer()), "PrintV2"),
        (lambda: one(PythonCode()), "PyFunc"),
        (lambda: one(Dice()), "RandomUniform"),
        (lambda: one(NumpyDice()), "puts out something else when it is called again: .*numpy's random"),
        (lambda: one(OutsideCounter()), "puts out something else when it is called again: .*a count"),
        (lambda: one(Closure()), "weight closure/hidden:0="),
        (lambda: one(layers.Dense(3, dtype="float64")), "float64"),
        (lambda: one(layers.Dense(3, dtype="mixed_float16")), "mixed_float16"),
        (lambda: one(layers.Dense(3, activity_regularizer="l2")), "layer dense=.*regularizer of what it puts out"),
        (lambda: one(layers.Dense(3, kernel_constraint="max_norm")), "layer dense=.*kernel_constraint"),
        (lambda: one(layers.GRU(3, recurrent_constraint="non_neg"), shape=(5, 4)), "recurrent_kernel_constraint"),
        (lambda: one(layers.Lambda(lambda x: tf.reshape(x, (4, 4)))), "a record alone cannot be computed .*reshape"),
        (lambda: one(shape=(5,)), r"takes features of shape \(5,\)"),
        (lambda: one(last=4), "model outputs=4: a multiclass task needs 3 outputs"),
        (lambda: one(layers.Reshape((2, 2))), r"puts out shape \(4, 2, 3\)"),
        (
            lambda: (
                one(layers.Dense(3), layers.Dense(3, activation="sigmoid")).layers
                and tf.keras.Sequential([layers.Input((4,)), layers.Dense(3, activation="sigmoid")])
            ),
            "sigmoid does not fit 3 outputs",
        ),
        (two_outputs, "must have one output"),
        (lambda: tf.keras.Sequential([layers.Input((4,)), layers.Dense(3, trainable=False)]), "no trainable weights"),
    ],
)
def test_what_is_no_pure_function_of_one_record_is_refused_by_name(builder, named):
    found = functional(builder).problems(under_dp=True)
    with pytest.raises(InvalidInput, match=named):
        raise InvalidInput(found)


def test_batch_normalization_without_privacy_is_refused_for_another_reason():
    found = functional(lambda: one(layers.BatchNormalization())).problems(under_dp=False)
    assert len(found) == 1
    assert "never reach the server" in found[0].bound


def test_mixing_records_is_allowed_without_privacy():
    model = functional(lambda: one(Shift()))
    assert model.problems(under_dp=True)
    assert model.problems(under_dp=False) == []


@pytest.mark.parametrize("kind", [Listed, Branch])
def test_custom_layers_that_are_pure_functions_work(kind):
    model = functional(lambda: one(kind()))
    assert model.problems(under_dp=True) == []
    weights, frozen = model.initial_weights(KEY)
    features = np.ones((2, 4), np.float32)
    base = np.asarray(tf.function(model.predict)(weights, frozen, features, training=True))
    doubled = [
        2 * value if value.ndim == 1 and "scale" in name else value
        for name, value in zip(model.trainable_names, weights)
    ]
    factor = 2.0 if kind is Listed else 1.0
    np.testing.assert_allclose(model.predict(doubled, frozen, features, training=True), factor * base, rtol=1e-4)


def test_a_recurrent_model_is_a_pure_function_too():
    model = functional(
        lambda: tf.keras.Sequential([layers.Input((5, 2)), layers.GRU(4, dropout=0.2), layers.Dense(3)]),
        ModelSignature((5, 2), 3, "multiclass"),
    )
    assert model.problems(under_dp=True) == []


class Scattered(layers.Layer):
    """Makes a new tensor by an operation whose name begins as those that write into variables do."""

    def build(self, shape):
        self.scale = self.add_weight("scale", shape[1:], initializer="ones")

    def call(self, inputs):
        records = tf.shape(inputs)[0]
        places = tf.stack(tf.meshgrid(tf.range(records), [3, 2, 1, 0], indexing="ij"), axis=-1)
        return tf.scatter_nd(places, inputs * self.scale, tf.shape(inputs))


def test_operations_that_only_sound_like_writing_are_not_refused():
    assert functional(lambda: one(Scattered())).problems(under_dp=True) == []


def test_an_operation_without_gradient_in_front_of_all_weights_is_no_fault():
    """Keras' random contrast has none; the look for mixed records asked for the gradient of the features."""
    made = functional(
        lambda: one(layers.RandomContrast(0.1), layers.Flatten(), shape=(4, 4, 1)),
        ModelSignature((4, 4, 1), 3, "multiclass"),
    )
    assert made.problems(under_dp=True) == []
