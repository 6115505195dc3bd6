"""Every layer kind that has a ghost rule: norms and clipped sums are those of exact gradients of single records."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import tensorflow as tf
from few_fast import few_fast

from tff_hospitals.models import FunctionalModel, ModelSignature, clipped_gradient_sum, mixing
from tff_hospitals.models.per_record import fallback, method_for
from tff_hospitals.models.randomness import Rows

pytestmark = pytest.mark.tensorflow

KEY = np.array([11, 22], np.int64)
RECORDS, CLASSES = 3, 3
layers = tf.keras.layers
SEQUENCE, IMAGE, VOLUME, TOKENS = (6, 4), (6, 5, 4), (4, 3, 4, 2), (5,)


def model_of(shape, *inside):
    """Layers one after the other, and a dense one behind them."""

    def build():
        made = [one() if isinstance(one, type) else one.__class__.from_config(one.get_config()) for one in inside]
        return tf.keras.Sequential([layers.Input(shape), *made, layers.Flatten(), layers.Dense(CLASSES)])

    return FunctionalModel(build, ModelSignature(shape, CLASSES, "multiclass"))


def functional(shape, body):
    """A functional model around `body`."""

    def build():
        inputs = layers.Input(shape)
        return tf.keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(body(inputs))))

    return FunctionalModel(build, ModelSignature(shape, CLASSES, "multiclass"))


def batch_of(model, records=RECORDS):
    generator = np.random.default_rng(3)
    shape = (records, *model.feature_shape)
    features = generator.integers(0, 6, shape) if len(shape) == 2 else generator.normal(size=shape)
    if len(shape) == 3:
        features[0, 2:4] = 0.0  # what Masking leaves out
        features[-1, -1:] = 0.0
    return features.astype(np.float32), generator.integers(0, CLASSES, records)


def weights_of(model):
    """Off their first values: biases that are not zero, recurrent kernels that are not orthogonal."""
    generator = np.random.default_rng(5)
    trainable, frozen = model.initial_weights(KEY)
    return tuple(np.asarray(w + 0.2 * generator.normal(size=w.shape), np.float32) for w in trainable), frozen


def exact_gradients(model, weights, frozen, features, labels):
    """The gradient of each record alone, by a tape."""
    weights, found = tuple(map(tf.constant, weights)), []
    for row in range(len(features)):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            rows = Rows(tf.constant([row]), len(features))
            record = features[row : row + 1]
            outputs = model.predict(weights, frozen, record, training=True, key=KEY, rows=rows)
            loss = model.per_record_loss(outputs, labels[row : row + 1])
        zero = tf.UnconnectedGradients.ZERO
        gradients = [tf.convert_to_tensor(one) for one in tape.gradient(loss, weights, unconnected_gradients=zero)]
        found.append([one.numpy().astype(np.float64) for one in gradients])
    return found


def check(model, records=RECORDS, call=clipped_gradient_sum):
    """Norms to 1e-5, and the sum of what is clipped to half of the norms' median."""
    features, labels = batch_of(model, records)
    weights, frozen = weights_of(model)
    each = exact_gradients(model, weights, frozen, features, labels)
    norms = np.array([np.sqrt(sum(np.sum(one**2) for one in gradient)) for gradient in each])
    assert np.all(norms > 1e-3)
    clip_norm = np.float32(0.5 * np.median(norms))
    total, found, _ = call(model, weights, frozen, features, labels, np.ones(records), clip_norm, key=KEY)
    np.testing.assert_allclose(found, norms, rtol=1e-5)
    factors = np.minimum(1.0, clip_norm / norms)
    for part, of_records in zip(total, zip(*each)):
        expected = sum(factor * one for factor, one in zip(factors, of_records))
        np.testing.assert_allclose(part, expected, rtol=0, atol=1e-5 * max(np.max(np.abs(expected)), 1e-3 * clip_norm))


def sums(*made):
    """Layers that end in a sum over steps, so that steps may cancel each other."""
    return (*made, layers.GlobalAveragePooling1D())


