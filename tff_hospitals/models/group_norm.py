"""Group normalization as in Keras, about three times as fast on a processor.

Keras 2.14 computes it through general weighted moments with a mask of ones, in some twenty passes over the values. Here
statistics are taken per channel and then averaged over the channels of a group, which leaves six. Same formula (Wu & He
2018, arXiv:1803.08494), same two-step variance; results differ by rounding only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tff_hospitals.models.tracing import plain_python

_KERAS = tf.keras.layers.GroupNormalization


def handles(layer: Any) -> bool:
    """Whether a layer is Keras' own group normalization over the last axis."""
    kind = type(layer)
    if getattr(kind, "call", None) is not _KERAS.call or kind._apply_normalization is not _KERAS._apply_normalization:
        return False
    return bool(layer.built and layer.axis in (-1, layer.input_spec.ndim - 1))


def normalize(layer: Any, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The layer's output and what the gradient of its scale is made of.

    Args:
      layer: a layer that `handles` accepts; its gamma and beta may be tensors.
      inputs: float32 [batch, ..., channels].

    Returns:
      Outputs as `inputs`; centred inputs [batch, steps, channels]; reciprocal deviations [batch, channels].
    """
    channels, groups = inputs.shape[-1], layer.groups
    steps = inputs.shape[1:-1].num_elements()
    flat = tf.reshape(inputs, [tf.shape(inputs)[0], -1 if steps is None else steps, channels])

    def over_group(means: tf.Tensor) -> tf.Tensor:
        # All channels of a group have as many values, so the mean of their means is the mean of the group.
        grouped = tf.reduce_mean(tf.reshape(means, [-1, groups, channels // groups]), axis=2, keepdims=True)
        return tf.reshape(tf.tile(grouped, [1, 1, channels // groups]), [-1, channels])

    centred = flat - over_group(tf.reduce_mean(flat, axis=1))[:, None]
    variance = over_group(tf.reduce_mean(tf.square(centred), axis=1))
    reciprocal = tf.math.rsqrt(variance + layer.epsilon)
    outputs = centred * (reciprocal * layer.gamma if layer.scale else reciprocal)[:, None]
    if layer.center:
        outputs = outputs + layer.beta
    return tf.reshape(outputs, tf.shape(inputs)), centred, reciprocal


def fast_call(layer: Any) -> Callable[..., tf.Tensor]:
    """What takes the place of the layer's `call` while a model is traced."""
    keras_call = layer.call

    @plain_python
    def call(inputs: tf.Tensor, mask: Any = None) -> tf.Tensor:
        if mask is not None:
            return keras_call(inputs, mask=mask)
        outputs, _, _ = normalize(layer, inputs)
        return tf.ensure_shape(outputs, inputs.shape)

    return call
