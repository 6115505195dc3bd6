"""The columns of a schema: features and target, with public bounds, levels, spellings and units.

>>> Feature("pain", "categorical", categories=("none", "some")).columns()[1].name
'pain=some'
>>> Feature("chol", low=50, high=500, conversions={"mmol/l": (38.67,)}).converted(5.0, "mmol/l")
193.35000000000002
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tff_hospitals.foundations.validation import Problem, in_range, one_of
from tff_hospitals.hospitals.dates import UNITS, days

STATE_BOUNDS = "write bounds: [low, high] from public knowledge, never the records' own least and largest value"
FEATURE_KINDS = ("numeric", "binary", "categorical", "date")
TARGET_KINDS = ("binary", "multiclass", "regression")


Spellings = Mapping[str, Sequence[str]]
Conversions = Mapping[str, Sequence[float]]


def canonical(cell: str) -> str:
    """A cell as the schema compares it: a whole number keeps no ".0", which spreadsheets and Parquet files add.

    >>> canonical("1.0"), canonical("01"), canonical("1e2")
    ('1', '01', '1e2')
    """
    match = re.fullmatch(r"([+-]?(?:0|[1-9]\d*))\.0+", cell)
    return match[1] if match else cell


def match_level(cell: str, levels: Sequence[str], spellings: Spellings | None = None) -> int | None:
    """The position of a cell among known values, or None.

    >>> match_level("1.0", ("0", "1")), match_level("yes", ("0", "1")), match_level("yes", ("0", "1"), {"1": ["yes"]})
    (1, None, 1)
    """
    if cell in levels:
        return list(levels).index(cell)
    known = {canonical(level): at for at, level in enumerate(levels)}
    for level, words in (spellings or {}).items():
        known.update({canonical(word): known[canonical(level)] for word in words if canonical(level) in known})
    return known.get(canonical(cell))


def _spelling_problems(name: str, levels: Sequence[str], spellings: Spellings) -> list[Problem | None]:
    found: list[Problem | None] = []
    taken = {canonical(level): level for level in levels}
    if len(taken) < len(levels):
        found.append(Problem(f"{name}.categories", tuple(levels), "must not repeat a value", "list each once"))
    for level, words in spellings.items():
        found.append(one_of(f"{name}.spellings", level, levels) if levels else None)
        for word in words:
            other = taken.setdefault(canonical(word), level)
            if other != level:
                bound = f"spells {other} and {level}"
                found.append(Problem(f"{name}.spellings", word, bound, "list each spelling under one value"))
    return found


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of the encoded table: where it comes from and between which public bounds it lies."""

    name: str
    source: str
    kind: str  # "numeric", "binary", "level" (one category) or "missing" (1 where the cell was empty)
    low: float | None
    high: float | None
    category: str | None = None


