"""What is learnt: own losses, class weights, penalties on weights, scaled targets, several inputs; what is saved."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from toy import hospitals

from tff_hospitals.foundations import files
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import HospitalDataset, load_dataset
from tff_hospitals.hospitals.division import Division
from tff_hospitals.hospitals.secret import public_secret
from tff_hospitals.models import FunctionalModel, ModelSignature, build_model
from tff_hospitals.plan import Plan, review
from tff_hospitals.training import convergence
from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow

L = tf.keras.layers
TWO = ModelSignature((2,), 2, "binary")
THREE = ModelSignature((2,), 3, "multiclass")
KEY = np.array([1, 2], np.int64)
DP = {"mechanism": "dp_sgd", "noise_multiplier": 0.7, "clip_norm": 0.5}


@pytest.fixture
def own(monkeypatch):
    module = types.ModuleType("m")
    monkeypatch.setitem(sys.modules, "m", module)
    return module


def regressions(low=0.0, high=10_000.0, **options):
    """Three hospitals whose target lies near 5,500."""
    generator = np.random.default_rng(0)
    arrays = {}
    for name in ("a", "b", "c"):
        features = generator.normal(size=(120, 2)).astype(np.float32)
        noise = 30.0 * generator.normal(size=120)
        arrays[name] = (features, (5500.0 + 400.0 * features[:, 0] - 250.0 * features[:, 1] + noise).astype(np.float32))
    bounds = None if low is None else (low, high)
    secret = public_secret("regressions")
    return HospitalDataset.from_arrays(
        arrays, task="regression", target_bounds=bounds, secret=secret, division=Division(test_fraction=0.25)
    )


# Penalties on weights.


def one_step(builder, data, privacy=None, runtime="compiled", **client):
    """The weights after one step of every hospital, and those before."""
    plan = Plan(rounds=1, weighting="equal").replace(client={"local_steps": 1, "batch_size": 8, **client})
    model = FunctionalModel(builder, ModelSignature.of(data), name="penalised")
    run = train(plan.replace(privacy=privacy or {}), data, model=model, runtime=runtime)
    return run.weights


def penalised(kernel=None, bias=None):
    def builder():
        return tf.keras.Sequential(
            [
                tf.keras.Input((5,)),
                L.Dense(3, "tanh", kernel_regularizer=kernel),
                L.Dense(1, kernel_regularizer=kernel, bias_regularizer=bias),
            ]
        )

    return builder


@pytest.mark.parametrize("runtime", ["compiled", "native"])
@pytest.mark.parametrize("private", [False, True])
def test_a_penalty_moves_the_weights_by_its_own_gradient_whatever_is_clipped(private, runtime, common_noise):
    """One step of rate r from w: with the penalty p it ends r * dp/dw lower, clipping and noise or not."""
    data, rate, l2, l1 = hospitals(), 0.1, 0.3, 0.2
    privacy = DP if private else None
    plain = one_step(penalised(), data, privacy, runtime, learning_rate=rate)
    builder = penalised(tf.keras.regularizers.L2(l2), tf.keras.regularizers.L1(l1))
    found = one_step(builder, data, privacy, runtime, learning_rate=rate)
    model = FunctionalModel(penalised(), ModelSignature.of(data))

    start, _ = model.initial_weights(Streams.from_seed(Plan().seed).child("model").key())
    for number, (before, without, with_penalty) in enumerate(zip(start, plain, found)):
        gradient = 2 * l2 * before if before.ndim == 2 else l1 * np.sign(before) if number == 3 else 0 * before
        np.testing.assert_allclose(with_penalty, without - rate * gradient, rtol=1e-4, atol=2e-6)


def test_ridge_regression_ends_at_its_closed_form(own):
    """mean (x w + b - y)^2 + l2 |(w, b)|^2 over all records."""

    data, l2 = regressions(low=None), 0.25
    part = data.pooled_train()
    labels = ((part.labels - 5500.0) / 400.0).astype(np.float32)
    one = type(part)(part.features, labels)
    model = build_model("logistic_regression", data, l2=l2)
    weights, frozen = model.initial_weights(KEY)
    found = convergence.fit(model, weights, frozen, one, Streams.from_seed(1))
    x = np.concatenate([part.features, np.ones((part.records, 1))], axis=1).astype(np.float64)
    expected = np.linalg.solve(x.T @ x / len(x) + l2 * np.eye(3), x.T @ labels / len(x))
    np.testing.assert_allclose(np.concatenate([one.ravel() for one in found.weights]), expected, atol=2e-3)
    assert any("penalties on the weights" in note for note in model.notes)


# Class weights and own losses.


def test_class_weights_multiply_the_loss_of_their_class():
    plain, weighted = build_model("mlp", THREE), build_model("mlp", THREE, class_weights="1,0.5,4")
    outputs, labels = tf.random.stateless_normal([6, 3], [1, 2]), tf.constant([0, 1, 2, 0, 1, 2])
    factors = np.array([1.0, 0.5, 4.0, 1.0, 0.5, 4.0])
    np.testing.assert_allclose(
        weighted.per_record_loss(outputs, labels), factors * plain.per_record_loss(outputs, labels), rtol=1e-6
    )
    (note,) = (note for note in weighted.notes if "weight of its class" in note)
    assert "(1, 0.5, 4)" in note
    assert "no record may have had a part" in note


@pytest.mark.parametrize(
    ("given", "signature", "words"),
    [
        ("1", TWO, "one number for each of 2 classes"),
        ("balanced", TWO, "counted from the records they would tell of them"),
        ("1,-2", TWO, "0 or more"),
        ("0,0", TWO, "not all 0"),
        ("1,nan", TWO, "finite"),
        ("1,2", ModelSignature((2,), 1, "regression"), "the target is a number"),
    ],
)
def test_class_weights_that_are_none_are_refused(given, signature, words):
    with pytest.raises(InvalidInput, match=words):
        build_model("mlp", signature, class_weights=given)


def test_an_own_loss_is_trained_and_shown(own):
    own.mistakes = lambda labels, outputs: tf.square(tf.cast(labels, tf.float32) - tf.sigmoid(outputs[:, 0]))
    model = build_model("mlp", TWO, loss="m:mistakes")
    assert model.problems(under_dp=True) == []
    outputs, labels = tf.constant([[2.0], [-1.0]]), tf.constant([1, 1])
    expected = (1 - 1 / (1 + np.exp([-2.0, 1.0]))) ** 2
    np.testing.assert_allclose(model.per_record_loss(outputs, labels), expected, rtol=1e-5)
    assert model.identity != build_model("mlp", TWO).identity


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda labels, outputs: tf.reduce_mean(outputs), r"returns shape \(\) for 4 records"),
        (lambda labels, outputs: outputs[:, 0] * tf.reduce_sum(outputs), "depends on the other records"),
        (lambda labels, outputs: outputs @ outputs, "fails for labels"),
        (lambda labels: labels, "fails for labels .* takes 1 positional argument"),
    ],
)
def test_an_own_loss_that_is_none_of_single_records_is_refused(loss, words, own):
    own.loss = loss
    with pytest.raises(InvalidInput, match=words):
        raise InvalidInput(build_model("mlp", TWO, loss="m:loss").problems(under_dp=False))


@pytest.mark.parametrize(("path", "words"), [("focal", "must be package"), ("m:absent", "has no function 'absent'")])
def test_a_loss_that_is_not_found_is_named(path, words, own):
    with pytest.raises(InvalidInput, match=words):
        build_model("mlp", TWO, loss=path)


@pytest.mark.parametrize("privacy", [{}, pytest.param(DP, marks=pytest.mark.slow)])
def test_both_runtimes_learn_the_same(privacy, own):
    own.loss = lambda labels, outputs: tf.square(tf.cast(labels, tf.float32) - tf.sigmoid(outputs[:, 0]))
    own.f = lambda: tf.keras.Sequential([tf.keras.Input((5,)), L.Dense(3, "tanh", kernel_regularizer="l2"), L.Dense(1)])
    settings = {"name": "m:f", "loss": "m:loss", "class_weights": "1,3", "l2": 0.01}
    plan = Plan(rounds=2).replace(model=settings, privacy=privacy, client={"local_steps": 3})
    assert review.problems(plan) == []
    runs = [train(plan, hospitals(), runtime=runtime) for runtime in ("compiled", "native")]
    for one, other in zip(*(run.weights for run in runs)):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)
    if privacy:
        plain = train(plan.replace(model={"name": "m:f", "loss": "", "class_weights": "", "l2": 0.0}), hospitals())
        assert plain.summary["epsilon"] == runs[0].summary["epsilon"]  # what is learnt changes no account


# Targets far from one.


def rmse(data, private=True, **model):
    privacy = {"mechanism": "dp_sgd", "noise_multiplier": 0.5, "clip_norm": 1.0} if private else {}
    plan = Plan(rounds=20).replace(
        model={"name": "logistic_regression", **model},
        client={"learning_rate": 0.2, "local_steps": 10, "batch_size": 16},
        privacy=privacy,
    )
    return train(plan, data)


def test_dp_sgd_learns_a_target_near_5500_on_the_scale_of_its_bounds():
    data = regressions()
    before, after = rmse(data, target_scaling="none"), rmse(data)
    spread = float(np.std(data.pooled_test().labels))
    assert before.evaluation["pooled"]["rmse"] > 4000.0
    assert after.evaluation["pooled"]["rmse"] < 0.5 * spread
    assert before.summary["epsilon"] == after.summary["epsilon"]
    assert any("learnt in its own unit" in text for text in before.summary["warnings"])
    assert any("(target - 5000) / 5000" in text for text in after.summary["warnings"])


def test_a_scaled_model_is_saved_and_read_in_original_units(tmp_path):
    data = regressions()
    run = rmse(data, private=False)
    features = data.pooled_test().features
    expected = run.model.scores(run.model.predict(run.weights, run.frozen, features, training=False))
    path = tmp_path / "model.keras"
    run.keras_model().save(path)
    shown = tf.keras.models.load_model(path)(features).numpy()[:, 0]
    np.testing.assert_allclose(shown, expected, rtol=1e-4)
    for options in ({}, {"target_scaling": "none"}):
        again = build_model("logistic_regression", data, pretrained=path, **options)
        weights, frozen = again.initial_weights(KEY)
        outputs = again.predict(weights, frozen, features, training=False)
        np.testing.assert_allclose(again.scores(outputs), expected, rtol=1e-4)
    for weight, read in zip(run.weights, run.model.weights_of_file(path)):
        np.testing.assert_allclose(weight, read, rtol=1e-4, atol=1e-5)


# Several inputs.


def several(generator, records):
    image = generator.normal(size=(records, 4, 4, 1)).astype(np.float32)
    table = generator.normal(size=(records, 3)).astype(np.float32)
    labels = (image.mean(axis=(1, 2, 3)) + table[:, 0] > 0).astype(np.int64)
    return {"table": table, "image": image}, labels


def two_inputs():
    image, table = tf.keras.Input((4, 4, 1), name="image"), tf.keras.Input((3,), name="table")
    flat = L.Flatten()(L.Conv2D(2, 3)(image))
    return tf.keras.Model([image, table], L.Dense(1)(L.Concatenate()([flat, L.Dense(2, "relu")(table)])))


class ByName(tf.keras.Model):
    def __init__(self):
        super().__init__()
        self.flat, self.last = L.Flatten(), L.Dense(1)

    def call(self, inputs):
        return self.last(tf.concat([self.flat(inputs["image"]), inputs["table"]], axis=1))


@pytest.mark.parametrize("builder", [two_inputs, ByName])
@pytest.mark.parametrize("privacy", [{}, pytest.param(DP, marks=pytest.mark.slow)])
def test_a_dictionary_of_features_reaches_its_inputs(builder, privacy, own):
    own.f = builder
    generator = np.random.default_rng(0)
    arrays = {name: several(generator, 24) for name in ("a", "b")}
    data = HospitalDataset.from_arrays(arrays, task="binary", secret=public_secret("several"))
    assert data.inputs == (("image", (4, 4, 1)), ("table", (3,)))
    plan = Plan(rounds=2).replace(model={"name": "m:f"}, privacy=privacy)
    run = train(plan, data)
    features, _ = several(np.random.default_rng(1), 5)
    shown = run.keras_model()(features).numpy()
    flat = np.concatenate([features["image"].reshape(5, -1), features["table"]], axis=1)
    expected = run.model.predict(run.weights, run.frozen, flat, training=False)
    np.testing.assert_allclose(shown, expected, rtol=1e-4, atol=1e-5)


def test_inputs_that_the_data_do_not_have_are_named(own):
    generator = np.random.default_rng(0)
    arrays = {"a": several(generator, 24), "b": several(generator, 24)}
    data = HospitalDataset.from_arrays(arrays, task="binary")

    def wrong(name="photo", shape=(4, 4, 1)):
        image, table = tf.keras.Input(shape, name=name), tf.keras.Input((3,), name="table")
        return tf.keras.Model([image, table], L.Dense(1)(L.Concatenate()([L.Flatten()(image), table])))

    own.f = wrong
    with pytest.raises(InvalidInput, match=r"the data know no photo.*image \(4, 4, 1\), table \(3,\)"):
        train(Plan(rounds=1).replace(model={"name": "m:f"}), data)
    own.f = lambda: wrong("image", (8,))
    with pytest.raises(InvalidInput, match=r"takes image of shape \(8,\), and the data have \(4, 4, 1\)"):
        train(Plan(rounds=1).replace(model={"name": "m:f"}), data)
    arrays["b"] = ({"table": arrays["b"][0]["table"]}, arrays["b"][1])
    with pytest.raises(InvalidInput, match="the same inputs and shapes at every hospital"):
        HospitalDataset.from_arrays(arrays, task="binary")


def test_columns_of_a_table_are_inputs_by_name(own):

    def builder():
        age, pain = tf.keras.Input((1,), name="age"), tf.keras.Input((1,), name="sex")
        return tf.keras.Model([age, pain], L.Dense(1)(L.Concatenate()([age, pain])))

    own.f = builder
    data = load_dataset("heart_disease")
    assert [name for name, _ in data.inputs][:2] == ["age", "sex"]
    assert train(Plan(rounds=1).replace(model={"name": "m:f"}), data).summary["rounds"] == 1


# What is saved of models that plain Keras cannot load.


class Unregistered(L.Layer):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, inputs):
        return inputs * self.factor


@pytest.mark.parametrize("layer", [lambda: L.Lambda(lambda x: 2 * x), lambda: Unregistered(2.0)])
def test_weights_and_configuration_are_saved_where_plain_keras_cannot_load(layer, own, tmp_path):
    own.f = lambda: tf.keras.Sequential([tf.keras.Input((5,)), layer(), L.Dense(1)])
    said = []
    plan = Plan(rounds=1).replace(model={"name": "m:f"})
    run = train(plan, hospitals(), run_dir=tmp_path, on_note=said.append)
    assert any("plain Keras cannot load" in text and "load_weights" in text for text in said)
    about = files.read_json(tmp_path / "model_config.json")
    assert about["load"].startswith("from m import f; model = f()")
    plain = own.f()
    plain.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(plain.weights[0], run.weights[0])
    assert (tmp_path / "summary.json").is_file()


def test_models_of_keras_own_layers_leave_one_file(tmp_path):
    train(Plan(rounds=1), hospitals(), run_dir=tmp_path)
    assert (tmp_path / "model.keras").is_file()
    assert not (tmp_path / "model.weights.h5").exists()
