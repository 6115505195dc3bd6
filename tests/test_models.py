"""Models as pure functions: the zoo, weights from keys, purity in every kind of trace, and what is refused."""

from __future__ import annotations

import random

import numpy as np
import pytest
import tensorflow as tf

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.models import FunctionalModel, ModelSignature, build_model, list_models, model_problems
from tff_hospitals.models.randomness import Rows, normal, uniform

pytestmark = pytest.mark.tensorflow

HEART = ModelSignature((13,), 2, "binary")
DIGITS = ModelSignature((8, 8), 10, "multiclass")
KEY, OTHER = np.array([1, 2], np.int64), np.array([1, 3], np.int64)
layers = tf.keras.layers


THREE = ModelSignature((4,), 3, "multiclass")


def functional(builder, signature=THREE, **options):
    return FunctionalModel(builder, signature, **options)


def random_batch(signature, records=6, seed=0):
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(records, *signature.feature_shape)).astype(np.float32)
    if signature.task == "regression":
        return features, generator.normal(size=records).astype(np.float32)
    return features, generator.integers(signature.num_classes, size=records)


def test_logistic_regression_on_heart_disease_has_13_weights_and_a_bias():
    model = build_model("logistic_regression", HEART)
    assert [tuple(spec.shape) for spec in model.trainable_specs] == [(13, 1), (1,)]
    assert model.trainable_names == ("output/kernel", "output/bias")
    assert model.parameters == 14


def test_mlp_784_200_10_has_159010_parameters():
    model = build_model("mlp", ModelSignature((784,), 10, "multiclass"), hidden_units=(200,))
    assert model.parameters == 784 * 200 + 200 + 200 * 10 + 10


@pytest.mark.parametrize("norm", ["group", "none"])
@pytest.mark.parametrize("shape", [(8, 8), (28, 28, 1)])
def test_cnn_fits_small_and_large_images(shape, norm):
    model = build_model("cnn", ModelSignature(shape, 10, "multiclass"), norm=norm)
    flat = 2 * 2 * 32 if shape == (8, 8) else 7 * 7 * 32
    convolutions = 9 * 16 + 9 * 16 * 32
    per_channel = 2 * (16 + 32) if norm == "group" else 16 + 32  # scale and offset, or biases
    assert model.parameters == convolutions + per_channel + (flat * 128 + 128) + (128 * 10 + 10)
    features, _ = random_batch(model.signature)
    assert model.predict(*model.initial_weights(KEY), features, training=True).shape == (6, 10)


def test_zero_start_predicts_a_half_and_loses_ln_2():
    model = build_model("logistic_regression", HEART, init="zeros")
    features, labels = random_batch(HEART)
    outputs = model.predict(*model.initial_weights(KEY), features, training=False)
    np.testing.assert_allclose(model.scores(outputs), 0.5)
    np.testing.assert_allclose(model.per_record_loss(outputs, labels), np.log(2.0), rtol=1e-6)


def test_losses_and_scores_by_hand():
    three = build_model("logistic_regression", ModelSignature((2,), 3, "multiclass"))
    outputs = tf.constant([[np.log(2.0), np.log(1.0), np.log(5.0)]], tf.float32)
    np.testing.assert_allclose(three.scores(outputs), [[2 / 8, 1 / 8, 5 / 8]], rtol=1e-6)
    np.testing.assert_allclose(three.per_record_loss(outputs, [0]), [np.log(4.0)], rtol=1e-6)
    assert three.correct(outputs, [2]).numpy() == [1.0]
    assert three.correct(outputs, [0]).numpy() == [0.0]
    two = build_model("logistic_regression", HEART)
    np.testing.assert_allclose(
        two.per_record_loss(tf.constant([[np.log(3.0)]], tf.float32), [1]), [np.log(4 / 3)], rtol=1e-6
    )
    assert np.isfinite(two.per_record_loss(tf.constant([[1e4]]), [0])).all()  # from probabilities it would overflow
    line = build_model("logistic_regression", ModelSignature((2,), 1, "regression"))
    np.testing.assert_allclose(line.per_record_loss(tf.constant([[3.0]]), [1.0]), [4.0])
    assert np.isnan(line.correct(tf.constant([[3.0]]), [1.0])).all()


