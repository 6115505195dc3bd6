"""Privacy loss distributions: the tightest epsilon that is known for sampled Gaussian and Laplace noise.

The privacy loss of one step is put on a grid by "connecting the dots": the probability of every grid interval, under
both hypotheses, is shared out to its two ends so that both are preserved. The result dominates the true mechanism, so
every epsilon here is an upper bound, and the tests find it within 2e-4 of dp_accounting's. Composition is a product
of Fourier transforms, all parts at once, on a window outside of which less than `_TAIL` of the probability lies; that
much is added to delta. Gaussian parts without sampling are merged before, and exact when nothing else is there.

The grid follows from the wanted precision: sharing out adds about h^2 / 6 to the variance of each step, so with a
grid of `h = sqrt(12 precision variance per step)` epsilon is too large by at most about `precision`, relative.

Sources: Koskela, Jaelkoe and Honkela 2020, arXiv:1906.03049; Doroshenko et al. 2022, arXiv:2207.04380 (connect the
dots); Gopi, Lee and Wutschitz 2021, arXiv:2106.02848 (windows from moments); Balle, Barthe and Gaboardi 2018,
arXiv:1807.01647 (batches of fixed size).
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from scipy import fft, special

from tff_hospitals.accounting import gaussian, renyi, whole_numbers
from tff_hospitals.accounting.loss_shapes import (
    Composition,
    FixedSizePart,
    GaussianPart,
    LaplacePart,
    MixturePart,
    Part,
    PoissonPart,
)
from tff_hospitals.accounting.sampled_gaussian import ORDERS, mixture_loss, poisson_rdp

PRECISION = 1e-4
"""Relative excess of epsilon that the grid is chosen for."""

_TAIL = 1e-14
_REACH = 9.8  # standard deviations of noise that one step looks at; the rest, below 1e-22, counts as infinite loss
_CELLS_FOR_ONE, _MOST_CELLS = 1 << 15, 1 << 20
LARGEST_GRID = 1 << 22
"""Cells of a composed loss (about 60 bytes each): nothing with a useful epsilon needs more."""


@dataclasses.dataclass(frozen=True)
class _Step:
    """One step's privacy loss on the grid `h * (first + index)`."""

    first: int
    mass: np.ndarray  # [cells]
    infinite: float


def grid_cells(composition: Composition) -> int:
    """How many cells the composed loss of supported parts takes: more than `LARGEST_GRID` are not to be asked for.

    The smaller the noise and the more the steps, the wider the loss: noise of 1e-6 over 1,500 steps would take 10^12.
    """
    composition = whole_numbers.as_gaussian(composition)
    if all(isinstance(part, GaussianPart) for part, _ in composition):
        return 0  # a closed form
    _, first, last = _grid(composition)
    return last - first + 1


def epsilon(composition: Composition, delta: float) -> float:
    """Epsilon of a composition of supported parts, at a delta of at least `epsilon.SMALLEST_PLD_DELTA`.

    Its `grid_cells` must not exceed `LARGEST_GRID`.
    """
    if whole_numbers.is_whole(composition):
        return _epsilon_near_gaussian(composition, delta)
    if all(isinstance(part, GaussianPart) for part, _ in composition):
        return gaussian.exact_epsilon(gaussian.total_mu(composition), delta)
    return max(_epsilon_one_way(one, delta) for one in composed(composition))


def delta(composition: Composition, epsilon: float) -> float:
    """Delta of a composition of supported parts at an epsilon >= 0."""
    if whole_numbers.is_whole(composition):
        return _delta_near_gaussian(composition, epsilon)
    if all(isinstance(part, GaussianPart) for part, _ in composition):
        return gaussian.exact_delta(gaussian.total_mu(composition), epsilon)
    return max(_delta_one_way(one, epsilon) for one in composed(composition))


# ------------------------------------------------------------------------------------------------- whole-number noise


def _delta_near_gaussian(composition: Composition, epsilon: float) -> float:
    """See `whole_numbers`; below an epsilon of 0, delta grows by at most what is missing."""
    near, missed = whole_numbers.closeness(composition, epsilon)
    left = epsilon - 2 * near
    if not math.isfinite(near) or near > 100:
        return 1.0
    base = delta(whole_numbers.as_gaussian(composition), max(left, 0.0)) - math.expm1(min(left, 0.0))
    grown = missed and math.exp(min(math.log(missed) + max(left, 0.0), 0.0))  # from 1 on, nothing is claimed anyway
    return min(1.0, math.exp(near) * (base + grown) + missed)


