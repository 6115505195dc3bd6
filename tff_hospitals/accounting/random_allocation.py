"""Renyi divergences of random allocation: in every pass a record chooses one of t batches at random (balls in bins).

The worst pair of outputs of one pass is known, whatever the model did between the batches: without the record t normal
numbers, with it the same, one of which, at random, is moved by 1. With W = exp((2 x - 1) / (2 sigma^2)), the density
ratio of one batch, the ratio of a pass is S, the mean of t independent W. So

* with the record over without: log E[S^a] / (a - 1), for whole a a power series in closed form; log E[S^a] is convex in
  a, so that orders between are bounded by the straight line;
* without over with: log E[S^-m] / m with m = a - 1, where S^-m = integral of u^(m - 1) exp(-u S) / Gamma(m), and the
  expectation of exp(-u S) is a power of the transform of one W: a sum over a fine grid. It is left out where already
  the moment of the geometric mean, m (m / t + 1) / (2 sigma^2), is below the other direction's.

The larger one counts. Passes add up.

Sources: Chua et al. 2024, arXiv:2412.16802, Theorem 3.1 (the pair); Liew and Takahashi 2022, arXiv:2206.09569, and
Feldman and Shenfeld 2025, arXiv:2502.08202 (moments of whole orders).

>>> from tff_hospitals.accounting.sampled_gaussian import poisson_rdp
>>> at_two = list(ORDERS).index(2.0)
>>> allocated, sampled = allocation_rdp(50, 1.0)[at_two], 50 * poisson_rdp(1 / 50, 1.0)[at_two]
>>> round(float(allocated), 5), round(float(sampled), 5)  # as many batches of the same mean size by Poisson sampling
(0.03379, 0.03435)
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from tff_hospitals.accounting.sampled_gaussian import ORDERS

_LARGEST = 64
"""Orders above have no figure (infinite), so that they never decide."""
_MOST_BATCHES = 10**6


def allocation_rdp(batches: int, sigma: float) -> np.ndarray:
    """Divergences of one pass at `ORDERS`; float64 [len(ORDERS)].

    Args:
      batches: t, batches of a pass.
      sigma: standard deviation of the noise over the sensitivity.
    """
    batches = min(batches, _MOST_BATCHES)  # more batches only hide a record better: means of more W are nearer to 1
    used = ORDERS[ORDERS <= _LARGEST]
    whole = _log_moments(batches, sigma)
    present = np.interp(used, np.arange(1.0, _LARGEST + 1), whole[1:])
    more = np.maximum(used - 1, 1.0)  # below order 2 the line from order 1, where both logarithms are 0, bounds them
    share = (used - 1) / more
    absent = share * more * (more / batches + 1) / (2 * sigma**2)  # S is at least the geometric mean of its W
    decides = (
        absent > present
    )  # elsewhere the other direction is the larger one, as for all orders where noise is small
    if decides.any():
        absent[decides] = share[decides] * _log_negative_moments(batches, sigma, more[decides])
    values = np.full(len(ORDERS), math.inf)
    rounding = 1e-12 + 1e-15 * batches
    values[: len(used)] = (np.maximum(present, absent) + rounding) / (used - 1)
    return values


def _log_moments(batches: int, sigma: float) -> np.ndarray:
    """Log E[S^a] for a = 0, 1, ..., `_LARGEST`: a! / t^a times the t-th power of sum_k E[W^k] z^k / k! at z^a."""
    order = np.arange(_LARGEST + 1.0)
    base = order * (order - 1) / (2 * sigma**2) - special.gammaln(order + 1)
    power = np.where(order == 0, 0.0, -math.inf)
    left = batches
    while left:
        if left & 1:
            power = _product(power, base)
        left >>= 1
        if left:
            base = _product(base, base)
    return np.asarray(power + special.gammaln(order + 1) - order * math.log(batches))


def _product(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of two power series, in logarithms; all coefficients are positive."""
    return np.array([np.logaddexp.reduce(first[: n + 1] + second[n::-1]) for n in range(len(first))])


def _log_negative_moments(batches: int, sigma: float, orders: np.ndarray) -> np.ndarray:
    """Log E[S^-m] for m in `orders`, by sums over the logarithm of u and over the normal number behind W."""
    lowest = -(12 + float(orders[-1]) / sigma)
    width = 0.1 * min(1.0, sigma)
    normal = np.arange(lowest, 12.0, width)
    log_chances = -(normal**2) / 2 - 0.5 * math.log(2 * math.pi) + math.log(width)
    log_w = normal / sigma - 1 / (2 * sigma**2)
    step = 0.1
    log_v = np.arange(-45.0 - math.log(batches), 6.0 - float(log_w[0]), step)
    transform = np.array([_log_transform(log_chances, np.exp(np.minimum(v + log_w, 700.0))) for v in log_v])
    log_u = log_v + math.log(batches)
    sums = np.array([np.logaddexp.reduce(m * log_u + batches * transform) for m in orders])
    return np.asarray(sums + math.log(step) - special.gammaln(orders))


def _log_transform(log_chances: np.ndarray, exponents: np.ndarray) -> float:
    """Log E[exp(-x)]; near 0 by what it lacks to it, to all digits, since a power of so many batches follows."""
    lacks = -float(np.dot(np.exp(log_chances), np.expm1(-exponents)))
    return math.log1p(-lacks) if lacks < 0.5 else float(np.logaddexp.reduce(log_chances - exponents))
