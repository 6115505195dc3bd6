"""Whole-number noise from named keys: discrete Gaussian and Skellam.

Drawn outside XLA, like all noise. A share is exact up to the 52 bits of its float64 uniforms: its distribution differs
from the stated one by less than 2**-45 in total variation per coordinate. Floating-point noise on real numbers has no
such statement (Mironov 2012, "On significance of the least significant bits for differential privacy").
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tff_hospitals.processes.noise import fold

_CANDIDATES = 4  # per coordinate and pass; about half of all candidates are taken


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


def discrete_gaussian(key: tf.Tensor, shape: Sequence[int], stddev: tf.Tensor) -> tf.Tensor:
    """int32 discrete Gaussian noise: probability proportional to exp(-x**2 / (2 stddev**2)) on the whole numbers.

    Rejection from a discrete Laplace distribution (Canonne, Kamath and Steinke 2020, arXiv:2004.00010, algorithm 3),
    for all coordinates at once until each has taken a candidate. `stddev` 0 gives zeros.

    >>> import numpy as np
    >>> draws = discrete_gaussian(np.array([1, 2], np.int64), [10_000], tf.constant(3.0)).numpy()
    >>> bool(abs(draws.std() - 3.0) < 0.1)
    True
    """
    size = 1
    for length in shape:
        size *= int(length)
    sigma = tf.cast(stddev, tf.float64)
    variance = tf.maximum(sigma**2, 1e-300)
    scale = tf.floor(sigma) + 1.0

    def draw(attempt: tf.Tensor, found: tf.Tensor, taken: tf.Tensor) -> tuple:
        uniforms = tf.random.stateless_uniform(
            [3, _CANDIDATES, size], seed=fold(key, attempt), dtype=tf.float64, alg="philox"
        )
        magnitude = tf.floor(-scale * tf.math.log1p(-uniforms[0]))  # geometric: P(m) ~ exp(-m / scale)
        negative = tf.less(uniforms[1], 0.5)
        twice_zero = tf.logical_and(negative, tf.equal(magnitude, 0.0))  # else zero would count double
        odds = tf.exp(-((magnitude - variance / scale) ** 2) / (2.0 * variance))
        accepted = tf.logical_and(tf.less(uniforms[2], odds), tf.logical_not(twice_zero))
        value = tf.where(negative, -magnitude, magnitude)
        for candidate in range(_CANDIDATES):
            found = tf.where(taken, found, value[candidate])
            taken = tf.logical_or(taken, accepted[candidate])
        return attempt + 1, found, taken

    none_taken = tf.fill([size], tf.less_equal(sigma, 0.0))
    _, found, _ = tf.while_loop(
        lambda attempt, found, taken: tf.logical_not(tf.reduce_all(taken)),
        draw,
        (tf.constant(0), tf.zeros([size], tf.float64), none_taken),
        parallel_iterations=1,
    )
    return tf.reshape(tf.cast(found, tf.int32), shape)
