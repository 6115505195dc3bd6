"""Convolutions of one to three dimensions: a small matrix for each place in the kernel, applied at every position.

For one place in the kernel the gradient of record i is the sum over output positions t of a_it g_it^T, where a_it is
what the place is multiplied with at t: a dense layer over a sequence, of which `parts.product_over_steps` knows the
norm. A transposed convolution is the same with inputs and gradients exchanged: each input is spread over the outputs
that the kernel reaches.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tff_hospitals.models.ghost.parts import Part, formed, product_over_steps, steps_are_compared
from tff_hospitals.models.ghost.rule import BeforeActivation, Seen, Watch, steps_of, unchanged
from tff_hospitals.models.swapping import Override
from tff_hospitals.models.tracing import converted, plain_python

layers = tf.keras.layers


class Convolution(BeforeActivation):
    """Convolutions in channels_last order, causal and grouped ones too."""

    weights = ("kernel", "bias")

    def handles(self, layer: Any) -> bool:
        own = ("call", "convolution_op", "_jit_compiled_convolution_op", "_compute_causal_padding")
        kinds = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
        return isinstance(layer, kinds) and unchanged(layer, layers.Conv2D, *own) and _channels_last(layer)

    def parts(self, layer: Any, seen: Seen, gradient: tf.Tensor) -> dict[str, Part]:
        bias = formed(tf.reduce_sum(steps_of(gradient), axis=1))
        if layer.groups > 1:
            return {"kernel": _grouped_kernel(layer, seen.remembered, gradient), "bias": bias}
        return {"kernel": _kernel(layer, seen.remembered, gradient), "bias": bias}


class TransposedConvolution(BeforeActivation):
    """Transposed convolutions in channels_last order, without dilation."""

    weights = ("kernel", "bias")

    def handles(self, layer: Any) -> bool:
        kinds = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
        kind = next((kind for kind in kinds if isinstance(layer, kind)), None)
        dense = kind is not None and max(layer.dilation_rate) == 1
        return dense and unchanged(layer, kind, "call") and _channels_last(layer)

    def parts(self, layer: Any, seen: Seen, gradient: tf.Tensor) -> dict[str, Part]:
        bias = formed(tf.reduce_sum(steps_of(gradient), axis=1))
        return {"kernel": _kernel(layer, gradient, seen.remembered), "bias": bias}


class Depthwise(BeforeActivation):
    """Depthwise convolutions: the small gradient of the kernel is formed for each record."""

    weights = ("depthwise_kernel", "bias")

    def handles(self, layer: Any) -> bool:
        kinds = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
        return any(unchanged(layer, kind, "call") for kind in kinds) and _channels_last(layer)

    def parts(self, layer: Any, seen: Seen, gradient: tf.Tensor) -> dict[str, Part]:
        bias = formed(tf.reduce_sum(steps_of(gradient), axis=1))
        return {"depthwise_kernel": _depthwise_kernel(layer, seen.remembered, gradient), "bias": bias}


class Separable(BeforeActivation):
    """A depthwise convolution and a dense layer over its channels: the values between them are watched, too."""

    weights = ("depthwise_kernel", "pointwise_kernel", "bias")

    def handles(self, layer: Any) -> bool:
        kinds = (layers.SeparableConv1D, layers.SeparableConv2D)
        own = any(unchanged(layer, kind, "call", "_compute_causal_padding") for kind in kinds)
        return own and _channels_last(layer)

    def overrides(self, layer: Any, seen: Seen, watch: Watch) -> list[Override]:
        activation = layer.activation
        strides = layer.strides * (2 // layer.rank)

        @plain_python
        def listening(inputs: tf.Tensor) -> tf.Tensor:
            padded = inputs
            if layer.padding == "causal":
                padded = tf.pad(inputs, layer._compute_causal_padding(inputs))
            kernel = layer.depthwise_kernel
            if layer.rank == 1:  # as Keras does, on pictures of one row
                padded, kernel = tf.expand_dims(padded, 1), tf.expand_dims(kernel, 0)
            dilations = (1,) * (2 - layer.rank) + tuple(layer.dilation_rate)
            padding = "VALID" if layer.padding == "causal" else layer.padding.upper()
            between = tf.nn.depthwise_conv2d(padded, kernel, (1, *strides, 1), padding, dilations=dilations)
            if layer.rank == 1:
                between = tf.squeeze(between, [1])
            watch(between)
            outputs = tf.tensordot(between, _matrix(layer), axes=1)
            if layer.use_bias:
                outputs = outputs + layer.bias
            seen.note(watch, (inputs, between), (between, outputs))
            return outputs if activation is None else converted(activation)(outputs)

        return [(layer, "call", listening)]

    def parts(self, layer: Any, seen: Seen, gradient: Any) -> dict[str, Part]:
        (inputs, between), (of_between, of_outputs) = seen.remembered, gradient
        steps = steps_of(of_outputs)
        pointwise = product_over_steps(steps_of(between), steps).reshaped(layer.pointwise_kernel.shape)
        return {
            "depthwise_kernel": _depthwise_kernel(layer, inputs, of_between),
            "pointwise_kernel": pointwise,
            "bias": formed(tf.reduce_sum(steps, axis=1)),
        }


def _channels_last(layer: Any) -> bool:
    return bool(layer.data_format == "channels_last")


def _matrix(layer: Any) -> tf.Tensor:
    kernel = layer.pointwise_kernel
    return tf.reshape(kernel, kernel.shape[-2:])


def _kernel(layer: Any, inputs: tf.Tensor, gradient: tf.Tensor) -> Part:
    """The part of a kernel [*places, channels of `inputs`, channels of `gradient`]."""
    steps = steps_of(gradient)
    channels, filters = inputs.shape[-1], gradient.shape[-1]
    shape = [*layer.kernel_size, channels, filters]
    per_step = channels * tf.TensorShape(layer.kernel_size).num_elements()
    if steps_are_compared(steps.shape[1], per_step, filters):
        # Few positions, many weights: compare positions with each other instead of forming the gradient.
        patches = tf.concat(_places(layer, inputs, gradient), axis=-1)
        return product_over_steps(patches, steps).reshaped(shape)
    if per_step <= 32 and len(inputs.shape) == 4 and isinstance(layer, layers.Conv2D) and layer.dilation_rate == (1, 1):
        # Patches of few numbers: a convolution with the identity lays them out fastest.
        identity = tf.reshape(tf.eye(per_step), [*shape[:-1], per_step])
        patches = tf.nn.conv2d(inputs, identity, layer.strides, layer.padding.upper())
        each = tf.matmul(steps_of(patches), steps, transpose_a=True)
    else:
        # One product per place in the kernel, without laying out the patches.
        places = [tf.matmul(place, steps, transpose_a=True) for place in _places(layer, inputs, gradient)]
        each = tf.concat(places, axis=1)
    return formed(tf.reshape(each, [-1, *shape]))


def _grouped_kernel(layer: Any, inputs: tf.Tensor, gradient: tf.Tensor) -> Part:
    """The part of a kernel whose filters see the channels of their own group alone."""
    steps, groups = steps_of(gradient), layer.groups
    of_group = tf.split(steps, groups, axis=2)
    each = [
        tf.concat(
            [tf.matmul(one, other, transpose_a=True) for one, other in zip(tf.split(place, groups, axis=2), of_group)],
            axis=2,
        )
        for place in _places(layer, inputs, gradient)
    ]
    shape = [*layer.kernel_size, inputs.shape[-1] // groups, gradient.shape[-1]]
    return formed(tf.reshape(tf.concat(each, axis=1), [-1, *shape]))


def _depthwise_kernel(layer: Any, inputs: tf.Tensor, gradient: tf.Tensor) -> Part:
    """The part of a kernel [*places, channels, multiplier]."""
    channels, times = inputs.shape[-1], layer.depth_multiplier
    places, steps = _places(layer, inputs, gradient), steps_of(gradient)
    if times > 1:
        places = [tf.repeat(place, times, axis=2) for place in places]
    each = tf.stack([tf.reduce_sum(place * steps, axis=1) for place in places], axis=1)
    return formed(tf.reshape(each, [-1, *layer.kernel_size, channels, times]))


def _places(layer: Any, inputs: tf.Tensor, gradient: tf.Tensor) -> Sequence[tf.Tensor]:
    """For each place in the kernel, what it is multiplied with at each output position: [batch, steps, channels].

    Axes between the records and the `layer.rank` last ones that the kernel moves along are further positions.
    """
    rank, channels = layer.rank, inputs.shape[-1]
    sizes, outs = inputs.shape[-1 - rank : -1], gradient.shape[-1 - rank : -1]
    pads, spans = [], []
    for axis, (size, out) in enumerate(zip(sizes, outs)):
        stride, dilation, kernel = layer.strides[axis], layer.dilation_rate[axis], layer.kernel_size[axis]
        reach = (kernel - 1) * dilation
        missing = max((out - 1) * stride + reach + 1 - size, 0) if layer.padding == "same" else 0
        pads.append((reach, 0) if layer.padding == "causal" else (missing // 2, missing - missing // 2))
        spans.append([slice(at * dilation, at * dilation + (out - 1) * stride + 1, stride) for at in range(kernel)])
    moved = tf.reshape(inputs, [-1, *sizes, channels])
    if any(map(any, pads)):
        moved = tf.pad(moved, [(0, 0), *pads, (0, 0)])
    steps = gradient.shape[1:-1].num_elements()
    shape = [tf.shape(gradient)[0], -1 if steps is None else steps, channels]
    return [tf.reshape(moved[(slice(None), *place, slice(None))], shape) for place in itertools.product(*spans)]
