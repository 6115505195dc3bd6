"""Clipped sums of per-record gradients: three ways to one number, whatever the layers."""

from __future__ import annotations

import concurrent.futures
import re

import numpy as np
import pytest
import tensorflow as tf
from few_fast import few_fast

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.models import FunctionalModel, ModelSignature, build_model, clipped_gradient_sum
from tff_hospitals.models.clipping import layer_groups
from tff_hospitals.models.per_record import method_for

pytestmark = pytest.mark.tensorflow

KEY = np.array([11, 22], np.int64)
layers = tf.keras.layers
FLAT, IMAGE, TOKENS = (6,), (8, 8, 2), (5,)


def sequential(shape, *inside, units=3):
    def build():
        return tf.keras.Sequential([layers.Input(shape), *(make() for make in inside), layers.Dense(units)])

    return FunctionalModel(build, ModelSignature(shape, units, "multiclass"))


def of(kind, *arguments, **keywords):
    return lambda: kind(*arguments, **keywords)


def batch_of(model, records=7, seed=0):
    generator = np.random.default_rng(seed)
    shape = (records, *model.feature_shape)
    tokens = any(isinstance(layer, layers.Embedding) for layer in model.keras.layers)
    features = generator.integers(0, 4, shape) if tokens else generator.normal(size=shape)
    labels = generator.integers(0, model.num_classes, records)
    mask = np.ones(records, np.float32)
    mask[[1, records - 1]] = 0.0
    return features.astype(np.float32), labels, mask


def weights_of(model, seed=0):
    """Weights off their first values: scales and offsets that are not just one and zero."""
    generator = np.random.default_rng(seed)
    trainable, frozen = model.initial_weights(KEY)
    moved = tuple(np.asarray(w + 0.3 * generator.normal(size=w.shape), np.float32) for w in trainable)
    return moved, frozen


def runner(model, *methods, style="flat", compiled=False, batch=None, weights=None):
    """A function of the clip norm that gives the results of all methods, traced once."""
    features, labels, mask = batch or batch_of(model)
    trainable, frozen = weights or weights_of(model)

    @tf.function(jit_compile=compiled)
    def run(trainable, frozen, features, labels, mask, clip_norm, key):
        arguments = (model, trainable, frozen, features, labels, mask, clip_norm)
        return [clipped_gradient_sum(*arguments, key=key, style=style, method=method) for method in methods]

    tensors = [tf.nest.map_structure(tf.constant, part) for part in (trainable, frozen, features, labels, mask)]
    return lambda clip_norm: run(*tensors, tf.constant(clip_norm, tf.float32), tf.constant(KEY))


def eagerly(model, method, clip_norm, style="flat"):
    features, labels, mask = batch_of(model)
    weights = weights_of(model)
    return clipped_gradient_sum(model, *weights, features, labels, mask, clip_norm, key=KEY, style=style, method=method)


def equal(results, expected, rtol=1e-5):
    """Equal relative to the largest number of each part, or of all parts where a part is as good as zero."""
    parts, references = tf.nest.flatten(results), tf.nest.flatten(expected)
    least = 1e-3 * max(float(tf.reduce_max(tf.abs(reference))) for reference in references)
    for part, reference in zip(parts, references):
        scale = max(float(tf.reduce_max(tf.abs(reference))), least)
        np.testing.assert_allclose(part / scale, reference / scale, rtol=0, atol=rtol)


class Gate(layers.Layer):
    """A layer of the user's own: no rule knows it."""

    def build(self, shape):
        self.gate = self.add_weight("gate", (shape[-1],), initializer="ones")
        self.power = [self.add_weight("power", (), initializer="ones")]

    def call(self, inputs):
        return inputs * tf.sigmoid(self.gate * inputs) * self.power[0]


class Block(layers.Layer):
    """A layer made of others, with a short cut around them."""

    def build(self, shape):
        self.first, self.second = layers.Dense(5, "relu"), layers.Dense(shape[-1])

    def call(self, inputs):
        return inputs + self.second(self.first(inputs))


