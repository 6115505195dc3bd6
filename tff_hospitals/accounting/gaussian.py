"""The Gaussian mechanism without approximation, zero-concentrated DP, and the split of adaptive clipping's noise.

>>> round(exact_delta(1.0, 1.0), 6)  # three releases of noise sqrt(3) are one of noise 1
0.126937
>>> round(split_adaptive_noise(0.3, bit_noise_stddev=0.2), 4)  # four hospitals: the bits already cost most of it
0.4536
"""

from __future__ import annotations

import math

from tff_hospitals.accounting.loss_shapes import Composition, DiscreteGaussianPart, GaussianPart, LaplacePart, Part
from tff_hospitals.foundations import validation
from tff_hospitals.foundations.validation import Problem


def total_mu(composition: Composition) -> float:
    """Sensitivity over standard deviation of the one Gaussian mechanism that all Gaussian parts amount to."""
    return math.sqrt(sum(part.mu_squared * count for part, count in composition if isinstance(part, GaussianPart)))


def exact_log_delta(mu: float, epsilon: float) -> float:
    """The natural logarithm of the smallest delta of a Gaussian mechanism at `epsilon`.

    Args:
      mu: sensitivity over standard deviation of the noise.
      epsilon: at least 0.

    Source: Balle and Wang 2018, arXiv:1805.06530, Theorem 8.
    """
    from scipy import special

    if mu == 0:
        return -math.inf
    first = float(special.log_ndtr(mu / 2 - epsilon / mu))
    second = epsilon + float(special.log_ndtr(-mu / 2 - epsilon / mu))
    return first + math.log(-math.expm1(second - first)) if second < first else -math.inf


def exact_delta(mu: float, epsilon: float) -> float:
    """The smallest delta of a Gaussian mechanism at `epsilon`; see `exact_log_delta`."""
    return math.exp(exact_log_delta(mu, epsilon))


def exact_epsilon(mu: float, delta: float) -> float:
    """The smallest epsilon of a Gaussian mechanism at `delta`, by bisection to the last bits (rounded up).

    >>> round(exact_epsilon(1.0, 1e-5), 6)
    4.377178
    """
    if mu == 0:
        return 0.0
    target = math.log(delta)
    if exact_log_delta(mu, 0.0) <= target:
        return 0.0
    low, high = 0.0, mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1e-9  # the zCDP bound is never too small
    for _ in range(100):
        middle = (low + high) / 2
        if exact_log_delta(mu, middle) <= target:
            high = middle
        else:
            low = middle
        if high - low <= 1e-13 * high:
            break
    return high


def zcdp_rho(part: Part) -> float | None:
    """The zCDP parameter rho of a part; None when the part has none that is known.

    Source: Bun and Steinke 2016, arXiv:1605.02065 (Gaussian and pure DP); Kairouz, Liu and Steinke 2021,
    arXiv:2102.06387.
    """
    if isinstance(part, GaussianPart):
        return part.mu_squared / 2
    if isinstance(part, LaplacePart):
        return 0.5 / part.scale**2
    if isinstance(part, DiscreteGaussianPart):
        spread = part.dimension * part.tau
        by_l1 = part.l2_scale**2 + 2 * part.l1_scale * part.tau + part.tau * spread
        return min(by_l1, (part.l2_scale + math.sqrt(part.dimension) * part.tau) ** 2) / 2
    return None


def zcdp_epsilon(composition: Composition, delta: float) -> float:
    """Epsilon of a composition by zCDP: rho + 2 sqrt(rho log(1/delta)), Bun and Steinke 2016, Proposition 1.3."""
    rho = sum(count * (zcdp_rho(part) or 0.0) for part, count in composition)
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


def split_adaptive_noise(noise_multiplier: float, *, bit_noise_stddev: float) -> float:
    """The noise that remains for the values when adaptive clipping as a whole is to cost `noise_multiplier`.

    Args:
      noise_multiplier: of the single Gaussian mechanism that values and bits together amount to.
      bit_noise_stddev: standard deviation on the count of unclipped units, in units; each unit adds -1/2 or +1/2.

    Returns:
      The multiplier for the values, larger than `noise_multiplier`.

    Raises:
      InvalidInput: when the bits alone already cost as much: noise_multiplier must be below 2 bit_noise_stddev. With
        the usual bit_noise_stddev of units / 20 that is units / 10.

    Source: Andrew, Thakkar, McMahan and Ramaswamy 2021, arXiv:1905.03871, Theorem 1.
    """
    validation.raise_if(
        [
            validation.in_range(
                "bit_noise_stddev", bit_noise_stddev, low=0.0, low_open=True, remedy="give positive noise"
            ),
            adaptive_noise_problem(noise_multiplier, bit_noise_stddev),
        ]
    )
    return float((noise_multiplier**-2 - (2 * bit_noise_stddev) ** -2) ** -0.5)


def join_adaptive_noise(value_noise_multiplier: float, *, bit_noise_stddev: float) -> float:
    """The inverse of `split_adaptive_noise`: one multiplier for values and bits together."""
    return float((value_noise_multiplier**-2 + (2 * bit_noise_stddev) ** -2) ** -0.5)


def adaptive_noise_problem(noise_multiplier: float, bit_noise_stddev: float) -> Problem | None:
    """What is wrong with a total noise multiplier for adaptive clipping; None when it is feasible."""
    most = 2 * bit_noise_stddev
    if validation.in_range(
        "noise_multiplier", noise_multiplier, low=0.0, low_open=True, high=most, high_open=True, remedy=""
    ):
        bound = f"must be > 0 and < {most:g}, twice the noise on the clipping bits (units / 10 by default)"
        remedy = "use fixed clipping, more units per round, or more noise on the bits"
        return Problem("noise_multiplier", noise_multiplier, bound, remedy)
    return None
