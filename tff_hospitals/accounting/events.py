"""What one release was: the mechanism, its noise and how the data for it were chosen.

A `MechanismEvent` says everything that the accountant may rely on, and nothing that it must guess: the kind fixes the
sampling assumption and the adjacencies under which the mechanism has a guarantee at all. Two assumptions that differ
(Poisson batches, batches of fixed size, shuffled epochs, no amplification) are different kinds, so they cannot be
mixed up.

Noise is always given relative to the *clip norm*, the most that one unit can add to the released sum. Replacing a
unit moves that sum by twice the clip norm; the accountant applies this factor wherever the adjacency is
"replace_one".

>>> event = MechanismEvent("poisson_gaussian", noise_multiplier=1.1, sampling_probability=0.02)
>>> MechanismEvent.from_json(event.to_json()) == event
True
>>> print(event.sampling)
each unit joins a step independently with probability 0.02 (Poisson sampling)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from tff_hospitals.accounting.event_kinds import (
    ADD_OR_REMOVE_ONE,
    ADJACENCIES,
    ALL_ADJACENCIES,
    KINDS,
    REPLACE_ONE,
    REPLACE_SPECIAL,
    UNITS,
)
from tff_hospitals.foundations import validation
from tff_hospitals.foundations.validation import Problem

__all__ = [
    "ADD_OR_REMOVE_ONE",
    "ADJACENCIES",
    "KINDS",
    "REPLACE_ONE",
    "REPLACE_SPECIAL",
    "UNITS",
    "MechanismEvent",
]


@dataclasses.dataclass(frozen=True, repr=False)
class MechanismEvent:
    """One kind of release, as the accountant needs to know it.

    Args:
      kind: one of `KINDS`.
      noise_multiplier: standard deviation of the noise over the clip norm (laplace: scale over the L1 clip norm); for
        adaptive_clip the noise on the *values*. 0 means no noise, and epsilon is infinite.
      sampling_probability: chance of each unit to join a step, in (0, 1].
      records, batch: population and batch of fixed_size_gaussian.
      bit_noise_stddev: adaptive_clip's noise on the count of unclipped units, in units (Andrew et al. 2021).
      steps: steps of one shuffled epoch, one tree or one matrix mechanism.
      period: tree; a unit takes part at most every `period` steps (1: in every step); None: once per tree.
      restart: tree and matrix; number of the tree within a run that records it again as it grows: of equal `restart`
        only the one with most steps counts. None: every event is a mechanism of its own.
      sensitivity: matrix; L2 sensitivity of the strategy matrix for a clip norm of 1 (see `matrix.py`).
      local_stddev, shares: discrete noise of one share, in rounded units, and how many honest shares the sum holds.
      l2_sensitivity, l1_sensitivity, dimension: of one unit's rounded contribution, in rounded units.
      mean_runs, shape, base: selection; see `tuning.py`. `base` is ((event, count), ...) of one run; no shape: the
        number of runs is Poisson distributed.

    Raises:
      InvalidInput: for a field that the kind needs and lacks, does not know, or whose value is out of bounds.

    Source: dp_accounting's `DpEvent` (Google, Apache 2.0) is the model; `dp_events.py` translates both ways.
    """

    kind: str
    noise_multiplier: float | None = None
    sampling_probability: float | None = None
    records: int | None = None
    batch: int | None = None
    bit_noise_stddev: float | None = None
    steps: int | None = None
    period: int | None = None
    restart: int | None = None
    sensitivity: float | None = None
    local_stddev: float | None = None
    shares: int | None = None
    l2_sensitivity: float | None = None
    l1_sensitivity: float | None = None
    dimension: int | None = None
    mean_runs: float | None = None
    shape: float | None = None
    base: tuple[tuple[MechanismEvent, int], ...] | None = None

    def __post_init__(self) -> None:
        validation.raise_if(_problems(self))
        for name, value in self._given():  # numpy scalars would not survive JSON
            if name in _CHECKS:
                object.__setattr__(self, name, int(value) if "whole" in _CHECKS[name] else float(value))

    @functools.cached_property
    def adjacencies(self) -> tuple[str, ...]:
        """The adjacencies under which this event has a guarantee."""
        if self.kind == "tree" and self.period == 1:  # nobody's place in the tree depends on anybody else
            return ALL_ADJACENCIES
        if self.kind == "adaptive_clip" and self.sampling_probability is not None:
            return KINDS["poisson_gaussian"].adjacencies
        if self.kind == "selection":
            return tuple(
                name for name in ALL_ADJACENCIES if all(name in event.adjacencies for event, _ in self.base or ())
            )
        return KINDS[self.kind].adjacencies

    @property
    def sampling(self) -> str:
        """The sampling assumption in words."""
        if self.kind == "adaptive_clip" and self.sampling_probability is not None:
            return KINDS["poisson_gaussian"].sampling.format(sampling_probability=self.sampling_probability)
        if self.kind == "tree":
            often = {None: "at most once per tree", 1: "in every step"}
            return KINDS["tree"].sampling.format(participation=often.get(self.period, f"every {self.period} steps"))
        return KINDS[self.kind].sampling.format(**self.__dict__)

    @property
    def words(self) -> str:
        """What was released, in words."""
        return KINDS[self.kind].words.format(**self.__dict__)

    @property
    def steps_each(self) -> int:
        """How many steps one such event stands for."""
        if self.base is not None:
            return sum(event.steps_each * count for event, count in self.base)
        return self.steps if self.steps is not None else 1

    @functools.cached_property
    def growth_key(self) -> MechanismEvent | None:
        """Equal for the successive records of one growing tree or matrix mechanism; None if the event does not grow."""
        if self.restart is None:
            return None
        return dataclasses.replace(self, steps=1, sensitivity=None if self.sensitivity is None else 1.0)

    def to_json(self) -> dict[str, Any]:
        """Plain types; only what is set."""
        fields = {name: value for name, value in self._given() if name != "base"}
        if self.base is not None:
            fields["base"] = [[event.to_json(), count] for event, count in self.base]
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> MechanismEvent:
        """The event that `to_json` wrote.

        Raises:
          InvalidInput: for a field that no event has, or values that no event may have.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        validation.raise_if(validation.one_of("event field", name, known) for name in fields)
        values = dict(fields)
        if values.get("base") is not None:
            values["base"] = tuple((cls.from_json(event), int(count)) for event, count in values["base"])
        return cls(**values)

    def _given(self) -> list[tuple[str, Any]]:
        pairs = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return [(name, value) for name, value in pairs if value is not None]

    def __repr__(self) -> str:
        return f"MechanismEvent({', '.join(f'{name}={value!r}' for name, value in self._given())})"

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:  # a cached hash must not travel to another process
        return _rebuild, (dict(self._given()),)

    @functools.cached_property
    def _hash(self) -> int:  # computed once: events are the keys of every cache of the accountant
        return hash(tuple(self._given()))