def _epsilon_near_gaussian(composition: Composition, delta: float) -> float:
    """By bisection; the epsilon that is returned has been tried."""
    low, high = 0.0, 2 * epsilon(whole_numbers.as_gaussian(composition), delta) + 1e-3
    while _delta_near_gaussian(composition, high) > delta:
        low, high = high, 2 * high
        if high > 1e6:
            return math.inf
    for _ in range(60):
        middle = (low + high) / 2
        if _delta_near_gaussian(composition, middle) <= delta:
            high = middle
        else:
            low = middle
        if high - low <= 1e-9 * high:
            break
    return high


# ------------------------------------------------------------------------------------------------ one step, on a grid


def _normal_between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Probability of a standard normal between two points, with full relative precision in both tails."""
    flip = low > 0
    return np.asarray(special.ndtr(np.where(flip, -low, high)) - special.ndtr(np.where(flip, -high, low)))


def _share_out(first: int, step: float, upper: np.ndarray, lower: np.ndarray, below: float, infinite: float) -> _Step:
    """Shares the probabilities of the intervals [h (first + i), h (first + i + 1)] out to their ends.

    `upper` and `lower` are the probabilities under the two hypotheses, `below` what the upper one has left of the grid.
    """
    ratio = np.exp(np.minimum(step * (first + np.arange(len(upper))), 700.0))  # `lower` is 0 long before this overflows
    right = np.clip((upper - lower * ratio) / -math.expm1(-step), 0.0, upper)
    mass = np.zeros(len(upper) + 1)
    mass[:-1] = upper - right
    mass[1:] += right
    mass[0] += below
    return _Step(first, mass, infinite)


@functools.lru_cache(maxsize=24)
def _steps(part: Part, step: float) -> tuple[_Step, _Step]:
    """The loss of one step in both directions: the unit is in the first data set only, or in the second only."""
    if isinstance(part, LaplacePart):
        only = _laplace_step(part.scale, step)
        return only, only
    removed, added = _mixture_steps(*_mixture(part), step)
    if isinstance(part, FixedSizePart):
        removed = added = _replaced(removed, added)
    return (removed, removed) if isinstance(part, GaussianPart) else (removed, added)


def _replaced(removed: _Step, added: _Step) -> _Step:
    """The loss of a batch of fixed size when one record is replaced: gains as if removed, losses as if added.

    The profile of that mechanism is at most that of (mixture, plain) above a ratio of 1, and by exchanging the data
    sets that of (plain, mixture) below it; both meet at 1. So one distribution has the one's losses above 0 and the
    other's below, and what is left lies at 0. Every adaptive composition is dominated by the composition of these.

    Source: Balle, Barthe and Gaboardi 2018, arXiv:1807.01647, Theorem 9 (the profile); Zhu, Dong and Wang 2022,
    arXiv:2106.08567, Theorem 10 (composition).
    """
    below, above = added.mass[: -added.first], removed.mass[1 - removed.first :]
    middle = 1.0 - removed.infinite - float(below.sum()) - float(above.sum())
    return _Step(added.first, np.concatenate([below, [max(middle, 0.0)], above]), removed.infinite)


def _mixture(part: Part) -> tuple[tuple[float, ...], float]:
    """The mixture of normal distributions that a part stands for: chances to move by 0, 1, ..., and their deviation."""
    if isinstance(part, GaussianPart):
        return (0.0, 1.0), part.mu_squared**-0.5
    if isinstance(part, PoissonPart):
        return (1 - part.sampling_probability, part.sampling_probability), part.sigma
    if isinstance(part, FixedSizePart):
        return (1 - part.batch_fraction, part.batch_fraction), part.sigma
    if isinstance(part, MixturePart):
        return part.weights, part.sigma
    raise TypeError(f"{part} has no privacy loss distribution here")


def _mixture_steps(weights: tuple[float, ...], sigma: float, step: float) -> tuple[_Step, _Step]:
    ends = np.array([-_REACH * sigma, len(weights) - 1 + _REACH * sigma])
    least, most = mixture_loss(ends, weights, sigma)
    first, last = math.floor(least / step), math.ceil(most / step)
    edges = _where_loss_is(step * np.arange(first, last + 1), weights, sigma)
    pieces = [_normal_between((edges[:-1] - k) / sigma, (edges[1:] - k) / sigma) for k in range(len(weights))]
    mixture = np.asarray(sum(chance * piece for chance, piece in zip(weights, pieces)))

    def outside(edge: float, sign: int) -> tuple[float, float]:
        shares = [float(special.ndtr(sign * (edge - k) / sigma)) for k in range(len(weights))]
        return shares[0], sum(chance * share for chance, share in zip(weights, shares))

    left, left_mixture = outside(float(edges[0]), 1)
    right, right_mixture = outside(float(edges[-1]), -1)
    removed = _share_out(first, step, mixture, pieces[0], left_mixture, right_mixture)
    added = _share_out(-last, step, pieces[0][::-1], mixture[::-1], right, left)
    return removed, added


def _where_loss_is(values: np.ndarray, weights: tuple[float, ...], sigma: float) -> np.ndarray:
    """The outputs x at which the loss takes these ascending values; minus infinity where it never does."""
    never, *q = weights
    if never == 0 and len(q) == 1:
        return np.asarray(sigma**2 * values + 0.5)
    if len(q) == 1:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            log_odds = np.where(
                values > 30,  # where exp would overflow, long after its -1 has stopped to matter
                values - math.log(q[0]) + np.log1p(-never * np.exp(-values)),
                np.log(np.expm1(values) / q[0] + 1.0),
            )
        return np.where(np.isnan(log_odds), -np.inf, sigma**2 * log_odds + 0.5)
    low = np.full_like(values, -1.1 * _REACH * sigma)
    high = np.full_like(values, len(q) + 1.1 * _REACH * sigma)
    for _ in range(56):
        x = (low + high) / 2
        below = mixture_loss(x, weights, sigma) < values
        low, high = np.where(below, x, low), np.where(below, high, x)
    return np.where(values <= (math.log(never) if never > 0 else -math.inf), -np.inf, high)


def _laplace_step(scale: float, step: float) -> _Step:
    """Loss (1 - 2 x) / scale for an output x in [0, 1], constant outside: an atom at either end."""
    most = 1 / scale
    first, last = math.floor(-most / step), math.ceil(most / step)
    values = np.clip(step * np.arange(first, last + 1), -most, most)
    upper = np.diff(0.5 * np.exp((values - most) / 2))
    lower = np.diff(-0.5 * np.exp(-(values + most) / 2))
    upper[-1] += 0.5
    lower[-1] += 0.5 * math.exp(-most)
    upper[0] += 0.5 * math.exp(-most)
    lower[0] += 0.5
    return _share_out(first, step, upper, lower, 0.0, 0.0)


@functools.lru_cache(maxsize=1024)
def spread(part: Part) -> tuple[float, float]:
    """Variance of one step's loss (the larger of both directions) and the width of the range of losses.

    The variance counts where the range is at most some thousands: it is summed up over 4,001 outputs.
    """
    if isinstance(part, GaussianPart):
        return part.mu_squared, 2 * _REACH * math.sqrt(part.mu_squared) + part.mu_squared
    if isinstance(part, LaplacePart):
        step = _laplace_step(part.scale, 1 / part.scale / 500)
        return _variance(step.mass, np.arange(len(step.mass)) / part.scale / 500), 2 / part.scale
    weights, sigma = _mixture(part)
    x = np.linspace(-_REACH * sigma, len(weights) - 1 + _REACH * sigma, 4001)
    loss = mixture_loss(x, weights, sigma)
    without = np.exp(-((x / sigma) ** 2) / 2)
    mixture = sum(chance * np.exp(-(((x - k) / sigma) ** 2) / 2) for k, chance in enumerate(weights))
    width = 2 * loss[-1] if isinstance(part, FixedSizePart) else loss[-1] - loss[0]
    return max(_variance(without, loss), _variance(np.asarray(mixture), loss)), float(width)


def _variance(weights: np.ndarray, values: np.ndarray) -> float:
    weights = weights / weights.sum()
    return float(np.dot(weights, (values - np.dot(weights, values)) ** 2))


# --------------------------------------------------------------------------------------------------------- composition


@dataclasses.dataclass(frozen=True)
class ComposedLoss:
    """A composed loss: probability of the losses `values` (all of interest are >= 0), and of an infinite loss."""

    values: np.ndarray
    mass: np.ndarray
    infinite: float


@functools.lru_cache(maxsize=64)
def _grid(composition: Composition) -> tuple[float, int, int]:
    """Width of a cell, and the first and the last cell of the composed loss."""
    steps = sum(count for _, count in composition)
    variance = sum(count * spread(part)[0] for part, count in composition)
    widest = max(spread(part)[1] for part, _ in composition)
    rdp = _moments(composition)
    low, high = _window(rdp, steps, 0.0)
    wanted = min(math.sqrt(12 * PRECISION * variance / steps), (high - low) * math.sqrt(steps) / _CELLS_FOR_ONE)
    wanted = max(wanted, (high - low) / _MOST_CELLS, widest / _MOST_CELLS)
    step = 2.0 ** (math.floor(2 * math.log2(wanted)) / 2)  # few distinct grids: one step's loss is worth keeping
    low, high = _window(rdp, steps, step)
    return step, math.floor(low / step), math.ceil(high / step)


@functools.lru_cache(maxsize=4)
def composed(composition: Composition) -> tuple[ComposedLoss, ComposedLoss]:
    """The composed loss in both directions: of a unit that is in the first data set only, and in the second only."""
    step, first, last = _grid(composition)
    cells = fft.next_fast_len(last - first + 1, real=True)
    return _compose_one_way(composition, step, first, cells, 0), _compose_one_way(composition, step, first, cells, 1)


def _moments(composition: Composition) -> np.ndarray:
    """Renyi divergences of the losses on the grid, both ways.

    Those of `renyi.py`, but for batches of fixed size: their loss takes a part from either direction of Poisson
    sampling, and so has at most twice the excess of a moment over 1.
    """
    fixed = [(part, count) for part, count in composition if isinstance(part, FixedSizePart)]
    total = renyi.composed_curve(tuple(pair for pair in composition if pair not in fixed))
    for part, count in fixed:
        log_moment = (ORDERS - 1) * poisson_rdp(part.batch_fraction, part.sigma)
        total = total + count * (log_moment + np.log(2 - np.exp(-log_moment))) / (ORDERS - 1)
    return np.asarray(total)


def _window(rdp: np.ndarray, steps: float, step: float) -> tuple[float, float]:
    """Losses outside of which the composed loss has a probability of at most `_TAIL` on either side.

    Chernoff bounds: the moments of the loss are its Renyi divergences, and sharing out to grid points multiplies the
    moment of order m by at most exp(h^2 (m + m^2) / 8) per step (Hoeffding's lemma).
    """
    more = steps * step**2 / 8
    up, down = renyi.ORDERS - 1, renyi.ORDERS
    high = np.min((up * rdp + more * (up + up**2) - math.log(_TAIL)) / up)
    low = np.min((up * rdp + more * down**2 - math.log(_TAIL)) / down)
    return -float(low), float(high)


def _compose_one_way(composition: Composition, step: float, first: int, cells: int, way: int) -> ComposedLoss:
    log_product = np.zeros(cells // 2 + 1, dtype=complex)
    log_finite = 0.0
    for part, count in composition:
        one = _steps(part, step)[way]
        folded = np.bincount((one.first + np.arange(len(one.mass))) % cells, weights=one.mass, minlength=cells)
        with np.errstate(divide="ignore"):
            log_product += count * np.log(fft.rfft(folded))
        log_finite += count * math.log1p(-one.infinite)
    mass = np.roll(fft.irfft(np.exp(log_product), n=cells), -first)
    values = step * (first + np.arange(cells))
    keep = values >= 0
    return ComposedLoss(values[keep], np.maximum(mass[keep], 0.0), -math.expm1(log_finite) + _TAIL)


def _delta_one_way(composed: ComposedLoss, epsilon: float) -> float:
    above = composed.values > epsilon
    return min(1.0, composed.infinite - float(np.dot(np.expm1(epsilon - composed.values[above]), composed.mass[above])))


def _epsilon_one_way(composed: ComposedLoss, delta: float) -> float:
    """The smallest epsilon at which delta holds; exact for the distribution on the grid."""
    allowed = delta - composed.infinite
    if allowed <= 0:
        return math.inf
    tail = np.cumsum(composed.mass[::-1])[::-1]  # delta(epsilon) is at most the probability of losses above epsilon
    if tail[-1] > allowed:
        return math.inf
    bound = composed.values[int(np.argmax(tail <= allowed))]
    near = composed.values >= bound - 500.0  # farther down, exp below would overflow
    values, tail = composed.values[near], tail[near]
    weighted = np.cumsum((composed.mass[near] * np.exp(bound - values))[::-1])[::-1]
    at_grid = tail - weighted * np.exp(np.minimum(values - bound, 0.0))
    first = int(np.argmax(at_grid <= allowed))
    if first == 0:
        return float(values[0])
    if tail[first] <= allowed:
        return float(values[first - 1])
    return min(float(values[first]), bound + math.log((tail[first] - allowed) / weighted[first]))
