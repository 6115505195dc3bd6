"""How each kind of layer gives the norms and the weighted sum of per-record gradients without making the gradients.

A layer's call is replaced by one that remembers what the rule needs (mostly the layer's input) and watches the value z
before the activation. One backward pass gives g = d(sum of record losses)/dz; records do not mix, so row i of g belongs
to record i. For a dense layer the gradient of record i is the outer product of its input a_i and g_i: its squared norm
is |a_i|^2 |g_i|^2 (Goodfellow 2015, arXiv:1510.01799), and the sum weighted by c is a^T (c g), one matrix product and
no second backward pass (book-keeping: Bu, Wang, Zha, Karypis 2023, arXiv:2210.00038).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tff_hospitals.models import group_norm
from tff_hospitals.models.ghost.parts import Part, formed, outer_products, product_over_steps, rows_of_a_table
from tff_hospitals.models.swapping import Override
from tff_hospitals.models.tracing import converted, plain_python

layers = tf.keras.layers


@dataclasses.dataclass
class Seen:
    """What a layer's replaced call left behind in one trace."""

    remembered: Any = None
    watched: Any = None
    calls: int = 0

    def note(self, watch: Callable[[tf.Tensor], None], remembered: Any, outputs: Any) -> None:
        """Watches what a layer put out and keeps it with what its rule needs."""
        watch(outputs)
        self.remembered, self.watched, self.calls = remembered, outputs, self.calls + 1


class Rule:
    """One kind of layer. `weights` names the attributes of its weights, in the order of `parts`."""

    weights: tuple[str, ...] = ()

    def handles(self, layer: Any) -> bool:
        """Whether this rule knows exactly what the layer computes (a subclass may have a call of its own)."""
        raise KeyError(type(layer))

    def overrides(self, layer: Any, seen: Seen, watch: Callable[[tf.Tensor], None]) -> list[Override]:
        """The attributes to replace while the model is traced."""
        raise KeyError(type(layer))

    def parts(self, layer: Any, seen: Seen, gradient: tf.Tensor) -> dict[str, Part]:
        """What each of the layer's weights contributes."""
        raise KeyError(type(layer))


class BeforeActivation(Rule):
    """Layers that end in an activation: the value before it is watched."""

    def overrides(self, layer: Any, seen: Seen, watch: Callable[[tf.Tensor], None]) -> list[Override]:
        call, activation = layer.call, layer.activation

        @plain_python
        def listening(inputs: tf.Tensor) -> tf.Tensor:
            outputs = call(inputs)
            seen.note(watch, inputs, outputs)
            return outputs if activation is None else converted(activation)(outputs)

        return [(layer, "activation", None), (layer, "call", listening)]


class Dense(BeforeActivation):
    """Dense layers, on one vector per record or on several (sequences)."""

    weights = ("kernel", "bias")

    def handles(self, layer: Any) -> bool:
        return type(layer).call is layers.Dense.call

    def parts(self, layer: Any, seen: Seen, gradient: tf.Tensor) -> dict[str, Part]:
        inputs = tf.cast(seen.remembered, gradient.dtype)
        if gradient.shape.rank > 2:
            inputs, gradient = _steps(inputs), _steps(gradient)
            return {"kernel": product_over_steps(inputs, gradient), "bias": formed(tf.reduce_sum(gradient, axis=1))}
        return {"kernel": outer_products(inputs, gradient), "bias": formed(gradient)}


class Conv2D(BeforeActivation):
    """Two-dimensional convolutions in channels_last order."""

    weights = ("kernel", "bias")

    def handles(self, layer: Any) -> bool:
        base = layers.Conv2D
        if not isinstance(layer, base):
            return False
        same = type(layer).call is base.call and type(layer).convolution_op is base.convolution_op
        return same and layer.groups == 1 and layer.data_format == "channels_last"

    def parts(self, layer: Any, seen: Seen, gradient: tf.Tensor) -> dict[str, Part]:
        inputs = seen.remembered
        rows, columns = layer.kernel_size
        channels, filters = inputs.shape[-1], gradient.shape[-1]
        per_step = rows * columns * channels
        steps = gradient.shape[1] * gradient.shape[2]
        flat = tf.reshape(gradient, [-1, steps, filters])
        bias = formed(tf.reduce_sum(flat, axis=1))
        shape = [rows, columns, channels, filters]
        if 2 * steps**2 < per_step * filters:
            # Few positions, many weights: compare positions with each other instead of forming the gradient.
            patches = tf.concat(list(_shifted(layer, inputs, gradient)), axis=-1)
            kernel = product_over_steps(patches, flat)
            return {"kernel": kernel.reshaped(shape), "bias": bias}
        if per_step <= 32 and tuple(layer.dilation_rate) == (1, 1):
            # Patches of few numbers: a convolution with the identity lays them out fastest.
            identity = tf.reshape(tf.eye(per_step), [rows, columns, channels, per_step])
            patches = tf.nn.conv2d(inputs, identity, layer.strides, layer.padding.upper())
            each = tf.matmul(tf.reshape(patches, [-1, steps, per_step]), flat, transpose_a=True)
        else:
            # One product per place in the kernel, without laying out the patches.
            places = [tf.matmul(place, flat, transpose_a=True) for place in _shifted(layer, inputs, gradient)]
            each = tf.concat(places, axis=1)
        return {"kernel": formed(tf.reshape(each, [-1, *shape])), "bias": bias}


