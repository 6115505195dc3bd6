"""Buffered linear Toeplitz strategies (BLT): correlated noise from a few buffers of the model's size.

C has the coefficients c_0 = 1, c_t = sum_j scale_j * decay_j^(t-1). Its inverse is of the same form, so that noise of
any number of steps needs one buffer for each j and no past noise. Sources: Dvijotham, McMahan, Pillutla, Steinke and
Thakurta 2024, "Efficient and near-optimal noise generation for streaming differential privacy", arXiv:2404.16706; for
units that take part more than once, and in production: McMahan, Xu and Zhang 2024, "A hassle-free algorithm for private
learning in practice", arXiv:2408.08868.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from tff_hospitals.accounting.strategies.banded import correlated, log_error, step_weights
from tff_hospitals.accounting.strategies.errors import expected_error
from tff_hospitals.accounting.strategies.oscillating import LEAST_FOR_A_PAIR, optimised_pair
from tff_hospitals.accounting.strategies.sensitivity import check_participation, overlapped
from tff_hospitals.accounting.strategies.strategy import Strategy, quotient
from tff_hospitals.accounting.strategies.workload import Workload
from tff_hospitals.foundations.validation import Problem, one_of, raise_if, whole_number

MOST_BUFFERS = 4


def buffered(steps: int, decays: Sequence[float], scales: Sequence[float]) -> Strategy:
    """The strategy of given buffers.

    Args:
      steps: rows of the matrix.
      decays: 0 <= decay <= 1 of each buffer.
      scales: > 0, of each buffer; together at most 1.

    Raises:
      InvalidInput: when decays and scales do not make falling, non-negative coefficients.

    >>> buffered(4, [0.5], [0.25]).coefficients().tolist()
    [1.0, 0.25, 0.125, 0.0625]
    """
    problems = [whole_number("steps", steps, low=1, remedy="give the number of steps")]
    if len(decays) != len(scales) or not 1 <= len(decays) <= MOST_BUFFERS:
        sizes = f"{len(decays)} decays, {len(scales)} scales"
        problems.append(Problem("buffers", sizes, f"must be as many of both, 1 to {MOST_BUFFERS}", "give both"))
    if any(not 0 <= decay <= 1 for decay in decays):
        problems.append(Problem("decays", list(decays), "must be 0 to 1: noise must not grow", "give 0 to 1"))
    if any(not scale > 0 for scale in scales) or sum(scales) > 1 + 1e-12:
        bound = "must be positive and together at most 1, so that coefficients do not increase"
        problems.append(Problem("scales", list(scales), bound, "give smaller scales"))
    raise_if(problems)
    numerator, denominator = _polynomials(np.asarray(decays, np.float64), np.asarray(scales, np.float64))
    settings = (("decays", tuple(map(float, decays))), ("scales", tuple(map(float, scales))))
    return Strategy("blt", steps, tuple(numerator.tolist()), tuple(denominator.tolist()), settings)


@functools.lru_cache(maxsize=64)
def optimised_buffers(
    steps: int,
    buffers: int = 3,
    *,
    participations: int = 1,
    min_separation: int | None = None,
    workload: Workload | None = None,
    goal: str = "max_error",
) -> Strategy:
    """The buffers with the least expected error, by L-BFGS from several starts.

    They only decay, so that the sensitivity is exact; from three buffers on, where units come back, two of them may
    turn into each other (`oscillating.py`), if that lowers the error by more than 0.2 % although it is then known as an
    upper bound.

    Args:
      steps: rows of the matrix.
      buffers: 1 to 4.
      participations, min_separation: how often and how far apart one unit takes part.
      workload: what is released (constant rates); None: prefix sums.
      goal: `max_error` (of the noisiest step) or `rmse`.

    Raises:
      InvalidInput: when a number is out of range.

    >>> best = optimised_buffers(100, 2, participations=10, min_separation=10)
    >>> dict(best.settings)["decays"][0] > 0.9
    True
    """
    raise_if(
        [
            whole_number("steps", steps, low=1, remedy="give the number of steps"),
            whole_number("buffers", buffers, low=1, high=MOST_BUFFERS, remedy=f"give 1 to {MOST_BUFFERS} buffers"),
            one_of("goal", goal, ("max_error", "rmse")),
        ]
    )
    check_participation(steps, participations, min_separation)
    response, counts = (workload or Workload()).response(steps), step_weights(steps, goal)
    apart = int(min_separation or steps)
    plain = _decaying(steps, buffers, participations, apart, workload, goal)
    if buffers < LEAST_FOR_A_PAIR or participations < 2 or steps <= 2:
        return plain
    found = [plain]
    for count in range(LEAST_FOR_A_PAIR, buffers + 1):  # one buffer more can always do as well
        found.append(optimised_pair(steps, count, participations, apart, response, counts))

    def error(strategy: Strategy) -> float:
        expected = expected_error(
            strategy, participations=participations, min_separation=min_separation, workload=workload
        )
        worth = 1.0 if strategy is plain else _WORTH_A_BOUND
        return worth * (expected.rmse if goal == "rmse" else expected.max_error)

    return min(found, key=error)


_WORTH_A_BOUND = 1.002


@functools.lru_cache(maxsize=64)
def _decaying(
    steps: int, buffers: int, participations: int, apart: int, workload: Workload | None, goal: str
) -> Strategy:
    """The best buffers of positive scales that only decay."""
    from scipy import optimize

    response, counts = (workload or Workload()).response(steps), step_weights(steps, goal)

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        decays, scales, chain_decays, chain_scales = _from_free(free)
        numerator, denominator = _polynomials(decays, scales)
        column = quotient(numerator, denominator, steps)
        value, slope = log_error(numerator, denominator, response, counts)
        moved = overlapped(column, participations, apart)
        squared = float(moved @ moved)
        gradient = correlated(slope, steps) + 2 * _gathered(moved, participations, apart) / squared
        powers = decays[:, None] ** np.arange(steps - 1)  # c_t = sum_j scale_j decay_j^(t-1) for t >= 1
        by_scale = powers @ gradient[1:]
        steeper = np.arange(1, steps - 1) * powers[:, : steps - 2]  # derivative of decay^(t-1), for t >= 2
        by_decay = scales * (steeper @ gradient[2:])
        return value + np.log(squared), np.concatenate([by_decay * chain_decays, chain_scales @ by_scale])

    if steps <= 2:
        return buffered(steps, [0.0], [0.5])  # more buffers have nothing to carry on
    starts = _starts(steps, buffers)
    if buffers > 1:  # one buffer more can always do as well
        fewer = _decaying(steps, buffers - 1, participations, apart, workload, goal)
        starts.append(_with_one_more(dict(fewer.settings)))
    tried = [
        optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 400, "maxfun": 800})
        for start in starts
    ]
    best = min(tried, key=lambda one: float(one.fun))
    decays, scales, _, _ = _from_free(best.x)
    order = np.argsort(-decays)
    return buffered(steps, decays[order].tolist(), scales[order].tolist())


def _polynomials(decays: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of 1 + sum_j scale_j x / (1 - decay_j x), lowest power first."""
    below = np.ones(1)
    for decay in decays:
        below = np.convolve(below, [1.0, -decay])
    above = below.copy()
    for at, scale in enumerate(scales):
        rest = np.ones(1)
        for other, decay in enumerate(decays):
            if other != at:
                rest = np.convolve(rest, [1.0, -decay])
        above[1:] += scale * rest
    return above, below


