"""Expected error of a strategy: the noise on the released prefix sums, for a noise multiplier of 1.

Row t of B = A C^-1 makes the noise of the model after step t, so its variance is the squared norm of that row. For
prefix sums B is Toeplitz and rows grow by one coefficient each; with rates that change from step to step the noise
follows the quotient of polynomials as a state of few numbers, so that no matrix of steps by steps is made.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tff_hospitals.accounting.strategies.sensitivity import Sensitivity, sensitivity_of
from tff_hospitals.accounting.strategies.strategy import Strategy
from tff_hospitals.accounting.strategies.workload import Workload
from tff_hospitals.foundations.validation import Problem, raise_if


@dataclasses.dataclass(frozen=True)
class ExpectedError:
    """Standard deviations of the noise on one coordinate, for clip norm 1 and noise multiplier 1.

    Attributes:
      sensitivity: of the strategy; the three errors are multiplied by it already.
      rmse: root of the mean over steps of the variance.
      max_error: of the noisiest step.
      last_error: of the last step, the model that is kept.
    """

    sensitivity: Sensitivity
    rmse: float
    max_error: float
    last_error: float


def expected_error(
    strategy: Strategy,
    *,
    participations: int = 1,
    min_separation: int | None = None,
    workload: Workload | None = None,
) -> ExpectedError:
    """Errors of a strategy.

    Args:
      strategy: C.
      participations, min_separation: see `sensitivity_of`.
      workload: what is released; None: prefix sums.

    Raises:
      InvalidInput: as `sensitivity_of`; a workload that does not fit the steps.

    >>> from tff_hospitals.accounting.strategies.closed_forms import identity
    >>> round(expected_error(identity(1000), participations=10, min_separation=100).max_error, 6)
    100.0
    """
    sensitivity = sensitivity_of(strategy, participations=participations, min_separation=min_separation)
    variances = row_variances(strategy, workload or Workload())
    return ExpectedError(
        sensitivity,
        sensitivity.value * math.sqrt(float(variances.mean())),
        sensitivity.value * math.sqrt(float(variances.max())),
        sensitivity.value * math.sqrt(float(variances[-1])),
    )


def row_variances(strategy: Strategy, workload: Workload) -> np.ndarray:
    """Squared norms of the rows of A C^-1, float64 [steps].

    Raises:
      InvalidInput: when the workload does not fit the steps, or has changing rates with a strategy of too many terms.
    """
    from scipy import signal

    raise_if(workload.problems(strategy.steps))
    inverse = strategy.inverse_coefficients()
    if not workload.rates:
        if not workload.momentum:
            return np.cumsum(np.square(np.cumsum(inverse)))
        row = signal.fftconvolve(inverse, workload.response(strategy.steps))[: strategy.steps]
        return np.cumsum(np.square(row))
    return _with_rates(strategy, workload)


_MOST_STATES = 256


def _with_rates(strategy: Strategy, workload: Workload) -> np.ndarray:
    """The same for changing rates: the covariance of a small state is carried from step to step.

    The state holds the strategy's filter (as many numbers as the larger polynomial has terms after the first), the
    momentum and the model. One unit normal enters at a step; the filter makes the step's noise of it.
    """
    above = np.asarray(strategy.denominator, np.float64) / strategy.numerator[0]  # C^-1 is denominator / numerator
    below = np.asarray(strategy.numerator, np.float64) / strategy.numerator[0]
    order = max(len(above), len(below)) - 1
    if order > _MOST_STATES:
        bound = f"must have at most {_MOST_STATES + 1} terms when rates change"
        raise_if([Problem("strategy", f"{strategy.name} with {order + 1} terms", bound, "take banded or blt")])
    above, below = (np.pad(one, (0, order + 1 - len(one))) for one in (above, below))
    size = order + 2
    covariance = np.zeros((size, size))
    variances = np.empty(strategy.steps)
    for step, rate in enumerate(workload.weights(strategy.steps)):
        move, enter = np.zeros((size, size)), np.zeros(size)
        # A filter in its transposed direct form: the step's noise is above[0] z + state[0], and each place of the state
        # takes over the next one plus above[i] z - below[i] times that noise.
        noise = np.zeros(size)
        if order:
            noise[0] = 1.0
        for at in range(order):
            if at + 1 < order:
                move[at, at + 1] = 1.0
            move[at] -= below[at + 1] * noise
            enter[at] = above[at + 1] - below[at + 1] * above[0]
        move[order] = workload.momentum * _unit(size, order) + noise
        enter[order] = above[0]
        move[order + 1] = _unit(size, order + 1) + rate * move[order]
        enter[order + 1] = rate * enter[order]
        covariance = move @ covariance @ move.T + np.outer(enter, enter)
        variances[step] = covariance[-1, -1]
    return variances


def _unit(size: int, at: int) -> np.ndarray:
    return np.eye(1, size, at)[0]
