"""What the columns of a table mean: kinds, public bounds, categories, and what to do with an empty cell.

A schema is *public*: bounds and categories come from medicine or from the form that was filled in, never from the
records. That is what lets `fixed_bounds` scaling and constant imputation leave the records' privacy untouched.

>>> schema = Schema(
...     features=(
...         Feature("age", "numeric", low=18, high=100, unit="years"),
...         Feature("pain", "categorical", categories=("none", "typical", "atypical"), drop_first=True),
...         Feature("chol", "numeric", low=100, high=600, impute=200.0),
...     ),
...     target=Target("disease", "binary"),
... )
>>> schema.column_names
('age', 'pain=typical', 'pain=atypical', 'chol', 'chol_missing')
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tff_hospitals.foundations.validation import Problem, in_range, one_of, whole_number
from tff_hospitals.hospitals.file_formats import FileFormat

FEATURE_KINDS = ("numeric", "binary", "categorical")
TARGET_KINDS = ("binary", "multiclass", "regression")
SCALINGS = ("per_hospital", "pooled", "fixed_bounds", "dp_moments", "none")


DEFAULT_MISSING = ("", "?", "NA", "NaN", "nan", "null")

Spellings = Mapping[str, Sequence[str]]


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
      kind: "numeric", "binary" (`categories` names the words for 0 and 1) or "categorical" (one column per category).
      low, high: public bounds in original units (numeric).
      categories: all values that may occur; for binary the two values, default "0" and "1".
      spellings: further spellings of categories: {"yes": ("YES", "1")}.
      missing_values: further cells that mean missing in this column, such as "0" for cholesterol.
      censored: what stands for a limit of detection such as "<40" or ">200" (numeric): "bound" (the limit) or "half"
        (of a lower limit; an upper one stays); None refuses it.
      impute: None refuses empty cells; a number or category is filled in; "median" takes the median of the hospital's
        training records, which is *not* private.
      missing_indicator: whether a column says where cells were empty; default: where they may be.
      drop_first: leave out the first category's column (it is the reference level).
      unit, words: for people.
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
    unit: str = ""
    words: str = ""

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
        if self.kind == "numeric":
            found.extend(_bounds_problems(name, self.low, self.high))
            if self.impute not in (None, "median"):
                found.append(
                    in_range(
                        f"{name}.impute", self.impute, low=self.low, high=self.high, remedy="give a number or median"
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
    """

    name: str
    kind: str = "binary"
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    spellings: Spellings = dataclasses.field(default_factory=dict)
    low: float | None = None
    high: float | None = None

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
        if self.kind == "regression":
            found.extend(_bounds_problems("target", self.low, self.high))
        return found


