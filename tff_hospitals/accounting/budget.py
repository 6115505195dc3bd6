"""A promised epsilon as a budget: may another round be taken, by whom, and how many more?

The training loop asks before a round, with the events that the round would add. A hospital whose budget cannot pay for
them leaves the cohort while the others go on; when nobody is left, the run stops with a reason that names the hospital.

The answer depends on the ledger alone, never on data, and the promise is the budget itself: however the run came to
stop, what was released cost no more (a privacy filter, Feldman and Zrnic 2021, arXiv:2008.11193, with parameters fixed
in advance).

>>> budget = Budget({"record": 1.0})
>>> step = MechanismEvent("poisson_gaussian", noise_multiplier=2.4, sampling_probability=0.02)
>>> ledger = Ledger(delta=1e-3)
>>> ledger.record("record", "cleveland", 1, step, count=1400)
>>> budget.affordable_steps(ledger, "record", "cleveland", step)  # 1,517 steps cost epsilon 0.9999
117
>>> decision = budget.decide(ledger, "record", {"cleveland": [(step, 100)], "hungary": [(step, 2000)]})
>>> decision.may_train, decision.exhausted
(('cleveland',), ('hungary',))
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from tff_hospitals.accounting import epsilon as epsilon_lib
from tff_hospitals.accounting import loss_shapes
from tff_hospitals.accounting.events import UNITS, MechanismEvent
from tff_hospitals.accounting.ledger import Ledger
from tff_hospitals.foundations import validation
from tff_hospitals.foundations.validation import Problem

Planned = Sequence[tuple[MechanismEvent, int]]


@dataclasses.dataclass(frozen=True)
class Decision:
    """Who can pay for the planned round. Hospital ids, in the order in which they were asked about."""

    may_train: tuple[str, ...]
    exhausted: tuple[str, ...]
    reasons: Mapping[str, str]  # of each exhausted hospital, for the log and the run record

    @property
    def stop(self) -> bool:
        """Whether nobody can go on."""
        return not self.may_train


@dataclasses.dataclass(frozen=True)
class Budget:
    """The largest epsilon that may be spent, per unit of privacy and, where they differ, per hospital.

    Args:
      targets: {unit: epsilon} or {unit: {hospital id: epsilon}}; a unit that is not named has no limit. Delta and
        adjacency are those of the ledger.
      conversion: a key of `epsilon.CONVERSIONS`; the same that the promise will be stated in.

    Raises:
      InvalidInput: for an unknown unit or conversion, or an epsilon that is not positive.
    """

    targets: Mapping[str, float | Mapping[str, float]]
    conversion: str = "rdp"

    def __post_init__(self) -> None:
        problems: list[Problem | None] = [validation.one_of("conversion", self.conversion, epsilon_lib.CONVERSIONS)]
        for unit, target in self.targets.items():
            problems.append(validation.one_of("unit of the budget", unit, UNITS))
            named = target.items() if isinstance(target, Mapping) else [("every hospital", target)]
            for hospital_id, value in named:
                name = f"epsilon budget of {hospital_id}"
                problems.append(
                    validation.in_range(name, value, low=0.0, low_open=True, remedy="give a positive epsilon")
                )
        validation.raise_if(problems)

    def target(self, unit: str, hospital_id: str | None = None) -> float:
        """The limit for one hospital; infinite where there is none. None: the strictest of all hospitals."""
        target = self.targets.get(unit, math.inf)
        if not isinstance(target, Mapping):
            return target
        if hospital_id is None:
            return min(target.values(), default=math.inf)
        return target.get(hospital_id, math.inf)

    def epsilon_after(self, ledger: Ledger, unit: str, hospital_id: str | None, planned: Planned) -> float:
        """The epsilon that the ledger would state for one hospital after the planned events."""
        known = hospital_id is not None and ledger.knows(unit, hospital_id)
        taken = ledger.events(unit, hospital_id) if known else ledger.shared_events(unit)
        composition = loss_shapes.compose([*taken, *planned], ledger.adjacency)
        if self.conversion == "pld" and epsilon_lib.size_problem(composition) is not None:
            return math.inf  # more than any limit: its loss is too wide for memory
        return epsilon_lib.composed_epsilon(composition, ledger.delta, self.conversion)

    def can_afford(self, ledger: Ledger, unit: str, hospital_id: str | None, planned: Planned) -> bool:
        """Whether the planned events keep the limit."""
        return self.epsilon_after(ledger, unit, hospital_id, planned) <= self.target(unit, hospital_id)

    def shortfall(self, ledger: Ledger, unit: str, hospital_id: str | None, planned: Planned) -> str | None:
        """Why the planned events would break the limit, in words; None when they keep it.

        Args:
          ledger, unit, planned: as in `epsilon_after`.
          hospital_id: who is charged; None: all hospitals alike, so that the worst of them decides.
        """
        everyone = hospital_id is None
        for one in (None, *ledger.hospital_ids(unit)) if everyone else (hospital_id,):
            after, target = self.epsilon_after(ledger, unit, one, planned), self.target(unit, one)
            if after > target:
                who = "every hospital" if one is None else one
                return (
                    f"{who} would reach epsilon {after:.4g} per {unit} at delta {ledger.delta:g} "
                    f"({self.conversion}); its budget is {target:g}"
                )
        return None

    def affordable_steps(
        self, ledger: Ledger, unit: str, hospital_id: str | None, event: MechanismEvent, at_most: int = 10**9
    ) -> int:
        """How many more such events keep the limit, up to `at_most`."""
        if self.can_afford(ledger, unit, hospital_id, [(event, at_most)]):
            return at_most
        low, high = 0, 1  # `low` is affordable; doubling keeps each answer near the counts that the run has
        while high < at_most and self.can_afford(ledger, unit, hospital_id, [(event, high)]):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            if self.can_afford(ledger, unit, hospital_id, [(event, middle)]):
                low = middle
            else:
                high = middle
        return low

    def decide(self, ledger: Ledger, unit: str, planned: Mapping[str, Planned]) -> Decision:
        """Who may take part in the next round.

        Args:
          ledger: what was released so far.
          unit: "record" or "hospital".
          planned: for each hospital of the cohort, the (event, count) pairs that the round would add.
        """
        may_train, reasons = [], {}
        for hospital_id, events in planned.items():
            words = self.shortfall(ledger, unit, hospital_id, events)
            if words is None:
                may_train.append(hospital_id)
            else:
                reasons[hospital_id] = words
        return Decision(tuple(may_train), tuple(reasons), reasons)

    def exceeded(self, ledger: Ledger, unit: str) -> tuple[str, ...]:
        """The hospitals that are already beyond their limit: empty, unless releases were made without asking."""
        ids = ledger.hospital_ids(unit)
        return tuple(of for of in ids if ledger.epsilon(unit, of, self.conversion) > self.target(unit, of))
