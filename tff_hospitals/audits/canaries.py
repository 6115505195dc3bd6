"""Lower bounds on epsilon from right guesses: one run with many canaries, or many runs with one.

The bounds are statements of probability about a mechanism; who made the guesses, and how, does not matter.

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


@dataclasses.dataclass(frozen=True)
class Guesses:
    """The guesses of a one-run audit: the `k` highest scores are called in, the `k` lowest out."""

    canaries: int
    guesses: int
    correct: int
    lower_bound: float


def guess_and_bound(scores: np.ndarray, included: np.ndarray, *, delta: float, confidence: float = 0.95) -> Guesses:
    """Guesses the surest canaries and bounds epsilon by how many guesses were right.

    Several numbers of guesses are tried, each at a share of the error probability, so that choosing the best one costs
    no confidence.

    Args:
      scores: [canaries], high for canaries that look included.
      included: [canaries], the coins.
      delta, confidence: as for `one_run_lower_bound`.
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
        bound = one_run_lower_bound(canaries=count, guesses=2 * half, correct=correct, delta=delta, confidence=share)
        found.append(Guesses(count, 2 * half, correct, bound))
    return max(found, key=lambda one: (one.lower_bound, one.guesses))


@dataclasses.dataclass(frozen=True)
class RepeatedRuns:
    """What repeated runs prove: counts beyond a threshold that other runs chose, and the bound that follows."""

    runs_in: int
    runs_out: int
    detections: int
    false_alarms: int
    threshold: float
    lower_bound: float


def repeated_run_lower_bound(
    with_unit: np.ndarray, without_unit: np.ndarray, *, delta: float, confidence: float = 0.95
) -> RepeatedRuns:
    """Epsilon ruled out by scores of runs with and without one unit (a record, a hospital).

    (epsilon, delta)-DP bounds every test: TPR <= e^eps FPR + delta, and the same for the complements. The threshold is
    chosen on the even-numbered runs and counted on the odd-numbered ones; both rates get exact bounds at half the
    error probability each, and both directions are tried at half again.

    Args:
      with_unit, without_unit: scores [runs], each from an independent run; high where the unit looks present.

    Source: Jagielski, Ullman and Oprea 2020, arXiv:2006.07709; Nasr et al. 2021, arXiv:2101.04535.
    """
    raise_if(
        [
            whole_number("runs", min(len(with_unit), len(without_unit)), low=4, remedy="repeat 4 runs or more each"),
            in_range("confidence", confidence, low=0.0, high=1.0, low_open=True, high_open=True, remedy="give 0.95"),
            in_range("delta", delta, low=0.0, high=1.0, high_open=True, remedy="give a delta below 1"),
        ]
    )
    present, absent = np.asarray(with_unit, np.float64), np.asarray(without_unit, np.float64)
    inner = 1.0 - (1.0 - confidence) / 2.0  # one of the two directions
    candidates = np.unique(np.concatenate([present[::2], absent[::2]]))
    if len(candidates) > 200:
        candidates = np.quantile(candidates, np.linspace(0.0, 1.0, 200))
    found = []
    for sign in (1.0, -1.0):  # -1 swaps the roles: the unit's absence is detected by low scores
        hit, false = (present, absent) if sign > 0 else (-absent, -present)
        thresholds = sign * candidates
        best = thresholds[int(np.argmax(_bounds(hit[::2], false[::2], thresholds, delta, inner)))]
        value = float(_bounds(hit[1::2], false[1::2], np.array([best]), delta, inner)[0])
        hits, alarms = int((hit[1::2] >= best).sum()), int((false[1::2] >= best).sum())
        found.append(RepeatedRuns(len(hit[1::2]), len(false[1::2]), hits, alarms, float(sign * best), value))
    return max(found, key=lambda one: one.lower_bound)


def _bounds(hit: np.ndarray, false: np.ndarray, thresholds: np.ndarray, delta: float, confidence: float) -> np.ndarray:
    """log((TPR - delta) / FPR) at each threshold, with the exact lower end of one rate and upper end of the other."""
    from scipy import stats

    tail = (1.0 - confidence) / 2.0
    hits = (hit >= thresholds[:, np.newaxis]).sum(axis=1)
    alarms = (false >= thresholds[:, np.newaxis]).sum(axis=1)
    low = np.where(hits == 0, 0.0, stats.beta.ppf(tail, np.maximum(hits, 1), len(hit) - hits + 1))
    others = np.maximum(len(false) - alarms, 1)
    high = np.where(alarms == len(false), 1.0, stats.beta.ppf(1.0 - tail, alarms + 1, others))
    return np.maximum(0.0, np.log(np.maximum(low - delta, 1e-300) / high))
