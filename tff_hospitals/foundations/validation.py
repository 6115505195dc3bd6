"""Keyword validators whose messages name the value, the bound and the remedy.

Every check in the package goes through here, so that a user meets one form of text:

>>> in_range("learning_rate", -1.0, low=0.0, low_open=True, remedy="give a positive --learning_rate")
Problem(name='learning_rate', value=-1.0, bound='must be > 0.0', remedy='give a positive --learning_rate')

A check returns a `Problem` or None; `raise_if` turns a list of them into one `InvalidInput` error.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

_LONGEST = 300  # characters of a value in a message


@dataclasses.dataclass(frozen=True)
class Problem:
    """One clash: what was given (`name`, `value`), what is allowed (`bound`), what to do (`remedy`)."""

    name: str
    value: Any
    bound: str
    remedy: str

    def __str__(self) -> str:
        value = repr(self.value)
        if len(value) > _LONGEST:
            value = f"{value[:_LONGEST]}... ({len(value)} characters)"
        return f"{self.name}={value}: {self.bound}. Remedy: {self.remedy}."


class InvalidInput(ValueError):
    """Bad input found before any work was done; `problems` holds every clash at once.

    >>> try:
    ...     raise_if([one_of("runtime", "nativ", ["native", "compiled"])])
    ... except InvalidInput as error:
    ...     print(error)
    runtime='nativ': must be one of compiled, native. Remedy: did you mean 'native'?
    """

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(_sentence(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[InvalidInput], tuple[tuple[Problem, ...]]]:
        """Copies hold the problems, too: another process may have found them."""
        return type(self), (self.problems,)


class Failure(RuntimeError):
    """Work that could not be finished for a reason that the user can do something about; the message says what."""


def _sentence(problem: Problem) -> str:
    text = str(problem)
    return text[:-1] if text.endswith("?.") else text


def counted(number: int, noun: str) -> str:
    """A number with its noun: plural but for one.

    >>> counted(1, "seed"), counted(4, "hospital"), counted(0, "run")
    ('1 seed', '4 hospitals', '0 runs')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def raise_if(problems: Iterable[Problem | None]) -> None:
    """Raises `InvalidInput` with all problems that are not None; returns None when there is none."""
    found = [problem for problem in problems if problem is not None]
    if found:
        raise InvalidInput(found)


def in_range(
    name: str,
    value: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    low_open: bool = False,
    high_open: bool = False,
    remedy: str,
) -> Problem | None:
    """Checks that `value` is a finite number between `low` and `high` (open ends excluded)."""
    sides = []
    if low is not None:
        sides.append(f"{'>' if low_open else '>='} {low}")
    if high is not None:
        sides.append(f"{'<' if high_open else '<='} {high}")
    bound = "must be " + (" and ".join(sides) if sides else "a finite number")
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not _is_finite(value):
        return Problem(name, value, f"{bound}, a finite number", remedy)
    number: Any = value  # a whole number may be too large for a float
    if low is not None and (number < low or (low_open and number == low)):
        return Problem(name, value, bound, remedy)
    if high is not None and (number > high or (high_open and number == high)):
        return Problem(name, value, bound, remedy)
    return None


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return True


def whole_number(
    name: str, value: Any, *, low: int | None = None, high: int | None = None, remedy: str
) -> Problem | None:
    """Checks that `value` is an integer between `low` and `high`, both included."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return Problem(name, value, "must be a whole number", remedy)
    return in_range(name, int(value), low=low, high=high, remedy=remedy)


def one_of(name: str, value: Any, known: Iterable[str], *, remedy: str | None = None) -> Problem | None:
    """Checks that `value` is a known name; the remedy offers the nearest known ones."""
    names = sorted(known)
    if value in names:
        return None
    near = difflib.get_close_matches(str(value), names, n=3, cutoff=0.4)
    if remedy is None:
        remedy = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"take one of: {', '.join(names)}"
    return Problem(name, value, f"must be one of {', '.join(names)}", remedy)
