"""Gaussian noise from named keys.

All noise of a run is drawn as *unit* normals, outside XLA, from a key that names root seed, round and hospital; the
mechanism scales it. So every runtime sees the same bits, no noise repeats from round to round, and who knows one
hospital's key knows nothing of another's.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

Tensors = tuple[tf.Tensor, ...]


def fold(key: tf.Tensor, *numbers: tf.Tensor | int) -> tf.Tensor:
    """A new int64 key of shape [2] from `key` and whole numbers (round, step, position)."""
    for number in numbers:
        key = tf.random.experimental.stateless_fold_in(key, tf.cast(number, tf.int64))
    return key


def unit_normals(key: tf.Tensor, shape: Sequence[int] | tf.Tensor) -> tf.Tensor:
    """Float32 normals of mean 0 and deviation 1; Philox is named so that the bits are the same on every device kind.

    >>> import numpy as np
    >>> draws = unit_normals(np.array([1, 2], np.int64), [3, 2])
    >>> draws.shape, bool(tf.reduce_all(draws == unit_normals(np.array([1, 2], np.int64), [3, 2])))
    (TensorShape([3, 2]), True)
    """
    return tf.random.stateless_normal(shape, seed=key, dtype=tf.float32, alg="philox")


def unflatten(flat: tf.Tensor, specs: Sequence[tf.TensorSpec]) -> Tensors:
    """Cuts a flat float32 vector of all parameters into tensors of the given specs, in order."""
    sizes = [spec.shape.num_elements() for spec in specs]
    pieces = tf.split(flat, sizes) if len(sizes) > 1 else [flat]
    return tuple(tf.reshape(piece, spec.shape) for piece, spec in zip(pieces, specs))


def parameter_count(specs: Sequence[tf.TensorSpec]) -> int:
    """Number of scalars in tensors of these specs."""
    return sum(spec.shape.num_elements() for spec in specs)


def global_norm(tensors: Tensors) -> tf.Tensor:
    """L2 norm over all tensors together; the squares are summed per tensor, in order, so that it is reproducible."""
    return tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(tensor)) for tensor in tensors]))
