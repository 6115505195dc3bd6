"""Sensitivity of a strategy: how far one unit moves C x, for a clip norm of 1.

With non-negative coefficients that do not increase, the worst unit takes part as early and as often as it may, at 0, b,
2b, ...: columns overlap most when they are nearest, and an earlier one is the longer (Kalinin and Lampert 2024,
arXiv:2405.13763, Theorem 2). A strategy of at most b bands has columns that do not overlap at all: its sensitivity is
exact whatever the signs are (Choquette-Choo et al. 2023, arXiv:2306.08153). Where neither holds there are two upper
bounds, the smaller of which is given and called one: the coefficients are replaced by the least falling sequence above
their sizes, or the overlaps of columns that lie apart are added up at their largest.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tff_hospitals.accounting.strategies.strategy import Strategy
from tff_hospitals.foundations.validation import Problem, raise_if, whole_number


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """A sensitivity and what it rests on.

    Attributes:
      value: L2 norm, for a clip norm of 1.
      exact: whether a unit can really move C x that far; else it is an upper bound.
      condition: why it holds, in words.
    """

    value: float
    exact: bool
    condition: str


FALLING = "coefficients are non-negative and do not increase"
APART = "the bands are not more than the separation, so that a unit's columns do not overlap"
BOUND = "upper bound: coefficients are replaced by the least falling sequence above their sizes"
OVERLAPS = "upper bound: columns at least the separation apart overlap as those that overlap most"
SINGLE = "one participation: the longest column"


def sensitivity_of(strategy: Strategy, *, participations: int = 1, min_separation: int | None = None) -> Sensitivity:
    """Sensitivity for units that take part at most `participations` times, at least `min_separation` steps apart.

    Fixed passes over the data (a record comes back after exactly b steps) are the same worst case.

    Args:
      strategy: C.
      participations: the most times that one unit takes part.
      min_separation: least number of steps from one participation of a unit to its next; needed for more than one.

    Raises:
      InvalidInput: when a number is below 1, or a separation is missing.

    >>> from tff_hospitals.accounting.strategies.closed_forms import square_root
    >>> round(sensitivity_of(square_root(1024)).value, 6)
    1.80902
    """
    check_participation(strategy.steps, participations, min_separation)
    column = strategy.coefficients()
    if participations == 1:
        return Sensitivity(float(np.linalg.norm(column)), True, SINGLE)
    apart = int(min_separation or 1)
    count = min(participations, -(-strategy.steps // apart))
    if strategy.bands is not None and strategy.bands <= apart:
        # Columns that do not overlap: the earliest places lose nothing at the end of the matrix.
        lengths = np.cumsum(np.square(column))
        ends = strategy.steps - 1 - apart * np.arange(count)
        return Sensitivity(math.sqrt(float(lengths[ends].sum())), True, APART)
    if is_falling(column):
        return Sensitivity(float(np.linalg.norm(overlapped(column, count, apart))), True, FALLING)
    above = np.maximum.accumulate(np.abs(column)[::-1])[::-1]
    falling = float(np.linalg.norm(overlapped(above, count, apart)))
    apiece = _by_overlaps(strategy, count, apart)
    return Sensitivity(apiece, False, OVERLAPS) if apiece < falling else Sensitivity(falling, False, BOUND)


def _by_overlaps(strategy: Strategy, participations: int, apart: int) -> float:
    """The bound by overlaps: k |c|^2 + 2 sum_g (k - g) max over lags L >= g b of |sum_u c_u c_(u+L)|, its root.

    A matrix of more rows only adds to the norm of C x. So every column may be continued by `more` rows, until overlaps
    no longer depend on where a column begins: what is left of them lies beyond `more`, and is at most the squares
    there.
    """
    from scipy import signal

    steps = strategy.steps
    more = max(steps, _ROWS_APART * apart)
    column = strategy.coefficients(steps + more)
    squares = np.square(column)
    rest = float(squares[more:].sum())
    overlaps = np.abs(signal.fftconvolve(column, column[:more][::-1])[more - 1 : more - 1 + steps]) + rest
    largest = np.maximum.accumulate(overlaps[::-1])[::-1]  # at this lag or a longer one
    gaps = np.arange(1, participations)
    inside = gaps[gaps * apart < steps]
    return math.sqrt(
        participations * float(squares.sum()) + 2 * float((participations - inside) @ largest[inside * apart])
    )


_ROWS_APART = 16


def is_falling(column: np.ndarray) -> bool:
    """Whether coefficients are non-negative and do not increase (rounding of the last digits aside)."""
    slack = 1e-12 * float(column[0])
    return bool(np.all(column >= -slack) and np.all(np.diff(column) <= slack))


def overlapped(column: np.ndarray, participations: int, min_separation: int) -> np.ndarray:
    """The sum of the columns 0, b, 2b, ... of the Toeplitz matrix with this first column, float64 [steps]."""
    total = np.zeros_like(column)
    for place in range(0, min(len(column), participations * min_separation), min_separation):
        total[place:] += column[: len(column) - place]
    return total


def check_participation(steps: int, participations: int, min_separation: int | None) -> None:
    """Refuses numbers that say nothing.

    Raises:
      InvalidInput: when a number is below 1, or a separation is missing.
    """
    raise_if(participation_problems(steps, participations, min_separation))


def participation_problems(steps: int, participations: int, min_separation: int | None) -> list[Problem | None]:
    """What is wrong with how often a unit takes part in so many steps, and how far apart."""
    problems = [whole_number("participations", participations, low=1, remedy="give how often a unit takes part")]
    if participations > 1 and (min_separation is None or min_separation < 1):
        bound = f"needed (at least 1) for participations={participations}"
        remedy = "give the least number of steps between two participations of a unit"
        problems.append(Problem("min_separation", min_separation, bound, remedy))
    elif participations > 1 and (participations - 1) * int(min_separation or 1) >= steps:
        bound = (
            f"must be at most {-(-steps // int(min_separation or 1))}: no more fit into {steps} steps at this distance"
        )
        problems.append(Problem("participations", participations, bound, "give fewer, or more steps"))
    return problems