def _from_free(free: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Decays in (0, 1) and scales that add up to less than 1 from unbounded numbers, with the slopes of both.

    Scales are a softmax with one more place, so that the coefficients cannot increase.
    """
    half = len(free) // 2
    decays = 1.0 / (1.0 + np.exp(-free[:half]))
    shifted = np.append(free[half:], 0.0)
    weights = np.exp(shifted - shifted.max())
    shares = weights / weights.sum()
    scales = shares[:-1]
    return decays, scales, decays * (1.0 - decays), np.diag(scales) - np.outer(scales, scales)


def _starts(steps: int, buffers: int) -> list[np.ndarray]:
    """Decays spread evenly on the scale of their logits: memories from a step to the whole run."""
    found = []
    for longest in (2.0 * steps, 0.3 * steps, np.sqrt(steps)):
        horizons = np.geomspace(1.5, max(4.0, longest), buffers) if buffers > 1 else np.array([np.sqrt(longest) + 1.0])
        found.append(_to_free(1.0 - 1.0 / horizons, np.full(buffers, 0.5 / buffers)))
    return found


def _with_one_more(settings: dict) -> np.ndarray:
    """The best of one buffer less as a start, with a buffer of little weight between the others."""
    decays, scales = (np.clip(settings[name], 1e-6, 1 - 1e-6) for name in ("decays", "scales"))
    horizon = float(np.exp(np.mean(np.log(1.0 / (1.0 - decays)))))
    return _to_free(np.append(decays, 1.0 - 1.0 / (horizon + 1.0)), 0.95 * np.append(scales, 0.02 * scales.sum()))


def _to_free(decays: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The inverse of `_from_free`."""
    return np.concatenate([np.log(decays / (1.0 - decays)), np.log(scales / (1.0 - scales.sum()))])


def _gathered(moved: np.ndarray, participations: int, min_separation: int) -> np.ndarray:
    """The transpose of `overlapped`: what each coefficient has to do with the sum of the columns."""
    total = np.zeros_like(moved)
    for place in range(0, min(len(moved), participations * min_separation), min_separation):
        total[: len(moved) - place] += moved[place:]
    return total
