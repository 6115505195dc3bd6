"""What the ledger declares about the noise of a run: the figures that everything else is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tff_hospitals.plan import noise as noise_plan

if TYPE_CHECKING:
    from tff_hospitals.accounting import Ledger, MechanismEvent
    from tff_hospitals.audits.loading import LoadedRun
    from tff_hospitals.hospitals import HospitalDataset

Rounds = dict[int, dict["MechanismEvent", int]]  # by round (from 1; 0: before training): events and how often


def by_round(ledger: Ledger, unit: str, hospital: str | None) -> Rounds:
    """What one hospital (None: all alike) is charged with in each round."""
    found: Rounds = {}
    for event, counts in ledger.by_round().get((unit, hospital), {}).items():
        for number, count in counts.items():
            found.setdefault(number, {})[event] = count
    return found


def in_training(ledger: Ledger, dataset: HospitalDataset, unit: str, hospital: str | None) -> list[MechanismEvent]:
    """The events of one hospital's rounds, its own and those of all alike, without those of preprocessing.

    Of the winner of a sweep: those of its own run.
    """
    before = noise_plan.preprocessing_events(dataset, unit)
    known = {event for of in (None, hospital) for event, _ in before.get(of, ())}
    found = []
    for event, _ in ledger.events(unit, hospital if ledger.knows(unit, hospital) else None):
        found += [event] if event.base is None else [inner for inner, _ in event.base]
    return [event for event in found if event not in known]


def of_round(run: LoadedRun, unit: str, hospital: str | None, number: int) -> MechanismEvent | None:
    """The event whose noise a round is held to; None where the ledger declares none for it.

    Where noise stays the same it is the loudest of the run, so that a round without any is found; where it changes by
    round, that of the round itself.

    Args:
      run: with plan and ledger.
      unit: of privacy.
      hospital: id; None: of all hospitals together.
      number: of the round, from 1.
    """
    if not noise_plan.noise_changes(run.plan, unit):
        name = run.dataset.ids[0] if hospital is None else hospital
        return loudest(run.ledger, run.dataset, unit, name)
    names = run.dataset.ids if hospital is None else (hospital,)
    found = (event for name in (None, *names) for event in by_round(run.ledger, unit, name).get(number, ()))
    return max((event for event in found if event.base is None), key=_size, default=None)


def tells_rounds(run: LoadedRun, unit: str) -> bool:
    """Whether the ledger says what each round released: that of a sweep's winner has its run as one event."""
    names = (None, *run.dataset.ids)
    return not any(
        event.base is not None
        for name in names
        for events in by_round(run.ledger, unit, name).values()
        for event in events
    )


def loudest(ledger: Ledger, dataset: HospitalDataset, unit: str, hospital: str | None) -> MechanismEvent | None:
    """The event with the loudest noise that a hospital's rounds are charged with; None where none is."""
    events = in_training(ledger, dataset, unit, hospital)
    return max(events, key=_size, default=None)


def _size(event: MechanismEvent) -> float:
    return event.noise_multiplier or event.local_stddev or 0.0
