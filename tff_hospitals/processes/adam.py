"""Adam's step, once for the hospitals' optimiser and the server's.

Source: Kingma and Ba 2015, arXiv:1412.6980; in the order of operations of TFF's optimiser.
"""

from __future__ import annotations

import tensorflow as tf

from tff_hospitals.processes.noise import Tensors


def moved(moments: Tensors, values: Tensors, beta: tf.Tensor | float) -> Tensors:
    """Moving averages: the share 1 - beta of each new value. `beta` is float64, so that the share keeps its digits."""
    share = tf.cast(1.0 - tf.cast(beta, tf.float64), tf.float32)
    return tuple(moment + (value - moment) * share for moment, value in zip(moments, values))


def stepped(
    weights: Tensors,
    first: Tensors,
    second: Tensors,
    count: tf.Tensor,
    rate: tf.Tensor,
    beta_1: tf.Tensor | float,
    beta_2: tf.Tensor | float,
    epsilon: tf.Tensor | float,
) -> Tensors:
    """The weights after a step, with the usual correction of the bias.

    Args:
      weights: before the step.
      first, second: moments after the step's gradient was taken in.
      count: of steps, this one included.
      rate: float32, learning rate.
      beta_1, beta_2: of the moments.
      epsilon: added to the root of the second moment.
    """
    directions = directed(first, second, count, rate, beta_1, beta_2, epsilon)
    return tuple(weight - direction for weight, direction in zip(weights, directions))


def directed(
    first: Tensors,
    second: Tensors,
    count: tf.Tensor,
    rate: tf.Tensor,
    beta_1: tf.Tensor | float,
    beta_2: tf.Tensor | float,
    epsilon: tf.Tensor | float,
) -> Tensors:
    """What a step takes away from the weights; see `stepped`."""
    count, one, two = (tf.cast(value, tf.float32) for value in (count, beta_1, beta_2))
    scale = rate * tf.sqrt(1 - tf.pow(two, count)) / (1 - tf.pow(one, count))
    tiny = tf.cast(epsilon, tf.float32)
    return tuple(scale * m / (tf.sqrt(v) + tiny) for m, v in zip(first, second))
