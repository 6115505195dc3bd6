"""Renyi divergence of the Gaussian mechanism on a sample, for all orders at once.

dp_accounting computes the same numbers order by order; here they are a few array operations, so that a calibration
(dozens of curves) takes milliseconds and needs no heavy import. The tests hold both implementations together, to all
digits that a table shows. Where they differ ours is lower, and still an upper bound:

* integer orders sum A - 1 instead of A: every term is positive, which keeps full relative precision for tiny losses;
* log A is convex in the order, so the chord between integer orders bounds the fractional ones. It is taken where it is
  below the series of absolute values that dp_accounting uses, which near order 1 is loose or does not converge.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy import special

ORDERS = np.array(
    [1 + tenth / 10.0 for tenth in range(1, 100)] + [float(order) for order in (*range(11, 64), 128, 256, 512, 1024)]
)
"""The orders of dp_accounting's `RdpAccountant`: figures can be compared digit by digit."""

_BLOCK, _MAX_TERMS = 128, 1024
_CONVERGED = 30.0  # a last term below exp(-30) of the sum, as in dp_accounting
_TINY = 1e-9  # below this the series for A would lose precision against 1


@dataclasses.dataclass(frozen=True)
class _Binomials:
    """Everything about the orders that does not depend on the mechanism; arrays over all (order, term) pairs."""

    whole: np.ndarray  # the integer orders that are needed, ascending, [whole]
    order: np.ndarray  # order of each pair, [pairs]
    term: np.ndarray  # term of each pair, from 2 up, [pairs]
    log_binomial: np.ndarray  # [pairs]
    starts: np.ndarray  # first pair of each integer order, [whole]
    below: np.ndarray  # for every element of ORDERS, the index in `whole` of the largest integer order <= it
    share: np.ndarray  # and how far it lies towards the next, in [0, 1)
    fractional: np.ndarray  # indices into ORDERS of the orders that are not integers


@functools.lru_cache(maxsize=1)
def _binomials() -> _Binomials:
    floors = np.floor(ORDERS).astype(int)
    whole = np.array(sorted({1, *floors, *(floors + (floors < ORDERS))}))
    order = np.repeat(whole, np.maximum(whole - 1, 1))
    term = np.concatenate([np.arange(2, max(alpha, 2) + 1) for alpha in whole])
    with np.errstate(invalid="ignore"):
        log_binomial = special.gammaln(order + 1) - special.gammaln(term + 1) - special.gammaln(order - term + 1)
    starts = np.concatenate([[0], np.cumsum(np.maximum(whole - 1, 1))[:-1]])
    return _Binomials(
        whole=whole,
        order=order,
        term=term,
        log_binomial=np.where(order == 1, -np.inf, log_binomial),
        starts=starts,
        below=np.searchsorted(whole, floors),
        share=ORDERS - floors,
        fractional=np.flatnonzero(floors != ORDERS),
    )


