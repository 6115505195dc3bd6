"""Who can still pay for a round: every unit of privacy of a run against the limit that was set for it.

A release inside a hospital (DP-SGD, local DP) is charged to that hospital alone, which leaves the cohort when either of
its units could not pay. A release of the server is charged to all hospitals alike, whether they take part or not: when
one of them could not pay, the run ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tff_hospitals.accounting import Budget
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.releases import event_of_round

if TYPE_CHECKING:
    from tff_hospitals.accounting import Ledger
    from tff_hospitals.hospitals import HospitalDataset


@dataclasses.dataclass(frozen=True)
class RoundDecision:
    """The answer for one round.

    Attributes:
      may_train: ids of the cohort that can pay, in its order.
      reasons: why each of the others cannot, naming unit, epsilon and limit.
      stop: why no round can follow, None when one can.
    """

    may_train: tuple[str, ...]
    reasons: Mapping[str, str]
    stop: str | None


def limits(plan: Plan, noise: noise_plan.NoisePlan) -> dict[str, tuple[float, str]]:
    """The largest epsilon by unit of privacy, with the name of the option that set it; empty without limits."""
    found = {}
    for part in noise.parts:
        given = [(plan.stopping.max_epsilon, "max_epsilon")]
        if part is noise.second:
            given.insert(0, (plan.stopping.outer_max_epsilon, "outer_max_epsilon"))
        for epsilon, name in given:
            if epsilon is not None:
                found[part.unit] = (epsilon, name)
                break
    return found


class RoundBudgets:
    """The limits of a run, asked before every round.

    Args:
      plan, dataset, noise: of the run.
    """

    def __init__(self, plan: Plan, dataset: HospitalDataset, noise: noise_plan.NoisePlan):
        self._ids, self._attempt = dataset.ids, 0
        self._plan, self._records = plan, dataset.records()
        self._limited = []
        for part in noise.parts:
            epsilon, name = limits(plan, noise).get(part.unit, (None, ""))
            if epsilon is not None:
                self._limited.append((part, Budget({part.unit: epsilon}, part.conversion), name))

    def __bool__(self) -> bool:
        return bool(self._limited)

    def decide(self, ledger: Ledger, round_number: int, cohort: tuple[str, ...], attempt: int = 0) -> RoundDecision:
        """Who of a cohort may take part in a round.

        Args:
          ledger: of the rounds before.
          round_number: 0-based.
          cohort: who was drawn.
          attempt: as in `releases.enter_round`.
        """
        self._attempt = attempt
        may_train, reasons = list(cohort), {}
        while True:
            found = self._shortfalls(ledger, round_number, may_train)
            if None in found:
                return RoundDecision((), dict.fromkeys(cohort, found[None]), found[None])
            if not found:
                break
            reasons.update({one: words for one, words in found.items() if one is not None})
            may_train = [one for one in may_train if one not in found]
            if not self._by_cohort:
                break  # what a hospital pays does not depend on who else is there
        stop = None
        if cohort and not may_train and not self._anyone_else(ledger, round_number, cohort):
            stop = next(iter(reasons.values()))
        return RoundDecision(tuple(may_train), {one: reasons[one] for one in cohort if one in reasons}, stop)

    @property
    def _by_cohort(self) -> bool:
        """Whether fewer hospitals mean less noise, so that those who stay pay more."""
        return any(next(iter(part.releases.values())).by_cohort for part, _, _ in self._limited)

    def _anyone_else(self, ledger: Ledger, round_number: int, cohort: tuple[str, ...]) -> bool:
        asked = set(cohort)
        return any(not self._shortfalls(ledger, round_number, [one]) for one in self._ids if one not in asked)

    def _shortfalls(self, ledger: Ledger, round_number: int, present: list[str]) -> dict[str | None, str]:
        """Why hospitals cannot pay; the key None: a release that is charged to all of them cannot be paid."""
        found: dict[str | None, str] = {}
        for part, budget, name in self._limited:
            charged: list[str | None] = [*present]
            if next(iter(part.releases.values())).shared:
                charged = [None]
            for one in charged:
                steps = 1
                if one is not None:
                    steps = noise_plan.steps_per_round(self._plan, self._records[one], round_number)
                planned = [event_of_round(part, one, round_number, steps, len(present), self._attempt)]
                words = budget.shortfall(ledger, part.unit, one, planned)
                if words is not None:
                    found.setdefault(one, f"{words} ({name})")
        return found
