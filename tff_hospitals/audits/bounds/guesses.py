"""Lower bounds on epsilon from right guesses about many canaries in one run.

The bounds are statements of probability about a mechanism; who made the guesses, and how, does not matter. Where the
mechanism has a trade-off curve, that curve is put to the test (Mahloujifar, Melis and Chaudhuri 2024); a run without a
promise is held against pure differential privacy (Steinke, Nasr and Jagielski 2023).

>>> round(one_run_lower_bound(canaries=100, guesses=100, correct=100, delta=0.0), 3)
3.493
>>> one_run_lower_bound(canaries=100, guesses=100, correct=55, delta=0.0)
0.0
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from tff_hospitals.accounting.loss_shapes import Composition
from tff_hospitals.accounting.trade_off import TradeOff, trade_off, with_noise
from tff_hospitals.audits.bounds.pairs import least_epsilon
from tff_hospitals.foundations.validation import in_range, raise_if, whole_number

LARGEST = 60.0  # an epsilon beyond any use: the search ends there


def one_run_p_value(*, canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Chance of at least `correct` right guesses if the mechanism were (epsilon, delta)-DP.

    Each canary was in or out by a fair coin of its own; the guesser saw everything that was released and guessed
    `guesses` of the coins. Then the number of right guesses is, up to delta, at most Binomial(guesses, e^eps / (1 +
    e^eps)); delta adds at most 2 * canaries * delta * max_i P[correct - i <= Binomial < correct] / i.

    Source: Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run", arXiv:2305.08846, theorem
    5.2.
    """
    from scipy import stats

    remedy = "count guesses among the canaries and right ones among the guesses"
    raise_if(
        [
            whole_number("canaries", canaries, low=1, remedy="insert at least one canary"),
            whole_number("guesses", guesses, low=0, high=canaries, remedy=remedy),
            whole_number("correct", correct, low=0, high=guesses, remedy=remedy),
            in_range("epsilon", epsilon, low=0.0, remedy="give an epsilon of 0 or more"),
            in_range("delta", delta, low=0.0, high=1.0, high_open=True, remedy="give a delta below 1"),
        ]
    )
    if correct == 0:
        return 1.0
    right = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(stats.binom.sf(correct - 1, guesses, right))
    if delta == 0.0:
        return min(1.0, tail)
    below = np.cumsum(stats.binom.pmf(np.arange(correct - 1, -1, -1), guesses, right))
    slope = float((below / np.arange(1, correct + 1)).max())
    return min(1.0, tail + 2.0 * canaries * delta * slope)


def one_run_lower_bound(*, canaries: int, guesses: int, correct: int, delta: float, confidence: float = 0.95) -> float:
    """The largest epsilon that the guesses rule out with that confidence; 0 when they rule out none.

    Args:
      canaries: records that were included by a fair coin each.
      guesses: how many coins were guessed (the others abstained from).
      correct: how many of them rightly.
      delta: of the promise to test.
      confidence: share of audits in which the bound may not exceed the true epsilon.
    """
    raise_if([in_range("confidence", confidence, low=0.0, high=1.0, low_open=True, high_open=True, remedy="give 0.95")])

    def ruled_out(epsilon: float) -> bool:
        value = one_run_p_value(canaries=canaries, guesses=guesses, correct=correct, epsilon=epsilon, delta=delta)
        return value < 1.0 - confidence

    return _largest(ruled_out)


def _largest(ruled_out: Callable[[float], bool]) -> float:
    """The end of the range [0, end] that is ruled out, by bisection."""
    if not ruled_out(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while ruled_out(high):
        low, high = high, 2.0 * high
        if high > LARGEST:
            return LARGEST
    for _ in range(50):
        middle = (low + high) / 2.0
        low, high = (middle, high) if ruled_out(middle) else (low, middle)
    return low


def curve_ruled_out(curve: TradeOff, *, canaries: int, guesses: int, correct: int, error: float) -> bool:
    """Whether so many right guesses have a chance below `error` for every mechanism with this trade-off curve.

    Args:
      curve: of the promise.
      canaries, guesses, correct: see `one_run_lower_bound`.
      error: error probability.

    Source: Mahloujifar, Melis and Chaudhuri 2024, "Auditing f-Differential Privacy in One Run", arXiv:2410.22235,
    algorithm 3 (two answers per canary): from the chance of `correct` right guesses or more, the chances of fewer are
    bounded from below, one after the other; if together they exceed what there is, the first was too large.

    >>> from tff_hospitals.accounting.loss_shapes import GaussianPart
    >>> from tff_hospitals.accounting.trade_off import trade_off
    >>> curve = trade_off(((GaussianPart(mu_squared=1.0), 1),))  # an optimal guess is right with a chance of .69
    >>> [curve_ruled_out(curve, canaries=400, guesses=400, correct=right, error=0.05) for right in (277, 390)]
    [False, True]
    """
    if correct == 0:
        return False
    error = error * guesses / canaries
    right, wrong = error * correct / guesses, error * (guesses - correct) / guesses
    for number in range(correct - 1, -1, -1):
        least = max(wrong, curve.fnr_at(1.0 - right))
        if number < guesses:
            right += number / (guesses - number) * (least - wrong)
        wrong = least
    return right + wrong > guesses / canaries


def curve_lower_bound(
    promised: Composition, *, canaries: int, guesses: int, correct: int, delta: float, confidence: float
) -> float:
    """The epsilon of the promised releases with so little noise that the guesses do not rule it out any more.

    Args:
      promised: with a trade-off curve.
      canaries, guesses, correct, delta, confidence: as for `one_run_lower_bound`.
    """

    def ruled_out(ratio: float) -> bool:
        curve = trade_off(with_noise(promised, ratio))
        return curve_ruled_out(curve, canaries=canaries, guesses=guesses, correct=correct, error=1.0 - confidence)

    return least_epsilon(promised, delta, ruled_out)


@dataclasses.dataclass(frozen=True)
class Guesses:
    """The guesses of a one-run audit: the `k` highest scores are called in, the `k` lowest out."""

    canaries: int
    guesses: int
    correct: int
    lower_bound: float


def guess_and_bound(
    scores: np.ndarray,
    included: np.ndarray,
    *,
    delta: float,
    confidence: float = 0.95,
    promised: Composition | None = None,
) -> Guesses:
    """Guesses the surest canaries and bounds epsilon by how many guesses were right.

    Several numbers of guesses are tried, each at a share of the error probability, so that choosing the best one costs
    no confidence.

    Args:
      scores: [canaries], high for canaries that look included.
      included: [canaries], the coins.
      delta, confidence: as for `one_run_lower_bound`.
      promised: releases whose trade-off curve is put to the test; None: nothing is promised.
    """
    scores, included = np.asarray(scores, np.float64), np.asarray(included, bool)
    count = len(scores)
    raise_if([whole_number("canaries", count, low=2, remedy="insert two canaries or more")])
    order = np.argsort(scores, kind="stable")
    halves = sorted({max(1, count // 2 // divisor) for divisor in (1, 2, 4, 8)})
    share = 1.0 - (1.0 - confidence) / len(halves)
    found = []
    for half in halves:
        correct = int(included[order[-half:]].sum() + (~included[order[:half]]).sum())
        counts = {"canaries": count, "guesses": 2 * half, "correct": correct}
        if promised is None:
            bound = one_run_lower_bound(**counts, delta=delta, confidence=share)
        else:
            bound = curve_lower_bound(promised, **counts, delta=delta, confidence=share)
        found.append(Guesses(count, 2 * half, correct, bound))
    return max(found, key=lambda one: (one.lower_bound, one.guesses))
