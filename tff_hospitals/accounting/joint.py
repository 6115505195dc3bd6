"""The joint epsilon of several runs on the same hospitals: what all their results together tell about one unit.

Whoever publishes two results of epsilon 1 has not published something of epsilon 1. The ledgers of all runs are
composed event by event, which costs far less than the sum of their epsilons and is exact where everything is Gaussian.

>>> step = MechanismEvent("poisson_gaussian", noise_multiplier=2.4, sampling_probability=0.02)
>>> ledger = Ledger(delta=1e-3)
>>> ledger.record("record", "cleveland", 1, step, count=1500)
>>> [round(joint_ledger([ledger] * runs).epsilon("record"), 2) for runs in (1, 2, 5)]
[0.99, 1.48, 2.54]

Runs whose batches follow from one seed meet a record in the same steps, so that their noise has to protect it in one
step twice; they are told apart by `drawn_together`:

>>> round(joint_ledger([ledger] * 5, drawn_together=[42] * 5).epsilon("record"), 2)
3.35
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterable, Sequence

from tff_hospitals.accounting.events import REPLACE_ONE, REPLACE_SPECIAL, MechanismEvent
from tff_hospitals.accounting.ledger import Ledger
from tff_hospitals.foundations.validation import InvalidInput, Problem

Spent = tuple[tuple[MechanismEvent, int], ...]


def joint_ledger(
    ledgers: Sequence[Ledger], *, delta: float | None = None, drawn_together: Sequence[Hashable] | None = None
) -> Ledger:
    """One ledger that holds the releases of all runs; its epsilon is the joint one.

    * A tree of one run does not grow into that of another: every run keeps mechanisms of its own.
    * Of a run that protects hospitals only, the releases count for single records too: a record that changes moves its
      hospital's clipped contribution by at most twice the clip norm.
    * Where the runs have different adjacencies, all are accounted for under blanking one out (`replace_special`), or
      replacing one; a sampled release that has no analysis there is counted as if it were not sampled.
    * A run without entries promises nothing and adds nothing: whoever states the joint epsilon must name such runs.

    Args:
      ledgers: of the runs; their noises must be independent of each other.
      delta: of the joint epsilon; None: the one delta of all ledgers.
      drawn_together: one key for each ledger; runs with equal keys may have drawn the same batches or cohorts. None:
        every run drew its own.

    Raises:
      InvalidInput: no ledger, several deltas and none given, or keys that are not one for each ledger.

    Source: composition of Renyi divergences (Mironov 2017, arXiv:1702.07476). Steps in common: with k of alpha copies
    in the sample, the integer moments of both runs grow with k, so that their expected product is largest when one step
    meets the other with the larger of both sampling probabilities (Chebyshev's inequality for sums).
    """
    deltas = sorted({ledger.delta for ledger in ledgers})
    keys = list(range(len(ledgers))) if drawn_together is None else list(drawn_together)
    problems = []
    if not ledgers:
        problems.append(Problem("ledgers", [], "must hold at least one ledger", "give the ledgers of the runs"))
    if delta is None and len(deltas) > 1:
        problems.append(Problem("delta", deltas, "must be the same in all ledgers", "say at which delta: delta=..."))
    if len(keys) != len(ledgers):
        problems.append(
            Problem("drawn_together", keys, f"must be one key for each of {len(ledgers)} ledgers", "name each seed")
        )
    if problems:
        raise InvalidInput(problems)
    spent = {(unit, of) for ledger in ledgers for unit in _units(ledger) for of in _hospitals(ledger, unit)}
    charged = {
        (unit, of): [(key, _charged(ledger, unit, of)) for key, ledger in zip(keys, ledgers)]
        for unit, of in sorted(spent, key=lambda pair: (pair[0], pair[1] or ""))
    }
    adjacency = _common_adjacency(ledgers, charged.values())
    joint = Ledger(deltas[0] if delta is None else delta, adjacency)
    for (unit, of), runs in charged.items():
        joint.expect(unit, [of])
        for events in _by_key(runs):
            for event, count in _in_common(events) if len(events) > 1 else events[0]:
                fits = adjacency in event.adjacencies
                joint.record(unit, of, 1, event if fits else _unsampled(event), count)
    return joint


def _units(ledger: Ledger) -> tuple[str, ...]:
    """The units that a ledger says something about: what hides a hospital hides each of its records."""
    return ("record", *ledger.units()) if ledger.units() == ("hospital",) else ledger.units()


def _hospitals(ledger: Ledger, unit: str) -> tuple[str | None, ...]:
    """Whose entries there are; None: those that touch every hospital alike."""
    of = unit if unit in ledger.units() else "hospital"
    shared = (None,) if ledger.knows(of, None) else ()
    return (*shared, *ledger.hospital_ids(of))


def _charged(ledger: Ledger, unit: str, hospital_id: str | None) -> Spent:
    """What one run released about a hospital by itself, or (None) about every hospital alike."""
    if unit not in _units(ledger):
        return ()
    if unit in ledger.units():
        return tuple((_apart(event), count) for event, count in ledger.own_events(unit, hospital_id))
    own = ledger.own_events("hospital", hospital_id)
    return tuple((_twice_as_far(_apart(event)), count) for event, count in own)


def _apart(event: MechanismEvent) -> MechanismEvent:
    """A mechanism that has stopped growing; the next run's tree is another one."""
    return event if event.restart is None else dataclasses.replace(event, restart=None)


def _twice_as_far(event: MechanismEvent) -> MechanismEvent:
    """A release about hospitals as one about a record, whose change moves the clipped sum by twice the clip norm."""
    event = _unsampled(event)
    halves, doubles = ("noise_multiplier", "bit_noise_stddev"), ("l2_sensitivity", "l1_sensitivity")
    values = {name: getattr(event, name) for name in (*halves, *doubles)}
    changed = {name: value / 2 if name in halves else value * 2 for name, value in values.items() if value is not None}
    if event.base is not None:
        changed["base"] = tuple((_twice_as_far(one), count) for one, count in event.base)
    return dataclasses.replace(event, **changed)


def _unsampled(event: MechanismEvent) -> MechanismEvent:
    """The same release without amplification by sampling: as if every unit took part; it is never the smaller claim."""
    if event.base is not None:
        return dataclasses.replace(event, base=tuple((_unsampled(one), count) for one, count in event.base))
    if event.kind == "adaptive_clip":
        return dataclasses.replace(event, sampling_probability=None)
    if event.sampling_probability is not None or event.batch is not None:
        return MechanismEvent("no_amplification", noise_multiplier=event.noise_multiplier)
    return event


def _common_adjacency(ledgers: Sequence[Ledger], charged: Iterable[list[tuple[Hashable, Spent]]]) -> str:
    events = {event for runs in charged for _, spent in runs for event, _ in spent}
    own = {ledger.adjacency for ledger in ledgers if ledger.units()} or {ledgers[0].adjacency}
    for adjacency in (*(own if len(own) == 1 else ()), REPLACE_SPECIAL, REPLACE_ONE):
        if all(adjacency in _unsampled(event).adjacencies for event in events):
            return adjacency
    raise InvalidInput(
        [Problem("ledgers", sorted(own), "have no adjacency in common", "state the epsilons of these runs apart")]
    )


def _by_key(runs: Sequence[tuple[Hashable, Spent]]) -> list[list[Spent]]:
    groups: dict[Hashable, list[Spent]] = {}
    for key, spent in runs:
        groups.setdefault(key, []).append(spent)
    return list(groups.values())


def _in_common(runs: Sequence[Spent]) -> list[tuple[MechanismEvent, int]]:
    """The releases of runs that may have drawn the same batches: step t of one meets step t of the others.

    The steps of each run are put in order of their noise, the loudest contributions first: no other way of meeting
    costs more.
    """
    found = [
        (_unsampled(event), count) for spent in runs for event, count in spent if event.sampling_probability is None
    ]
    sampled = [
        sorted(((_mu_squared(event), count) for event, count in spent if event.sampling_probability), reverse=True)
        for spent in runs
    ]
    chance = max((event.sampling_probability or 0.0 for spent in runs for event, _ in spent), default=0.0)
    done, last = 0, max((sum(count for _, count in steps) for steps in sampled), default=0)
    while done < last:
        here = [_at(steps, done) for steps in sampled]
        until = min(end for _, end in here if end > done)
        total = math.fsum(mu_squared for mu_squared, _ in here)
        multiplier = 0.0 if math.isinf(total) else total**-0.5
        event = MechanismEvent("poisson_gaussian", noise_multiplier=multiplier, sampling_probability=chance)
        found.append((event, until - done))
        done = until
    return found


def _mu_squared(event: MechanismEvent) -> float:
    """Squared sensitivity over noise variance of one sampled step."""
    noise = event.noise_multiplier or 0.0
    bit = 1 / (2 * event.bit_noise_stddev) if event.bit_noise_stddev else 0.0
    return math.inf if noise == 0 else noise**-2 + bit**2


def _at(steps: Sequence[tuple[float, int]], number: int) -> tuple[float, int]:
    """What a step with this number (from 0) costs, and the number of the first step after those that are like it."""
    end = 0
    for mu_squared, count in steps:
        end += count
        if number < end:
            return mu_squared, end
    return 0.0, 0