@pytest.mark.parametrize("name", list_models())
def test_a_key_decides_the_first_weights(name):
    first, again = build_model(name, DIGITS), build_model(name, DIGITS)
    weights, _ = first.initial_weights(KEY)
    same, _ = again.initial_weights(KEY)
    other, _ = first.initial_weights(OTHER)
    for value, equal in zip(weights, same):
        np.testing.assert_array_equal(value, equal)
    assert np.abs(weights[0] - other[0]).max() > 0.01


def test_building_leaves_the_random_state_of_others_alone():
    def draws():
        random.seed(5)
        np.random.seed(5)
        tf.random.set_seed(5)
        yield (random.random(), np.random.rand(), float(tf.random.uniform([])), tf.keras.layers.Dense(1).name[:5])
        yield (random.random(), np.random.rand(), float(tf.random.uniform([])), float(tf.random.uniform([], seed=3)))

    undisturbed = list(draws())
    disturbed = draws()
    collected = [next(disturbed)]
    build_model("mlp", HEART).initial_weights(KEY)
    collected.append(next(disturbed))
    assert collected == undisturbed


def test_layer_names_do_not_depend_on_what_was_built_before():
    def builder():
        return tf.keras.Sequential([layers.Input((4,)), layers.Dense(5), layers.Dense(3)])

    names = [functional(builder).trainable_names for _ in range(2)]
    assert names[0] == names[1] == ("dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias")


def test_same_step_eagerly_in_a_function_under_xla_in_a_loop_and_vectorised():
    model = build_model("mlp", DIGITS, dropout=0.3)
    weights, frozen = model.initial_weights(KEY)
    features, labels = random_batch(DIGITS)

    def step(weights, features, labels):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            outputs = model.predict(weights, frozen, features, training=True, key=KEY)
            loss = tf.reduce_mean(model.per_record_loss(outputs, labels))
        return (outputs, loss, *tape.gradient(loss, weights))

    def looped(weights, features, labels):
        start = step(weights, features, labels)
        return tf.while_loop(
            lambda i, *_: i < 2, lambda i, *_: (i + 1, *step(weights, features, labels)), (tf.constant(0), *start)
        )[1:]

    arguments = tuple(map(tf.constant, weights)), tf.constant(features), tf.constant(labels)
    reference = step(*arguments)
    for function in (tf.function(step), tf.function(step, jit_compile=True), tf.function(looped)):
        for value, expected in zip(function(*arguments), reference):
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)

    @tf.function
    def one_by_one(features):
        def single(item):
            record, index = item
            rows = Rows(index[None], len(labels))
            return model.predict(weights, frozen, record[None], training=True, key=KEY, rows=rows)[0]

        return tf.vectorized_map(single, (features, tf.range(len(labels))))

    np.testing.assert_allclose(one_by_one(arguments[1]), reference[0], rtol=1e-4, atol=1e-6)


def test_predict_neither_reads_nor_writes_the_models_variables():
    model = build_model("mlp", DIGITS)
    before = [variable.numpy() for variable in model.keras.variables]
    zeros = [tf.zeros(spec.shape) for spec in model.trainable_specs]
    features, _ = random_batch(DIGITS)
    np.testing.assert_array_equal(model.predict(zeros, (), features, training=False), np.zeros((6, 10)))
    graph = tf.function(lambda w: model.predict(w, (), features, training=False)).get_concrete_function(zeros).graph
    assert not [tensor for tensor in graph.external_captures if tensor.dtype == tf.resource]
    assert model.keras.variables[0] is model.keras.layers[2].kernel  # the layer has its variable back
    for variable, value in zip(model.keras.variables, before):
        np.testing.assert_array_equal(variable, value)


