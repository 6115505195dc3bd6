"""Whole-number noise as Gaussian noise, so that it has a loss distribution whatever the dimension.

The worst direction of a vector of whole numbers has no closed form for a bound on its L2 norm alone. What is compared
is the noise instead, which no data moves:

* *Discrete Gaussian.* Let X be normal with variance s^2 and Y a whole number drawn around X by a discrete Gaussian of
  variance r^2. The chance of y is within a factor exp(+-closeness) of the discrete Gaussian of variance s^2 + r^2, with
  theta = 2 sum_k exp(-2 pi^2 r^2 k^2) and closeness = log((1 + theta) / (1 - theta)): so small that r^2 of two suffices
  for a million coordinates. Whole-number data move X and Y alike, so that the mechanism is a Gaussian one of variance
  s^2 that is rounded afterwards, up to that factor for each coordinate (Peikert 2010, "An efficient and parallel
  Gaussian sampler for lattices", Theorem 3.1). A sum of shares is one discrete Gaussian up to exp(+-tau / 2) (Kairouz,
  Liu and Steinke 2021, arXiv:2102.06387, Theorem 1).
* *Skellam.* Sums of shares are Skellam noise exactly, and that is near the normal density of the same variance V: its
  logarithm differs by about y^4 / (24 V^3). Over n coordinates the differences add up to at most a bound that fails
  with a chance that is chosen (Chernoff; rounds are coordinates like others, since noise does not look at data).

Two mechanisms that are near each other in this sense (`closeness` for all but a chance `missed`, both ways) have nearby
guarantees: delta(epsilon) <= exp(closeness) (delta'(epsilon - 2 closeness) + missed exp(epsilon)) + missed.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from tff_hospitals.accounting.loss_shapes import Composition, DiscreteGaussianPart, GaussianPart, Part, SkellamPart

MISSED = 1e-16
"""What delta may grow by, at most about twice, because Skellam noise is near to normal noise only nearly always."""
LEAST_VARIANCE = 100.0
"""Of Skellam noise: from here on the expansion of its density is exact to 10 / V^4 (Debye; tested against sums)."""
_CLOSENESS = 1e-10  # of all coordinates of a round together, which is what r^2 is chosen for


def lacks(part: Part) -> str:
    """Why whole-number noise cannot be taken for Gaussian noise; empty when it can, and for other parts.

    >>> lacks(SkellamPart(l2_squared=4.0, l1=4.0, variance=9.0, dimension=8))
    'needs Skellam noise of a variance of at least 100 (here 9)'
    """
    if isinstance(part, SkellamPart) and part.dimension is None:
        return "needs the dimension, which this Skellam event does not say"
    if isinstance(part, SkellamPart) and part.variance < LEAST_VARIANCE:
        return f"needs Skellam noise of a variance of at least {LEAST_VARIANCE:g} (here {part.variance:.4g})"
    if isinstance(part, (SkellamPart, DiscreteGaussianPart)) and part.variance <= _rounding_variance(part):
        least = _rounding_variance(part)
        return f"needs discrete noise of a variance above {least:.3g} (here {part.variance:.4g})"
    return ""


def is_whole(composition: Composition) -> bool:
    """Whether any part has whole-number noise."""
    return any(isinstance(part, (SkellamPart, DiscreteGaussianPart)) for part, _ in composition)


@functools.lru_cache(maxsize=1024)
def as_gaussian(composition: Composition) -> Composition:
    """The composition with Gaussian noise in the place of whole-number noise."""
    others: list[tuple[Part, float]] = []
    mu_squared = 0.0
    for part, count in composition:
        if isinstance(part, SkellamPart):
            mu_squared += count * part.l2_squared / (part.variance - _rounding_variance(part))
        elif isinstance(part, DiscreteGaussianPart):
            mu_squared += count * part.l2_scale**2 / (1 - _rounding_variance(part) / part.variance)
        elif isinstance(part, GaussianPart):
            mu_squared += count * part.mu_squared
        else:
            others.append((part, count))
    return (*others, (GaussianPart(mu_squared), 1))


def closeness(composition: Composition, epsilon: float) -> tuple[float, float]:
    """How near the composition is to `as_gaussian`, and the chance `missed` that it is not, at about this epsilon."""
    total, missed = 0.0, 0.0
    each = MISSED * math.exp(-min(math.ceil(max(epsilon, 0.0)), 500)) / len(composition)
    for part, count in composition:
        if isinstance(part, DiscreteGaussianPart):
            total += count * part.dimension * (_rounding_closeness(_rounding_variance(part)) + part.tau / 2)
        elif isinstance(part, SkellamPart):
            coordinates = count * (part.dimension or 1)
            total += coordinates * _rounding_closeness(_rounding_variance(part))
            total += skellam_closeness(part.variance, coordinates, each)
            missed += each
    return total, missed


def _rounding_variance(part: SkellamPart | DiscreteGaussianPart) -> float:
    """r^2, so that all coordinates of one release together are within `_CLOSENESS`."""
    return math.log(8 * (part.dimension or 1) / _CLOSENESS) / (2 * math.pi**2)


def _rounding_closeness(variance: float) -> float:
    theta = 2 * math.fsum(math.exp(-2 * (math.pi * k) ** 2 * variance) for k in range(1, 4)) + 1e-30
    return 2 * math.atanh(theta)


@functools.lru_cache(maxsize=256)
def skellam_closeness(variance: float, coordinates: float, missed: float) -> float:
    """By how much the logarithms of both densities of `coordinates` whole numbers differ at most, but for `missed`.

    The differences of single coordinates are bounded in a range that they leave with a chance of `missed` / 4, and
    their sum by the least Chernoff bound of many orders, under either density.

    >>> skellam_closeness(1e8, 1e6, 1e-20) < 1e-4
    True
    """
    wanted = math.log(4 * coordinates / missed)
    reach = math.sqrt(2 * variance * wanted)
    while -_log_tail(reach, variance) < wanted:  # Chernoff's bound for Skellam noise; a normal tail is shorter
        reach *= 1.01
    step = max(1, math.floor(math.sqrt(variance) / 200))  # sums over every step-th number: exact to exp(-2 pi^2 200^2)
    y = np.arange(0.0, reach + step, step)
    skellam, normal = log_skellam(y, variance), -(y**2) / (2 * variance) - 0.5 * math.log(2 * math.pi * variance)
    weight = np.full(len(y), 2.0 * step)
    weight[0] = step
    found = []
    for gain, density in ((skellam - normal, skellam), (normal - skellam, normal)):
        chances, orders = weight * np.exp(density), variance * np.logspace(-8, 1, 91)
        with np.errstate(over="ignore"):
            moments = [float(np.log1p(np.dot(chances, np.expm1(order * gain)))) for order in orders]
        # one more than Chernoff's bound: for what rounded and plain normal density differ by, far below that in sum
        found.append(min((coordinates * m + math.log(2 / missed) + 1) / t for m, t in zip(moments, orders)))
    return max(*found, 0.0) + coordinates * (10 / variance**4 + 1e-13)


def _log_tail(reach: float, variance: float) -> float:
    """Bound on the logarithm of the chance of a Skellam number of at least `reach`: its exponential moments'."""
    return float(_exponent(np.asarray(reach), variance))


def _exponent(y: np.ndarray, variance: float) -> np.ndarray:
    return np.asarray(y**2 / (np.hypot(y, variance) + variance) - y * np.arcsinh(y / variance))


def log_skellam(y: np.ndarray, variance: float) -> np.ndarray:
    """Logarithm of the chance of whole numbers y >= 0 under Skellam noise, for a variance of at least 100.

    Exp(-V) I_y(V) by Debye's expansion with three terms (Abramowitz and Stegun 9.7.7), in p = y / w and 1 / w.

    >>> from scipy import special
    >>> exact = special.ive(np.array([0.0, 40.0]), 400.0)
    >>> bool(np.allclose(log_skellam(np.array([0.0, 40.0]), 400.0), np.log(exact), atol=1e-10))
    True
    """
    w = np.hypot(y, variance)
    p = (y / w) ** 2
    first = (3 - 5 * p) / 24
    second = (81 - 462 * p + 385 * p**2) / 1152
    third = (30375 - 369603 * p + 765765 * p**2 - 425425 * p**3) / 414720
    series = np.log1p((first + (second + third / w) / w) / w)
    return np.asarray(_exponent(y, variance) - 0.5 * np.log(2 * math.pi * w) + series)
