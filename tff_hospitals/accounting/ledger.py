"""The ledger: every release that a run made, and the only place where its epsilon comes from.

A ledger holds one entry per unit of privacy, hospital and mechanism, with the rounds in which it was used and how
often. Nothing is entered ahead of time: an epsilon asked of a ledger is that of the steps that were taken.

>>> ledger = Ledger(delta=1e-3)
>>> step = MechanismEvent("poisson_gaussian", noise_multiplier=2.4, sampling_probability=0.02)
>>> for round_number in range(1, 16):
...     ledger.record("record", "cleveland", round_number, step, count=100)
>>> ledger.steps("record", "cleveland")
1500
>>> round(ledger.epsilon("record", "cleveland"), 3), round(ledger.epsilon("record", "cleveland", through_round=3), 3)
(0.993, 0.398)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from tff_hospitals.accounting import epsilon as epsilon_lib
from tff_hospitals.accounting import loss_shapes
from tff_hospitals.accounting.events import ADJACENCIES, REPLACE_SPECIAL, UNITS, MechanismEvent
from tff_hospitals.accounting.ledger_entry import Entry
from tff_hospitals.foundations import validation
from tff_hospitals.foundations.validation import Problem

SCHEMA_VERSION = 1


class Ledger:
    """What was released about whom.

    Args:
      delta: the delta of every epsilon that this ledger states, in (0, 1).
      adjacency: one of `events.ADJACENCIES`; an event that has no guarantee under it is refused by `record`.

    Raises:
      InvalidInput: for a delta outside (0, 1) or an unknown adjacency.
    """

    def __init__(self, delta: float, adjacency: str = REPLACE_SPECIAL):
        validation.raise_if([epsilon_lib.delta_problem(delta), validation.one_of("adjacency", adjacency, ADJACENCIES)])
        self.delta = float(delta)
        self.adjacency = adjacency
        self._entries: dict[tuple[str, str | None], dict[MechanismEvent, Entry]] = {}
        self._ids: dict[str, dict[str, None]] = {}  # by unit, in the order in which they came; kept by `_of_hospital`

    # --------------------------------------------------------------------------------------------------------- writing

    def record(
        self, unit: str, hospital_id: str | None, round_number: int, event: MechanismEvent, count: int = 1
    ) -> None:
        """Enters `count` releases made in a round.

        Args:
          unit: "record" or "hospital", whom the noise protects.
          hospital_id: whose data; None for a release that touches every hospital alike.
          round_number: 1, 2, ...; 0 for what comes before training, as noised preprocessing.
          event: what was released.
          count: how often, as really happened; 0 enters nothing.

        Raises:
          InvalidInput: for an unknown unit, a negative round or count, or an event that has no guarantee under this
            ledger's adjacency (so assumptions that do not fit together cannot be mixed).
        """
        validation.raise_if(
            [
                _unit_problem(unit),
                validation.whole_number("round_number", round_number, low=0, remedy="give the round's number"),
                validation.whole_number("count", count, low=0, remedy="give the number of steps really taken"),
                loss_shapes.adjacency_problem(event, self.adjacency),
            ]
        )
        of_hospital = self._of_hospital(unit, hospital_id)
        if count:
            of_hospital.setdefault(event, Entry()).add(int(round_number), int(count))

    def expect(self, unit: str, hospital_ids: Iterable[str | None]) -> None:
        """Announces hospitals whose epsilon is 0 until they release something; others are unknown, not private."""
        validation.raise_if([_unit_problem(unit)])
        for hospital_id in hospital_ids:
            self._of_hospital(unit, hospital_id)

    def _of_hospital(self, unit: str, hospital_id: str | None) -> dict[MechanismEvent, Entry]:
        """The entries of one hospital, made when it is new."""
        ids = self._ids.setdefault(unit, {})
        if hospital_id is not None:
            ids[hospital_id] = None
        return self._entries.setdefault((unit, hospital_id), {})

    # --------------------------------------------------------------------------------------------------------- reading

    def units(self) -> tuple[str, ...]:
        """The units of privacy that occur, in the order of `events.UNITS`."""
        return tuple(unit for unit in UNITS if unit in self._ids)

    def hospital_ids(self, unit: str) -> tuple[str, ...]:
        """The hospitals with entries of their own, in the order in which they came."""
        return tuple(self._ids.get(unit, ()))

    def knows(self, unit: str, hospital_id: str | None) -> bool:
        """Whether a hospital (None: what touches every hospital alike) has entries of its own, or was announced."""
        return (unit, hospital_id) in self._entries

    def events(
        self, unit: str, hospital_id: str | None = None, through_round: int | None = None
    ) -> tuple[tuple[MechanismEvent, int], ...]:
        """What was released about one hospital, with counts: its own entries and those that touch every hospital."""
        validation.raise_if([self._hospital_problem(unit, hospital_id)])
        own = [(unit, None), (unit, hospital_id)] if hospital_id is not None else [(unit, None)]
        return loss_shapes.settled(
            (event, entry.count(through_round)) for key in own for event, entry in self._entries.get(key, {}).items()
        )

    def own_events(self, unit: str, hospital_id: str | None) -> tuple[tuple[MechanismEvent, int], ...]:
        """What was entered for one hospital by itself, or (None) only what touches every hospital alike."""
        return loss_shapes.settled(
            (event, entry.total) for event, entry in self._entries.get((unit, hospital_id), {}).items()
        )

    def shared_events(self, unit: str) -> tuple[tuple[MechanismEvent, int], ...]:
        """The releases that touch every hospital alike: all that counts against one that has no entry yet."""
        return self.events(unit, None)

    def steps(self, unit: str, hospital_id: str | None = None, through_round: int | None = None) -> int:
        """The number of steps taken."""
        return sum(event.steps_each * count for event, count in self.events(unit, hospital_id, through_round))

    def last_round(self) -> int:
        """The last round with an entry; 0 for an empty ledger."""
        entries = (entry for of in self._entries.values() for entry in of.values())
        return max((last for entry in entries for _, last, _ in entry.runs), default=0)

    def epsilon(
        self,
        unit: str,
        hospital_id: str | None = None,
        conversion: str = "rdp",
        through_round: int | None = None,
    ) -> float:
        """Epsilon at this ledger's delta and adjacency.

        Args:
          unit: "record" or "hospital".
          hospital_id: whose; None: the epsilon that holds for every hospital (the worst).
          conversion: one of `epsilon.CONVERSIONS`.
          through_round: only releases up to and with this round.

        Returns:
          Epsilon; infinite for a unit that no entry protects and after a release without noise, 0.0 before the first.

        Raises:
          InvalidInput: for an unknown unit, hospital or conversion, or releases that the conversion cannot handle.
        """
        validation.raise_if([_unit_problem(unit), validation.one_of("conversion", conversion, epsilon_lib.CONVERSIONS)])
        if hospital_id is None and self._ids.get(unit):
            return self.worst_epsilon(unit, conversion, through_round)[0]
        if unit not in self._ids:
            return math.inf
        composition = loss_shapes.compose(self.events(unit, hospital_id, through_round), self.adjacency)
        return epsilon_lib.composed_epsilon(composition, self.delta, conversion)

    def worst_epsilon(
        self, unit: str, conversion: str = "rdp", through_round: int | None = None
    ) -> tuple[float, str | None]:
        """The largest epsilon of any hospital, and whose it is (None: the same for all)."""
        if not self._ids.get(unit):
            return self.epsilon(unit, None, conversion, through_round), None
        validation.raise_if([validation.one_of("conversion", conversion, epsilon_lib.CONVERSIONS)])
        found = (
            (epsilon_lib.composed_epsilon(composition, self.delta, conversion), of)
            for composition, of in self._compositions(unit, None, through_round).items()
        )
        return max(found, key=lambda pair: pair[0])

    def _compositions(
        self, unit: str, hospital_id: str | None, through_round: int | None = None
    ) -> dict[loss_shapes.Composition, str | None]:
        """What is charged to one hospital, or to each of them (None), and whose it first is: of thousands of hospitals
        most have done the same.
        """
        ids = self._ids.get(unit) if hospital_id is None else None
        found: dict[loss_shapes.Composition, str | None] = {}
        seen: set[tuple[tuple[MechanismEvent, int], ...]] = set()
        for of in ids or (hospital_id,):
            events = self.events(unit, of, through_round)
            if events not in seen:
                seen.add(events)
                found.setdefault(loss_shapes.compose(events, self.adjacency), of)
        return found

    def epsilon_by_round(self, unit: str, hospital_id: str | None = None, conversion: str = "rdp") -> dict[int, float]:
        """Epsilon after each round from 0 to the last."""
        rounds = range(self.last_round() + 1)
        return {number: self.epsilon(unit, hospital_id, conversion, through_round=number) for number in rounds}

    def by_round(self) -> dict[tuple[str, str | None], dict[MechanismEvent, dict[int, int]]]:
        """Every entry: by (unit, hospital or None for all alike) and event, how often in which round."""
        return {key: {event: entry.by_round() for event, entry in of.items()} for key, of in self._entries.items()}

    def conversions(self, unit: str, hospital_id: str | None = None) -> tuple[str, ...]:
        """The conversions that can handle everything recorded for this unit (and hospital, or every hospital)."""
        able = [epsilon_lib.conversions_for(one, self.delta) for one in self._compositions(unit, hospital_id)]
        return tuple(name for name in epsilon_lib.CONVERSIONS if all(name in names for names in able))

    def conversion_problem(self, unit: str, hospital_id: str | None, conversion: str) -> Problem | None:
        """Why a conversion cannot handle what was recorded for this unit (and hospital, or any hospital)."""
        compositions = self._compositions(unit, hospital_id)
        found = (epsilon_lib.conversion_problem(one, conversion, self.delta) for one in compositions)
        return next((problem for problem in found if problem is not None), None)

    # ------------------------------------------------------------------------------------------------------ keeping it

    def to_json(self) -> dict[str, Any]:
        """Plain types for a checkpoint: a table of events, and per (unit, hospital) rows of runs of rounds.

        A row is [event number, first round, last round, count per round].
        """
        numbers: dict[MechanismEvent, int] = {}
        entries = []
        for (unit, hospital_id), of_hospital in self._entries.items():
            rows = []
            for event, entry in of_hospital.items():
                number = numbers.setdefault(event, len(numbers))
                rows += [[number, *run] for run in entry.runs]
            entries.append({"unit": unit, "hospital": hospital_id, "rows": rows})
        return {
            "schema_version": SCHEMA_VERSION,
            "delta": self.delta,
            "adjacency": self.adjacency,
            "events": [event.to_json() for event in numbers],
            "entries": entries,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Ledger:
        """The ledger that `to_json` wrote; every value is checked again.

        Raises:
          InvalidInput: when the content is not that of a ledger, or of a version that this program does not know.
        """
        version = content.get("schema_version")
        if version != SCHEMA_VERSION:
            bound = f"must be {SCHEMA_VERSION}, the ledger format of this version"
            raise validation.InvalidInput([Problem("schema_version", version, bound, "use the version that wrote it")])
        try:
            ledger = cls(content["delta"], content["adjacency"])
            events = [MechanismEvent.from_json(fields) for fields in content["events"]]
            for entries in content["entries"]:
                ledger.expect(entries["unit"], [entries["hospital"]])
                of_hospital = ledger._of_hospital(entries["unit"], entries["hospital"])
                for number, first, last, count in entries["rows"]:
                    ledger.record(entries["unit"], entries["hospital"], first, events[number], 0)
                    remedy = "restore the file from a checkpoint"
                    validation.raise_if(
                        [
                            validation.whole_number("last round", last, low=first, remedy=remedy),
                            validation.whole_number("count", count, low=1, remedy=remedy),
                        ]
                    )
                    entry = of_hospital.setdefault(events[number], Entry())
                    entry.runs.append([first, last, count])
                    entry.total += count * (last - first + 1)
        except (KeyError, IndexError, TypeError) as error:
            problem = Problem(
                "ledger", repr(error), "is not the content of a ledger", "restore the file from a checkpoint"
            )
            raise validation.InvalidInput([problem]) from error
        return ledger

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ledger):
            return NotImplemented
        same = self.delta == other.delta and self.adjacency == other.adjacency
        return same and self.by_round() == other.by_round()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        entries = ", ".join(
            f"{unit}/{hospital_id or 'all'}: {len(of)} kinds" for (unit, hospital_id), of in self._entries.items()
        )
        return f"Ledger(delta={self.delta!r}, adjacency={self.adjacency!r}, {entries or 'empty'})"

    def _hospital_problem(self, unit: str, hospital_id: str | None) -> Problem | None:
        """An id that never occurred is a mistake, unless entries touch every hospital."""
        problem = _unit_problem(unit)
        if problem is not None or hospital_id is None or self.knows(unit, hospital_id) or self.knows(unit, None):
            return problem
        known = self.hospital_ids(unit)
        return validation.one_of("hospital_id", hospital_id, known) if known else None


def _unit_problem(unit: str) -> Problem | None:
    return validation.one_of("unit", unit, UNITS)