def test_dropout_is_a_function_of_its_key():
    model = build_model("mlp", DIGITS, dropout=0.5)
    weights = model.initial_weights(KEY)
    features, _ = random_batch(DIGITS)
    first, again, other = (
        np.asarray(model.predict(*weights, features, training=True, key=key)) for key in (KEY, KEY, OTHER)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    with pytest.raises(InvalidInput, match="needs a key"):
        model.predict(*weights, features, training=True)
    assert model.predict(*weights, features, training=False).shape == (6, 10)


def test_dropout_keeps_the_asked_share_and_the_mean():
    model = functional(
        lambda: tf.keras.Sequential([layers.Input((4000,)), layers.Dropout(0.25), layers.Dense(3)]),
        ModelSignature((4000,), 3, "multiclass"),
    )
    weights = [np.ones((4000, 3), np.float32) / 4000, np.zeros(3, np.float32)]
    outputs = model.predict(weights, (), np.ones((50, 4000), np.float32), training=True, key=KEY)
    # 200,000 draws: the mean of kept/0.75 has a standard error of 0.0013.
    assert abs(float(tf.reduce_mean(outputs)) - 1.0) < 0.006


@pytest.mark.parametrize("sample", [uniform, normal])
def test_own_draws_are_equal_with_and_without_xla(sample):
    def draw():
        return sample([1000], KEY)

    np.testing.assert_allclose(tf.function(draw)(), tf.function(draw, jit_compile=True)(), rtol=2e-6, atol=1e-7)


def test_own_normal_draws_are_standard_normal_up_to_the_tails():
    values = np.asarray(normal([1_000_001], KEY))
    assert values.shape == (1_000_001,)
    assert abs(values.mean()) < 4e-3
    assert abs(values.std() - 1.0) < 3e-3
    # Shares beyond 1, 2, 3 and 4 deviations: 0.3173, 0.0455, 0.0027 and 6.33e-5, each within four standard errors.
    for bound, share in ((1, 0.31731), (2, 0.0455003), (3, 0.0026998), (4, 6.3342e-5)):
        for sign in (1, -1):
            error = 4 * np.sqrt(share / 2 / len(values))
            assert abs(np.mean(sign * values > bound) - share / 2) < error
    pairs = values[:-1:2], values[1::2]
    assert abs(np.corrcoef(*pairs)[0, 1]) < 6e-3
    assert abs(np.corrcoef(np.abs(pairs))[0, 1]) < 6e-3


def test_own_normal_draws_are_the_inverse_distribution_of_their_bits(monkeypatch):
    from scipy import special

    magnitudes = np.unique(np.geomspace(1, 2**31 - 200, 20_000).astype(np.int64)).astype(np.int32)
    monkeypatch.setattr(tf.random, "stateless_uniform", lambda *_, **__: tf.constant(magnitudes))
    values = np.asarray(normal(magnitudes.shape, KEY), np.float64)
    expected = -special.ndtri((magnitudes + 0.5) * 2.0**-32)
    assert expected.max() > 6.1
    near = expected < 5.4
    assert np.abs(values - expected)[near].max() < 2e-6
    assert np.abs(values - expected).max() < 3e-3


def test_own_normal_draws_have_the_asked_shape_also_when_it_is_a_tensor():
    fixed = normal([3, 5], KEY)
    dynamic = tf.function(lambda rows: normal([rows, 5], KEY))(tf.constant(3))
    np.testing.assert_array_equal(fixed, dynamic)


def test_keras_model_has_the_given_weights():
    model = build_model("cnn", DIGITS)
    weights = model.initial_weights(KEY)
    features, _ = random_batch(DIGITS)
    plain = model.keras_model(*weights)
    np.testing.assert_allclose(plain(features), model.predict(*weights, features, training=False), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"groups": 3}, {"groups": 6, "scale": False}, {"groups": 2, "center": False}])
