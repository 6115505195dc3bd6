"""Whole-number noise from named keys: discrete Gaussian and Skellam.

Drawn outside XLA, which draws other floats from one key. A share is exact up to the 52 bits of its float64 uniforms:
its distribution differs from the stated one by less than 2**-45 in total variation per coordinate. Floating-point noise
on real numbers has no such statement (Mironov 2012, "On significance of the least significant bits for differential
privacy").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from tff_hospitals.processes.noise import fold

_CANDIDATES = 2.0  # per coordinate and pool; a third (small deviations) to three quarters of them are accepted


def skellam(key: tf.Tensor, shape: Sequence[int], stddev: tf.Tensor) -> tf.Tensor:
    """int32 Skellam noise: the difference of two Poisson numbers of mean stddev**2 / 2.

    >>> import numpy as np
    >>> draws = skellam(np.array([1, 2], np.int64), [10_000], tf.constant(3.0)).numpy()
    >>> bool(abs(draws.std() - 3.0) < 0.1)
    True
    """
    mean = tf.cast(stddev, tf.float64) ** 2 / 2
    first, second = (
        tf.random.stateless_poisson(shape, seed=fold(key, number), lam=mean, dtype=tf.int64) for number in (0, 1)
    )
    return tf.cast(first - second, tf.int32)


def keyed_uniforms(key: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """float64 in [0, 1) from a key."""
    return tf.random.stateless_uniform(shape, seed=key, dtype=tf.float64, alg="philox")


def discrete_gaussian(
    key: tf.Tensor, shape: Sequence[int], stddev: tf.Tensor, *, uniforms: Callable[..., tf.Tensor] = keyed_uniforms
) -> tf.Tensor:
    """int32 discrete Gaussian noise: probability proportional to exp(-x**2 / (2 stddev**2)) on the whole numbers.

    Rejection from a discrete Laplace distribution (Canonne, Kamath and Steinke 2020, arXiv:2004.00010, algorithm 3),
    the coordinates take what is accepted from pools of candidates, in order. `stddev` 0 gives zeros.

    Args:
      key: int64 [2].
      shape: of the result.
      stddev: scalar.
      uniforms: how float64 numbers in [0, 1) of a shape are drawn from a key.

    >>> import numpy as np
    >>> draws = discrete_gaussian(np.array([1, 2], np.int64), [10_000], tf.constant(3.0)).numpy()
    >>> bool(abs(draws.std() - 3.0) < 0.1)
    True
    """
    size = math.prod(int(length) for length in shape)
    sigma = tf.cast(stddev, tf.float64)
    variance = tf.maximum(sigma**2, 1e-300)
    scale = tf.floor(sigma) + 1.0
    pool = int(_CANDIDATES * size) + 128

    def draw(attempt: tf.Tensor, found: tf.Tensor, count: tf.Tensor) -> tuple:
        drawn = uniforms(fold(key, attempt), [2, pool])
        halves = 2.0 * drawn[0]  # one bit for the sign, the rest for the size
        negative = tf.greater_equal(halves, 1.0)
        magnitude = tf.floor(-scale * tf.math.log1p(-(halves - tf.floor(halves))))  # P(m) ~ exp(-m / scale)
        twice_zero = tf.logical_and(negative, tf.equal(magnitude, 0.0))  # else zero would count double
        odds = tf.exp(-((magnitude - variance / scale) ** 2) / (2.0 * variance))
        accepted = tf.logical_and(tf.less(drawn[1], odds), tf.logical_not(twice_zero))
        taken = tf.boolean_mask(tf.where(negative, -magnitude, magnitude), accepted)
        together = tf.concat([found[:count], taken], axis=0)[:size]
        count = tf.shape(together)[0]
        return attempt + 1, tf.ensure_shape(tf.pad(together, [[0, size - count]]), [size]), count

    _, found, _ = tf.while_loop(
        lambda attempt, found, count: tf.less(count, size),
        draw,
        (tf.constant(0), tf.zeros([size], tf.float64), tf.where(tf.greater(sigma, 0.0), 0, size)),
        parallel_iterations=1,
    )
    return tf.reshape(tf.cast(found, tf.int32), shape)
