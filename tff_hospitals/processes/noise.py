"""Noise from named keys, and small helpers on tensors.

All Gaussian noise of a run is drawn as *unit* normals from a key that names root seed, round and hospital; the
mechanism scales it. Every runtime sees the same bits (`exact_normals`), no noise repeats from round to round, and who
knows one hospital's key knows nothing of another's. Mechanisms ask a `noise_sources.Source`, so that the same code
takes its noise from the operating system instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_hospitals.processes.exact_normals import exact_normals

Tensors = tuple[tf.Tensor, ...]


def fold(key: tf.Tensor, *numbers: tf.Tensor | int) -> tf.Tensor:
    """A new int64 key of shape [2] from `key` and whole numbers (round, step, position)."""
    for number in numbers:
        key = tf.random.experimental.stateless_fold_in(key, tf.cast(number, tf.int64))
    return key


def unit_normals(key: Any, shape: Sequence[int], *, stream: Any = 0, position: Any = 0) -> tf.Tensor:
    """Float32 normals of mean 0 and deviation 1, the same bits with XLA and without.

    Args:
      key: int64 [..., 2]; leading axes ask for as many draws at once.
      shape: of one draw.
      stream, position: whole numbers [...] below 2**31 that belong to the key: what the noise is for, and which one.

    >>> draws = unit_normals(np.array([1, 2], np.int64), [3, 2], stream=1)
    >>> draws.shape, bool(tf.reduce_all(draws == unit_normals(np.array([1, 2], np.int64), [3, 2], stream=1)))
    (TensorShape([3, 2]), True)
    """
    stream, position = tf.cast(stream, tf.int32), tf.cast(position, tf.int32)
    together = draws_asked(key, stream, position)
    key = tf.broadcast_to(tf.convert_to_tensor(key, tf.int64), [*together, 2])
    draws = exact_normals(key, stream, position, int(np.prod(shape, dtype=np.int64)))
    return tf.reshape(draws, [*together, *shape])


def draws_asked(key: Any, stream: Any, position: Any) -> tf.TensorShape:
    """The leading axes [...] of what `unit_normals` draws.

    >>> draws_asked(np.zeros([4, 2], np.int64), 0, 7)
    TensorShape([4])
    """
    parts = tf.broadcast_static_shape(tf.convert_to_tensor(stream).shape, tf.convert_to_tensor(position).shape)
    return tf.broadcast_static_shape(tf.convert_to_tensor(key).shape[:-1], parts)


def unflatten(flat: tf.Tensor, specs: Sequence[tf.TensorSpec]) -> Tensors:
    """Cuts a flat float32 vector of all parameters into tensors of the given specs, in order."""
    sizes = [spec.shape.num_elements() for spec in specs]
    pieces = tf.split(flat, sizes) if len(sizes) > 1 else [flat]
    return tuple(tf.reshape(piece, spec.shape) for piece, spec in zip(pieces, specs))


def parameter_count(specs: Sequence[tf.TensorSpec]) -> int:
    """Number of scalars in tensors of these specs."""
    return sum(spec.shape.num_elements() for spec in specs)


def all_finite(tensors: Tensors) -> tf.Tensor:
    """Whether no value is NaN or infinite; a maximum would not do, since XLA's drops NaN."""
    return tf.reduce_all(tf.stack([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors]))


def global_norm(tensors: Tensors) -> tf.Tensor:
    """L2 norm over all tensors together; the squares are summed per tensor, in order, so that it is reproducible."""
    return tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(tensor)) for tensor in tensors]))
