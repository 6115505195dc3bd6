"""What one weight contributes to a clipped sum: the norms of its per-record gradients and their weighted sum.

The two belong together, and the guarantee rests on it: what a record adds to the sum is at most as long as its factor
times its norm, rounding included, and exactly zero where the factor is zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from tff_hospitals.models.clipping import finite_or_infinite, is_finite, squared_norm

# Numbers of this size times a number that is flushed to zero, or rounded near it, are far below any clip norm.
_ORDINARY_SQUARED = 2.0**120
# Rounding of a sum of products in float64, relative to the sum of their sizes: for sums of up to a million numbers.
_ROUNDING = 1e-10
# Gradients of one weight and record up to this size (128 KiB) are formed where that is faster: in most layers.
_FORMED_NUMBERS = 2**15
_FEW_STEPS = 4


@dataclasses.dataclass(frozen=True)
class Part:
    """The part of one weight.

    Attributes:
      squared_norms: float64 [batch], see `clipping.squared_norm`.
      weighted_sum: from factors, float32 [batch], and whether to be careful, to a tensor of the weight's shape.
      ordinary: bool []: every record is finite and of ordinary size, so that the sum need not be careful. Else rows of
        factor zero are taken out before anything is multiplied, since zero times infinity is not zero.
    """

    squared_norms: tf.Tensor
    weighted_sum: Callable[[tf.Tensor, bool], tf.Tensor]
    ordinary: tf.Tensor

    def reshaped(self, shape: Sequence[int]) -> Part:
        """The same for a weight of another shape."""
        return dataclasses.replace(
            self, weighted_sum=lambda factors, careful: tf.reshape(self.weighted_sum(factors, careful), shape)
        )


def _chosen(values: tf.Tensor, factors: tf.Tensor, careful: bool) -> tf.Tensor:
    """Values [batch, ...] with zeros in the rows whose factor is zero, whatever they held, if `careful`."""
    if not careful:
        return values
    above = tf.reshape(factors > 0.0, [-1] + [1] * (values.shape.rank - 1))
    return tf.where(above, values, tf.zeros([], values.dtype))


def nothing(records: tf.Tensor, spec: tf.TensorSpec) -> Part:
    """The part of a weight that no record depends on; `records` is any tensor [batch]."""
    zeros = tf.zeros_like(records, tf.float64)
    return Part(zeros, lambda factors, careful: tf.zeros(spec.shape, spec.dtype), tf.constant(True))


def formed(each: tf.Tensor) -> Part:
    """The part of a weight whose gradient was formed for each record, [batch, *shape of the weight]."""
    flat = tf.reshape(each, [tf.shape(each)[0], each.shape[1:].num_elements()])
    squared = squared_norm(flat)

    def weighted_sum(factors: tf.Tensor, careful: bool) -> tf.Tensor:
        total = tf.linalg.matvec(_chosen(flat, factors, careful), factors, transpose_a=True)
        return tf.reshape(total, each.shape[1:])

    return Part(squared, weighted_sum, tf.reduce_all(is_finite(squared)))


def beside(found: Sequence[Part]) -> Part:
    """The part of a weight whose last axis is made of those of others, such as the gates of a recurrent layer."""

    def weighted_sum(factors: tf.Tensor, careful: bool) -> tf.Tensor:
        return tf.concat([part.weighted_sum(factors, careful) for part in found], axis=-1)

    squared = finite_or_infinite(tf.add_n([part.squared_norms for part in found]))
    return Part(squared, weighted_sum, tf.reduce_all([part.ordinary for part in found]))


def outer_products(inputs: tf.Tensor, gradient: tf.Tensor) -> Part:
    """The part of a matrix that is applied once to each record: G_i = a_i g_i^T, whose norm is |a_i| |g_i|.

    Where that matters, inputs are brought to length one before they are multiplied: else the product of a very large
    and a tiny number could be off by more than the clip norm.

    Args:
      inputs: [batch, width].
      gradient: [batch, units].
    """
    inputs_squared, gradient_squared = squared_norm(inputs), squared_norm(gradient)

    def weighted_sum(factors: tf.Tensor, careful: bool) -> tf.Tensor:
        if not careful:
            return tf.matmul(inputs, factors[:, None] * gradient, transpose_a=True)
        lengths = tf.sqrt(inputs_squared)
        scales = tf.cast(tf.cast(factors, tf.float64) * lengths, tf.float32)
        units = _chosen(inputs / tf.cast(lengths, tf.float32)[:, None], factors, careful)
        return tf.matmul(units, _chosen(scales[:, None] * gradient, factors, careful), transpose_a=True)

    # Of the gradients too: automatic clipping has factors above one, and such a factor times the gradient may overflow
    # before a tiny input makes it small again.
    ordinary = tf.maximum(inputs_squared, gradient_squared) < _ORDINARY_SQUARED
    return Part(finite_or_infinite(inputs_squared * gradient_squared), weighted_sum, tf.reduce_all(ordinary))


def steps_are_compared(steps: int | None, width: int, units: int) -> bool:
    """Whether a norm comes from comparing steps: where the gradient is larger than that, and forming it is no faster.

    Comparing multiplies more often than forming, and in float64, unless there are very few steps.
    """
    if steps is None or 2 * steps**2 >= width * units:
        return False
    return steps <= _FEW_STEPS or width * units > _FORMED_NUMBERS


def product_over_steps(inputs: tf.Tensor, gradient: tf.Tensor) -> Part:
    """The part of a matrix that is applied at several steps of each record: G_i = sum over t of a_it g_it^T.

    Its norm comes from the two matrices that compare steps with each other, or from G_i itself (mixed ghost clipping:
    Bu, Mao, Xu 2022, arXiv:2205.10683). Steps may cancel each other, in the norm and in the sum, and what is left may
    then be mere rounding: where steps are compared, both are computed in float64, and their rounding, relative to the
    sum of the steps' own norms S_i, is added to the norm: (|G_i| + r S_i)^2 <= |G_i|^2 + 3 r S_i^2, as |G_i| <= S_i.

    Args:
      inputs: [batch, steps, width].
      gradient: [batch, steps, units].
    """
    steps, width, units = inputs.shape[1], inputs.shape[2], gradient.shape[2]
    if not steps_are_compared(steps, width, units):
        return formed(tf.matmul(inputs, gradient, transpose_a=True))
    inputs, gradient = tf.cast(inputs, tf.float64), tf.cast(gradient, tf.float64)
    between = tf.matmul(inputs, inputs, transpose_b=True) * tf.matmul(gradient, gradient, transpose_b=True)
    sizes = tf.reduce_sum(tf.sqrt(tf.linalg.diag_part(between)), axis=1)
    squared = tf.abs(tf.reduce_sum(between, axis=[1, 2])) + 3.0 * _ROUNDING * tf.square(sizes)

    def weighted_sum(factors: tf.Tensor, careful: bool) -> tf.Tensor:
        scaled = tf.cast(factors, tf.float64)[:, None, None] * _chosen(gradient, factors, careful)
        rows = tf.reshape(_chosen(inputs, factors, careful), [-1, width])
        return tf.cast(tf.matmul(rows, tf.reshape(scaled, [-1, units]), transpose_a=True), tf.float32)

    return Part(finite_or_infinite(squared), weighted_sum, tf.reduce_all(is_finite(squared)))


def rows_of_a_table(tokens: tf.Tensor, gradient: tf.Tensor, size: int) -> Part:
    """The part of a table of which each record takes some rows.

    The gradients of a token that a record has several times are added up at its first place, so that what is measured
    is what is added.

    Args:
      tokens: int32 [batch, places], numbers of rows.
      gradient: [batch, places, width].
      size: rows of the table.
    """
    same = tf.equal(tokens[:, :, None], tokens[:, None, :])
    first = tf.equal(tf.argmax(same, axis=2, output_type=tf.int32), tf.range(tf.shape(tokens)[1]))
    rows = tf.matmul(tf.cast(same, gradient.dtype), gradient)
    rows = tf.where(first[:, :, None], rows, tf.zeros([], rows.dtype))
    width = gradient.shape[2]
    squared = squared_norm(tf.ensure_shape(rows, [None, tokens.shape[1], width]))

    def weighted_sum(factors: tf.Tensor, careful: bool) -> tf.Tensor:
        scaled = tf.reshape(factors[:, None, None] * _chosen(rows, factors, careful), [-1, width])
        return tf.math.unsorted_segment_sum(scaled, tf.reshape(tokens, [-1]), size)

    return Part(squared, weighted_sum, tf.reduce_all(is_finite(squared)))