# Gates that let Keras skip its kernel for graphics processors, which takes seconds to build.
PLAIN = {"recurrent_activation": "hard_sigmoid"}
CASES = {
    "conv1d, causal, dilated": (SEQUENCE, layers.Conv1D(3, 3, padding="causal", dilation_rate=2, activation="tanh")),
    "conv1d, same, strides": (SEQUENCE, layers.Conv1D(3, 4, strides=2, padding="same", use_bias=False)),
    "conv1d, few positions": (SEQUENCE, layers.Conv1D(9, 6)),
    "conv1d, groups": (SEQUENCE, layers.Conv1D(6, 3, groups=2)),
    "conv1d of several rows": (IMAGE, layers.Conv1D(3, 2, strides=2)),
    "conv2d, groups, dilated": (IMAGE, layers.Conv2D(4, 2, groups=4, dilation_rate=2, padding="same")),
    "conv2d of a sequence": (VOLUME, layers.Conv2D(3, 2, activation="relu")),
    "conv3d": (VOLUME, layers.Conv3D(3, 2, padding="same", strides=(1, 2, 2))),
    "conv3d, dilated": (VOLUME, layers.Conv3D(3, 2, dilation_rate=(1, 2, 1), use_bias=False)),
    "conv1d transposed": (SEQUENCE, layers.Conv1DTranspose(3, 3, strides=2, padding="same")),
    "conv2d transposed": (IMAGE, layers.Conv2DTranspose(3, 3, strides=2, padding="same", activation="tanh")),
    "conv2d transposed, longer": (IMAGE, layers.Conv2DTranspose(2, 3, strides=(2, 3), output_padding=1)),
    "conv2d transposed, wide": ((2, 2, 5), layers.Conv2DTranspose(8, 3, use_bias=False)),
    "conv3d transposed": (VOLUME, layers.Conv3DTranspose(2, 2, strides=2)),
    "depthwise 1d": (SEQUENCE, layers.DepthwiseConv1D(3, strides=2, padding="same", depth_multiplier=2)),
    "depthwise 1d, dilated": (SEQUENCE, layers.DepthwiseConv1D(3, dilation_rate=2, use_bias=False)),
    "depthwise 2d": (IMAGE, layers.DepthwiseConv2D(3, strides=2, padding="same", activation="relu")),
    "depthwise 2d, dilated": (IMAGE, layers.DepthwiseConv2D(2, dilation_rate=2, depth_multiplier=2, padding="same")),
    "separable 1d, causal": (SEQUENCE, layers.SeparableConv1D(3, 3, padding="causal", dilation_rate=2)),
    "separable 1d, strides": (SEQUENCE, layers.SeparableConv1D(3, 3, strides=2, depth_multiplier=2, activation="tanh")),
    "separable 2d": (IMAGE, layers.SeparableConv2D(3, 3, padding="same", strides=2, activation="relu")),
    "separable 2d, dilated": (IMAGE, layers.SeparableConv2D(3, 2, dilation_rate=2, use_bias=False)),
    "einsum": (SEQUENCE, layers.EinsumDense("...x,xy->...y", 5, bias_axes="y", activation="relu")),
    "einsum, two axes": (IMAGE, layers.EinsumDense("abcd,cde->abe", (6, 3), bias_axes="be")),
    "einsum, one vector": ((6,), layers.EinsumDense("ab,bc->ac", 4)),
    "einsum, shared axis": (SEQUENCE, layers.EinsumDense("abc,bc->abc", (6, 4), bias_axes="c")),
    "einsum, dots behind": (SEQUENCE, layers.EinsumDense("ab...,bc->ac...", 3, bias_axes="c")),
    "einsum, other order": (SEQUENCE, layers.EinsumDense("abc,dc->adb", (3, 6))),
    "layer norm, axes in another order": (IMAGE, layers.LayerNormalization(axis=[3, 1])),
    "lstm": (SEQUENCE, layers.LSTM(5)),
    "lstm, all steps": (SEQUENCE, *sums(layers.Masking(), layers.LSTM(3, return_sequences=True, **PLAIN, dropout=0.3))),
    "lstm backwards": (SEQUENCE, layers.Masking(), layers.LSTM(3, go_backwards=True, use_bias=False)),
    "gru": (SEQUENCE, layers.Masking(), layers.GRU(5)),
    "gru, reset before": (SEQUENCE, layers.GRU(4, reset_after=False, dropout=0.3, unroll=True)),
    "gru, gate by gate": (SEQUENCE, layers.Masking(), layers.GRU(4, implementation=1, **PLAIN)),
    "gru without bias": (SEQUENCE, *sums(layers.GRU(4, use_bias=False, go_backwards=True, return_sequences=True))),
    "simple rnn": (SEQUENCE, *sums(layers.SimpleRNN(3, dropout=0.2, recurrent_dropout=0.3, return_sequences=True))),
    "bidirectional": (SEQUENCE, layers.Masking(), layers.Bidirectional(layers.LSTM(3, **PLAIN))),
    "bidirectional, all steps": (
        SEQUENCE,
        layers.Masking(),
        layers.Bidirectional(layers.GRU(3, return_sequences=True, **PLAIN), merge_mode="sum"),
    ),
    "tokens with mask": (TOKENS, layers.Embedding(6, 4, mask_zero=True), layers.Bidirectional(layers.SimpleRNN(3))),
}
# One of each rule; the others are further forms of the same: some in the slow part, the rest is rare.
FIRST = {
    "conv1d, causal, dilated",
    "conv1d, groups",
    "conv3d",
    "conv2d transposed",
    "depthwise 1d",
    "separable 1d, causal",
    "einsum, two axes",
    "einsum, shared axis",
    "layer norm, axes in another order",
    "lstm backwards",
    "gru, reset before",
    "tokens with mask",
}

