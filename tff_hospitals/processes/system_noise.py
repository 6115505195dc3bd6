"""Noise from the operating system's cryptographic source, drawn by numpy.

Every number comes from fresh bytes of `os.urandom`: nothing is expanded from a key, and nobody can draw it again, not
even who holds the run's checkpoints. Deviations are scalars, as in all mechanisms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from tff_hospitals.foundations.random_streams import SystemGenerator

_SMALL_MEAN = 64.0  # below it Poisson numbers are read off a table


def normals(shape: Sequence[int]) -> np.ndarray:
    """float32 unit normals.

    >>> abs(float(normals([10_000]).std()) - 1.0) < 0.1
    True
    """
    return SystemGenerator().normal(size=tuple(shape)).astype(np.float32)


def uniforms(shape: Sequence[int]) -> np.ndarray:
    """float64 multiples of 2**-53 in [0, 1)."""
    return SystemGenerator().random(tuple(shape))


def skellam(shape: Sequence[int], stddev: float) -> np.ndarray:
    """int32: the difference of two Poisson numbers of mean stddev**2 / 2."""
    mean = float(stddev) ** 2 / 2
    return (poisson(shape, mean) - poisson(shape, mean)).astype(np.int32)


def poisson(shape: Sequence[int], mean: float) -> np.ndarray:
    """int64 Poisson numbers: a table for small means, Hoermann's transformed rejection for others.

    Source: Hoermann 1993, "The transformed rejection method for generating Poisson random variables" (PTRS),
    doi:10.1016/0167-6687(93)90997-4.

    >>> abs(float(poisson([20_000], 100.0).mean()) - 100.0) < 1.0
    True
    """
    count = math.prod(int(length) for length in shape)
    if mean <= 0.0:
        return np.zeros(tuple(shape), np.int64)
    if mean < _SMALL_MEAN:
        return np.searchsorted(_cumulated(mean), uniforms([count]), side="right").reshape(tuple(shape))
    found = np.empty([0], np.int64)
    while len(found) < count:
        found = np.concatenate([found, _transformed_rejection(int(1.2 * (count - len(found))) + 16, mean)])
    return found[:count].reshape(tuple(shape))


@functools.lru_cache(maxsize=32)
def _cumulated(mean: float) -> np.ndarray:
    """P(N <= n) for n = 0, 1, ... until it rounds to 1."""
    values = np.arange(int(mean + 20 * math.sqrt(mean)) + 60)
    logs = values * math.log(mean) - mean - np.array([math.lgamma(value + 1.0) for value in values])
    return np.cumsum(np.exp(logs))


def _transformed_rejection(candidates: int, mean: float) -> np.ndarray:
    """The accepted ones among so many candidates, in order."""
    from scipy import special

    b = 0.931 + 2.53 * math.sqrt(mean)
    a = -0.059 + 0.02483 * b
    inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)
    u, v = uniforms([2, candidates])
    u, v = u - 0.5, 1.0 - v  # v in (0, 1]
    us = 0.5 - np.abs(u)
    us = np.maximum(us, 2.0**-54)  # u of exactly -1/2, which the test below refuses
    numbers = np.floor((2 * a / us + b) * u + mean + 0.43)
    inside = (numbers >= 0) & ~((us < 0.013) & (v > us))
    at_once = (us >= 0.07) & (v <= 0.9277 - 3.6224 / (b - 2))
    positive = np.maximum(numbers, 0.0)
    density = positive * math.log(mean) - mean - special.gammaln(positive + 1.0)
    by_density = np.log(v * inverse_alpha / (a / us**2 + b)) <= density
    return numbers[inside & (at_once | by_density)].astype(np.int64)
