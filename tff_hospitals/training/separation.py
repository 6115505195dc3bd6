"""Correlated noise counts on how far apart a hospital's rounds lie: the loop refuses a round that is nearer.

The plan proves it from the cohort (`plan.mechanisms`), and the ledger records the sensitivity that follows. What is
looked at here is what is about to be trained, wherever it came from: noise that is taken back belongs to a round's
number, so that rounds follow each other without a gap, and nobody is back sooner than was planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.training.results import TrainingError

if TYPE_CHECKING:
    from tff_hospitals.processes.rounds import RoundInput
    from tff_hospitals.training.round_inputs import RoundDrawer


class Separation:
    """When each hospital took part last.

    Args:
      noise: of the run; where no mechanism of it spans rounds, nothing is refused.
      drawer: of the run's cohorts.
      next_round: where the run begins or goes on, 0-based.
    """

    def __init__(self, noise: noise_plan.NoisePlan, drawer: RoundDrawer, next_round: int):
        releases = [release for part in noise.parts for release in part.releases.values()]
        self._apart = max((release.apart for release in releases), default=0)
        self._next = next_round
        self._last: dict[str, int] = {}
        for number in range(max(0, next_round + 1 - self._apart), next_round if self._apart else 0):
            self._last.update(dict.fromkeys(drawer.cohort(number), number))

    def check(self, inputs: Sequence[RoundInput]) -> None:
        """Takes note of rounds that are about to run.

        Raises:
          TrainingError: a hospital is back too soon, or a round is left out or comes again.
        """
        if not self._apart:
            return
        for one in inputs:
            if one.number != self._next:
                raise TrainingError(
                    f"round {one.number + 1} instead of {self._next + 1}: noise that later rounds take back belongs to "
                    "the number of its round. Remedy: resume the run from its own directory."
                )
            for name in (each.hospital.hospital_id for each in one.cohort):
                since = one.number - self._last.get(name, -self._apart)
                if since < self._apart:
                    raise TrainingError(
                        f"round {one.number + 1}: {name} took part {since} rounds before, and its noise was planned "
                        f"for at least {self._apart}: epsilon would be larger than stated. Remedy: take the cohorts "
                        "of the plan."
                    )
                self._last[name] = one.number
            self._next += 1
