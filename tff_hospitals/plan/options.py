"""How an option of a plan is declared: once, beside its field; flags, checks and the reference page are made from it.

A field of a plan's part says in one place what it means, which values it may have, when it is used at all and what to
do about a wrong one:

>>> @dataclasses.dataclass(frozen=True)
... class Part:
...     steps: int = option(3, "steps of a round", low=1, remedy="give 1 or more steps")
>>> (found,) = options_of(Part)
>>> found.flag, found.kind, found.problem(0).bound
('steps', <class 'int'>, 'must be >= 1 and <= 1000000000')
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tff_hospitals.foundations.validation import Problem, in_range, one_of, whole_number

POSITIVE = {"low": 0.0, "low_open": True}
FRACTION = {"low": 0.0, "high": 1.0, "high_open": True}
MOST = 10**9
"""What a whole number may be at most where no bound is declared."""
_KINDS = {"str": str, "int": int, "float": float, "bool": bool}


@dataclasses.dataclass(frozen=True)
class Use:
    """When an option is used; `checks.options` asks.

    Attributes:
      words: for a message; empty: the mechanisms that read it are named.
      holds: a question to a whole plan; None: it is the mechanisms of a plan that know.
      reads: the field of a plan's privacy that one of them must read; empty: the option's own.
    """

    words: str = ""
    holds: Callable[[Any], bool] | None = None
    reads: str = ""


ALWAYS = Use(holds=lambda plan: True)
BY_MECHANISM = Use()


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a plan.

    Attributes:
      help: what it means, in a few words.
      default: its value unless given.
      flag: its name on the command line and in messages.
      on_command_line: whether every command that makes a plan has a flag of this name.
      choices: the names that it may be, as a function, since a registry may grow; None for any text.
      low, high, low_open, high_open: bounds of a number; open ends are excluded.
      least: the smallest number above 0, where 0 itself may be.
      unit: of the value, for the reference page.
      remedy: what to do about a wrong value, where bound, unit and default do not say it.
      used: when it is used at all; a value that nothing would use is refused.
      required: whether it must be given where it is used.
      carried: whether a plan may hold a value although nothing uses it.
      instead_of: another field of the part, which giving this one sets to None.
      part, field: its place in the plan; `part` is empty for the plan's own fields.
      kind, may_be_none: type of its value, as the field is annotated.
    """

    help: str
    default: Any
    flag: str = ""
    on_command_line: bool = True
    choices: Callable[[], Iterable[str]] | None = None
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False
    least: float = 0.0
    unit: str = ""
    remedy: str = ""
    used: Use = ALWAYS
    required: bool = False
    carried: bool = False
    instead_of: str = ""
    part: str = ""
    field: str = ""
    kind: type = str
    may_be_none: bool = False

    def of(self, plan: Any) -> Any:
        """The value that a plan has."""
        return getattr(getattr(plan, self.part) if self.part else plan, self.field)

    @property
    def range_words(self) -> str:
        """Which values it may have."""
        if self.choices is not None:
            return ", ".join(self.choices())
        kinds = {str: "text", bool: "true or false", int: "whole number", float: "number"}
        low = "" if self.low is None else f" {'>' if self.low_open else '>='} {self.low:g}"
        high = "" if self.high is None else f" {'<' if self.high_open else '<='} {self.high:g}"
        return kinds[self.kind] + low + (" and" if low and high else "") + high

    @property
    def advice(self) -> str:
        """What to do about a wrong value."""
        if self.remedy:
            return self.remedy
        such = f", such as {self.default}" if self.default else ""
        if self.kind is int and self.high is None:
            return f"give {self.low:g} or more {self.unit}".rstrip() + such
        return f"give a number{f' of {self.unit}' if self.unit else ''} in this range{such}"

    def problem(self, value: Any) -> Problem | None:
        """What is wrong with a value by itself."""
        if self.choices is not None:
            return one_of(self.flag, value, self.choices())
        if self.kind is int:
            low = None if self.low is None else int(self.low)
            high = MOST if self.high is None else int(self.high)
            return whole_number(self.flag, value, low=low, high=high, remedy=self.advice)
        if self.kind is float and isinstance(value, (int, float)) and 0 < value < self.least:
            return Problem(self.flag, value, f"must be 0 or >= {self.least:g}", self.advice)
        if self.kind is float:
            return in_range(
                self.flag,
                value,
                low=self.low,
                high=self.high,
                low_open=self.low_open,
                high_open=self.high_open,
                remedy=self.advice,
            )
        if not isinstance(value, self.kind):
            words = "true or false" if self.kind is bool else "a text"
            return Problem(self.flag, value, f"must be {words}", f"give {words}")
        return None

    @property
    def tolerated(self) -> bool:
        """Whether another value than the default may stand in a plan that does not use it.

        Presets carry numbers such as a clip norm for whatever method comes; what is off by default was asked for.
        """
        return self.carried or (isinstance(self.default, (int, float)) and not isinstance(self.default, bool))


def option(default: Any, help: str, **declared: Any) -> Any:
    """A dataclass field that declares an option; `declared` are attributes of `Option`. `flag` is the field's name
    unless another is given.
    """
    return dataclasses.field(default=default, metadata={"option": Option(help, default, **declared)})


@functools.cache
def options_of(plan_class: Any) -> tuple[Option, ...]:
    """Every option that a dataclass and its parts declare, in the order of their fields.

    Args:
      plan_class: a dataclass; a field whose default is made by another dataclass is a part.
    """
    return tuple(_declared(plan_class, ""))


def _declared(owner: Any, part: str) -> Iterator[Option]:
    for field in dataclasses.fields(owner):
        inner: Any = field.default_factory
        found = field.metadata.get("option")
        if found is not None:
            kind, *rest = str(field.type).split(" | ")
            yield dataclasses.replace(
                found,
                part=part,
                field=field.name,
                flag=found.flag or field.name,
                kind=_KINDS[kind],
                may_be_none="None" in rest,
            )
        elif not part and dataclasses.is_dataclass(inner):
            yield from _declared(inner, field.name)


def apply(plan: Any, given: Mapping[str, Any]) -> Any:
    """`plan` with the options that were given by flag name.

    >>> from tff_hospitals.plan import Plan
    >>> apply(Plan(), {"rounds": 3, "batch_size": 8}).client.batch_size
    8
    """
    changes: dict[str, Any] = {}
    for one in options_of(plan.__class__):
        if one.flag in given:
            place = changes.setdefault(one.part, {}) if one.part else changes
            place[one.field] = given[one.flag]
            if one.instead_of and one.instead_of not in place:
                place[one.instead_of] = None
    return plan.replace(**changes)
