"""From rounds to ledger entries: the one place that says what a round of a plan releases about whom.

The same function enters rounds that were run and rounds that are about to run, so that a charge that was written ahead
and the ledger of what happened cannot come apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tff_hospitals.accounting import Ledger, MechanismEvent
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.plan import Plan

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset

_TREES_OF_ONE_ATTEMPT = 2**20  # no run has more; a tree that is grown again is another one


def empty_ledger(dataset: HospitalDataset, noise: noise_plan.NoisePlan) -> Ledger:
    """The ledger of a run before its first round: hospitals are known, noised preprocessing is entered."""
    ledger = Ledger(delta=noise.delta, adjacency=noise.adjacency)
    for part in noise.parts:
        if part.unit == "record" or not next(iter(part.releases.values())).shared:
            ledger.expect(part.unit, dataset.ids)
        for hospital, released in noise_plan.preprocessing_events(dataset, part.unit).items():
            for event, count in released:
                ledger.record(part.unit, hospital, 0, event, count)
    return ledger


def enter_round(
    ledger: Ledger, noise: noise_plan.NoisePlan, number: int, steps: Mapping[str, int], attempt: int = 0
) -> None:
    """Enters one round.

    Args:
      ledger: to enter it in.
      noise: of the run.
      number: of the round, 0-based.
      steps: local steps of each hospital that takes part, by id.
      attempt: how often the run has gone back to an earlier round and drawn new noise from there; a tree over rounds
        that is grown again is charged as another tree.
    """
    for part in noise.parts:
        shared = next(iter(part.releases.values())).shared
        for name in (None,) if shared else steps:
            taken = 1 if name is None else steps[name]
            event, count = event_of_round(part, name, number, taken, len(steps), attempt)
            ledger.record(part.unit, name, number + 1, event, count)


def event_of_round(
    part: noise_plan.NoisePlan, name: str | None, number: int, steps: int, cohort: int, attempt: int = 0
) -> tuple[MechanismEvent, int]:
    """What one hospital (None: the server about all of them) releases in a round, and how often.

    Args:
      part: the mechanism.
      name: hospital id.
      number: of the round, 0-based.
      steps: that it takes.
      cohort: hospitals in the round.
      attempt: as in `enter_round`.
    """
    release = next(iter(part.releases.values())) if name is None else part.releases[name]
    event, count = release.in_round(number, steps, cohort)
    if attempt and event.restart is not None:
        event = dataclasses.replace(event, restart=event.restart + attempt * _TREES_OF_ONE_ATTEMPT)
    return event, count


def planned_ledger(
    plan: Plan,
    dataset: HospitalDataset,
    noise: noise_plan.NoisePlan,
    cohort_of: Callable[[int], Sequence[str]],
    first_round: int = 0,
) -> Ledger:
    """What the rounds from `first_round` (0-based) to the plan's last one will release, with the cohorts as drawn."""
    ledger = empty_ledger(dataset, noise)
    records = dataset.records()
    steps = {name: noise_plan.steps_per_round(plan, size) for name, size in records.items()}
    for number in range(first_round, plan.rounds):
        if plan.by_round:
            steps = {name: noise_plan.steps_per_round(plan, size, number) for name, size in records.items()}
        enter_round(ledger, noise, number, {name: steps[name] for name in cohort_of(number)})
    return ledger


def add_ledger(total: Ledger, other: Ledger, after: int = 0) -> None:
    """Enters what another ledger holds of later rounds than `after`: what was drawn twice counts twice.

    Round 0, noised preprocessing, is left out: it happened before anything was trained, and once.
    """
    content = other.to_json()
    events = [MechanismEvent.from_json(fields) for fields in content["events"]]
    for entries in content["entries"]:
        total.expect(entries["unit"], [entries["hospital"]])
        for number, first, last, count in entries["rows"]:
            for round_number in range(max(first, after + 1), last + 1):
                total.record(entries["unit"], entries["hospital"], round_number, events[number], count)