class Tied(tf.keras.Model):
    """Uses a kernel outside the layer that owns it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = layers.Dense(6), layers.Dense(3)

    def call(self, inputs):
        hidden = tf.nn.relu(self.first(inputs))
        return self.last(tf.matmul(hidden, self.first.kernel, transpose_b=True))


def frozen_middle():
    return sequential(FLAT, of(layers.Dense, 5, "tanh"), of(layers.Dense, 4, "relu", trainable=False))


def shared_layer():
    def build():
        inputs = layers.Input(FLAT)
        twice = layers.Dense(6, "tanh")
        return tf.keras.Model(inputs, layers.Dense(3)(twice(twice(inputs))))

    return FunctionalModel(build, ModelSignature(FLAT, 3, "multiclass"))


def tied_kernel():
    return FunctionalModel(Tied, ModelSignature(FLAT, 3, "multiclass"))


def attention():
    def build():
        inputs = layers.Input((4, 6))
        attended = layers.MultiHeadAttention(2, 3, dropout=0.2)(inputs, inputs)
        return tf.keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.LayerNormalization()(inputs + attended))))

    return FunctionalModel(build, ModelSignature((4, 6), 3, "multiclass"))


def binary_sigmoid():
    def build():
        return tf.keras.Sequential([layers.Input(FLAT), layers.Dense(4, "relu"), layers.Dense(1, "sigmoid")])

    return FunctionalModel(build, ModelSignature(FLAT, 2, "binary"))


def regression():
    return build_model("mlp", ModelSignature(FLAT, 1, "regression"), hidden_units=(4,))


def convolution(**options):
    filters = options.pop("filters", 4)
    return lambda: sequential(IMAGE, of(layers.Conv2D, filters, activation="relu", **options), layers.Flatten)


def without_input(*inside):
    """A model whose builder leaves it to the first batch which shape it has."""

    def build():
        return tf.keras.Sequential([*(make() for make in inside), layers.Dense(3)])

    return lambda: FunctionalModel(build, ModelSignature(FLAT, 3, "multiclass"))


MODELS = {
    "without input": without_input(of(layers.Dense, 5, tf.nn.relu)),
    "nested without input": without_input(lambda: tf.keras.Sequential([layers.Dense(5, tf.nn.gelu)])),
    "logistic regression": lambda: sequential(FLAT),
    "without bias": lambda: sequential(FLAT, of(layers.Dense, 5, "relu", use_bias=False)),
    "mlp with dropout": lambda: sequential(FLAT, of(layers.Dense, 5, "relu"), of(layers.Dropout, 0.4)),
    "dense over few steps": lambda: sequential((4, 9), of(layers.Dense, 11, "tanh"), layers.Flatten),
    "dense over many steps": lambda: sequential((12, 3), of(layers.Dense, 2, "tanh"), layers.Flatten),
    "sigmoid": binary_sigmoid,
    "regression": regression,
    "conv same": convolution(kernel_size=3, padding="same"),
    "conv valid, strides": convolution(kernel_size=(3, 2), strides=(2, 1)),
    "conv same, strides": convolution(kernel_size=3, strides=2, padding="same", use_bias=False),
    "conv dilated": convolution(kernel_size=3, dilation_rate=2),
    "conv dilated, same": convolution(kernel_size=(2, 3), dilation_rate=(1, 2), padding="same"),
    "conv large kernel": convolution(kernel_size=5, padding="same"),
    "conv few positions": convolution(kernel_size=6, filters=8),
    "two convs, pooling": lambda: sequential(
        IMAGE,
        of(layers.Conv2D, 3, 3, padding="same"),
        layers.ReLU,
        layers.MaxPooling2D,
        of(layers.Conv2D, 9, 3),
        layers.Flatten,
    ),
    "group norm": lambda: sequential(
        IMAGE, of(layers.Conv2D, 6, 3), of(layers.GroupNormalization, 3), layers.ReLU, layers.Flatten
    ),
    "group norm, scale only": lambda: sequential(
        (6, 4), of(layers.Dense, 4), of(layers.GroupNormalization, 2, center=False), layers.Flatten
    ),
    "group norm, other axis": lambda: sequential((4, 6), of(layers.GroupNormalization, 2, axis=1), layers.Flatten),
    "layer norm": lambda: sequential((4, 6), layers.LayerNormalization, of(layers.Dense, 3, "relu"), layers.Flatten),
    "layer norm, two axes": lambda: sequential((4, 6), of(layers.LayerNormalization, axis=[1, 2]), layers.Flatten),
    "layer norm, other axis": lambda: sequential((4, 6), of(layers.LayerNormalization, axis=1), layers.Flatten),
    "layer norm, scale only": lambda: sequential(FLAT, of(layers.LayerNormalization, center=False)),
    "embedding": lambda: sequential(TOKENS, of(layers.Embedding, 9, 4), layers.Flatten),
    "embedding, small table": lambda: sequential(TOKENS, of(layers.Embedding, 4, 3), layers.Flatten),
    "attention": attention,
    "frozen layer": frozen_middle,
    "own layer": lambda: sequential(FLAT, Gate, of(layers.Dense, 4, "relu")),
    "own layer after dropout": lambda: sequential(FLAT, of(layers.Dropout, 0.3), Gate),
    "block of layers": lambda: sequential(FLAT, Block),
    "dropout of each step": lambda: sequential(
        (4, 3), of(layers.TimeDistributed, layers.Dropout(0.4)), layers.GlobalAveragePooling1D
    ),
    "noise": lambda: sequential(FLAT, of(layers.GaussianNoise, 0.3), of(layers.Dense, 4, "relu")),
    "shared layer": shared_layer,
    "kernel used elsewhere": tied_kernel,
}


def middle_norm(result):
    """A bound that clips about half of the records."""
    norms = result[1].numpy()
    return float(np.median(norms[norms > 0]))


# Further forms of layers that the others hold already.
FURTHER = {
    "nested without input",
    "without bias",
    "regression",
    "conv same, strides",
    "conv dilated",
    "conv dilated, same",
    "conv large kernel",
    "conv few positions",
    "two convs, pooling",
    "group norm, scale only",
    "group norm, other axis",
    "layer norm, two axes",
    "layer norm, other axis",
    "layer norm, scale only",
    "embedding, small table",
    "own layer after dropout",
    "noise",
}


@pytest.mark.parametrize(
    "name", few_fast(MODELS, set(MODELS) - FURTHER, ("conv dilated, same", "layer norm, two axes", "noise"))
)
def test_ghost_vectorised_and_loop_give_the_same_sum(name):
    model = MODELS[name]()
    assert model.problems(under_dp=True) == []
    clip_norm = middle_norm(eagerly(model, "loop", 1.0))
    loop = eagerly(model, "loop", clip_norm)
    ghost, vectorized = runner(model, "ghost", "vectorized")(clip_norm)
    equal(ghost, loop)
    equal(vectorized, loop)


SOME = ("mlp with dropout", "group norm", "embedding", "frozen layer", "block of layers", "own layer", "shared layer")


@pytest.mark.parametrize("style", ["per_layer", "automatic"])
@pytest.mark.parametrize("name", SOME[:4])
def test_other_styles_agree_too(name, style):
    model = MODELS[name]()
    loop = eagerly(model, "loop", 0.3, style)
    equal(eagerly(model, "ghost", 0.3, style), loop)
    if name == "mlp with dropout":
        equal(runner(model, "vectorized", style=style)(0.3), [loop])


@pytest.mark.parametrize("name", SOME)
def test_the_same_under_xla(name):
    model = MODELS[name]()
    (plain,) = runner(model, "auto")(0.3)
    (compiled,) = runner(model, "auto", compiled=True)(0.3)
    equal(compiled, plain)


def test_loop_and_vectorised_under_xla():
    model = MODELS["mlp with dropout"]()
    loop, vectorized = runner(model, "loop", "vectorized", compiled=True)(0.3)
    equal(vectorized, loop)
    equal(loop, eagerly(model, "loop", 0.3))


def test_eagerly_and_inside_a_while_loop():
    model = MODELS["mlp with dropout"]()
    features, labels, mask = map(tf.constant, batch_of(model))
    weights, frozen = weights_of(model)
    weights = tuple(map(tf.constant, weights))

    @tf.function
    def three_steps(weights):
        def step(number, weights):
            total, _, _ = clipped_gradient_sum(model, weights, frozen, features, labels, mask, 0.5, key=KEY)
            return number + 1, tuple(w - 0.1 * g for w, g in zip(weights, total))

        return tf.while_loop(lambda number, _: number < 3, step, (tf.constant(0), weights))[1]

    stepped = weights
    for _ in range(3):
        total, _, _ = clipped_gradient_sum(model, stepped, frozen, features, labels, mask, 0.5, key=KEY)
        stepped = tuple(w - 0.1 * g for w, g in zip(stepped, total))
    equal(three_steps(weights), stepped)


def test_two_records_by_hand():
    """Logistic regression at zero weights: the gradient of a record is (1/2 - label) times (features, 1)."""
    model = build_model("logistic_regression", ModelSignature((2,), 2, "binary"), init="zeros")
    features = np.array([[3.0, 4.0], [0.0, 0.0], [9.0, 9.0]], np.float32)
    labels, mask = np.array([1, 0, 1]), np.array([1.0, 1.0, 0.0], np.float32)
    for method in ("ghost", "vectorized", "loop"):
        weights = model.initial_weights(KEY)
        (result,) = runner(model, method, batch=(features, labels, mask), weights=weights)(1.0)
        (kernel, bias), norms, loss = result
        first, second = 0.5 * np.sqrt(3**2 + 4**2 + 1), 0.5
        np.testing.assert_allclose(norms, [first, second, 0.0], rtol=1e-6)
        np.testing.assert_allclose(kernel[:, 0], [-1.5 / first, -2.0 / first], rtol=1e-6)
        np.testing.assert_allclose(bias, [-0.5 / first + 0.5], rtol=1e-6)
        np.testing.assert_allclose(loss, np.log(2.0), rtol=1e-6)


@pytest.mark.parametrize("method", ["ghost", "vectorized", "loop"])
def test_padded_records_contribute_exactly_nothing(method):
    model = MODELS["layer norm"]()
    features, labels, mask = batch_of(model)
    other = np.where(mask[:, None, None] > 0, features, 1e3).astype(np.float32)
    weights = weights_of(model)

    @tf.function
    def run(features, labels, mask):
        return clipped_gradient_sum(model, *weights, features, labels, mask, 0.5, method=method)

    first = run(*map(tf.constant, (features, labels, mask)))
    second = run(*map(tf.constant, (other, np.where(mask > 0, labels, -1), mask)))
    for value, expected in zip(tf.nest.flatten(second), tf.nest.flatten(first)):
        np.testing.assert_array_equal(value, expected)
    nothing = run(*map(tf.constant, (features, labels, np.zeros_like(mask))))
    for value in tf.nest.flatten(nothing):
        np.testing.assert_array_equal(value, np.zeros_like(value))


def alone(model, record, style, clip_norm):
    features, labels, mask = batch_of(model)
    only = np.zeros_like(mask)
    only[record] = 1.0
    total, norms, _ = clipped_gradient_sum(model, *weights_of(model), features, labels, only, clip_norm, style=style)
    parts = [np.linalg.norm(part) for part in total]
    return np.linalg.norm(parts), float(norms[record]), parts


@pytest.mark.parametrize("style", ["flat", "per_layer", "automatic"])
def test_no_record_moves_the_sum_by_more_than_the_clip_norm(style):
    model = MODELS["group norm"]()
    clip_norm = 0.4
    for record in (0, 2):
        clipped, norm, parts = alone(model, record, style, clip_norm)
        assert norm > clip_norm
        assert clipped <= clip_norm * (1 + 1e-5)
        if style == "flat":
            assert clipped == pytest.approx(clip_norm, rel=1e-5)
        elif style == "automatic":
            assert clipped == pytest.approx(clip_norm * norm / (norm + 0.01), rel=1e-5)
        else:  # conv, norm and dense: three layers
            assert np.hypot(parts[-2], parts[-1]) <= clip_norm / np.sqrt(3) * (1 + 1e-5)
            assert layer_groups(model) == (0, 0, 1, 1, 2, 2)


def test_without_clipping_it_is_the_plain_gradient():
    model = MODELS["two convs, pooling"]()
    features, labels, mask = batch_of(model)
    weights, frozen = weights_of(model)
    weights = tuple(map(tf.constant, weights))
    with tf.GradientTape() as tape:
        tape.watch(weights)
        losses = mask * model.per_record_loss(model.predict(weights, frozen, features, training=True), labels)
    plain = tape.gradient(losses, weights)
    (result,) = runner(model, "ghost")(float("inf"))
    equal(result[0], plain)
    np.testing.assert_allclose(result[2], np.sum(losses) / mask.sum(), rtol=1e-6)


def test_a_gradient_of_zero_stays_zero():
    model = build_model("mlp", ModelSignature(FLAT, 1, "regression"), hidden_units=(4,))
    zeros = tuple(np.zeros(spec.shape, np.float32) for spec in model.trainable_specs)
    batch = np.ones((2, *FLAT), np.float32), np.zeros(2, np.float32), np.ones(2, np.float32)
    for style in ("flat", "per_layer", "automatic"):
        (result,) = runner(model, "ghost", style=style, batch=batch, weights=(zeros, ()))(1.0)
        for value in tf.nest.flatten(result):
            np.testing.assert_array_equal(value, np.zeros_like(value))


def test_large_models_are_vectorised_in_chunks(monkeypatch):
    from tff_hospitals.models import per_record

    model = MODELS["mlp with dropout"]()
    (whole,) = runner(model, "vectorized")(0.3)
    monkeypatch.setattr(per_record, "_CHUNK_BYTES", 12 * model.parameters * 2)  # two records at once, of seven
    (chunked,) = runner(model, "vectorized")(0.3)
    equal(chunked, whole)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mlp with dropout", "ghost norms: dense, dense_1"),
        ("without input", "ghost norms: dense, dense_1"),
        ("nested without input", "ghost norms: sequential/dense, dense_1"),
        ("group norm", "ghost norms: conv2d, group_normalization, dense"),
        ("block of layers", r"per-record gradients of the whole model: layer block \(Block\) is of no kind"),
        ("own layer", r"per-record gradients of the whole model: layer gate \(Gate\) is of no kind"),
        ("frozen layer", "ghost norms: dense, dense_2"),
        ("attention", "ghost norms: multi_head_attention/query, .*attention_output, layer_normalization, dense$"),
        ("shared layer", "per-record gradients of the whole model: layer dense is used 2 times"),
        (
            "kernel used elsewhere",
            "per-record gradients of the whole model: weight .*dense/kernel is also used",
        ),
    ],
)
def test_what_is_done_with_which_layer_is_said(name, words):
    assert re.match(words, method_for(MODELS[name]())[1])


def test_what_cannot_be_vectorised_is_done_record_by_record_and_said(monkeypatch):
    def refuse(*_):
        raise NotImplementedError("no vectorised form of Gate")

    monkeypatch.setattr(tf, "vectorized_map", refuse)
    model = MODELS["own layer"]()
    method, words = method_for(model)
    assert method == "loop"
    assert words == (
        "one record after the other, which is slow: layer gate (Gate) is of no kind that is known to compute every "
        "record by itself; it cannot be vectorised (NotImplementedError: no vectorised form of Gate)"
    )
    equal(runner(model, "auto")(0.3), runner(model, "loop")(0.3))


def test_a_gradient_that_cannot_be_vectorised_is_found_before_it_is_needed():
    """Only the way forward was tried: training then failed in its first step."""

    @tf.custom_gradient
    def one_way(inputs):
        def gradient(upstream):
            raise NotImplementedError("no vectorised form of this gradient")

        return tf.identity(inputs), gradient

    method, words = method_for(sequential(FLAT, of(layers.Dense, 4), of(layers.Lambda, one_way)))
    assert method == "loop"
    assert "cannot be vectorised (NotImplementedError: no vectorised form of this gradient)" in words


def test_two_threads_may_trace_the_same_model():
    model = MODELS["mlp with dropout"]()
    expected = eagerly(model, "ghost", 0.3)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        methods = ["ghost", "vectorized", "loop", "ghost", "loop"]
        for (result,) in pool.map(lambda method: runner(model, method)(0.3), methods):
            equal(result, expected)


def test_inside_a_graph_that_is_no_function():
    """TensorFlow Federated traces in such graphs; what is decided on first use must not land in them."""
    model = MODELS["own layer"]()
    features, labels, mask = batch_of(model)
    weights = weights_of(model)
    with tf.Graph().as_default():
        assert model.problems(under_dp=True) == []
        model.initial_weights(KEY + 7)
        total, _, _ = clipped_gradient_sum(model, *weights, features, labels, mask, 0.3)
        with tf.compat.v1.Session() as session:
            found = session.run(total)
    equal(found, eagerly(model, "loop", 0.3)[0])


def test_unknown_names_are_refused():
    model = MODELS["logistic regression"]()
    with pytest.raises(InvalidInput, match=r"style='flt'.*did you mean 'flat'"):
        clipped_gradient_sum(model, (), (), [[1.0]], [1], [1.0], 1.0, style="flt")
    with pytest.raises(InvalidInput, match=r"method='gost'.*did you mean 'ghost'"):
        clipped_gradient_sum(model, (), (), [[1.0]], [1], [1.0], 1.0, method="gost")
