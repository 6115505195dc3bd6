"""Renyi divergence curves of all parts, and the conversions from a curve to (epsilon, delta).

A curve is an array over `ORDERS`; composition is addition, so the epsilon of a growing ledger costs one multiply-add
per distinct event. Curves are computed once per process and kept.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from tff_hospitals.accounting.loss_shapes import (
    AllocationPart,
    Composition,
    DiscreteGaussianPart,
    FixedSizePart,
    GaussianPart,
    LaplacePart,
    MixturePart,
    Part,
    PoissonPart,
    SelectionPart,
    SkellamPart,
)
from tff_hospitals.accounting.random_allocation import allocation_rdp
from tff_hospitals.accounting.sampled_gaussian import ORDERS, fixed_size_rdp, mixture_rdp, poisson_rdp

__all__ = ["ORDERS", "classical_epsilon", "composed_curve", "curve", "improved_delta", "improved_epsilon"]


@functools.lru_cache(maxsize=4096)
def curve(part: Part) -> np.ndarray:
    """Renyi divergence of one part at every order; float64 [len(ORDERS)], not to be written to."""
    if isinstance(part, GaussianPart):
        values = ORDERS * (part.mu_squared / 2)
    elif isinstance(part, PoissonPart):
        values = poisson_rdp(part.sampling_probability, part.sigma)
    elif isinstance(part, MixturePart):
        values = mixture_rdp(part.weights, part.sigma)
    elif isinstance(part, FixedSizePart):
        values = fixed_size_rdp(part.batch_fraction, part.sigma)
    elif isinstance(part, AllocationPart):
        values = allocation_rdp(part.batches, part.sigma)
    elif isinstance(part, LaplacePart):
        values = _laplace(part.scale)
    elif isinstance(part, DiscreteGaussianPart):
        values = _discrete_gaussian(part)
    elif isinstance(part, SkellamPart):
        values = _skellam(part)
    elif isinstance(part, SelectionPart):
        values = repeat_and_select(composed_curve(part.base), part.mean_runs, part.shape)
    else:
        values = np.full(len(ORDERS), math.inf)
    values.setflags(write=False)
    return values


def composed_curve(composition: Composition) -> np.ndarray:
    """The curve of a composition; float64 [len(ORDERS)]."""
    total = np.zeros(len(ORDERS))
    for part, count in composition:
        if isinstance(part, GaussianPart):  # changes with every step of a run: not worth a place in the cache
            total += ORDERS * (part.mu_squared * count / 2)
        else:
            total += count * curve(part)
    return total


def improved_epsilon(rdp: np.ndarray, delta: float) -> float:
    """Epsilon by the conversion that dp_accounting uses.

    Source: Canonne, Kamath and Steinke 2020, arXiv:2004.00010, Proposition 12; Asoodeh et al. 2020, arXiv:2001.05990;
    and the bound delta <= sqrt(1 - exp(-KL)) for tiny losses (Bretagnolle and Huber 1978).
    """
    if np.any(delta**2 + np.expm1(-rdp) > 0):
        return 0.0
    with np.errstate(invalid="ignore"):
        return max(0.0, float(np.min(rdp + _improvement(delta))))


@functools.lru_cache(maxsize=256)
def _improvement(delta: float) -> np.ndarray:
    return np.asarray(np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1))


def classical_epsilon(rdp: np.ndarray, delta: float) -> float:
    """Epsilon by the conversion of the first papers: min over orders of rdp + log(1/delta) / (order - 1).

    Source: Mironov 2017, arXiv:1702.07476, Proposition 3.
    """
    return max(0.0, float(np.min(rdp - math.log(delta) / (ORDERS - 1))))


def improved_delta(rdp: np.ndarray, epsilon: float) -> float:
    """Delta at a given epsilon >= 0, by the same two bounds as `improved_epsilon`."""
    with np.errstate(divide="ignore"):
        by_kl = 0.5 * np.log(-np.expm1(-rdp))
    by_order = (ORDERS - 1) * (rdp - epsilon + np.log1p(-1 / ORDERS)) - np.log(ORDERS)
    return min(1.0, float(np.exp(np.min(np.minimum(by_kl, by_order)))))


def _laplace(scale: float) -> np.ndarray:
    """Mironov 2017, Proposition 6, in logarithms so that small scales do not overflow."""
    pure = 1 / scale
    low, high = np.log((ORDERS - 1) / (2 * ORDERS - 1)), np.log(ORDERS / (2 * ORDERS - 1))
    values = np.logaddexp(high + pure * (ORDERS - 1), low - pure * ORDERS) / (ORDERS - 1)
    return np.maximum(values, 0.0)


def _discrete_gaussian(part: DiscreteGaussianPart) -> np.ndarray:
    """Kairouz, Liu and Steinke 2021, arXiv:2102.06387, Proposition 14: the least of three bounds."""
    square, spread = part.l2_scale**2, part.dimension * part.tau
    return np.minimum.reduce(
        [
            ORDERS / 2 * square + spread,
            ORDERS / 2 * (square + 2 * part.l1_scale * part.tau + part.tau * spread),
            ORDERS / 2 * (part.l2_scale + math.sqrt(part.dimension) * part.tau) ** 2,
        ]
    )


def _skellam(part: SkellamPart) -> np.ndarray:
    """Agarwal, Kairouz and Liu 2021, arXiv:2110.04995, Corollary 3.6: for whole orders, so others are rounded up."""
    order = np.ceil(ORDERS)
    first = ((2 * order - 1) * part.l2_squared + 6 * part.l1) / (4 * part.variance**2)
    return order * part.l2_squared / (2 * part.variance) + np.minimum(first, 3 * part.l1 / (2 * part.variance))


def repeat_and_select(rdp: np.ndarray, mean_runs: float, shape: float) -> np.ndarray:
    """The curve of releasing only the best of a random number of runs, each with curve `rdp`.

    Args:
      rdp: float64 [len(ORDERS)], one run.
      mean_runs: mean number of runs, at least 1.
      shape: of the truncated negative binomial distribution of that number (1: geometric, 0: logarithmic); infinite:
        Poisson.

    Source: Papernot and Steinke 2022, arXiv:2110.03620, Theorem 2 (negative binomial) and Theorem 6 (Poisson).
    """
    if not np.all(np.isfinite(rdp)):
        return np.full(len(ORDERS), math.inf)
    log_mean = math.log(mean_runs) / (ORDERS - 1)
    if math.isinf(shape):
        delta_at = np.array([improved_delta(rdp, math.log1p(1 / (order - 1))) for order in ORDERS])
        return rdp + mean_runs * delta_at + log_mean
    gamma = negative_binomial_gamma(mean_runs, shape)
    constant = (1 + shape) * np.min((1 - 1 / ORDERS) * rdp - math.log(gamma) / ORDERS)
    values = rdp + log_mean + constant
    return np.asarray(np.minimum.accumulate(values[::-1])[::-1])  # the divergence never falls with the order


def negative_binomial_gamma(mean_runs: float, shape: float) -> float:
    """The success probability that gives this mean, rounded down (which can only raise epsilon); by bisection."""
    if shape == 1:
        return 1 / mean_runs
    low, high = 0.0, 1.0
    for _ in range(200):
        gamma = (low + high) / 2
        if _negative_binomial_mean(gamma, shape) < mean_runs:
            high = gamma
        else:
            low = gamma
        if high <= low * (1 + 1e-12):
            break
    return low


def _negative_binomial_mean(gamma: float, shape: float) -> float:
    """Definition 1 of Papernot and Steinke 2022."""
    log_gamma = math.log(gamma)
    if abs(log_gamma) < 1e-9:
        return 1.0
    odds = 1 / gamma - 1
    return odds / -log_gamma if shape == 0 else shape * odds / -math.expm1(shape * log_gamma)
