"""The scale on which a regression is learnt: public bounds of the target, brought near one."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tff_hospitals.models.saving import ORIGINAL_UNITS

_NEVER_NEGATIVE = ("relu", "softplus", "sigmoid", "hard_sigmoid", "exponential", "relu6")


@dataclasses.dataclass(frozen=True)
class TargetScale:
    """A target in original units is `centre + scale * output` of the model.

    Clip norm and learning rates are made for numbers near one. A target near 5,500 gives gradients of thousands: plain
    steps then diverge, and clipping leaves nothing of them but their direction.

    >>> TargetScale.of((1000.0, 9000.0), positive=False)
    TargetScale(centre=5000.0, scale=4000.0, positive=False)
    >>> TargetScale.of((1000.0, 9000.0), positive=True).restore(0.5)
    5000.0
    """

    centre: float
    scale: float
    positive: bool = False

    @classmethod
    def of(cls, bounds: tuple[float, float], *, positive: bool) -> TargetScale:
        """The scale of public bounds: they become -1 and 1, or 0 and 1 for a model that puts out nothing negative."""
        low, high = bounds
        return cls(low, high - low, True) if positive else cls((low + high) / 2, (high - low) / 2)

    def apply(self, targets: Any) -> Any:
        """Original units to what the model learns."""
        return (targets - self.centre) / self.scale

    def restore(self, outputs: Any) -> Any:
        """What the model puts out to original units."""
        return outputs * self.scale + self.centre

    def model(self, keras: tf.keras.Model) -> tf.keras.Model:
        """A Keras model that puts out original units: the scale goes into a last dense layer, or behind the model."""
        last = last_dense(keras)
        if last is not None:
            last.kernel.assign(last.kernel * self.scale)
            last.bias.assign(self.restore(last.bias))
            return keras
        behind = tf.keras.layers.Rescaling(self.scale, self.centre, name=ORIGINAL_UNITS)
        if getattr(keras, "_is_graph_network", False):
            return tf.keras.Model(keras.inputs, behind(keras.outputs[0]))
        whole = tf.keras.Sequential([keras, behind])
        whole.build(keras._build_input_shape)
        return whole

    def unscale(self, keras: tf.keras.Model) -> bool:
        """Takes the scale out of weights that were read: the opposite of `model`; False where none holds it."""
        last = last_dense(keras)
        if last is None:
            return False
        last.kernel.assign(last.kernel / self.scale)
        last.bias.assign(self.apply(last.bias))
        return True


def never_negative(keras: tf.keras.Model) -> bool:
    """Whether the last layer says that the model puts out nothing below zero."""
    layer = last_layer(keras)
    name = getattr(getattr(layer, "activation", None), "__name__", "")
    return name in _NEVER_NEGATIVE or isinstance(layer, tf.keras.layers.ReLU)


def last_layer(keras: tf.keras.Model) -> Any:
    """The layer that puts out what a functional or sequential model puts out; None where that cannot be told."""
    outputs = getattr(keras, "outputs", None) or []
    if len(outputs) != 1 or not getattr(keras, "_is_graph_network", False):
        return None
    layer = outputs[0]._keras_history.layer
    return last_layer(layer) if isinstance(layer, tf.keras.Model) else layer


def last_dense(keras: tf.keras.Model) -> Any:
    """The last layer, if it is a dense one with bias and without activation, used once."""
    layer = last_layer(keras)
    linear = getattr(layer, "activation", None) in (None, tf.keras.activations.linear)
    plain = type(layer) is tf.keras.layers.Dense and linear and layer.use_bias
    return layer if plain and len(layer._inbound_nodes) <= 2 else None
