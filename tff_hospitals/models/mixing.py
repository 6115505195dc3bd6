"""Whether a record's part of a batch's result depends on the other records of the batch.

Clipping each record's gradient bounds what one record does only where no layer mixes records. Models that consist of
Keras' own layers of a few kinds are known not to. No look at a few batches proves it of others; this one is made so
that a layer has to try hard to pass: batches of several scales, real ones among them, in which one record after the
other is replaced by outliers of 1 to 1e4 of either sign, by the end of float32, by zeros, by infinity and by NaN. In
training and in inference no result of another record, and no gradient that reaches its features (a layer may mix in its
gradient alone), may move.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tff_hospitals.models import building, einsums, failures
from tff_hospitals.models.mixing_place import Observed, Place
from tff_hospitals.models.randomness import Rows
from tff_hospitals.models.tracing import plain_python

RECORDS = 4
"""Records of a batch that a model is looked at with."""
# The change of another record's result, relative to its size, that rounding explains: the same kernels see the same
# shapes. Another number of records may take other kernels.
_ROUNDING, _OTHER_KERNELS = 1e-5, 1e-3
_SIZES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e30)
_KEY = np.array([3, 4], np.int64)

layers = tf.keras.layers
_CONTAINERS = ("Functional", "Sequential")
_ALONE_BY_NAME = (
    "InputLayer Dense EinsumDense Conv1D Conv2D Conv3D Conv1DTranspose Conv2DTranspose Conv3DTranspose DepthwiseConv1D "
    "DepthwiseConv2D SeparableConv1D SeparableConv2D Embedding Flatten Reshape Permute RepeatVector Dropout "
    "SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianNoise GaussianDropout Masking ReLU LeakyReLU PReLU ELU "
    "ThresholdedReLU Activation Rescaling ZeroPadding1D ZeroPadding2D ZeroPadding3D Cropping1D Cropping2D Cropping3D "
    "UpSampling1D UpSampling2D UpSampling3D MaxPooling1D MaxPooling2D MaxPooling3D AveragePooling1D AveragePooling2D "
    "AveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GlobalAveragePooling1D "
    "GlobalAveragePooling2D GlobalAveragePooling3D Add Subtract Multiply Average Maximum Minimum Concatenate Softmax "
    "SimpleRNN SimpleRNNCell LSTM LSTMCell GRU GRUCell Bidirectional MultiHeadAttention GroupNormalization "
    "LayerNormalization"
)
_ALONE = frozenset(getattr(layers, name) for name in _ALONE_BY_NAME.split())
"""Row i of what these give depends on row i of what they take and on no other: so their code says, if `_of_last_axes`
holds."""
_ARITHMETIC = ("__operators__.add", "math.add", "math.subtract", "math.multiply")
_ELEMENTWISE = (
    *("linear", "relu", "elu", "selu", "gelu", "tanh", "sigmoid", "hard_sigmoid", "softplus", "softsign", "swish"),
    *("exponential", "softmax"),  # over the last axis
)
# TensorFlow's own of one number each; its softmax takes a vector of records for one record.
_OF_TENSORFLOW = (
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "silu",
    "tanh",
    "sigmoid",
    "softplus",
    "softsign",
)


class Mixing(NamedTuple):
    """How a model was seen to mix records, in words, and in which layer; None where no single one was found."""

    words: str
    place: Place | None


def mixing(model: Any, records: np.ndarray | None = None) -> Mixing | None:
    """How a model was seen to mix records; None where it was not.

    >>> from tff_hospitals.models import ModelSignature, build_model
    >>> mixing(build_model("mlp", ModelSignature((3,), 2, "binary"))) is None
    True

    Args:
      model: a `FunctionalModel` without other problems.
      records: real ones, float32 [records, *feature_shape], that a batch is taken from.
    """
    if known_to_keep_records_apart(model.keras):
        return None
    shown = "" if records is None else hashlib.sha256(np.ascontiguousarray(records).tobytes()).hexdigest()
    with model.lock, building.outside_graphs():
        if shown not in model.mixing:
            model.mixing[shown] = _probe(model, records)
        return model.mixing[shown]


def _probe(model: Any, records: np.ndarray | None) -> Mixing | None:
    generator = np.random.default_rng(0)
    trainable, frozen = model.initial_weights(np.array([1, 2], np.int64))
    # Off the initial weights, which may be all zero and hide what a layer does.
    moved = [np.asarray(value + 0.05 * generator.standard_normal(value.shape), np.float32) for value in trainable]
    looked = batches(model.feature_shape, records, generator)
    for training in (False, True):
        seen = Observed(model, moved, frozen, training=training, key=_KEY)
        found = _by_number(model, moved, frozen, looked[0], training, seen)
        found = found or _by_content(_whole(model, moved, frozen, training), looked, seen)
        if found is not None:
            return found._replace(words=f"{found.words} (in {'training' if training else 'inference'})")
    return None


def known_to_keep_records_apart(model: Any) -> bool:
    """Whether a Keras model consists of layers that are known to compute each record by itself.

    >>> known_to_keep_records_apart(tf.keras.Sequential([layers.Input((3,)), layers.Dense(2, activation="relu")]))
    True
    >>> known_to_keep_records_apart(tf.keras.Sequential([layers.Input((3,)), layers.Lambda(lambda x: x)]))
    False
    """
    return not any(_unknown_layers(model))


def unknown_part(model: Any) -> str | None:
    """What of a `FunctionalModel` may mix records although nobody saw it do so; None: nothing.

    A layer or loss of a user's own may behave differently for records that no look at it thought of. Where there is
    one, clipping bounds what a record does only if each record's gradient is computed from that record alone.
    """
    found = next(_unknown_layers(model.keras), None)
    if found is not None:
        name = "the model itself" if found is model.keras else f"layer {found.name}"
        return f"{name} ({type(found).__name__}) is of no kind that is known to compute every record by itself"
    if model.objective.function is not None:
        return f"the loss {model.objective.name} is not known to compute every record by itself"
    return None


def _unknown_layers(model: Any) -> Iterator[Any]:
    elementwise = {id(getattr(tf.keras.activations, name)) for name in _ELEMENTWISE}
    elementwise |= {id(getattr(tf.nn, name)) for name in _OF_TENSORFLOW}
    for layer in _all_layers(model):
        if _is_arithmetic(layer):
            continue
        kind = type(layer)
        container = kind.__module__.startswith("keras.") and kind.__name__ in _CONTAINERS and layer._is_graph_network
        known = container or kind in _ALONE
        used = (getattr(layer, name, None) for name in ("activation", "recurrent_activation"))
        if (
            not known
            or _has_own_methods(layer)
            or getattr(layer, "time_major", False)
            or getattr(layer, "stateful", False)
            or any(one is not None and id(one) not in elementwise for one in used)
            or not _of_last_axes(layer)
            or not _records_stay_first(layer)
        ):
            yield layer


def _has_own_methods(layer: Any) -> bool:
    """Whether a layer computes with a function that was put in place of a method of its class."""
    return any(isinstance(inspect.getattr_static(type(layer), name, None), types.FunctionType) for name in vars(layer))


def _records_stay_first(layer: Any) -> bool:
    """Whether the first axis of what comes out is that of the records, in a functional model.

    An array among a layer's settings, such as the scale of a Rescaling, may have more axes than its input.
    """
    for node in layer._inbound_nodes:
        sizes = [[one.shape[:1] for one in tf.nest.flatten(part)] for part in (node.keras_inputs, node.outputs)]
        if sizes[0] and any(size != [None] for size in sizes[1]):
            return False
    return True


def _is_arithmetic(layer: Any) -> bool:
    """Whether a layer is a plus, minus or times of a functional model that mixes nothing.

    It does not for tensors of one rank, nor for constants of fewer axes. A constant of as many axes would tell records
    apart by their place, and one of more moves the axis of the records behind its own.
    """
    if type(layer).__name__ != "TFOpLambda" or not str(getattr(layer, "symbol", "")).endswith(_ARITHMETIC):
        return False
    for node in layer._inbound_nodes:
        ranks = {len(one.shape) for one in node.keras_inputs}
        records = {id(one) for one in node.keras_inputs}
        given = [one for one in tf.nest.flatten((node.call_args, node.call_kwargs)) if id(one) not in records]
        constants = [np.shape(one) for one in given if one is not None and not isinstance(one, str)]
        axes = min(ranks)
        if len(ranks) > 1 or any(len(one) > axes or (len(one) == axes and one[0] > 1) for one in constants):
            return False
    return True


def _all_layers(model: Any) -> tuple[Any, ...]:
    return (model, *model._flatten_layers(include_self=False))


def _of_last_axes(layer: Any) -> bool:
    """Whether the axes over which a layer works, if it says so, hold no records."""
    if type(layer) is layers.MultiHeadAttention:
        return min(layer._attention_axes or (1,)) > 0
    if type(layer) is layers.EinsumDense:
        return einsums.letters(layer) is not None
    axis = getattr(layer, "axis", None)
    if axis is None:
        return True
    axes = [axis] if isinstance(axis, int) else list(axis)
    return min(axes) > 0 or axes == [-1]


def batches(shape: tuple[int, ...], records: np.ndarray | None, generator: np.random.Generator) -> list[np.ndarray]:
    """What a batch may look like: features between 0 and 1, standardised ones, large ones, real ones."""
    made = [
        generator.uniform(0.0, 1.0, (RECORDS, *shape)),
        generator.standard_normal((RECORDS, *shape)),
        300.0 * generator.standard_normal((RECORDS, *shape)),
    ]
    if records is not None and len(records) > 0:
        made.append(records[generator.choice(len(records), RECORDS, replace=len(records) < RECORDS)])
    return [np.asarray(batch, np.float32) for batch in made]


def _outliers(record: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """What a record is replaced by: everything extreme at once, and one feature alone."""
    for size, sign in itertools.product(_SIZES, (1.0, -1.0)):
        yield f"{sign * size:g}", np.full_like(record, sign * size)
    for value in (0.0, np.inf, np.nan):
        yield f"{value:g}", np.full_like(record, value)
    for size in _SIZES[1:-1:2]:
        one = record.copy()
        one.flat[-1] = size
        yield f"{size:g} in one feature", one


def _by_number(
    model: Any, trainable: Any, frozen: Any, batch: np.ndarray, training: bool, seen: Observed
) -> Mixing | None:
    """Compares the records of a batch with each of them alone."""

    def outputs(first: int, last: int) -> np.ndarray:
        rows, part = Rows(tf.range(first, last), RECORDS), batch[first:last]
        return np.asarray(model.predict(trainable, frozen, part, training=training, key=_KEY, rows=rows))

    try:
        alone = np.concatenate([outputs(row, row + 1) for row in range(RECORDS)])
    except (tf.errors.OpError, ValueError) as error:  # a layer that counts on a number of records
        where = failures.failing_layer(model, trainable, frozen, batch[:1], training=training, key=_KEY)
        return Mixing(f"a record alone cannot be computed ({where or failures.reason(error)})", None)

    def differ(one: np.ndarray, other: np.ndarray) -> bool:
        near = one.shape == other.shape and np.allclose(one, other, rtol=_OTHER_KERNELS, atol=1e-4, equal_nan=True)
        return not near

    if not differ(outputs(0, RECORDS), alone):
        return None
    return Mixing("a record alone gives another output than in a batch", seen.by_number(batch, differ))


def _whole(model: Any, trainable: Any, frozen: Any, training: bool) -> Callable[[np.ndarray], list[np.ndarray]]:
    """The model on a batch: outputs of the records, and the gradients that reach their features."""

    @plain_python
    def compute(features: tf.Tensor) -> Any:
        outputs = model.predict(trainable, frozen, features, training=training, key=_KEY)
        total = tf.reduce_sum(outputs + 0.5 * tf.square(outputs))  # its gradient depends on the outputs
        # No tape: outside of graphs, where this runs, tapes do not record.
        try:
            (gradient,) = tf.gradients(total, features, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        except LookupError:  # an operation without gradient, such as Keras' random contrast: none reaches the features
            gradient = tf.zeros_like(features)
        return outputs, gradient

    shape = tf.TensorSpec([RECORDS, *model.feature_shape], tf.float32)
    compiled = tf.function(compute, input_signature=[shape], autograph=False)
    return lambda features: [np.reshape(one, (RECORDS, -1)) for one in compiled(features)]


def _by_content(
    call: Callable[[np.ndarray], list[np.ndarray]], looked: list[np.ndarray], seen: Observed
) -> Mixing | None:
    """Replaces one record and compares what the others give."""
    for batch in looked:
        try:
            before = call(batch)
        except tf.errors.OpError:  # numbers that the model cannot take at all, such as words that are not in its table
            continue
        for number, (words, outlier) in enumerate(_outliers(batch[0])):
            changed, row = batch.copy(), number % RECORDS
            changed[row] = outlier
            try:
                after = call(changed)
            except tf.errors.OpError:
                continue
            others = np.arange(RECORDS) != row
            for what, old, new in zip(("output", "gradient"), before, after):
                if _moved(old[others], new[others]):
                    place = seen.by_content(batch, changed, others, _moved)
                    return Mixing(f"a record of {words} moves the {what} of other records of its batch", place)
    return None


def _moved(old: np.ndarray, new: np.ndarray) -> bool:
    size = np.max(np.abs(old), axis=1, keepdims=True, initial=0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.abs(new - old) <= _ROUNDING * (size + 1e-6)
    return not bool(np.all(near | (old == new) | (np.isnan(old) & np.isnan(new))))
