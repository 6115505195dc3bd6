"""What a model ends in, what it was compiled with and what its layers refuse: used rightly, or refused in one line."""

from __future__ import annotations

import re
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from toy import hospitals

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.models import FunctionalModel, ModelSignature, build_model
from tff_hospitals.models.failures import failing_layer
from tff_hospitals.plan import Plan
from tff_hospitals.training.loop import train
from tff_hospitals.training.results import TrainingError

pytestmark = pytest.mark.tensorflow

L = tf.keras.layers
TWO = ModelSignature((2,), 2, "binary")
NUMBER = ModelSignature((2,), 1, "regression")
SCALED = ModelSignature((2,), 1, "regression", target_bounds=(1000.0, 9000.0))
KEY = np.array([1, 2], np.int64)


def ending(*layers):
    """A model function with a hidden layer and this end."""
    return lambda: tf.keras.Sequential([tf.keras.Input((2,)), L.Dense(8, "relu"), *(make() for make in layers)])


class HandWritten(tf.keras.Model):
    """A subclass whose sigmoid is TensorFlow's own."""

    def __init__(self, end):
        super().__init__()
        self.hidden, self.last, self.end = L.Dense(8, "relu"), L.Dense(1), end

    def call(self, inputs):
        return self.end(self.last(self.hidden(inputs)))


def clipped():
    """cases/head_sigmoid"""
    return L.Lambda(lambda x: tf.clip_by_value(x, 1e-6, 1 - 1e-6))


def refusals(builder, signature=TWO, **options):
    with pytest.raises(InvalidInput) as caught:
        raise InvalidInput(FunctionalModel(builder, signature, **options).problems(under_dp=False))
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def taken(builder, signature=TWO, **options):
    model = FunctionalModel(builder, signature, **options)
    assert model.problems(under_dp=True) == []
    return model


@pytest.mark.parametrize(
    ("builder", "words"),
    [
        (ending(lambda: L.Dense(1, "sigmoid"), clipped), "hides the logits.*never leave 0 to 1.*Keras' own sigmoid"),
        (ending(lambda: L.Dense(1, "hard_sigmoid")), "hides the logits"),
        (ending(lambda: L.Dense(1), lambda: L.Lambda(lambda x: 1 / (1 + tf.exp(-x)))), "hides the logits"),
        (ending(lambda: L.Dense(2, "softmax"), clipped), "hides the logits.*Dense.2. without activation"),
        (lambda: HandWritten(lambda x: 0.5 * (1 + tf.tanh(x))), "hides the logits"),
        (ending(lambda: L.Dense(1, "tanh")), "never leave -1 to 1, as tanh"),
        (ending(lambda: L.Dense(1, "relu")), "nothing negative, as relu"),
        (ending(lambda: L.Dense(1, "softplus")), "nothing negative"),
    ],
)
def test_an_end_that_hides_the_logits_is_refused(builder, words):
    assert re.search(words, refusals(builder))


@pytest.mark.parametrize(
    "builder",
    [
        ending(lambda: L.Dense(1, "sigmoid")),
        ending(lambda: L.Dense(1), lambda: L.Activation("sigmoid")),
        ending(lambda: L.Dense(2, "softmax")),
        lambda: HandWritten(tf.sigmoid),
        lambda: HandWritten(tf.keras.activations.sigmoid),
    ],
)
def test_a_sigmoid_or_softmax_is_undone_and_said_once(builder):
    model = taken(builder)
    assert sum("the logits before it" in note for note in model.notes) == 1
    weights, frozen = model.initial_weights(KEY)
    features = 30 * np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    eager = model.predict(weights, frozen, features, training=False)
    graph = tf.function(model.predict)(weights, frozen, features, training=False)
    np.testing.assert_allclose(eager, graph, rtol=1e-5, atol=1e-5)
    assert float(tf.reduce_max(tf.abs(eager))) > 1.0  # logits, no probabilities
    shown = model.keras_model(weights, frozen)(features).numpy()
    np.testing.assert_allclose(model.scores(eager), shown[:, -1], rtol=1e-4, atol=1e-6)


def test_plain_ends_need_no_words():
    for builder in (ending(lambda: L.Dense(1)), ending(lambda: L.Dense(2)), lambda: HandWritten(lambda x: x)):
        assert not [note for note in taken(builder).notes if "logits" in note]


@pytest.mark.parametrize(
    ("end", "signature", "words"),
    [
        ("sigmoid", NUMBER, "never leave 0 to 1, and nothing says that the target lies there"),
        ("tanh", NUMBER, "never leave -1 to 1"),
    ],
)
def test_a_bounded_end_does_not_fit_a_number_without_bounds(end, signature, words):
    assert words in refusals(ending(lambda: L.Dense(1, end)), signature)