def _rebuild(fields: dict[str, Any]) -> MechanismEvent:
    return MechanismEvent(**fields)


def _problems(event: MechanismEvent) -> list[Problem | None]:
    unknown = validation.one_of("event kind", event.kind, KINDS)
    if unknown is not None:
        return [unknown]
    kind = KINDS[event.kind]
    given = dict(event._given())
    problems: list[Problem | None] = []
    for name in kind.required:
        if name not in given:
            problems.append(Problem(name, None, f"needed by a {event.kind} event", f"give {name}"))
    for name in given:
        if name not in (*kind.required, *kind.optional, "kind"):
            takes = ", ".join((*kind.required, *kind.optional)) or "nothing"
            bound = f"not part of a {event.kind} event, which takes {takes}"
            problems.append(Problem(name, given[name], bound, "leave it out or choose the kind that has it"))
    problems += [_field_problem(name, value) for name, value in given.items() if name in _CHECKS]
    if event.base is not None and not event.base:
        problems.append(Problem("base", (), "must hold at least one (event, count)", "give the events of one run"))
    if not any(problems) and event.batch is not None and event.records is not None and event.batch > event.records:
        problems.append(Problem("batch", event.batch, f"must be <= records={event.records}", "take a smaller batch"))
    return problems


_POSITIVE: dict[str, Any] = {"low": 0.0, "low_open": True}
_CHECKS: Mapping[str, dict[str, Any]] = {
    "noise_multiplier": {"low": 0.0},
    "sampling_probability": {**_POSITIVE, "high": 1.0},
    "bit_noise_stddev": _POSITIVE,
    "sensitivity": _POSITIVE,
    "local_stddev": {"low": 0.0},
    "l2_sensitivity": _POSITIVE,
    "l1_sensitivity": _POSITIVE,
    "mean_runs": {"low": 1.0},
    "shape": {"low": 0.0},
    **{name: {"whole": True, "low": 1} for name in ("records", "batch", "steps", "period", "shares", "dimension")},
    "restart": {"whole": True, "low": 0},
}


def _field_problem(name: str, value: Any) -> Problem | None:
    check = dict(_CHECKS[name])
    remedy = f"give a {name} within this bound"
    if check.pop("whole", False):
        return validation.whole_number(name, value, low=check["low"], remedy=remedy)
    return validation.in_range(name, value, remedy=remedy, **check)