SLOW = {"conv2d of a sequence", "depthwise 2d, dilated", "bidirectional"}


@pytest.mark.parametrize("name", few_fast(CASES, FIRST, SLOW))
def test_norms_and_sums_are_those_of_single_records(name):
    shape, *inside = CASES[name]
    model = model_of(shape, *inside)
    assert method_for(model)[0] == "ghost"
    assert fallback(model) is None
    check(model)


@pytest.mark.parametrize(
    "name",
    few_fast(
        ["conv1d, groups", "separable 2d", "gru, gate by gate", "bidirectional", "lstm"],
        slow=["gru, gate by gate"],
    ),
)
def test_under_xla_as_well_and_one_record_alone(name):
    shape, *inside = CASES[name]
    model = model_of(shape, *inside)
    check(model, records=1)

    def call(model, *arguments, **keywords):
        compiled = tf.function(lambda *tensors: clipped_gradient_sum(model, *tensors, **keywords), jit_compile=True)
        return compiled(*tf.nest.map_structure(tf.constant, arguments))

    check(model, call=call)


@pytest.mark.parametrize(
    "name",
    few_fast(
        [*CASES, "a large table"],
        {"conv1d, groups", "einsum, two axes", "a large table"},
        ["tokens with mask", "gru, reset before", "conv2d transposed", "separable 1d, causal"],
    ),
)
def test_with_a_number_of_records_that_is_not_known_when_it_is_traced(name):
    """As TFF's client work is traced: a table too large for a gradient of its own for each record could not be."""
    shape, *inside = {**CASES, "a large table": (TOKENS, layers.Embedding(40, 4))}[name]
    model = model_of(shape, *inside)

    def call(model, weights, frozen, features, labels, *rest, **keywords):
        records = [tf.TensorSpec([None, *model.feature_shape], tf.float32), tf.TensorSpec([None], tf.int64)]

        @tf.function(input_signature=records, autograph=False)
        def run(features, labels):
            return clipped_gradient_sum(model, weights, frozen, features, labels, *rest, **keywords)

        return run(tf.constant(features), tf.constant(labels))

    check(model, call=call)