@pytest.mark.parametrize("end", [None, "relu", "softplus", "sigmoid", "tanh"])
def test_with_bounds_every_end_puts_out_original_units(end):
    model = taken(ending(lambda: L.Dense(1, end)), SCALED)
    weights, frozen = model.initial_weights(KEY)
    features = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    outputs = model.predict(weights, frozen, features, training=False)
    shown = model.keras_model(weights, frozen)(features).numpy()
    np.testing.assert_allclose(model.scores(outputs), shown[:, 0], rtol=1e-5)
    assert 500.0 < shown.min() < shown.max() < 40_000.0
    # At the middle of the bounds a perfect answer costs nothing, and an answer at their end costs one (or a quarter).
    middle = (5000.0 - model.target_scale.centre) / model.target_scale.scale
    np.testing.assert_allclose(model.per_record_loss(tf.constant([[middle]]), tf.constant([5000.0])), [0.0], atol=1e-6)
    unit = 0.25 if model.target_scale.positive else 1.0
    np.testing.assert_allclose(model.per_record_loss(tf.constant([[middle]]), tf.constant([9000.0])), [unit], atol=1e-6)


def test_two_outputs_are_named_in_one_line():
    def builder():
        inputs = tf.keras.Input((2,))
        return tf.keras.Model(inputs, [L.Dense(1, name="risk")(inputs), L.Dense(1, name="days")(inputs)])

    assert "has 2 outputs (risk, days); must have one output tensor. Remedy: return one of them" in refusals(builder)

    class Both(HandWritten):
        def call(self, inputs):
            return self.last(inputs), self.hidden(inputs)

    assert "must have one output tensor" in refusals(lambda: Both(None))


def test_the_only_output_of_a_dictionary_is_taken():
    def builder():
        inputs = tf.keras.Input((2,))
        return tf.keras.Model(inputs, {"risk": L.Dense(1, "sigmoid")(inputs)})

    model = taken(builder)
    assert model.output_activation == "sigmoid"
    assert model.predict(*model.initial_weights(KEY), np.ones((3, 2), np.float32), training=False).shape == (3, 1)


def test_a_message_holds_no_value_of_a_record():
    model = FunctionalModel(
        lambda: tf.keras.Sequential([tf.keras.Input((2,)), L.Embedding(50, 3), L.Flatten(), L.Dense(1)]), TWO
    )
    words = failing_layer(
        model, *model.initial_weights(KEY), np.full((3, 2), 4711.0, np.float32), training=False, key=KEY
    )
    assert "layer embedding (Embedding) fails on inputs of shape (3, 2)" in words
    assert "4711" not in words


# What a model was compiled with.


def with_loss(loss, last=None, units=1, **settings):
    def builder():
        model = tf.keras.Sequential([tf.keras.Input((2,)), L.Dense(units, last)])
        model.compile("adam", loss=loss, **settings)
        return model

    return builder


def focal(gamma):
    return tf.keras.losses.BinaryFocalCrossentropy(from_logits=True, gamma=gamma)


def hinged(y_true, y_pred):
    return tf.reduce_mean(tf.maximum(0.0, 1.0 - (2.0 * y_true - 1.0) * y_pred), axis=-1)


class Squared(tf.keras.losses.Loss):
    def call(self, y_true, y_pred):
        return tf.reduce_mean((y_true - y_pred) ** 2, axis=-1)


THREE = ModelSignature((2,), 3, "multiclass")