@dataclasses.dataclass(frozen=True)
class Feature:
    """One input column.

    Attributes:
      name: header of the column.
      kind: "numeric", "binary" (`categories` names the words for 0 and 1), "categorical" (one column per category) or
        "date" (a number: the time from `since` in `unit`, "days" or "years").
      low, high: public bounds in original units (numeric and date).
      since: from when a date counts: an ISO date (default 1970-01-01), or the header of another column of dates.
      categories: all values that may occur; for binary the two values, default "0" and "1".
      spellings: further spellings of categories: {"yes": ("YES", "1")}.
      missing_values: further cells that mean missing in this column, such as "0" for cholesterol.
      censored: what stands for a limit of detection such as "<40" or ">200" (numeric): "bound" (the limit) or "half"
        (of a lower limit; an upper one stays); None refuses it.
      impute: None refuses empty cells; a number or category is filled in; "middle" is the middle of the public bounds;
        "median" takes the median of the hospital's training records, which is *not* private.
      missing_indicator: whether a column says where cells were empty; default: where they may be.
      drop_first: leave out the first category's column (it is the reference level).
      unit: that the model sees; a hospital whose cells have another one is named under the schema's `units`.
      conversions: other units: the factor that makes this unit of them, or factor and summand: {"mmol/l": (38.67,)},
        {"F": (0.5556, -17.78)}.
      words: for people.
    """

    name: str
    kind: str = "numeric"
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()
    spellings: Spellings = dataclasses.field(default_factory=dict)
    missing_values: tuple[str, ...] = ()
    censored: str | None = None
    impute: float | str | None = None
    missing_indicator: bool | None = None
    drop_first: bool = False
    since: str | None = None
    unit: str = ""
    conversions: Conversions = dataclasses.field(default_factory=dict)
    words: str = ""

    @property
    def is_number(self) -> bool:
        """Whether it becomes one column of numbers."""
        return self.kind in ("numeric", "date")

    @property
    def since_column(self) -> str | None:
        """The other column from which a date counts."""
        return self.since if self.since is not None and days(self.since) is None else None

    def converted(self, number: float, unit: str) -> float:
        """A number in the feature's own unit."""
        return _converted(number, self.conversions.get(unit, (1.0,)))

    @property
    def levels(self) -> tuple[str, ...]:
        """The categories; for a binary column the words for 0 and 1."""
        return self.categories or (("0", "1") if self.kind == "binary" else ())

    @property
    def has_indicator(self) -> bool:
        """Whether a column `<name>_missing` is made."""
        return self.impute is not None if self.missing_indicator is None else self.missing_indicator

    def columns(self) -> tuple[Column, ...]:
        """The encoded columns that this feature becomes."""
        if self.kind == "categorical":
            kept = self.categories[1:] if self.drop_first else self.categories
            made = [Column(f"{self.name}={c}", self.name, "level", 0.0, 1.0, c) for c in kept]
        elif self.kind == "binary":
            made = [Column(self.name, self.name, "binary", 0.0, 1.0)]
        else:
            made = [Column(self.name, self.name, "numeric", self.low, self.high)]
        if self.has_indicator:
            made.append(Column(f"{self.name}_missing", self.name, "missing", 0.0, 1.0))
        return tuple(made)

    def problems(self, name: str) -> list[Problem | None]:
        """What is wrong with this description; `name` is where it stands in the schema."""
        found: list[Problem | None] = [one_of(f"{name}.kind", self.kind, FEATURE_KINDS)]
        if not self.name:
            found.append(Problem(f"{name}.name", self.name, "must not be empty", "give the column's header"))
        if self.censored is not None:
            found.append(one_of(f"{name}.censored", self.censored, ("bound", "half")))
        found.extend(_conversion_problems(name, self.conversions, self.kind == "numeric"))
        if self.kind == "date":
            found.append(one_of(f"{name}.unit", self.unit or "days", tuple(UNITS)))
        elif self.since is not None:
            found.append(Problem(f"{name}.since", self.since, "is for kind: date", "drop it, or write kind: date"))
        if self.is_number:
            found.extend(_bounds_problems(name, self.low, self.high))
            if self.impute == "middle" and self.low is None:
                found.append(Problem(f"{name}.impute", self.impute, "needs public bounds", STATE_BOUNDS))
            elif self.impute not in (None, "median", "middle"):
                found.append(
                    in_range(
                        f"{name}.impute",
                        self.impute,
                        low=self.low,
                        high=self.high,
                        remedy="give a number, middle or median",
                    )
                )
            return found
        if self.kind == "binary" and len(self.levels) != 2:
            found.append(
                Problem(
                    f"{name}.categories",
                    self.categories,
                    "must be the two values for 0 and 1",
                    "list two, and other spellings of them under spellings: {VALUE: [SPELLING, ..]}",
                )
            )
        if self.kind == "categorical" and len(self.categories) < 2:
            found.append(
                Problem(
                    f"{name}.categories", self.categories, "must list two or more values", "list all that may occur"
                )
            )
        found.extend(_spelling_problems(name, self.levels, self.spellings))
        if self.low is not None or self.high is not None:
            found.append(Problem(f"{name}.low, high", (self.low, self.high), "are for numeric columns", "drop them"))
        if self.impute is not None and self.levels and match_level(str(self.impute), self.levels) is None:
            found.append(one_of(f"{name}.impute", str(self.impute), self.levels))
        return found