def test_fast_group_norm_is_keras_group_norm_up_to_its_second_derivative(options):
    model = functional(
        lambda: tf.keras.Sequential(
            [layers.Input((5, 4, 6)), layers.GroupNormalization(**options), layers.Flatten(), layers.Dense(3)]
        ),
        ModelSignature((5, 4, 6), 3, "multiclass"),
    )
    weights, frozen = model.initial_weights(KEY)
    generator = np.random.default_rng(0)
    weights = tuple(w + generator.normal(size=w.shape).astype(np.float32) for w in weights)
    plain = model.keras_model(weights, frozen)
    features = tf.constant(3.0 + generator.normal(size=(2, 5, 4, 6)), tf.float32)

    def derivatives(predict):
        with tf.GradientTape() as outer:
            outer.watch(features)
            with tf.GradientTape() as inner:
                inner.watch(features)
                outputs = predict(features)
            first = inner.gradient(outputs, features)
            length = tf.reduce_sum(first**2)
        return outputs, first, outer.gradient(length, features)

    ours = derivatives(lambda x: model.predict(weights, frozen, x, training=True))
    for value, expected in zip(ours, derivatives(plain)):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("units", "activation"), [(1, "sigmoid"), (2, "softmax"), (2, None), (1, None)])
def test_predict_gives_logits_whatever_the_model_ends_in(units, activation):
    def builder():
        return tf.keras.Sequential([layers.Input((13,)), layers.Dense(units, activation=activation)])

    model = functional(builder, HEART)
    assert model.output_activation == (activation or "linear")
    assert model.problems(under_dp=True) == []
    weights = model.initial_weights(KEY)
    features, _ = random_batch(HEART)
    kernel, bias = weights[0]
    expected = features @ kernel + bias
    for predict in (model.predict, tf.function(model.predict)):
        np.testing.assert_allclose(predict(*weights, features, training=False), expected, rtol=1e-4, atol=1e-5)
    if activation:  # the Keras model that comes back still gives probabilities
        assert float(tf.reduce_max(model.keras_model(*weights)(features))) <= 1.0


def test_sigmoid_inside_a_regression_stays():
    model = functional(
        lambda: tf.keras.Sequential([layers.Input((4,)), layers.Dense(1, activation="sigmoid")]),
        ModelSignature((4,), 1, "regression"),
    )
    outputs = model.predict(*model.initial_weights(KEY), 100 * np.ones((2, 4), np.float32), training=False)
    assert 0.0 <= float(tf.reduce_min(outputs)) <= float(tf.reduce_max(outputs)) <= 1.0


def test_masks_freeze_all_other_layers_by_name_or_pattern():
    model = build_model("mlp", DIGITS, hidden_units=(5, 4), trainable="output")
    assert model.trainable_names == ("output/kernel", "output/bias")
    assert model.frozen_names == ("dense_1/kernel", "dense_1/bias", "dense_2/kernel", "dense_2/bias")
    _, frozen = model.initial_weights(KEY)
    assert [value.shape for value in frozen] == [(64, 5), (5,), (5, 4), (4,)]
    whole, _ = build_model("mlp", DIGITS, hidden_units=(5, 4)).initial_weights(KEY)
    np.testing.assert_array_equal(whole[0], frozen[0])
    patterns = build_model("mlp", DIGITS, hidden_units=(5, 4), trainable=["dense_*"])
    assert patterns.frozen_names == ("output/kernel", "output/bias")
    with pytest.raises(InvalidInput, match=r"trainable='conv_\*'.*dense_1, output"):
        build_model("mlp", DIGITS, trainable="conv_*,output")


def test_frozen_batch_normalization_uses_its_saved_averages():
    def builder():
        return tf.keras.Sequential([layers.Input((4,)), layers.BatchNormalization(trainable=False), layers.Dense(3)])

    model = functional(builder)
    assert model.problems(under_dp=True) == []
    assert len(model.frozen_names) == 4


def test_keep_initial_ignores_the_key():
    model = build_model("mlp", DIGITS, keep_initial=True)
    np.testing.assert_array_equal(model.initial_weights(KEY)[0][0], model.initial_weights(OTHER)[0][0])


def test_unknown_names_and_options_are_refused_together():
    found = model_problems("mpl", HEART)
    assert [problem.name for problem in found] == ["model"]
    assert "did you mean 'mlp'" in found[0].remedy
    with pytest.raises(InvalidInput) as caught:
        build_model("cnn", HEART, norm="batch", filters=(0,), hidden_units=(3,), dropout=1.0, trainable="")
    assert {problem.name for problem in caught.value.problems} == {
        "norm",
        "filters",
        "hidden_units",
        "dropout",
        "trainable",
        "feature_shape",
    }
    assert "choose norm=group" in str(caught.value)
