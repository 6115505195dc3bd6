"""Sensitivity of mechanisms whose noise is correlated over steps: binary trees and matrix factorisations.

Such a mechanism releases C x + noise, where row t of x is the clipped sum of step t and C is a fixed lower-triangular
strategy matrix (for a tree: one row per node, the indicator of the steps below it). One unit that takes part in the
steps P moves C x by at most the norm of the sum of the columns P (times the clip norm), so the release is one
Gaussian mechanism of this sensitivity, whatever the order in which rows come out.

Sources: Kairouz et al. 2021, arXiv:2103.00039 (trees, appendix D); Denisov et al. 2022, arXiv:2202.08312 (adaptivity);
Choquette-Choo et al. 2023, arXiv:2211.06530 (participation schemes) and arXiv:2306.08153 (banded matrices).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from tff_hospitals.foundations import validation
from tff_hospitals.foundations.validation import Problem


@functools.lru_cache(maxsize=4096)
def tree_squared_sensitivity(steps: int, period: int | None = None) -> int:
    """Squared L2 sensitivity of all completed nodes of a binary tree over `steps` leaves, clip norm 1.

    Args:
      steps: leaves of the tree.
      period: a unit takes part in steps o, o + period, o + 2 period, ... for one offset o; None: in one step only.

    >>> tree_squared_sensitivity(1600)  # one participation: as many nodes as the tree has levels
    11
    >>> tree_squared_sensitivity(4, period=1)  # four leaves of 1, two nodes of 2, one root of 4: 4 + 8 + 16
    28
    """
    levels = steps.bit_length()
    if period is None or period >= steps:
        return levels
    if period == 1:
        return sum((steps >> level) << (2 * level) for level in range(levels))
    return max(
        sum(_squared_counts(steps, period, offset, 1 << level) for level in range(levels)) for offset in range(period)
    )


def _squared_counts(steps: int, period: int, offset: int, width: int) -> int:
    """The sum over the completed nodes of one level of (participations below the node) squared."""

    def before(step: int) -> int:
        return max(0, -((offset - step) // period))

    completed = steps // width * width
    if width <= period:  # no node holds two participations
        return before(completed)
    return sum((before(start + width) - before(start)) ** 2 for start in range(0, completed, width))


def toeplitz_sensitivity(
    coefficients: Sequence[float], steps: int, *, participations: int = 1, period: int | None = None
) -> float:
    """L2 sensitivity of a lower-triangular Toeplitz strategy matrix with non-negative, non-increasing coefficients.

    Args:
      coefficients: first column of the matrix; as many as it has bands.
      steps: number of steps (rows and columns).
      participations: how often one unit takes part at most.
      period: least number of steps from one participation of a unit to its next; needed for more than one.

    Returns:
      The sensitivity for a clip norm of 1: what a "matrix" event states.

    Raises:
      InvalidInput: when coefficients are negative, increasing or absent, or a period is missing.

    With such coefficients the worst unit takes part as early and as often as it may, at 0, period, 2 period, ...:
    columns overlap most when nearest, and one that starts earlier is the longer (Kalinin and Lampert 2024,
    arXiv:2405.13763, Theorem 2).

    >>> round(toeplitz_sensitivity([1.0, 0.5], steps=100, participations=3, period=2) ** 2, 6)  # 3 x (1 + 1/4)
    3.75
    >>> toeplitz_sensitivity([1.0], steps=9, participations=9, period=1)  # no correlation: the plain Gaussian mechanism
    3.0
    """
    falling = all(low <= high for high, low in zip(coefficients, coefficients[1:]))
    problems: list[Problem | None] = [
        validation.whole_number("steps", steps, low=1, remedy="give the number of steps"),
        validation.whole_number("participations", participations, low=1, remedy="give how often a unit takes part"),
    ]
    if not coefficients or not falling or coefficients[-1] < 0 or coefficients[0] <= 0:
        bound = "must be non-negative, not increasing, and start above 0"
        problems.append(Problem("coefficients", list(coefficients)[:8], bound, "give the first column of the strategy"))
    if participations > 1 and (period is None or period < 1):
        bound = f"needed (at least 1) for participations={participations}"
        problems.append(Problem("period", period, bound, "give the least number of steps between two participations"))
    validation.raise_if(problems)
    places = [index * (period or 1) for index in range(participations)]
    places = [place for place in places if place < steps]
    moved = [0.0] * steps
    for place in places:
        for band, coefficient in enumerate(coefficients[: steps - place]):
            moved[place + band] += coefficient
    return math.sqrt(math.fsum(value * value for value in moved))
