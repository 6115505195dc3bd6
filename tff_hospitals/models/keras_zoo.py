"""The small models that ship with the package. All end in logits (or, for regression, in the predicted number).

The initializers carry no seed: `building.build_under_key` makes them a function of the run's own random stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from tff_hospitals.foundations.signature import ModelSignature

layers = tf.keras.layers


def logistic_regression(signature: ModelSignature, *, init: str = "glorot") -> tf.keras.Model:
    """One dense layer with bias (linear regression when the task is regression).

    Args:
      signature: the data set's shape, classes and task.
      init: "glorot" (kernel uniform, bias zero), "zeros", or "fan_in_uniform" (kernel and bias uniform in
        +-1/sqrt(features), what PyTorch's linear layer does).
    """
    inputs = tf.keras.Input(signature.feature_shape, name="features")
    flat = inputs if len(signature.feature_shape) == 1 else layers.Flatten(name="flatten")(inputs)
    kernel: str | tf.keras.initializers.Initializer = "glorot_uniform"
    bias: str | tf.keras.initializers.Initializer = "zeros"
    if init == "zeros":
        kernel = "zeros"
    elif init == "fan_in_uniform":
        limit = 1.0 / math.sqrt(max(1, math.prod(signature.feature_shape)))
        kernel = tf.keras.initializers.RandomUniform(-limit, limit)
        bias = tf.keras.initializers.RandomUniform(-limit, limit)
    outputs = layers.Dense(signature.units, kernel_initializer=kernel, bias_initializer=bias, name="output")(flat)
    return tf.keras.Model(inputs, outputs, name="logistic_regression")


def mlp(
    signature: ModelSignature,
    *,
    hidden_units: Sequence[int] = (64,),
    activation: str = "relu",
    dropout: float = 0.0,
) -> tf.keras.Model:
    """Dense layers of `hidden_units`, each followed by the activation (and dropout), then the output layer."""
    inputs = tf.keras.Input(signature.feature_shape, name="features")
    values = inputs if len(signature.feature_shape) == 1 else layers.Flatten(name="flatten")(inputs)
    for number, units in enumerate(hidden_units, start=1):
        values = layers.Dense(units, activation=activation, name=f"dense_{number}")(values)
        if dropout > 0.0:
            values = layers.Dropout(dropout, name=f"dropout_{number}")(values)
    outputs = layers.Dense(signature.units, name="output")(values)
    return tf.keras.Model(inputs, outputs, name="mlp")


def cnn(
    signature: ModelSignature,
    *,
    filters: Sequence[int] = (16, 32),
    norm: str = "group",
    groups: int = 8,
    dense_units: int = 128,
    dropout: float = 0.0,
) -> tf.keras.Model:
    """3x3 convolutions, each with optional GroupNorm, ReLU and 2x2 max pooling; one dense layer; the output layer.

    GroupNorm (Wu & He 2018, arXiv:1803.08494) stands where other networks have BatchNorm: it normalises each record by
    itself, so that a record's gradient depends on no other record. A layer whose filters `groups` does not divide uses
    the largest common divisor.
    """
    inputs = tf.keras.Input(signature.feature_shape, name="features")
    values = inputs
    if len(signature.feature_shape) == 2:
        values = layers.Reshape((*signature.feature_shape, 1), name="channel")(values)
    for number, size in enumerate(filters, start=1):
        # GroupNorm has its own offset; a bias before it would have no effect.
        convolution = layers.Conv2D(size, 3, padding="same", use_bias=norm == "none", name=f"conv_{number}")
        values = convolution(values)
        if norm == "group":
            values = layers.GroupNormalization(math.gcd(groups, size), name=f"norm_{number}")(values)
        values = layers.Activation("relu", name=f"relu_{number}")(values)
        if min(values.shape[1:3]) >= 2:
            values = layers.MaxPooling2D(2, name=f"pool_{number}")(values)
    values = layers.Flatten(name="flatten")(values)
    values = layers.Dense(dense_units, activation="relu", name="dense_1")(values)
    if dropout > 0.0:
        values = layers.Dropout(dropout, name="dropout_1")(values)
    outputs = layers.Dense(signature.units, name="output")(values)
    return tf.keras.Model(inputs, outputs, name="cnn")


BUILDERS: dict[str, Callable[..., tf.keras.Model]] = {
    "logistic_regression": logistic_regression,
    "mlp": mlp,
    "cnn": cnn,
}
