"""What it costs to have tried several settings and to publish only the best.

Choosing the winner of a sweep looks at every run, so the winner's own epsilon is too small. When the number of runs is
drawn at random (in advance, independently of the data) and nothing but the winner is released, the cost grows with the
logarithm of the mean number of runs instead of their number (Papernot and Steinke 2022, arXiv:2110.03620).

>>> step = MechanismEvent("poisson_gaussian", noise_multiplier=2.4, sampling_probability=0.02)
>>> ledger = Ledger(delta=1e-3)
>>> ledger.record("record", "cleveland", 15, step, count=1500)
>>> chosen = after_selection(ledger, mean_runs=10)
>>> [round(book.epsilon("record", "cleveland"), 2) for book in (ledger, chosen)]
[0.99, 2.58]
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from tff_hospitals.accounting.events import MechanismEvent
from tff_hospitals.accounting.ledger import Ledger
from tff_hospitals.foundations import validation

if TYPE_CHECKING:
    import numpy as np

DISTRIBUTIONS = ("geometric", "logarithmic", "poisson")
_SHAPES = {"geometric": 1.0, "logarithmic": 0.0, "poisson": None}


def after_selection(winner: Ledger, mean_runs: float, distribution: str = "geometric") -> Ledger:
    """The ledger of a sweep that released only its best run.

    Args:
      winner: the ledger of that run; every run of the sweep must have cost at most as much.
      mean_runs: mean of the number of runs, at least 1; the number itself must have been drawn by `draw_runs`.
      distribution: of that number, one of `DISTRIBUTIONS`. "poisson" may draw 0: then nothing is released.

    Returns:
      A new ledger with one "selection" event per unit and hospital, in the winner's last round.

    Raises:
      InvalidInput: for an unknown distribution or a mean below 1.
    """
    validation.raise_if(_problems(mean_runs, distribution))
    ledger = Ledger(winner.delta, winner.adjacency)
    for unit in winner.units():
        for hospital_id in winner.hospital_ids(unit) or (None,):
            base = winner.events(unit, hospital_id)
            ledger.expect(unit, [hospital_id])
            if base:
                event = MechanismEvent("selection", mean_runs=float(mean_runs), shape=_SHAPES[distribution], base=base)
                ledger.record(unit, hospital_id, winner.last_round(), event)
    return ledger


def draw_runs(generator: np.random.Generator, mean_runs: float, distribution: str = "geometric") -> int:
    """How many runs the sweep takes; draw it before the first run, and never again.

    >>> import numpy as np
    >>> draws = [draw_runs(np.random.default_rng(seed), mean_runs=10) for seed in range(2000)]
    >>> min(draws), 9 < sum(draws) / len(draws) < 11
    (1, True)
    """
    validation.raise_if(_problems(mean_runs, distribution))
    if mean_runs == 1 and distribution != "poisson":
        return 1
    if distribution == "poisson":
        return int(generator.poisson(mean_runs))
    if distribution == "geometric":
        return int(generator.geometric(1 / mean_runs))
    return int(generator.logseries(1 - _logarithmic_gamma(mean_runs)))


@functools.lru_cache(maxsize=64)
def _logarithmic_gamma(mean_runs: float) -> float:
    """The parameter of the logarithmic distribution with this mean; by bisection."""
    low, high = 0.0, 1.0
    for _ in range(100):
        gamma = (low + high) / 2
        mean = (1 / gamma - 1) / -math.log(gamma)
        low, high = (low, gamma) if mean < mean_runs else (gamma, high)
    return (low + high) / 2


def _problems(mean_runs: float, distribution: str) -> list[validation.Problem | None]:
    return [
        validation.in_range("mean_runs", mean_runs, low=1.0, remedy="give the mean number of runs of the sweep"),
        validation.one_of("distribution", distribution, DISTRIBUTIONS),
    ]
