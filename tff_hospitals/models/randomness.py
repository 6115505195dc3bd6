"""A keyed, stateless stand-in for the random generator inside Keras layers.

Dropout and its relatives then are pure functions of a key: the same key, the same mask, in every runtime.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import numbers
from collections.abc import Callable, Sequence
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
    """Standard normal numbers, float32, equal with and without XLA up to rounding (none beyond 6.4).

    One whole number each, through the inverse of the distribution function in Giles' approximation (2010,
    "Approximating the erfinv function"): right to 1.4e-6 up to 5.4 deviations and to 0.003 beyond. The tail is computed
    from the small probability itself, not from one minus it, and so is as fine as the middle.

    Args:
      shape: of the result.
      key: int64 [2].
    """
    whole = tf.random.stateless_uniform(shape, key, minval=None, maxval=None, dtype=tf.int32, alg=_ALGORITHM)
    magnitude = tf.bitwise.bitwise_and(whole, tf.constant(2**31 - 1, tf.int32))
    beyond = (tf.cast(magnitude, tf.float32) + 0.5) * 2.0**-31  # P(|z| > result), in (0, 1]
    depth = -tf.math.log(beyond * (2.0 - beyond))
    slope = tf.where(depth < 5.0, _horner(_MIDDLE, depth - 2.5), _horner(_TAIL, tf.sqrt(depth) - 3.0))
    size = math.sqrt(2.0) * slope * (1.0 - beyond)
    return tf.where(whole < 0, -size, size)


def _horner(coefficients: Sequence[float], values: tf.Tensor) -> tf.Tensor:
    total: Any = coefficients[0]
    for coefficient in coefficients[1:]:
        total = coefficient + total * values
    return total


# The polynomials of Giles 2010, table 5, single precision.
_MIDDLE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
    -0.00125372503, -0.00417768164, 0.246640727, 1.50140941,
)  # fmt: skip
_TAIL = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
    -0.0076224613, 0.00943887047, 1.00167406, 2.83297682,
)  # fmt: skip


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
        if isinstance(rate, numbers.Real) and rate == 0:
            return inputs  # Keras' attention asks for it all the same
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
        batch, index, known = self._rows.batch, self._rows.index, self._rows.index.shape[0]
        # A record has several rows where a layer takes its steps for records, as TimeDistributed does.
        times = sizes[0] // (tf.shape(index)[0] if known is None else known)
        draws = tf.reshape(sample([batch * times, *sizes[1:]], key), [batch, times, *sizes[1:]])
        return tf.reshape(tf.gather(draws, index), sizes)

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
