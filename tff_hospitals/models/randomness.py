"""A keyed, stateless stand-in for the random generator inside Keras layers.

Dropout and its relatives then are pure functions of a key: the same key, the same mask, in every runtime.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any

import tensorflow as tf

# Named rather than left to TensorFlow's choice, which may depend on the device.
_ALGORITHM = "philox"


def uniform(shape: Any, key: Any) -> tf.Tensor:
    """Multiples of 2^-24 in [0, 1), uniform, float32: the same numbers with and without XLA.

    TensorFlow's own stateless floats differ between compiled and plain graphs; its stateless whole numbers do not.

    Args:
      shape: of the result.
      key: int64 [2].

    >>> draws = uniform([1000], [1, 2])
    >>> bool(tf.reduce_all(draws == uniform([1000], [1, 2]))), bool(tf.reduce_all((draws >= 0) & (draws < 1)))
    (True, True)
    """
    bits = _bits(shape, key)
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def normal(shape: Any, key: Any) -> tf.Tensor:
    """Standard normal numbers, float32, equal with and without XLA up to rounding (none beyond 6.7).

    The polar angle and radius of two numbers come from two whole numbers (Box & Muller 1958), in vector operations: in
    a plain graph that takes two thirds of the time of TensorFlow's own normal numbers.
    """
    sizes = list(shape) if isinstance(shape, (list, tuple)) else shape
    if isinstance(sizes, list) and all(isinstance(size, int) for size in sizes):
        count: Any = math.prod(sizes)
    else:
        count = tf.reduce_prod(tf.convert_to_tensor(sizes))
    half = (count + 1) // 2
    bits = tf.random.stateless_uniform([2 * half], key, minval=None, maxval=None, dtype=tf.int32, alg=_ALGORITHM)
    # From 2^-32 on in steps of 2^-31: the far tail is as fine as the middle.
    magnitude = tf.bitwise.bitwise_and(bits[:half], tf.constant(2**31 - 1, tf.int32))
    radius = tf.sqrt(-2.0 * tf.math.log((tf.cast(magnitude, tf.float32) + 0.5) * 2.0**-31))
    angle = tf.cast(bits[half:], tf.float32) * (math.pi * 2.0**-31)
    return tf.reshape(tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=0)[:count], sizes)


def _bits(shape: Any, key: Any) -> tf.Tensor:
    return tf.random.stateless_uniform(shape, key, minval=None, maxval=None, dtype=tf.uint32, alg=_ALGORITHM)


class MissingKey(ValueError):
    """A layer draws random numbers and the caller gave no key; Keras adds its own words to the message."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which records of a larger batch a call computes: it must draw what the whole batch would have drawn for them.

    Args:
      index: int32 [records of this call], positions in the whole batch.
      batch: number of records of the whole batch (a number or an int32 scalar).
    """

    index: tf.Tensor
    batch: Any


class KeyedRandom:
    """Takes the place of `keras.backend.RandomGenerator` while a model is traced.

    Args:
      layer: the layer whose generator it replaces (its noise_shape says whether records share noise).
      key: int64 [2] or None; drawing without a key is an error.
      stream: number of the layer; each draw of each layer has a stream of its own.
      rows: None when the call computes the whole batch.
    """

    def __init__(self, layer: Any, key: Any, stream: int, rows: Rows | None):
        self._layer, self._key, self._stream, self._rows = layer, key, stream, rows
        self._draws: collections.Counter[int] = collections.Counter()

    def random_uniform(
        self, shape: Any, minval: Any = 0.0, maxval: Any = None, dtype: Any = None, nonce: Any = None
    ) -> Any:
        """Uniform numbers in [minval, maxval) (maxval None: 1)."""
        high = 1.0 if maxval is None else maxval
        return tf.cast(minval + (high - minval) * self._draw(uniform, shape, nonce), dtype or tf.float32)

    def random_normal(
        self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, nonce: Any = None
    ) -> Any:
        """Normal numbers."""
        return tf.cast(mean + stddev * self._draw(normal, shape, nonce), dtype or tf.float32)

    def truncated_normal(
        self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, nonce: Any = None
    ) -> Any:
        """Normal numbers within two standard deviations."""
        inside = math.erf(math.sqrt(2.0))  # the share of a normal distribution within two standard deviations
        centred = inside * (2.0 * self._draw(uniform, shape, nonce) - (1.0 - 2.0**-24))
        return tf.cast(mean + stddev * math.sqrt(2.0) * tf.math.erfinv(centred), dtype or tf.float32)

    def dropout(self, inputs: tf.Tensor, rate: Any, noise_shape: Any = None) -> tf.Tensor:
        """Inverted dropout: zero with probability `rate`, else the input divided by 1 - rate."""
        shape = _shape_of(inputs) if noise_shape is None else noise_shape
        if isinstance(rate, numbers.Real):
            # One comparison of whole numbers instead of a conversion to floats.
            threshold = tf.constant(min(2**32 - 1, round(float(rate) * 2**32)), tf.uint32)
            keep = self._draw(_bits, shape, None) >= threshold
        else:
            keep = self._draw(uniform, shape, None) >= tf.cast(rate, tf.float32)
        return tf.where(keep, inputs / (1 - tf.cast(rate, inputs.dtype)), tf.zeros([], inputs.dtype))

    def make_seed_for_stateless_op(self) -> tf.Tensor:
        """A seed of its own for a layer that calls stateless operations itself."""
        return self._next_key(None)

    def make_legacy_seed(self) -> None:
        """No stateful operation may be seeded: there must be none."""
        return None

    def _draw(self, sample: Callable[[Any, Any], tf.Tensor], shape: Any, nonce: Any) -> tf.Tensor:
        key = self._next_key(nonce)
        sizes = list(shape) if isinstance(shape, (list, tuple)) else tf.unstack(tf.convert_to_tensor(shape))
        if self._rows is None or _shared_by_records(self._layer) or not sizes:
            return sample(shape, key)
        return tf.gather(sample([self._rows.batch, *sizes[1:]], key), self._rows.index)

    def _next_key(self, nonce: Any) -> tf.Tensor:
        if self._key is None:
            name = getattr(self._layer, "name", "a layer")
            raise MissingKey(f"layer {name!r} draws random numbers in training and needs a key")
        # Counted for each graph by itself: Keras' recurrent layers draw the noise of their steps in the body of a loop,
        # or before it when they run eagerly, and it must be the same noise.
        place = 0 if tf.executing_eagerly() else id(tf.compat.v1.get_default_graph())
        # As int64, so that 64 bits of the key survive and not 32.
        number = tf.constant(self._stream * 1024 + self._draws[place], tf.int64)
        key = tf.random.fold_in(self._key, number, alg=_ALGORITHM)
        self._draws[place] += 1
        return key if nonce is None else tf.random.fold_in(key, tf.cast(nonce, tf.int64), alg=_ALGORITHM)


def _shape_of(values: tf.Tensor) -> list[Any]:
    known = values.shape.as_list()
    if None not in known:
        return known
    dynamic = tf.shape(values)
    return [dynamic[axis] if size is None else size for axis, size in enumerate(known)]


def _shared_by_records(layer: Any) -> bool:
    """Whether a layer asks for one draw that all records share (a noise_shape that begins with 1)."""
    declared = getattr(layer, "noise_shape", None)
    return isinstance(declared, (list, tuple)) and len(declared) > 0 and declared[0] == 1
