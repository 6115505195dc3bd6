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
from collections.abc import Mapping, Sequence

from tff_hospitals.foundations.validation import Problem, in_range, one_of, whole_number
from tff_hospitals.hospitals.dates import ISO
from tff_hospitals.hospitals.features import STATE_BOUNDS, Column, Feature, Target
from tff_hospitals.hospitals.file_formats import FileFormat

SCALINGS = ("per_hospital", "pooled", "fixed_bounds", "dp_moments", "none")
DEFAULT_MISSING = ("", "?", "NA", "NaN", "nan", "null")


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
      delimiter, decimal, thousands, encoding, date, sheet: how cells are written; see `FileFormat`.
      files: for single files what differs there: {"north.csv": {"decimal": ","}}.
      headers: for single files the headers that differ: {"north.csv": {"age": "Alter"}}.
      units: for single files or hospitals the units that differ from those of the columns, which the columns'
        `conversions` turn into their own: {"north": {"chol": "mmol/l"}}.
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
    date: str = ISO
    sheet: str = ""
    files: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    headers: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    units: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
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

    @property
    def columns_read(self) -> list[str]:
        """Columns of a file that are read, by the schema's names."""
        others = [feature.since_column for feature in self.features if feature.since_column is not None]
        names = [feature.name for feature in self.features]
        return list(dict.fromkeys([*names, self.target.name, *self.roles.values(), *others]))

    @property
    def given_split(self) -> str:
        """By what the split into train and test part is given, in words; empty: it is not."""
        return "" if self.split_column is None else f"the column {self.split_column!r} says train or test"

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
            needed = self.scaling in ("fixed_bounds", "dp_moments") and feature.impute != "middle"  # which asks itself
            if needed and feature.is_number and feature.low is None:
                bound = f"must be given for scaling={self.scaling}"
                found.append(Problem(f"{where}.bounds", None, bound, STATE_BOUNDS))
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
        found.extend(self._place_problems())
        listed = {word for feature in self.features for word in feature.levels} | set(self.target.listed)
        both = sorted(listed & set(self.missing or ()))
        if both:
            remedy = "drop it from missing, and list it as missing_values of the columns where it means that"
            found.append(Problem("missing", both, "is listed as a value of a column too", remedy))
        if len(set(self.column_names)) != len(self.column_names):
            doubled = sorted({c for c in self.column_names if self.column_names.count(c) > 1})
            found.append(Problem("features", doubled, "make two encoded columns of one name", "rename a column"))
        return [problem for problem in found if problem is not None]

    def _place_problems(self) -> list[Problem | None]:
        """Headers and units that single files or hospitals state of columns that are none."""
        found: list[Problem | None] = []
        for place, headers in self.headers.items():
            found.extend(one_of(f"headers[{place}]", column, self.columns_read) for column in headers)
        convertible: dict[str, Feature | Target] = {one.name: one for one in self.features if one.kind == "numeric"}
        if self.target.kind == "regression":
            convertible[self.target.name] = self.target
        for place, units in self.units.items():
            for column, unit in units.items():
                where = f"units[{place}].{column}"
                if column not in convertible:
                    found.append(one_of(f"units[{place}]", column, tuple(convertible)))
                elif unit != convertible[column].unit and unit not in convertible[column].conversions:
                    own = convertible[column].unit or "the column's unit"
                    remedy = f"give the column conversions: {{{unit}: FACTOR}}: what makes {own} of one {unit}"
                    found.append(Problem(where, unit, f"must be {own} or among its conversions", remedy))
        return found

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