class Embedding(Rule):
    """Embeddings of whole numbers; tokens that occur several times in a record add up."""

    weights = ("embeddings",)

    def handles(self, layer: Any) -> bool:
        return type(layer).call is layers.Embedding.call and not layer.sparse

    def overrides(self, layer: Any, seen: Seen, watch: Callable[[tf.Tensor], None]) -> list[Override]:
        call = layer.call

        @plain_python
        def listening(inputs: tf.Tensor) -> tf.Tensor:
            outputs = call(inputs)
            seen.note(watch, inputs, outputs)
            return outputs

        return [(layer, "call", listening)]

    def parts(self, layer: Any, seen: Seen, gradient: tf.Tensor) -> dict[str, Part]:
        size, width, batch = layer.input_dim, layer.output_dim, tf.shape(gradient)[0]
        tokens = tf.reshape(tf.cast(seen.remembered, tf.int32), [batch, -1])
        steps = tf.reshape(gradient, [batch, -1, width])
        known = gradient.shape[1:-1].num_elements()
        if known is not None and known**2 > size * width:
            # Long records and a small table: form the gradient of the table for each record.
            places = tokens + size * tf.range(batch)[:, None]
            rows = tf.reshape(steps, [-1, width])
            each = tf.math.unsorted_segment_sum(rows, tf.reshape(places, [-1]), size * batch)
            return {"embeddings": formed(tf.reshape(each, [-1, size, width]))}
        return {"embeddings": rows_of_a_table(tokens, steps, size)}


class LayerNorm(Rule):
    """Layer normalization: the small gradients of scale and offset are formed record by record."""

    weights = ("gamma", "beta")

    def handles(self, layer: Any) -> bool:
        return type(layer).call is layers.LayerNormalization.call

    def overrides(self, layer: Any, seen: Seen, watch: Callable[[tf.Tensor], None]) -> list[Override]:
        call, gamma, beta = layer.call, layer.gamma, layer.beta

        @plain_python
        def listening(inputs: tf.Tensor) -> tf.Tensor:
            normalized = call(inputs)
            shape = [1] * normalized.shape.rank
            for axis in _axes(layer, normalized.shape.rank):
                shape[axis] = normalized.shape[axis]
            outputs = normalized
            if gamma is not None:
                outputs = outputs * tf.reshape(gamma, shape)
            if beta is not None:
                outputs = outputs + tf.reshape(beta, shape)
            seen.note(watch, normalized, outputs)
            return outputs

        # Without scale and offset the layer itself only normalizes.
        return [(layer, "gamma", None), (layer, "beta", None), (layer, "call", listening)]

    def parts(self, layer: Any, seen: Seen, gradient: tf.Tensor) -> dict[str, Part]:
        rank = gradient.shape.rank
        kept = {0, *_axes(layer, rank)}
        rest = [axis for axis in range(rank) if axis not in kept]
        return {
            "gamma": formed(tf.reduce_sum(gradient * seen.remembered, axis=rest)),
            "beta": formed(tf.reduce_sum(gradient, axis=rest)),
        }


class GroupNorm(Rule):
    """Group normalization over the last axis; scale and offset as in layer normalization."""

    weights = ("gamma", "beta")

    def handles(self, layer: Any) -> bool:
        return group_norm.handles(layer)

    def overrides(self, layer: Any, seen: Seen, watch: Callable[[tf.Tensor], None]) -> list[Override]:
        @plain_python
        def listening(inputs: tf.Tensor) -> tf.Tensor:
            outputs, centred, reciprocal = group_norm.normalize(layer, inputs)
            seen.note(watch, (centred, reciprocal), outputs)
            return outputs

        return [(layer, "call", listening)]

    def parts(self, layer: Any, seen: Seen, gradient: tf.Tensor) -> dict[str, Part]:
        centred, reciprocal = seen.remembered
        flat = tf.reshape(gradient, tf.shape(centred))
        return {
            "gamma": formed(tf.reduce_sum(flat * centred, axis=1) * reciprocal),
            "beta": formed(tf.reduce_sum(flat, axis=1)),
        }


RULES: tuple[Rule, ...] = (Dense(), Conv2D(), Embedding(), LayerNorm(), GroupNorm())


def _steps(values: tf.Tensor) -> tf.Tensor:
    known = values.shape[1:-1].num_elements()
    return tf.reshape(values, [tf.shape(values)[0], -1 if known is None else known, values.shape[-1]])


def _axes(layer: Any, rank: int) -> list[int]:
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return sorted(axis % rank for axis in axes)


def _shifted(layer: Any, inputs: tf.Tensor, gradient: tf.Tensor) -> Any:
    """For each place in the kernel, what it is multiplied with at each output position: [batch, steps, channels]."""
    before, after, spans = [], [], []
    for axis in (0, 1):
        size, out = inputs.shape[1 + axis], gradient.shape[1 + axis]
        stride, dilation, kernel = layer.strides[axis], layer.dilation_rate[axis], layer.kernel_size[axis]
        missing = 0
        if layer.padding == "same":
            missing = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        before.append(missing // 2)
        after.append(missing - missing // 2)
        spans.append([(place * dilation, place * dilation + (out - 1) * stride + 1, stride) for place in range(kernel)])
    if any(before) or any(after):
        inputs = tf.pad(inputs, [[0, 0], [before[0], after[0]], [before[1], after[1]], [0, 0]])
    steps, channels = gradient.shape[1] * gradient.shape[2], inputs.shape[-1]
    for top, bottom, row_stride in spans[0]:
        for left, right, column_stride in spans[1]:
            place = inputs[:, top:bottom:row_stride, left:right:column_stride, :]
            yield tf.reshape(place, [-1, steps, channels])