@dataclasses.dataclass(frozen=True)
class Target:
    """The column to predict.

    Attributes:
      name: header of the column.
      kind: "binary", "multiclass" (`classes`) or "regression" (optional `low`, `high`).
      positive, negative: the values of class 1 and class 0 (binary; default "1" and "0"). With `positive` alone, the
        one other value that occurs is class 0.
      classes: the values of classes 0, 1, 2, .. in order.
      spellings: further spellings of these values.
      unit, conversions: as of a `Feature` (regression).
    """

    name: str
    kind: str = "binary"
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    spellings: Spellings = dataclasses.field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    unit: str = ""
    conversions: Conversions = dataclasses.field(default_factory=dict)

    def converted(self, number: float, unit: str) -> float:
        """A number in the target's own unit."""
        return _converted(number, self.conversions.get(unit, (1.0,)))

    @property
    def listed(self) -> tuple[str, ...]:
        """All values that the schema names."""
        return (*self.classes, *self.positive, *self.negative)

    @property
    def num_classes(self) -> int:
        """2 for binary, 1 for regression."""
        return {"binary": 2, "regression": 1}.get(self.kind, len(self.classes))

    def problems(self) -> list[Problem | None]:
        """What is wrong with this description."""
        found: list[Problem | None] = [one_of("target.kind", self.kind, TARGET_KINDS)]
        if not self.name:
            found.append(Problem("target.name", self.name, "must not be empty", "give the column's header"))
        if self.kind == "multiclass" and len(set(self.classes)) < max(2, len(self.classes)):
            found.append(
                Problem(
                    "target.classes", self.classes, "must list two or more different values", "list all that may occur"
                )
            )
        if self.kind == "binary" and self.classes and (len(self.classes) != 2 or self.positive):
            found.append(
                Problem(
                    "target.classes", self.classes, "must be two values, without positive", "list class 0, then class 1"
                )
            )
        found.extend(_spelling_problems("target", self.classes, self.spellings) if self.classes else [])
        both = set(map(canonical, self.positive)) & set(map(canonical, self.negative))
        if both:
            found.append(Problem("target.negative", sorted(both), "must not be positive too", "list each value once"))
        found.extend(_conversion_problems("target", self.conversions, self.kind == "regression"))
        if self.kind == "regression":
            found.extend(_bounds_problems("target", self.low, self.high))
        return found


def _converted(number: float, rule: Sequence[float]) -> float:
    return number * rule[0] + (rule[1] if len(rule) > 1 else 0.0)


def _conversion_problems(name: str, conversions: Conversions, allowed: bool) -> list[Problem | None]:
    if conversions and not allowed:
        return [Problem(f"{name}.conversions", list(conversions), "are for numbers", "drop them")]
    return [
        Problem(f"{name}.conversions[{unit}]", tuple(rule), "must be a factor, or factor and summand", "give {UNIT: 2}")
        for unit, rule in conversions.items()
        if len(rule) not in (1, 2) or not all(map(math.isfinite, rule)) or rule[0] == 0
    ]


def _bounds_problems(name: str, low: float | None, high: float | None) -> Sequence[Problem | None]:
    if low is None and high is None:
        return []
    values: tuple[Any, Any] = (low, high)
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)]
    if len(numbers) != 2 or numbers[0] >= numbers[1]:
        return [
            Problem(
                f"{name}.low, high", values, "must be two finite numbers, low < high", "give both, in original units"
            )
        ]
    return []
