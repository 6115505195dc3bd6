"""Whole numbers under a modulus, and the rotation that spreads a vector's norm evenly over its coordinates."""

from __future__ import annotations

import math

import tensorflow as tf


def centred(whole: tf.Tensor, bits: int) -> tf.Tensor:
    """The number of least size that equals `whole` modulo 2**bits.

    >>> centred(tf.constant([1, 15, 8, 23], tf.int32), 4).numpy().tolist()
    [1, -1, -8, 7]
    """
    low = tf.bitwise.bitwise_and(whole, tf.constant(2**bits - 1, tf.int32))
    return tf.where(tf.greater_equal(low, 2 ** (bits - 1)), low - 2 ** (bits - 1) - 2 ** (bits - 1), low)


def walsh_hadamard(blocks: tf.Tensor) -> tf.Tensor:
    """The Walsh-Hadamard transform of every row; twice gives `length` times the row.

    Sums and differences come in the order of `communication.rotation.walsh_hadamard`, so that both round alike.

    Args:
      blocks: float32 [rows, length], the length a power of two.

    >>> walsh_hadamard(tf.constant([[1.0, 0.0, 0.0, 2.0]])).numpy().tolist()
    [[3.0, -1.0, -1.0, 3.0]]
    """
    length = blocks.shape[-1]
    columns = min(length, 64)
    distances = [columns << i for i in range(int(math.log2(length // columns)))]
    distances += [1 << i for i in range(int(math.log2(columns)))]
    for distance in distances:
        pairs = tf.reshape(blocks, [-1, 2, distance])
        left, right = pairs[:, 0], pairs[:, 1]
        blocks = tf.stack([left + right, left - right], axis=1)
    return tf.reshape(blocks, [-1, length])
