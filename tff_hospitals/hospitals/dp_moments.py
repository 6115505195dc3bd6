"""Means and deviations of a hospital's columns under record-level differential privacy.

One Gaussian release per hospital. Each column is mapped by its public bounds to u in [-1, 1]; a record contributes the
vector (1, u_1, .., u_d, u_1^2, .., u_d^2). Its Euclidean norm is at most sqrt(1 + 2 d): that is how far adding or
removing one record moves the sum (the sensitivity, add-or-remove-one). The sum is released with noise of standard
deviation `noise_multiplier` times that; everything after it is post-processing. So the ledger needs one event: a
Gaussian with this noise multiplier.

Source: Gaussian mechanism, Dwork and Roth 2014, "The Algorithmic Foundations of Differential Privacy", appendix A;
noisy moments as in Karwa and Vadhan 2018, arXiv:1711.03908, in their simplest form for bounded data.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tff_hospitals.foundations.random_streams import Streams

# What is expected of a column before anything is released, in units of half its public range (value, deviation). The
# noisier the release, the more these public guesses count: a small hospital ends near them instead of anywhere.
EXPECTED_MEAN = (0.0, 0.3)
EXPECTED_VARIANCE = (0.15, 0.1)

# A deviation below this share of the half range is taken as this share: the noise could have made it anything.
SMALLEST_DEVIATION = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class NoisyMoments:
    """What was released: all of it may be published.

    Attributes:
      means, deviations: float64 of shape [columns], in original units, inside the public bounds.
      noise_multiplier: noise standard deviation over sensitivity.
    """

    means: np.ndarray
    deviations: np.ndarray
    noise_multiplier: float


def sensitivity(columns: int) -> float:
    """L2 bound on what one record adds to the sums of `columns` columns.

    >>> sensitivity(4)
    3.0
    """
    return math.sqrt(1 + 2 * columns)


def sums(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The exact sums before noise: (records, sum u, sum u^2), float64 of shape [1 + 2 columns].

    Args:
      values: of shape [records, columns] in original units; clipped to the bounds first.
      low, high: public bounds, of shape [columns].
    """
    unit = np.clip((np.asarray(values, np.float64) - (high + low) / 2) / ((high - low) / 2), -1.0, 1.0)
    return np.concatenate([[float(len(unit))], unit.sum(axis=0), (unit**2).sum(axis=0)])


def noised_sums(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, *, noise_multiplier: float, streams: Streams
) -> np.ndarray:
    """The one private release: `sums` with independent Gaussian noise of `noise_multiplier * sensitivity` on each."""
    exact = sums(values, low, high)
    return exact + streams.generator().normal(size=len(exact)) * noise_multiplier * sensitivity(len(low))


def release(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, *, noise_multiplier: float, streams: Streams
) -> NoisyMoments:
    """Noised means and deviations of one hospital's training records.

    Args:
      values: of shape [records, columns] in original units, without NaN.
      low, high: public bounds, of shape [columns].
      noise_multiplier: > 0; epsilon follows from it in the ledger.
      streams: the hospital's own stream for this release.
    """
    columns = len(low)
    noised = noised_sums(values, low, high, noise_multiplier=noise_multiplier, streams=streams)
    count = max(noised[0], 1.0)
    error = noise_multiplier * sensitivity(columns) / count  # deviation of the noise in a noised mean
    mean = _shrink(np.clip(noised[1 : 1 + columns] / count, -1.0, 1.0), error, EXPECTED_MEAN)
    variance = np.clip(noised[1 + columns :] / count, 0.0, 1.0) - mean**2
    variance = _shrink(variance, error, EXPECTED_VARIANCE)
    deviation = np.sqrt(np.clip(variance, SMALLEST_DEVIATION**2, 1.0))
    half = (high - low) / 2
    return NoisyMoments((high + low) / 2 + mean * half, deviation * half, noise_multiplier)


def _shrink(estimate: np.ndarray, error: float, expected: tuple[float, float]) -> np.ndarray:
    """The estimate and the public guess, weighted by how sure each is (the mean of a normal posterior)."""
    guess, spread = expected
    weight = spread**2 / (spread**2 + error**2)
    return guess + weight * (estimate - guess)