@pytest.mark.parametrize("method", ["ghost", "vectorized"])
def test_numbers_that_are_in_no_table_do_not_reach_the_tables_of_other_records(method):
    """Compiled code reads some row for them; they counted as rows of the neighbours' tables, past the clip norm."""
    model = model_of(TOKENS, layers.Embedding(4, 2))
    weights, frozen = weights_of(model)
    labels = np.zeros(3, np.int64)

    @tf.function(jit_compile=True, autograph=False)
    def run(features):
        return clipped_gradient_sum(model, weights, frozen, features, labels, np.ones(3), 0.1, method=method)

    norms = [run(tf.constant([[1.0] * 5, [one] * 5, [2.0] * 5]))[1].numpy() for one in (0.0, 5.0, -2.0)]
    for other in norms[1:]:
        np.testing.assert_array_equal(other[[0, 2]], norms[0][[0, 2]])


class Doubled(layers.Conv1D):
    """Computes something else than Keras' layer of that name."""

    def call(self, inputs):
        return 2.0 * super().call(inputs)


class DoubledCell(layers.SimpleRNNCell):
    """A cell that computes something else than Keras' cell of that name."""

    def call(self, inputs, states, training=None):
        output, after = super().call(2.0 * inputs, states, training)
        return output, after


def unequal_gates():
    return layers.LSTM(3, recurrent_dropout=0.3, return_sequences=True)


def repeated(make):
    """A model that uses one layer twice."""

    def body(inputs):
        layer = make()
        return layers.Add()([layer(inputs), layer(0.5 * inputs)])

    return functional(SEQUENCE, body)


FALLBACKS = {
    "a subclass": (lambda: model_of(SEQUENCE, Doubled(3, 2)), "whole model: layer doubled (Doubled) is of no kind"),
    "a cell of one's own": (
        lambda: functional(SEQUENCE, lambda inputs: layers.RNN(DoubledCell(3))(inputs)),
        "whole model: layer rnn (RNN) is of no kind",
    ),
    "a mask for each gate": (
        lambda: functional(SEQUENCE, lambda inputs: unequal_gates()(layers.Masking()(inputs))),
        "per-record gradients: lstm",
    ),
    "no rule": (lambda: model_of(SEQUENCE, layers.Conv1D(3, 2), layers.PReLU()), "per-record gradients: p_re_lu"),
    "used twice": (lambda: repeated(lambda: layers.Conv1D(3, 2)), "whole model: layer conv1d is used 2 times"),
    "recurrent, used twice": (
        lambda: repeated(lambda: layers.SimpleRNN(3)),
        "whole model: layer simple_rnn is used 2 times",
    ),
    "a state to begin with": (
        lambda: functional(SEQUENCE, lambda inputs: layers.SimpleRNN(4)(inputs, initial_state=inputs[:, 0])),
        "whole model: layer",
    ),
}


QUICK = {"a subclass", "no rule", "used twice"}


@pytest.mark.parametrize("name", few_fast(FALLBACKS, QUICK, ["a state to begin with"]))
def test_what_has_no_rule_is_named_and_computed_exactly(name):
    make, words = FALLBACKS[name]
    model = make()
    assert words in fallback(model)
    check(model)


def test_every_kind_with_weights_that_is_known_to_keep_records_apart_has_a_rule():
    """Or is named here: a kind that is added to the one list is thought of in the other."""
    without = {"PReLU", "SimpleRNNCell", "LSTMCell", "GRUCell"}
    names = {type(made).__name__ for _, *inside in CASES.values() for made in inside if isinstance(made, layers.Layer)}
    older = {"Dense", "Conv2D", "Embedding", "LayerNormalization", "GroupNormalization"}  # in test_models_per_record
    weighted = set()
    for kind in mixing._ALONE:
        bases = [base for base in kind.__mro__ if base.__module__.startswith("keras.src.layers")]
        if any("add_weight(" in inspect.getsource(base) for base in bases):
            weighted.add(kind.__name__)
    assert {"Conv3D", "PReLU", "EinsumDense", "SeparableConv1D"} <= weighted
    assert weighted - without <= names | older