@pytest.mark.parametrize(
    ("loss", "last", "units", "signature"),
    [
        (focal(5.0), None, 1, TWO),
        (tf.keras.losses.BinaryCrossentropy(label_smoothing=0.2), "sigmoid", 1, TWO),
        (hinged, None, 1, TWO),
        (Squared(), "sigmoid", 1, TWO),
        ("binary_crossentropy", "sigmoid", 1, TWO),
        ("sparse_categorical_crossentropy", "softmax", 3, THREE),
        (tf.keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), None, 3, THREE),
        ("huber", None, 1, NUMBER),
        ("mse", None, 1, NUMBER),
    ],
)
def test_the_compiled_loss_is_what_keras_says_record_by_record(loss, last, units, signature):
    """cases/compile_ignored: the loss and its weight were dropped in silence."""
    model = taken(with_loss(loss, last, units, loss_weights=[3.0]), signature)
    weights, frozen = model.initial_weights(KEY)
    generator = np.random.default_rng(0)
    features = generator.normal(size=(12, 2)).astype(np.float32)
    labels = generator.normal(size=12).astype(np.float32) if signature is NUMBER else np.arange(12) % (units + 1) % 3
    found = model.per_record_loss(model.predict(weights, frozen, features, training=False), tf.constant(labels))
    plain = model.keras_model(weights, frozen)
    one_hot = isinstance(loss, tf.keras.losses.CategoricalCrossentropy)
    truth = tf.one_hot(labels, 3) if one_hot else labels[:, None].astype(np.float32)
    expected = [plain.evaluate(features[i : i + 1], truth[i : i + 1], verbose=0) for i in range(12)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert any("times its loss weight 3" in note for note in model.notes)
    assert any("compiled with Adam" in note for note in model.notes)


def test_a_compiled_loss_changes_what_is_trained():
    plan, data = Plan(rounds=2), hospitals(shape=(2,))
    runs = [train(plan, data, model=taken(with_loss(loss))) for loss in (focal(5.0), None)]
    assert np.abs(runs[0].weights[0] - runs[1].weights[0]).max() > 1e-3
    assert any("binary_focal_crossentropy" in text for text in runs[0].summary["warnings"])


@pytest.mark.parametrize(
    ("builder", "words"),
    [
        (with_loss("binary_crossentropy"), "takes probabilities (from_logits=False), and the model puts out logits"),
        (with_loss(tf.keras.losses.BinaryCrossentropy(from_logits=True), "sigmoid"), "the model ends in a sigmoid"),
        (with_loss(tf.keras.losses.BinaryCrossentropy(True, reduction="sum")), "has reduction='sum'"),
        (with_loss(lambda y_true, y_pred: tf.reduce_mean(y_pred)), "returns shape () for 4 records"),
        (with_loss(lambda y_true, y_pred: y_pred[:, 0] - tf.reduce_mean(y_pred)), "depends on the other records"),
        (with_loss(lambda y_true, y_pred: tf.math.log(-tf.abs(y_pred[:, 0]) - 1)), "is not finite"),
    ],
)
def test_a_compiled_loss_that_cannot_be_used_is_refused(builder, words):
    assert words in refusals(builder)


@pytest.mark.parametrize("method", ["train_step", "compute_loss"])
def test_an_own_training_step_is_refused_by_name(method):
    own = type("Own", (tf.keras.Sequential,), {method: lambda self, *_, **__: None, "__module__": __name__})
    text = refusals(lambda: own([tf.keras.Input((2,)), L.Dense(1)]))
    assert f"Own has its own {method}" in text
    assert "--loss=package.module:function" in text


# A layer that fails.


@pytest.fixture
def own(monkeypatch):
    module = types.ModuleType("m")
    monkeypatch.setitem(sys.modules, "m", module)
    return module


@pytest.mark.parametrize("runtime", ["compiled", "native"])
def test_a_failing_layer_is_named_with_hospital_and_shapes(runtime, own):
    """cases/layer_assert: a layer's own assertion gave 117 lines of traceback, and no hospital."""
    own.f = lambda: tf.keras.Sequential([tf.keras.Input((2,)), L.CategoryEncoding(3, "multi_hot"), L.Dense(1)])
    plan = Plan(rounds=1).replace(model={"name": "m:f"})
    with pytest.raises(TrainingError) as caught:
        train(plan, hospitals(shape=(2,)), runtime=runtime)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    for words in (
        "round 1: at hospital 'site_0' layer category_encoding (CategoryEncoding) fails on inputs of shape (20, 2)",
        "num_tokens=3",
        "Remedy: ",
    ):
        assert words in text


def test_a_layer_that_cannot_be_traced_is_named(own):
    class Folded(L.Layer):
        def call(self, inputs):
            return tf.reshape(inputs, [7, 2])

    text = refusals(lambda: tf.keras.Sequential([tf.keras.Input((2,)), Folded(), L.Dense(1)]))
    assert (
        "cannot be traced as a function of its weights: layer folded (Folded) fails on inputs of shape (4, 2)" in text
    )


def test_a_model_of_another_call_signature_is_told_what_it_is_given(own):
    class TwoArguments(tf.keras.Model):
        def call(self, age, sex):
            return age + sex

    own.f = TwoArguments
    with pytest.raises(InvalidInput, match=r"cannot be called on inputs of shape \(1, 2\).*alone"):
        build_model("m:f", TWO)


# A layer that mixes records.


class Centred(L.Layer):
    """Subtracts the mean of the batch."""

    def call(self, inputs):
        return inputs - tf.reduce_mean(inputs, axis=0)


def test_records_are_mixed_within_a_hospital_only():
    data = hospitals(shape=(2,))
    model = FunctionalModel(
        lambda: tf.keras.Sequential([tf.keras.Input((2,)), Centred(), L.Dense(1)]), TWO, name="mixing"
    )
    run = train(Plan(rounds=1), data, model=model)
    for hospital in data.hospitals:
        outputs = model.predict(run.weights, run.frozen, hospital.test.features, training=False)
        expected = float(tf.reduce_mean(model.per_record_loss(outputs, hospital.test.labels)))
        assert run.evaluation[hospital.hospital_id]["loss"] == pytest.approx(expected, rel=1e-5)
    assert any("a layer mixes the records of a batch" in text for text in run.summary["warnings"])
