"""How much of each record's gradient is kept: the factors of the three styles of clipping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

STYLES = ("automatic", "flat", "per_layer")
# Added to the norm in automatic clipping (Bu et al. 2023 use 0.01 throughout).
_STABILITY = 0.01


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
      squared: for each weight the squared norms of its gradients, [batch].
      keep: bool [batch]; the factors of other records are exactly zero.
      clip_norm: bound on the norm of the whole gradient.
      style: one of `STYLES`; `per_record.clipped_gradient_sum` describes them.
      groups: the layer of each weight.

    Returns:
      A factor [batch] for each weight, and the norm of each whole gradient before clipping [batch].
    """
    clip_norm, kept = tf.cast(clip_norm, tf.float32), tf.cast(keep, tf.float32)
    norms = tf.sqrt(tf.add_n(list(squared))) * kept
    if style == "automatic":
        return [kept * clip_norm / (norms + _STABILITY)] * len(squared), norms
    if style == "flat":
        return [kept * _shrink(norms, clip_norm)] * len(squared), norms
    bound = clip_norm / math.sqrt(max(groups) + 1)
    of_layer = {}
    for layer in set(groups):
        in_layer = [one for one, number in zip(squared, groups) if number == layer]
        of_layer[layer] = kept * _shrink(tf.sqrt(tf.add_n(in_layer)), bound)
    return [of_layer[layer] for layer in groups], norms


def _shrink(norms: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
    # The smallest normal number instead of zero: 0/0 must not arise when both are zero.
    return tf.minimum(1.0, bound / tf.maximum(norms, 1.2e-38))