def _log_one_plus_sum(log_terms: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """log(1 + the sum of exp(log_terms)) for each run of terms that begins at one of `starts`."""
    top = np.maximum(np.maximum.reduceat(log_terms, starts), -745.0)
    lengths = np.diff([*starts, len(log_terms)])
    log_sum = top + np.log(np.add.reduceat(np.exp(log_terms - np.repeat(top, lengths)), starts) + 1e-300)
    return np.logaddexp(0.0, log_sum)


def _on_orders(log_moments: np.ndarray) -> np.ndarray:
    """The chord of log A between integer orders, at every element of ORDERS."""
    table = _binomials()
    low = log_moments[table.below]
    high = log_moments[np.minimum(table.below + 1, len(table.whole) - 1)]
    return np.where(table.share > 0, low + table.share * (high - low), low)


def _least(rdp: np.ndarray, unsampled: np.ndarray) -> np.ndarray:
    """Sampling never costs more than no sampling, and the divergence at an order no more than at any higher one."""
    return np.asarray(np.minimum.accumulate(np.minimum(rdp, unsampled)[::-1])[::-1])


def poisson_rdp(sampling_probability: float, sigma: float) -> np.ndarray:
    """Renyi divergence per step of Gaussian noise on a Poisson sample, for one unit that is blanked out.

    Args:
      sampling_probability: chance of each unit to be in the sample, in (0, 1).
      sigma: standard deviation of the noise over the sensitivity.

    Returns:
      float64 [len(ORDERS)]: an upper bound of the divergence at each order, in nats.

    Source: Mironov, Talwar and Zhang 2019, arXiv:1908.10530, sections 3.2 (integer) and 3.3 (fractional orders).
    """
    table = _binomials()
    log_q, log_1mq = np.log(sampling_probability), np.log1p(-sampling_probability)
    exponent = (table.term * (table.term - 1.0)) / (2 * sigma**2)
    log_expm1 = exponent + np.log(-np.expm1(-exponent))
    log_terms = table.log_binomial + table.term * log_q + (table.order - table.term) * log_1mq + log_expm1
    log_moments = _log_one_plus_sum(log_terms, table.starts)
    log_moments[table.whole == 1] = 0.0
    log_a = _on_orders(log_moments)
    large = log_a[table.fractional] > _TINY
    if large.any():
        chosen = table.fractional[large]
        log_a[chosen] = np.minimum(log_a[chosen], _series(sampling_probability, sigma, large))
    return _least(log_a / (ORDERS - 1), ORDERS / (2 * sigma**2))


@functools.lru_cache(maxsize=16)
def _fractional_log_binomials(first: int) -> np.ndarray:
    """The logarithm of |binomial(order, i)| for i in a block of terms, [fractional orders, block]."""
    order = ORDERS[_binomials().fractional, None]
    term = np.arange(first, first + _BLOCK, dtype=float)
    return np.asarray(special.gammaln(order + 1) - special.gammaln(term + 1) - special.gammaln(order - term + 1))


def _series(q: float, sigma: float, chosen: np.ndarray) -> np.ndarray:
    """An upper bound of log A at chosen fractional orders: the two-sided series, every term taken as positive.

    Terms fall at least as fast as i^-(order + 1) in the end, which bounds what is left out.
    """
    order = ORDERS[_binomials().fractional[chosen], None]
    log_q, log_1mq = np.log(q), np.log1p(-q)
    split = sigma**2 * (log_1mq - log_q) + 0.5
    total = np.full(len(order), -np.inf)
    last = falling = np.zeros(len(order))
    for first in range(0, _MAX_TERMS, _BLOCK):
        i = np.arange(first, first + _BLOCK, dtype=float)
        j = order - i
        log_binomial = _fractional_log_binomials(first)[chosen]
        lower = log_binomial + i * log_q + j * log_1mq + (i * i - i) / (2 * sigma**2)
        lower += special.log_ndtr((split - i) / sigma)
        upper = log_binomial + j * log_q + i * log_1mq + (j * j - j) / (2 * sigma**2)
        upper += special.log_ndtr((j - split) / sigma)
        terms = np.concatenate([lower, upper], axis=1)
        top = terms.max(axis=1)
        total = np.logaddexp(total, top + np.log(np.exp(terms - top[:, None]).sum(axis=1)))
        last = np.logaddexp(lower[:, -1], upper[:, -1])
        falling = (lower[:, -1] < lower[:, -2]) & (upper[:, -1] < upper[:, -2])
        if np.all(falling & (last < total - _CONVERGED)):
            break
    left_out = last + np.log((first + _BLOCK) / order[:, 0])
    return np.where(falling, np.maximum(np.logaddexp(total, left_out), 0.0), np.inf)


def mixture_rdp(weights: tuple[float, ...], sigma: float) -> np.ndarray:
    """Renyi divergence, the larger of both ways, between N(0, sigma^2) and a mixture of N(k, sigma^2).

    Args:
      weights: weights[k] is the chance of k.
      sigma: standard deviation of the noise over the sensitivity of one record.

    Returns:
      float64 [len(ORDERS)], by the trapezoidal rule; infinite for orders above 64, which it does not reach.
    """
    order = ORDERS[ORDERS <= 64, None]
    reach = 64 * (len(weights) - 1) / sigma + 12.0
    step = max(min(0.2, sigma / 2), 2 * reach / 200_000)
    z = np.arange(-reach, reach, step)
    loss = mixture_loss(sigma * z, weights, sigma)
    moments = np.stack([order * loss, (1 - order) * loss]) - z**2 / 2
    log_a = special.logsumexp(moments, axis=2) + np.log(step) - 0.5 * np.log(2 * np.pi)
    rdp = np.full(len(ORDERS), np.inf)
    rdp[ORDERS <= 64] = np.maximum(log_a.max(axis=0), 0.0) / (order[:, 0] - 1)
    return rdp


def mixture_loss(x: np.ndarray, weights: tuple[float, ...], sigma: float) -> np.ndarray:
    """The logarithm of the ratio of densities, mixture over N(0, sigma^2), at outputs x."""
    chances, moves = np.array(weights), np.arange(len(weights))
    kept = chances > 0
    exponent = (2 * moves[kept] * np.asarray(x)[..., None] - moves[kept] ** 2.0) / (2 * sigma**2)
    return np.asarray(special.logsumexp(exponent + np.log(chances[kept]), axis=-1))


_LARGEST_EXACT = 256  # above it dp_accounting takes the second, simpler bound on every term: so do we


def fixed_size_rdp(batch_fraction: float, sigma: float) -> np.ndarray:
    """Renyi divergence per step of Gaussian noise on a batch drawn without replacement, for replace-one.

    Args:
      batch_fraction: batch over records, in (0, 1).
      sigma: standard deviation of the noise over the sensitivity, which for replace-one is twice the clip norm.

    Returns:
      float64 [len(ORDERS)]: an upper bound of the divergence at each order, in nats.

    Source: Wang, Balle and Kasiviswanathan 2019, arXiv:1808.00087, Theorem 27. The moments B(l) = E[(P/Q - 1)^l] of
    even l are integrals of positive functions here, not alternating sums, so that nothing cancels for large noise.
    """
    table = _binomials()
    half = table.term // 2
    even_low, even_high = 2 * half, 2 * ((table.term + 1) // 2)
    log_b = _even_log_moments(sigma)
    cumulant = table.term * (table.term - 1.0) / (2 * sigma**2)
    per_term = np.log(2.0) + cumulant
    exact = np.log(4.0) + 0.5 * (
        log_b[np.minimum(even_low, _LARGEST_EXACT) // 2] + log_b[np.minimum(even_high, _LARGEST_EXACT) // 2]
    )
    per_term = np.where(table.order <= _LARGEST_EXACT, np.minimum(per_term, exact), per_term)
    second = np.minimum(
        np.log(4.0) + np.log(np.expm1(sigma**-2.0)) if sigma > 0.04 else np.inf, np.log(2.0) + sigma**-2.0
    )
    per_term = np.where(table.term == 2, second, per_term)
    log_terms = table.log_binomial + table.term * np.log(batch_fraction) + per_term
    log_moments = _log_one_plus_sum(log_terms, table.starts)
    log_moments[table.whole == 1] = 0.0
    return _least(_on_orders(log_moments) / (ORDERS - 1), ORDERS / (2 * sigma**2))


def _even_log_moments(sigma: float) -> np.ndarray:
    """Logarithms of E[(P/Q - 1)^l] for l = 0, 2, 4, ... under Q = N(0, 1), P = N(1/sigma, 1); [1 + largest / 2].

    On either side of the point where P = Q the logarithm of the integrand is more concave than a normal density's, so a
    window of 10 around its peak holds all of the integral, and the trapezoidal rule gives it to all digits that matter.
    """
    even = np.arange(2.0, _LARGEST_EXACT + 1, 2)
    shift = 1.0 / sigma
    grid = np.arange(-10.0, 10.0, 0.05)
    sides = []
    for sign in (1.0, -1.0):
        x = _peak(even, shift, sign)[:, None] + grid
        loss = shift * x - shift**2 / 2
        outside = loss * sign <= 0
        ratio = np.where(outside, 1.0, np.abs(loss))
        log_ratio = np.log(-np.expm1(-ratio)) + np.maximum(np.where(outside, 0.0, loss), 0.0)
        sides.append(np.where(outside, -np.inf, even[:, None] * log_ratio - x**2 / 2))
    log_integral = special.logsumexp(np.concatenate(sides, axis=1), axis=1) + np.log(0.05) - 0.5 * np.log(2 * np.pi)
    if sigma > 0.04:  # E[(P/Q - 1)^2] has a closed form
        log_integral[0] = np.log(np.expm1(sigma**-2.0))
    return np.concatenate([[0.0], log_integral])


def _peak(power: np.ndarray, shift: float, sign: float) -> np.ndarray:
    """Where |P/Q - 1|^power Q is largest, right (sign 1) or left (-1) of the point P = Q; by bisection."""
    middle = np.full_like(power, shift / 2)
    far = np.sqrt(power) + 1.0
    low, high = (middle, power * shift + shift + far) if sign > 0 else (-far, np.minimum(middle, 0.0))
    for _ in range(60):
        x = (low + high) / 2
        slope = power * shift / -np.expm1(-(shift * x - shift**2 / 2)) - x
        low, high = np.where(slope > 0, x, low), np.where(slope > 0, high, x)
    return (low + high) / 2