@dataclasses.dataclass(frozen=True)
class Schema:
    """A table's columns, and how to prepare it.

    Attributes:
      features, target: the columns that are read; all others in a file are left alone.
      hospital_column: the column that names the hospital, when one file holds all.
      patient_column: the column that names the patient, where a patient may have several records (visits, intervals):
        all of them lie on one side of the split, and `records_per_patient` must be given.
      records_per_patient: public bound on the records of one patient in a hospital.
      id_column: the column that names the record; it decides the record's side of the split, so that two records with
        equal cells may lie on different sides.
      split_column: the column that says train or test.
      missing: cells that mean missing in every column where they are not listed as values; an empty cell always does.
        Default: `DEFAULT_MISSING`.
      scaling: one of `SCALINGS`; None leaves the choice to the caller.
      scaling_noise_multiplier: noise of scaling "dp_moments" over its sensitivity.
      test_fraction: chance of each record (of each patient) to be kept for testing, 0 < . <= 0.5; default 0.34.
      seed: of the split into train and test part.
      outside_bounds: "refuse" or "clip" numbers outside `low` and `high`, or "keep" them (scaling that relies on the
        bounds clips them in any case).
      delimiter, decimal, thousands, encoding: how cells are written; see `FileFormat`.
      files: for single files what differs there: {"north.csv": {"decimal": ","}}.
      name, provenance, licence, simulated: for the run record.
    """

    features: tuple[Feature, ...]
    target: Target
    hospital_column: str | None = None
    patient_column: str | None = None
    records_per_patient: int | None = None
    id_column: str | None = None
    split_column: str | None = None
    missing: tuple[str, ...] | None = None
    scaling: str | None = None
    scaling_noise_multiplier: float | None = None
    test_fraction: float | None = None
    seed: int = 0
    outside_bounds: str = "refuse"
    delimiter: str = ","
    decimal: str = "."
    thousands: str = ""
    encoding: str = "utf-8"
    files: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    name: str = ""
    provenance: str = ""
    licence: str = ""
    simulated: bool = False

    @property
    def columns(self) -> tuple[Column, ...]:
        """All encoded columns, in order."""
        return tuple(column for feature in self.features for column in feature.columns())

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the encoded columns: the data set's feature names."""
        return tuple(column.name for column in self.columns)

    @property
    def roles(self) -> dict[str, str]:
        """Columns that are no features and not the target, by what they are for."""
        named = ("hospital_column", "patient_column", "id_column", "split_column")
        return {role: getattr(self, role) for role in named if getattr(self, role) is not None}

    def format_of(self, file: str) -> FileFormat:
        """How the cells of a file are written."""
        general = {field.name: getattr(self, field.name) for field in dataclasses.fields(FileFormat)}
        return FileFormat(**{**general, **self.files.get(file, {})})

    def is_missing(self, cell: str, listed: Sequence[str] = ()) -> bool:
        """Whether a cell means missing in a column for which the schema lists these values."""
        if cell in listed:
            return False
        return cell == "" or cell in (DEFAULT_MISSING if self.missing is None else self.missing)

    def feature(self, name: str) -> Feature:
        """The feature of that name; raises KeyError when there is none."""
        return {feature.name: feature for feature in self.features}[name]

    def problems(self) -> list[Problem]:
        """Everything that is wrong with the schema itself."""
        found: list[Problem | None] = []
        if not self.features:
            found.append(Problem("features", 0, "must be at least one", "list the input columns"))
        names = [feature.name for feature in self.features]
        for position, feature in enumerate(self.features, 1):
            where = f"features[{feature.name or position}]"
            found.extend(feature.problems(where))
            if feature.name in names[: position - 1]:
                found.append(Problem(where, feature.name, "is listed twice", "keep one of the two"))
            if feature.name in (self.target.name, *self.roles.values()):
                bound = f"must not be the target or {' or '.join(self.roles) or 'a hospital_column'} too"
                found.append(Problem(where, feature.name, bound, "drop it from the features"))
            if self.scaling in ("fixed_bounds", "dp_moments") and feature.kind == "numeric" and feature.low is None:
                found.append(
                    Problem(
                        f"{where}.low, high", None, f"must be given for scaling={self.scaling}", "give public bounds"
                    )
                )
        found.extend(self.target.problems())
        if self.scaling is not None:
            found.append(one_of("scaling", self.scaling, SCALINGS))
        found.append(one_of("outside_bounds", self.outside_bounds, ("refuse", "clip", "keep")))
        found.extend(self._role_problems())
        if self.test_fraction is not None and self.split_column is not None:
            remedy = "drop one of the two"
            found.append(Problem("test_fraction", self.test_fraction, "excludes split_column, which says it", remedy))
        elif self.test_fraction is not None:
            remedy = "give 0.2 or 0.34"
            found.append(in_range("test_fraction", self.test_fraction, low=0.0, high=0.5, low_open=True, remedy=remedy))
        settings = [field.name for field in dataclasses.fields(FileFormat)]
        for file, differing in self.files.items():
            found.extend(one_of(f"files[{file}]", setting, settings) for setting in differing)
        if not any(set(differing) - set(settings) for differing in self.files.values()):
            found.extend(self.format_of("").problems(""))
            found.extend(p for file in self.files for p in self.format_of(file).problems(f"files[{file}]."))
        listed = {word for feature in self.features for word in feature.levels} | set(self.target.listed)
        both = sorted(listed & set(self.missing or ()))
        if both:
            remedy = "drop it from missing, and list it as missing_values of the columns where it means that"
            found.append(Problem("missing", both, "is listed as a value of a column too", remedy))
        if len(set(self.column_names)) != len(self.column_names):
            doubled = sorted({c for c in self.column_names if self.column_names.count(c) > 1})
            found.append(Problem("features", doubled, "make two encoded columns of one name", "rename a column"))
        return [problem for problem in found if problem is not None]

    def _role_problems(self) -> list[Problem | None]:
        found: list[Problem | None] = []
        taken = {self.target.name: "target"}
        for role, column in self.roles.items():
            other = taken.setdefault(column, role)
            if other != role:
                found.append(Problem(role, column, f"is the {other} too", "name another column, or drop it"))
        if self.patient_column is not None:
            remedy = "give a public bound on the records of one patient, such as visits in the period of the study"
            found.append(whole_number("records_per_patient", self.records_per_patient, low=1, remedy=remedy))
        elif self.records_per_patient is not None:
            bound = "is only used with patient_column"
            found.append(Problem("records_per_patient", self.records_per_patient, bound, "drop it, or name the column"))
        return found


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
