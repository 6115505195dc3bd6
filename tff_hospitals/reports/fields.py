"""Typed reading of JSON objects that notes every clash instead of stopping at the first.

>>> problems = []
>>> fields = FieldReader({"rounds": "ten", "delta": 1e-3}, "summary.json", problems)
>>> fields.number("delta"), fields.whole("rounds")
(0.001, None)
>>> problems
["summary.json: rounds is 'ten', must be a whole number or null"]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tff_hospitals.foundations.files import RecordError

_SHOWN_PROBLEMS = 8


class FieldReader:
    """Reads the fields of one JSON object; what is wrong goes to `problems`, the field then reads as missing.

    Args:
      source: the object as the JSON parser returned it.
      where: what a message calls it, such as "summary.json: rows[3]".
      problems: the list that collects the clashes; several readers may share it.
    """

    def __init__(self, source: Any, where: str, problems: list[str]):
        self._where = where
        self._problems = problems
        self._read: set[str] = set()
        self._source: Mapping[str, Any] = {}
        if isinstance(source, Mapping):
            self._source = source
        else:
            problems.append(f"{where} is {_shown(source)}, must be an object")

    def _take(self, name: str) -> Any:
        self._read.add(name)
        return self._source.get(name)

    def _clash(self, name: str, value: Any, bound: str) -> None:
        self._problems.append(f"{self._where}: {name} is {_shown(value)}, must be {bound}")

    def number(self, name: str, *, low: float | None = None, high: float | None = None) -> float | None:
        """A number between `low` and `high`; null, NaN and infinity read as None."""
        value = self._take(name)
        checked = finite_or_none(value)
        if value is not None and not _is_number(value):
            self._clash(name, value, "a number or null")
            return None
        if checked is not None and ((low is not None and checked < low) or (high is not None and checked > high)):
            self._clash(name, value, _range_words(low, high))
            return None
        return checked

    def whole(self, name: str, *, low: int = 0) -> int | None:
        """A whole number of at least `low`, or None."""
        value = self._take(name)
        if value is None:
            return None
        if not _is_number(value) or not math.isfinite(value) or value != int(value):
            self._clash(name, value, "a whole number or null")
            return None
        if value < low:
            self._clash(name, value, f"at least {low}")
            return None
        return int(value)

    def text(self, name: str, *, required: bool = False, known: Sequence[str] = ()) -> str:
        """A text; missing reads as "" unless `required`; `known` lists the only texts allowed."""
        value = self._take(name)
        if value is None and not required:
            return ""
        if not isinstance(value, str) or (required and not value):
            self._clash(name, value, "a text" + (" that is not empty" if required else ""))
            return ""
        if known and value not in known:
            self._clash(name, value, f"one of {', '.join(known)}")
        return value

    def flag(self, name: str) -> bool | None:
        """True, false or None."""
        value = self._take(name)
        if value is not None and not isinstance(value, bool):
            self._clash(name, value, "true, false or null")
            return None
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; missing reads as empty."""
        value = self._take(name)
        if value is None:
            return ()
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            self._clash(name, value, "a list of texts")
            return ()
        return tuple(value)

    def numbers(self, name: str) -> tuple[float | None, ...]:
        """A list of numbers, null and NaN kept as None; missing reads as empty."""
        value = self._take(name)
        if value is None:
            return ()
        if not isinstance(value, (list, tuple)) or not all(item is None or _is_number(item) for item in value):
            self._clash(name, value, "a list of numbers")
            return ()
        return tuple(finite_or_none(item) for item in value)

    def numbers_by_id(self, name: str) -> dict[str, float | None]:
        """An object from hospital id to number or null; missing reads as empty."""
        value = self._take(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping) or not all(item is None or _is_number(item) for item in value.values()):
            self._clash(name, value, "an object from hospital id to number")
            return {}
        return {str(key): finite_or_none(item) for key, item in value.items()}

    def mapping(self, name: str) -> dict[str, Any]:
        """An object as it stands; missing reads as empty."""
        value = self._take(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self._clash(name, value, "an object")
            return {}
        return dict(value)

    def objects(self, name: str) -> list[Any]:
        """A list whose items further readers look at; missing reads as empty."""
        value = self._take(name)
        if value is None:
            return []
        if not isinstance(value, (list, tuple)):
            self._clash(name, value, "a list")
            return []
        return list(value)

    def items(self, name: str) -> list[FieldReader]:
        """A reader for each object of a list; missing reads as empty."""
        return [
            FieldReader(item, f"{self._where}: {name}[{index}]", self._problems)
            for index, item in enumerate(self.objects(name))
        ]

    def has(self, name: str) -> bool:
        """Whether the object has such a field."""
        return name in self._source

    def anything(self, name: str) -> Any:
        """The field as it stands."""
        return self._take(name)

    def rest(self) -> dict[str, Any]:
        """The fields that nobody has read: kept, so that a later version's columns survive a rewrite."""
        return {str(key): value for key, value in self._source.items() if key not in self._read}


def raise_record_error(problems: Sequence[str], remedy: str) -> None:
    """Raises one `RecordError` that lists the problems, or returns when there is none."""
    if not problems:
        return
    shown = list(problems[:_SHOWN_PROBLEMS])
    if len(problems) > _SHOWN_PROBLEMS:
        shown.append(f"... and {len(problems) - _SHOWN_PROBLEMS} more of this kind")
    raise RecordError("\n".join([*shown, f"Remedy: {remedy}."]))


def finite_or_none(value: Any) -> float | None:
    """A finite number as float, everything else as None.

    >>> finite_or_none(2), finite_or_none(float("inf")), finite_or_none("2")
    (2.0, None, None)
    """
    return float(value) if _is_number(value) and math.isfinite(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _range_words(low: float | None, high: float | None) -> str:
    if high is None:
        return f"at least {low}"
    return f"at most {high}" if low is None else f"between {low} and {high}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
