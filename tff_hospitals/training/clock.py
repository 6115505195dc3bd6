"""Simulated time: how long rounds take at the plan's speeds, and who answers when where the server waits for few.

All of it follows from plan, seed and steps, never from weights: who answers in which round is known before training.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from tff_hospitals.hospitals.buffered_cohorts import Answer, Arrivals
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan import speeds
from tff_hospitals.plan.plan import Plan

if TYPE_CHECKING:
    from tff_hospitals.foundations.random_streams import Streams
    from tff_hospitals.hospitals import HospitalDataset


class Clock:
    """The time of one run.

    Args:
      plan: a plan without problems.
      dataset: its hospitals.
      streams: that speeds are drawn from.
    """

    def __init__(self, plan: Plan, dataset: HospitalDataset, streams: Streams):
        self._plan, self._records = plan, dataset.records()
        found = speeds.parse(plan.speeds)
        self._per_step = {} if found is None else found.seconds(dataset.ids, streams)
        self._arrivals: Arrivals | None = None
        if plan.cohort.asynchronous:
            training = {name: self._training_seconds(name, 0) for name in dataset.ids}
            self._arrivals = Arrivals(training, int(plan.cohort.hospitals_per_round or 0))

    def answers(self, number: int) -> dict[str, Answer] | None:
        """What a round (0-based) of an asynchronous cohort is made of, by hospital id; None for any other cohort."""
        if self._arrivals is None:
            return None
        return {one.hospital: one for one in self._arrivals(number).answers}

    def seconds(self, number: int, cohort: Collection[str]) -> float | None:
        """How long a round takes; None without speeds.

        Up to the slowest hospital where all begin together, else from the step before to the last answer in the buffer.

        Args:
          number: of the round, 0-based.
          cohort: ids of its hospitals.
        """
        if not self._per_step:
            return None
        if self._arrivals is None:
            return max((self._training_seconds(name, number) for name in cohort), default=0.0)
        return self._arrivals(number).at - (self._arrivals(number - 1).at if number else 0.0)

    def _training_seconds(self, name: str, number: int) -> float:
        return self._per_step[name] * noise_plan.steps_per_round(self._plan, self._records[name], number)
