"""The banded Toeplitz strategy of least expected error, by numerical optimisation.

Source: Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta and Xu 2023, "(Amplified) banded matrix factorization",
arXiv:2306.08153; Toeplitz case: McKenna 2024, arXiv:2405.15913. The loss and its slope are filters over the steps, so
that an evaluation takes time proportional to steps times bands.
"""

from __future__ import annotations

import functools

import numpy as np

from tff_hospitals.accounting.strategies.closed_forms import square_root
from tff_hospitals.accounting.strategies.strategy import Strategy, quotient
from tff_hospitals.accounting.strategies.workload import Workload
from tff_hospitals.foundations.validation import raise_if, whole_number


@functools.lru_cache(maxsize=64)
def optimised_banded(steps: int, bands: int, workload: Workload | None = None, *, goal: str = "rmse") -> Strategy:
    """The Toeplitz strategy of `bands` diagonals with the least error for units at least `bands` steps apart.

    A unit's columns then do not overlap, so that the sensitivity grows as the length of one column; the best strategy
    does not depend on how often a unit takes part. Its columns have length 1.

    Args:
      steps: rows of the matrix.
      bands: non-zero diagonals, at most the least separation of a unit's participations.
      workload: what is released (constant rates); None: prefix sums.
      goal: `rmse` (mean over steps) or `max_error`.

    Raises:
      InvalidInput: when steps or bands are below 1, or there are more bands than steps.

    >>> round(optimised_banded(100, 2).inverse_coefficients()[1], 3)
    -0.957
    """
    raise_if(
        [
            whole_number("steps", steps, low=1, remedy="give the number of steps"),
            whole_number("bands", bands, low=1, high=steps, remedy="give 1 to as many bands as steps"),
        ]
    )
    if bands == 1:
        return Strategy("banded", steps, (1.0,), settings=(("bands", 1),))
    from scipy import optimize

    response = (workload or Workload()).response(steps)
    counts = step_weights(steps, goal)
    start = square_root(steps, bands).coefficients(bands)[1:]

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        numerator = np.concatenate([[1.0], free])
        value, slope = log_error(numerator, np.ones(1), response, counts)
        length = float(numerator @ numerator)
        gradient = correlated(slope, bands) + 2 * numerator / length
        return value + np.log(length), gradient[1:]

    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500, "maxfun": 1000})
    numerator = np.concatenate([[1.0], found.x])
    numerator /= np.linalg.norm(numerator)
    return Strategy("banded", steps, tuple(numerator.tolist()), settings=(("bands", bands), ("goal", goal)))


def step_weights(steps: int, goal: str) -> np.ndarray:
    """How much each coefficient of a Toeplitz B counts in the mean over rows, or in the last (largest) row, [steps]."""
    if goal == "max_error":
        return np.ones(steps)
    return np.arange(steps, 0, -1) / steps


_LARGEST = 1e100
_REFUSED = 1e4  # the logarithm of an error that no search keeps


def log_error(
    numerator: np.ndarray, denominator: np.ndarray, response: np.ndarray, counts: np.ndarray
) -> tuple[float, Slope]:
    """Log of the weighted squared norm of A C^-1, and what its slope along C's coefficients is made of.

    Args:
      numerator, denominator: of C.
      response: first column of A, [steps].
      counts: weight of each squared coefficient of A C^-1, [steps].
    """
    from scipy import signal

    steps = len(response)
    with np.errstate(over="ignore", invalid="ignore"):  # a search may try a C whose inverse grows without end
        inverse = quotient(denominator, numerator, steps)
        grown = not np.all(np.abs(inverse) < _LARGEST)
    if grown:
        return _REFUSED, (np.zeros(steps), np.zeros(steps))
    row = np.cumsum(inverse) if _is_prefix_sum(response) else signal.fftconvolve(inverse, response)[:steps]
    total = float(counts @ np.square(row))
    back = 2 * counts * row / total  # slope along the row's coefficients
    if _is_prefix_sum(response):
        back = np.cumsum(back[::-1])
    else:
        back = signal.fftconvolve(back[::-1], response)[:steps]
    # d(C^-1) = -C^-1 dC C^-1: filter the slope backwards in time by C^-1, then correlate it with C^-1.
    adjoint = signal.lfilter(denominator, numerator, back)[::-1]
    return np.log(total), (adjoint, inverse)


Slope = tuple[np.ndarray, np.ndarray]


def correlated(slope: Slope, count: int) -> np.ndarray:
    """The slope of `log_error` along the first `count` coefficients of C, [count]."""
    from scipy import signal

    adjoint, inverse = slope
    if count <= 64:
        return -np.array([adjoint[lag:] @ inverse[: len(inverse) - lag] for lag in range(count)])
    return -signal.fftconvolve(adjoint, inverse[::-1])[len(inverse) - 1 : len(inverse) - 1 + count]


def _is_prefix_sum(response: np.ndarray) -> bool:
    return bool(response[-1] == 1.0 and np.all(response == 1.0))
