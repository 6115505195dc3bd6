"""The privacy profile of a selection: the best of a random number of runs, by loss distributions of one run.

Let q be the density of a run's result in order of its score, Q its distribution, and f the generating function of the
number of runs. The winner has the density q f'(Q). Where the profile of a run allows delta_1 at epsilon_1, the weight
f'(Q) is at most exp(cost) times that of the neighbour, so that winning costs `cost` in epsilon, and f'(1), the mean
number of runs, in delta:

* truncated negative binomial of shape s, with f'(x) ~ (1 - (1 - g) x)^-(s + 1): cost = (s + 1) epsilon_1 for every
  epsilon_1 with (1 - g) delta_1 <= g (exp(epsilon_1) - 1), since 1 - Q' <= exp(epsilon_1) (1 - Q) + delta_1;
* Poisson, with f'(x) ~ exp(m x): cost = m (exp(epsilon_1) - 1 + delta_1), since Q - Q' is at most that over m.

The distributions are those of Papernot and Steinke 2022, arXiv:2110.03620, whose own analysis by Renyi divergences is
in `renyi.py`; by profiles: Koskela, Redberg and Wang 2024, arXiv:2402.06701.
"""

from __future__ import annotations

import functools
import math

from tff_hospitals.accounting import privacy_loss
from tff_hospitals.accounting.loss_shapes import SelectionPart
from tff_hospitals.accounting.renyi import negative_binomial_gamma


def selected_epsilon(part: SelectionPart, delta: float) -> float:
    """Epsilon of the winner at a delta of at least `SMALLEST_PLD_DELTA` times the mean number of runs.

    >>> from tff_hospitals.accounting.loss_shapes import GaussianPart
    >>> round(selected_epsilon(SelectionPart(10.0, 1.0, ((GaussianPart(0.1), 1),)), 1e-3), 2)
    1.58
    """
    return privacy_loss.epsilon(part.base, delta / part.mean_runs) + cost_of_winning(part)


def selected_delta(part: SelectionPart, epsilon: float) -> float:
    """Delta of the winner at an epsilon >= 0."""
    left = epsilon - cost_of_winning(part)
    return 1.0 if left < 0 else min(1.0, part.mean_runs * privacy_loss.delta(part.base, left))


@functools.lru_cache(maxsize=256)
def cost_of_winning(part: SelectionPart) -> float:
    """What epsilon grows by because the others lost: the least that the profile of one run allows."""

    def profile(epsilon: float) -> float:
        return privacy_loss.delta(part.base, epsilon)

    if part.mean_runs == 1 and part.shape == 1:
        return 0.0  # always one run
    if math.isinf(part.shape):
        # A falling and a rising term: the least of a fine grid is within a thousandth of the least.
        tried = [2.0 ** (step / 8) for step in range(-120, 41)]
        return min(part.mean_runs * (math.expm1(epsilon) + profile(epsilon)) for epsilon in tried)
    gamma = negative_binomial_gamma(part.mean_runs, part.shape)
    low, high = 0.0, 1.0
    while (1 - gamma) * profile(high) > gamma * math.expm1(high):
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        if (1 - gamma) * profile(middle) <= gamma * math.expm1(middle):
            high = middle
        else:
            low = middle
        if high - low < 1e-4 * high:
            break
    return (1 + part.shape) * high
