"""The rules of dense layers, embeddings and normalizations; and all rules (`rule` says what a rule is)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tff_hospitals.models import group_norm
from tff_hospitals.models.einsums import Letters, letters
from tff_hospitals.models.ghost import convolutions, recurrent
from tff_hospitals.models.ghost.parts import Part, formed, outer_products, product_over_steps, rows_of_a_table
from tff_hospitals.models.ghost.rule import BeforeActivation, Rule, Seen, Watch, steps_of, unchanged
from tff_hospitals.models.swapping import Override
from tff_hospitals.models.tracing import plain_python

layers = tf.keras.layers


class Dense(BeforeActivation):
    """Dense layers, on one vector per record or on several (sequences)."""

    weights = ("kernel", "bias")

    def handles(self, layer: Any) -> bool:
        return type(layer).call is layers.Dense.call

    def parts(self, layer: Any, seen: Seen, gradient: tf.Tensor) -> dict[str, Part]:
        inputs = tf.cast(seen.remembered, gradient.dtype)
        if gradient.shape.rank > 2:
            inputs, gradient = steps_of(inputs), steps_of(gradient)
            return {"kernel": product_over_steps(inputs, gradient), "bias": formed(tf.reduce_sum(gradient, axis=1))}
        return {"kernel": outer_products(inputs, gradient), "bias": formed(gradient)}


class EinsumDense(BeforeActivation):
    """Dense layers over any axes, as the projections of Keras' attention are."""

    weights = ("kernel", "bias")

    def handles(self, layer: Any) -> bool:
        return unchanged(layer, layers.EinsumDense, "call") and letters(layer) is not None

    def parts(self, layer: Any, seen: Seen, gradient: tf.Tensor) -> dict[str, Part]:
        found, bias = letters(layer), layer.bias
        if found is None:
            raise KeyError(layer.equation)
        parts = {"kernel": _einsum_kernel(found, seen.remembered, gradient, layer.kernel.shape)}
        if bias is not None:
            ahead = gradient.shape.rank - bias.shape.rank
            summed = [
                axis
                for axis in range(1, gradient.shape.rank)
                if axis < ahead or (bias.shape[axis - ahead] == 1 and gradient.shape[axis] != 1)
            ]
            parts["bias"] = formed(tf.reshape(tf.reduce_sum(gradient, axis=summed), [-1, *bias.shape]))
        return parts


class Embedding(Rule):
    """Embeddings of whole numbers; tokens that occur several times in a record add up."""

    weights = ("embeddings",)

    def handles(self, layer: Any) -> bool:
        return type(layer).call is layers.Embedding.call and not layer.sparse

    def overrides(self, layer: Any, seen: Seen, watch: Watch) -> list[Override]:
        call = layer.call

        @plain_python
        def listening(inputs: tf.Tensor) -> tf.Tensor:
            outputs = call(inputs)
            seen.note(watch, inputs, outputs)
            return outputs

        return [(layer, "call", listening)]

    def parts(self, layer: Any, seen: Seen, gradient: tf.Tensor) -> dict[str, Part]:
        size, width, batch = layer.input_dim, layer.output_dim, tf.shape(gradient)[0]
        # Compiled code reads the first or last row for a number that is in no table; and past its own table a record's
        # numbers would be those of its neighbours' tables below.
        numbers = tf.clip_by_value(tf.cast(seen.remembered, tf.int32), 0, size - 1)
        known = seen.watched.shape[1:-1].num_elements()
        # Said, since nothing else says how long a record is where the number of records is not known.
        places_of_one = -1 if known is None else known
        tokens = tf.reshape(numbers, [batch, places_of_one])
        steps = tf.reshape(gradient, [batch, places_of_one, width])
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

    def overrides(self, layer: Any, seen: Seen, watch: Watch) -> list[Override]:
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
        found = {
            "gamma": formed(tf.reduce_sum(gradient * seen.remembered, axis=rest)),
            "beta": formed(tf.reduce_sum(gradient, axis=rest)),
        }
        # Keras keeps the order in which the axes were given, and reshapes.
        shape = [gradient.shape[axis % rank] for axis in _given_axes(layer)]
        return {name: part.reshaped(shape) for name, part in found.items()}


class GroupNorm(Rule):
    """Group normalization over the last axis; scale and offset as in layer normalization."""

    weights = ("gamma", "beta")

    def handles(self, layer: Any) -> bool:
        return group_norm.handles(layer)

    def overrides(self, layer: Any, seen: Seen, watch: Watch) -> list[Override]:
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


RULES: tuple[Rule, ...] = (
    Dense(),
    EinsumDense(),
    convolutions.Convolution(),
    convolutions.TransposedConvolution(),
    convolutions.Depthwise(),
    convolutions.Separable(),
    recurrent.SimpleRNN(),
    recurrent.LSTM(),
    recurrent.GRU(),
    Embedding(),
    LayerNorm(),
    GroupNorm(),
)


def _einsum_kernel(found: Letters, inputs: tf.Tensor, gradient: tf.Tensor, shape: tf.TensorShape) -> Part:
    records = found.inputs[0]
    steps = [one for one in found.outputs[1:] if one not in found.kernel]
    contracted = [one for one in found.kernel if one not in found.outputs]
    made = [one for one in found.kernel if one not in found.inputs]
    matrix = found.kernel == "".join((*contracted, *made)) and {*found.inputs} == {records, *steps, *contracted}
    if not matrix:  # an axis that kernel and output share, or one that is summed alone
        each = tf.einsum(f"{found.inputs},{found.outputs}->{records}{found.kernel}", inputs, gradient)
        return formed(tf.ensure_shape(each, [None, *shape]))

    def flat(values: tf.Tensor, own: str, last: list[str]) -> tf.Tensor:
        moved = tf.transpose(values, [own.index(one) for one in (records, *steps, *last)])
        sizes = [values.shape[own.index(one)] for one in steps], [values.shape[own.index(one)] for one in last]
        known = [tf.TensorShape(part).num_elements() for part in sizes]
        return tf.reshape(moved, [tf.shape(values)[0], *([known[0] or -1] if steps else []), known[1]])

    rows, columns = flat(inputs, found.inputs, contracted), flat(gradient, found.outputs, made)
    product = product_over_steps if steps else outer_products
    return product(rows, columns).reshaped(shape)


def _axes(layer: Any, rank: int) -> list[int]:
    return sorted(axis % rank for axis in _given_axes(layer))


def _given_axes(layer: Any) -> list[int]:
    return list(layer.axis) if isinstance(layer.axis, (list, tuple)) else [layer.axis]
