"""How much of each record's gradient is kept: squared norms that are never too small, and the factors of clipping.

A guarantee rests on one sentence: what a record adds to the sum is at most `clip_norm` long, whatever its numbers are.
Three things would break it, and each has its rule here:

* *A norm that is too small.* Squares are taken and added up in float64, where no float32 number over- or underflows and
  rounding does not add up. Numbers below the smallest normal one may be read as zero by one operation and not by the
  next, so each counts as at least that (`squared_norm`).
* *A norm that is not finite.* NaN compares with nothing, and compiled code takes the maximum of NaN and x to be x. A
  record whose gradient is not a finite float32 vector has the norm infinity and the factor zero (`factors`).
* *Zero times infinity.* A record of factor zero is taken out before anything is multiplied (`ghost.parts`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

STYLES = ("automatic", "flat", "per_layer")
# Added to the norm in automatic clipping (Bu et al. 2023 use 0.01 throughout).
_STABILITY = 0.01
_SMALLEST = 2.0**-126  # normal float32 number; what is smaller may be flushed to zero
_REPORTED = 1e-30  # a shorter norm is reported as zero: it may be all made of what was added for numbers near zero
_LARGEST_SQUARED = float(tf.float32.max) ** 2


def squared_norm(values: tf.Tensor) -> tf.Tensor:
    """Squared Euclidean norm of each row, float64 [batch]: never too small, and infinite where a row is not finite.

    Args:
      values: float32 [batch, ...]; the sizes after the first are known.

    >>> squared_norm(tf.constant([[3.0, 4.0], [1e30, 0.0], [float("nan"), 0.0]])).numpy()
    array([2.50000000e+01, 1.00000003e+60,            inf])
    """
    size = values.shape[1:].num_elements()
    wide = tf.cast(tf.reshape(values, [tf.shape(values)[0], size]), tf.float64)
    return finite_or_infinite(tf.reduce_sum(tf.square(wide), axis=1) + size * _SMALLEST**2)


def finite_or_infinite(squared: tf.Tensor) -> tf.Tensor:
    """Squared norms with infinity for NaN and for what no float32 number can hold."""
    return tf.where(is_finite(squared), squared, tf.constant(math.inf, tf.float64))


def is_finite(squared: tf.Tensor) -> tf.Tensor:
    """Whether squared norms are those of finite float32 vectors: false for NaN, compiled or not."""
    return squared < _LARGEST_SQUARED


def layer_groups(model: Any) -> tuple[int, ...]:
    """For each trainable weight the number of its layer, as per-layer clipping counts layers."""
    owners = [name.rpartition("/")[0] or name for name in model.trainable_names]
    numbers = {owner: number for number, owner in enumerate(dict.fromkeys(owners))}
    return tuple(numbers[owner] for owner in owners)


def factors(
    squared: Sequence[tf.Tensor], keep: tf.Tensor, clip_norm: Any, style: str, groups: Sequence[int]
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """By what each record's gradient is multiplied, for each weight, so that the whole is at most `clip_norm` long.

    Args:
      squared: for each weight the squared norms of its gradients, float64 [batch], as `squared_norm` gives them.
      keep: bool [batch]; the factors of other records are exactly zero.
      clip_norm: bound on the norm of the whole gradient.
      style: one of `STYLES`; `per_record.clipped_gradient_sum` describes them.
      groups: the layer of each weight.

    Returns:
      A factor float32 [batch] for each weight, zero for records that are not finite; and the norm of each whole
      gradient before clipping, float32 [batch], infinite for such records.
    """
    clip_norm, whole = tf.cast(clip_norm, tf.float64), tf.add_n(list(squared))
    norms = tf.sqrt(whole)
    used = tf.logical_and(keep, is_finite(whole))

    def factor(ratio: tf.Tensor) -> tf.Tensor:
        return tf.where(used, tf.cast(ratio, tf.float32), 0.0)

    def shrink(bound: tf.Tensor, norms: tf.Tensor) -> tf.Tensor:
        return factor(tf.minimum(tf.constant(1.0, tf.float64), bound / norms))

    reported = tf.where(tf.logical_and(keep, norms > _REPORTED), tf.cast(norms, tf.float32), 0.0)
    if style == "automatic":
        return [factor(clip_norm / (norms + _STABILITY))] * len(squared), reported
    if style == "flat":
        return [shrink(clip_norm, norms)] * len(squared), reported
    bound = clip_norm / math.sqrt(max(groups) + 1)
    of_layer = {}
    for layer in set(groups):
        in_layer = tf.sqrt(tf.add_n([one for one, number in zip(squared, groups) if number == layer]))
        of_layer[layer] = shrink(bound, in_layer)
    return [of_layer[layer] for layer in groups], reported
