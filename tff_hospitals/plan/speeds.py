"""Simulated speeds of hospitals: how many seconds each of them takes for a local step.

| text | a hospital's seconds for a step |
|---|---|
| `constant:SECONDS` | the same everywhere |
| `lognormal:MEDIAN:SIGMA` | drawn once for each hospital and seed, MEDIAN * exp(SIGMA * normal) |
| `HOSPITAL:SECONDS,HOSPITAL:SECONDS,...` | as listed; every hospital once |

Time on the wire is not in it (see `link`).

>>> parse("lognormal:0.01:1.5")
Speeds(kind='lognormal', numbers=(0.01, 1.5), listed={})
>>> parse("north:0.5,south:2").listed
{'north': 0.5, 'south': 2.0}
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from tff_hospitals.foundations.validation import InvalidInput, Problem, in_range, one_of, raise_if

if TYPE_CHECKING:
    from tff_hospitals.foundations.random_streams import Streams

_NUMBERS = {"constant": ("SECONDS",), "lognormal": ("MEDIAN", "SIGMA")}
_REMEDY = "write constant:SECONDS, lognormal:MEDIAN:SIGMA, or HOSPITAL:SECONDS for every hospital, with commas"
_MOST_SECONDS, _MOST_SIGMA = 1e9, 10.0


@dataclasses.dataclass(frozen=True)
class Speeds:
    """What a text says.

    Attributes:
      kind: `constant`, `lognormal` or `listed`.
      numbers: of the first two, in the order of the text.
      listed: seconds by hospital id, of the last.
    """

    kind: str
    numbers: tuple[float, ...] = ()
    listed: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def seconds(self, hospitals: Sequence[str], streams: Streams) -> dict[str, float]:
        """Seconds of a local step at each hospital.

        Args:
          hospitals: ids.
          streams: each hospital draws from the one of its name.

        >>> from tff_hospitals.foundations.random_streams import Streams
        >>> parse("constant:0.5").seconds(["north", "south"], Streams.from_seed(1))
        {'north': 0.5, 'south': 0.5}
        """
        if self.kind == "listed":
            return {name: self.listed[name] for name in hospitals}
        median, sigma = (*self.numbers, 0.0)[:2]
        return {
            name: median * math.exp(sigma * float(streams.child(name).generator().standard_normal()))
            if sigma
            else median
            for name in hospitals
        }


def parse(text: str) -> Speeds | None:
    """What a text says; None for an empty one.

    Raises:
      InvalidInput: what nobody can read, numbers out of bounds, a hospital that is named twice.
    """
    if not text.strip():
        return None
    kind, *rest = text.strip().split(":")
    if kind in _NUMBERS and "," not in text:
        if len(rest) != len(_NUMBERS[kind]):
            raise_if([Problem("speeds", text, f"must be {':'.join((kind, *_NUMBERS[kind]))}", _REMEDY)])
        median, *sigma = (_number(text, one) for one in rest)
        raise_if(_bounds(median))
        raise_if([in_range("sigma of speeds", one, low=0.0, high=_MOST_SIGMA, remedy=_REMEDY) for one in sigma])
        return Speeds(kind, (median, *sigma))
    listed: dict[str, float] = {}
    for part in text.split(","):
        name, colon, value = part.strip().rpartition(":")
        if not colon or not name:
            raise_if([Problem("speeds", part, "names no hospital and its seconds", _REMEDY)])
        if name in listed:
            raise_if([Problem("speeds", name, "is named twice", "name each hospital once")])
        listed[name] = _number(part, value)
    raise_if([problem for name, value in listed.items() for problem in _bounds(value, f"seconds of {name} in speeds")])
    return Speeds("listed", listed=listed)


def problems(text: str, hospitals: Collection[str] | None = None) -> list[Problem]:
    """What is wrong with a text, hospitals that are not there, and hospitals without a speed.

    >>> [one.bound for one in problems("north:1", ["north", "south"])]
    ['must name every hospital, and leaves out south']
    """
    try:
        found = parse(text)
    except InvalidInput as error:
        return list(error.problems)
    if found is None or hospitals is None or found.kind != "listed":
        return []
    wrong = [problem for name in found.listed if (problem := one_of("hospital of speeds", name, hospitals)) is not None]
    missing = [name for name in hospitals if name not in found.listed]
    if missing:
        bound = f"must name every hospital, and leaves out {', '.join(missing[:5])}{', ...' * (len(missing) > 5)}"
        wrong.append(Problem("speeds", text, bound, "add HOSPITAL:SECONDS for each of them"))
    return wrong


def _bounds(seconds: float, name: str = "seconds of speeds") -> list[Problem | None]:
    return [in_range(name, seconds, low=0.0, low_open=True, high=_MOST_SECONDS, remedy=_REMEDY)]


def _number(text: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InvalidInput([Problem("speeds", text, f"has a number that is none: {value!r}", _REMEDY)]) from None
