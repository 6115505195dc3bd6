"""What the records of each hospital are like, and what stands between them and training.

Everything here is exact and says something of single patients: it is for people at the hospitals and stays there.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals.encoding import target_classes
from tff_hospitals.hospitals.features import canonical, match_level
from tff_hospitals.hospitals.file_formats import FileFormat
from tff_hospitals.hospitals.inspection import hints
from tff_hospitals.hospitals.own_data import place_problems, tables_of
from tff_hospitals.hospitals.pools import pools_of
from tff_hospitals.hospitals.schema import Schema
from tff_hospitals.hospitals.tables import PROBLEMS_SHOWN, InvalidTable, Problems, Table

NEARLY = 0.99  # of the records with one value: a nearly constant column
_FEW = 20  # records from which on a share means something
_GIVES_AWAY = 0.8  # of a hospital's records with values that are only there


@dataclasses.dataclass(frozen=True)
class HospitalFacts:
    """Of one hospital.

    Attributes:
      hospital_id: its id.
      rows: number of records.
      missing: by column the number of missing cells, where there are any.
      cells: number of cells in columns of features and target.
      duplicates: records that another one equals in every column that is read, ids aside.
      constant, nearly_constant: columns with one value, or with one in nearly all records.
      own_levels: by column the levels that no other hospital has.
      classes: records by class (empty for regression).
      gives_away: by column the share of records whose value no other hospital has.
      largest_patient: records of the patient with most (None without a patient column).
      copied: by other hospital the records that it has too, where they are many.
      other_way: columns that go with the outcome here and against it elsewhere.
    """

    hospital_id: str
    rows: int
    missing: dict[str, int]
    cells: int
    duplicates: int
    constant: tuple[str, ...]
    nearly_constant: tuple[str, ...]
    own_levels: dict[str, tuple[str, ...]]
    classes: dict[str, int]
    gives_away: dict[str, float]
    largest_patient: int | None = None
    copied: dict[str, int] = dataclasses.field(default_factory=dict)
    other_way: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Readiness:
    """Of all hospitals.

    Attributes:
      hospitals: the facts of each.
      open_points: what must be stated or mended before anybody can train.
      columns: features and target, in order.
      tells_outcome: features that alone tell the class of nearly all records, and of which share.
      shared_patients: patient ids that stand at more than one hospital.
      target_unbounded: whether the target is a number without public bounds.
    """

    hospitals: tuple[HospitalFacts, ...]
    open_points: tuple[str, ...]
    columns: tuple[str, ...]
    tells_outcome: dict[str, float] = dataclasses.field(default_factory=dict)
    shared_patients: int = 0
    target_unbounded: bool = False


def readiness(place: pathlib.Path, schema: Schema) -> Readiness:
    """The facts of a folder of files (or one file) under a schema, whose bounds may still be open.

    Args:
      place: as in `own_data`.
      schema: what the columns mean.
    """
    problems = Problems()
    open_points = [InvalidInput([problem]).args[0] for problem in (*schema.problems(), *place_problems(place, schema))]
    names = [*(feature.name for feature in schema.features), schema.target.name]
    closed = _closed(schema)
    if closed.problems():  # more than open settings: it says nothing of the files
        return Readiness((), tuple(dict.fromkeys(open_points)), tuple(names))
    tables = tables_of(place, schema, problems)
    if tables:
        pools_of(tables, closed, problems)
    open_points += _lines(problems)
    columns = {
        hospital_id: {name: _values(schema, name, parts) for name in names} for hospital_id, parts in tables.items()
    }
    levels = _levels_of_one(schema, columns)
    away = _given_away(schema, columns)
    classes = _class_words(schema, tables)
    records = {hospital_id: _records(parts, columns[hospital_id], schema) for hospital_id, parts in tables.items()}
    facts = [
        _facts(hospital_id, parts, columns[hospital_id], records[hospital_id], schema, levels, away, classes)
        for hospital_id, parts in tables.items()
    ]
    labels = {one: _labels(columns[one][schema.target.name], classes) for one in tables} if classes else {}
    copied, other = hints.copies(records), hints.other_way(schema.features, columns, labels)
    facts = [
        dataclasses.replace(one, copied=copied.get(one.hospital_id, {}), other_way=other.get(one.hospital_id, ()))
        for one in facts
    ]
    tells = hints.tells_outcome(schema.features, columns, labels)
    shared = _shared({one: _cells(parts, schema.patient_column) for one, parts in tables.items()})
    unbounded = schema.target.kind == "regression" and schema.target.low is None
    return Readiness(tuple(facts), tuple(dict.fromkeys(open_points)), tuple(names), tells, shared, unbounded)


def _shared(ids: Mapping[str, Sequence[str]]) -> int:
    """Patient ids of more than one hospital."""
    homes = collections.Counter(one for of in ids.values() for one in set(of) if one)
    return sum(count > 1 for count in homes.values())


def _closed(schema: Schema) -> Schema:
    """The schema as if its open settings did not matter."""
    features = tuple(
        dataclasses.replace(feature, impute="median") if feature.impute == "middle" and feature.low is None else feature
        for feature in schema.features
    )
    stated = schema.patient_column is None or schema.records_per_patient is not None
    bound = schema.records_per_patient if stated else sys.maxsize
    return dataclasses.replace(schema, features=features, records_per_patient=bound, scaling=None)


def _lines(problems: Problems) -> list[str]:
    found = problems.list()
    lines = [InvalidTable([problem]).args[0] for problem in found[: 2 * PROBLEMS_SHOWN]]
    return lines + ([f"and {len(found) - len(lines)} more"] if len(found) > len(lines) else [])


def _values(schema: Schema, name: str, parts: Sequence[Table]) -> list[str]:
    """A column's cells at one hospital, each level in one spelling; "" for missing, of numbers the canonical text."""
    feature = next((one for one in schema.features if one.name == name), None)
    levels = feature.levels if feature is not None else schema.target.listed
    spellings = feature.spellings if feature is not None else schema.target.spellings
    own = set(map(canonical, feature.missing_values if feature is not None else ()))
    listed = (*levels, *(word for words in spellings.values() for word in words))
    known: dict[tuple[str, int], str] = {}
    values = []
    for number, table in enumerate(parts):
        numbers = feature.kind == "numeric" if feature is not None else schema.target.kind == "regression"
        for cell in table.columns[name]:
            key = (cell, number)
            if key not in known:
                at = None if numbers else match_level(cell, levels, spellings)
                value = _number(table.format, cell) if numbers else None
                if schema.is_missing(cell, listed) or canonical(cell) in own:
                    known[key] = ""
                else:
                    known[key] = levels[at] if at is not None else canonical(cell) if value is None else repr(value)
            values.append(known[key])
    return values


def _number(written: FileFormat, cell: str) -> float | None:
    limit = written.limit(cell)
    return written.number(cell) if limit is None else limit[1]


def _levels_of_one(schema: Schema, columns: Mapping[str, Mapping[str, list[str]]]) -> dict[str, dict[str, list[str]]]:
    """By hospital and column the levels that no other hospital has."""
    found: dict[str, dict[str, list[str]]] = {hospital_id: {} for hospital_id in columns}
    if len(columns) < 2:
        return found
    named = [one.name for one in schema.features if one.levels]
    named += [schema.target.name] if schema.target.kind != "regression" else []
    for name in named:
        for level, owners in _owners({hospital: set(cells[name]) for hospital, cells in columns.items()}).items():
            if len(owners) == 1 and level:
                found[owners[0]].setdefault(name, []).append(level)
    return found


def _owners(values: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    owners: dict[str, list[str]] = collections.defaultdict(list)
    for hospital_id, cells in values.items():
        for cell in sorted(set(cells)):
            owners[cell].append(hospital_id)
    return owners


def _given_away(schema: Schema, columns: Mapping[str, Mapping[str, list[str]]]) -> dict[str, dict[str, float]]:
    """By hospital the columns that say whose record it is: most values there are found at no other hospital.

    Numbers count as found elsewhere where the middle 98 % of the others lie: another unit or device shows.
    """
    found: dict[str, dict[str, float]] = {hospital_id: {} for hospital_id in columns}
    for feature in schema.features if len(columns) > 1 else ():
        cells = {hospital_id: columns[hospital_id][feature.name] for hospital_id in columns}
        shares = _outside(cells) if feature.kind == "numeric" else _unshared(cells)
        for hospital_id, share in shares.items():
            if share >= _GIVES_AWAY:
                found[hospital_id][feature.name] = share
    return found


def _unshared(cells: Mapping[str, list[str]]) -> dict[str, float]:
    owners = _owners(cells)
    return {
        hospital_id: sum(len(owners[value]) == 1 for value in values) / max(1, len(values))
        for hospital_id, values in cells.items()
    }


def _outside(cells: Mapping[str, list[str]]) -> dict[str, float]:
    numbers = {
        hospital_id: np.array([float(cell) for cell in _numbers(values)]) for hospital_id, values in cells.items()
    }
    shares = {}
    for hospital_id, values in cells.items():
        others = np.concatenate([one for other, one in numbers.items() if other != hospital_id])
        own = numbers[hospital_id]
        low, high = np.quantile(others, (0.01, 0.99)) if len(others) else (np.inf, -np.inf)
        outside = int(((own < low) | (own > high)).sum())
        empty = len(values) - len(own)
        missing_elsewhere = any(len(numbers[other]) < len(one) for other, one in cells.items() if other != hospital_id)
        shares[hospital_id] = (outside + (0 if missing_elsewhere else empty)) / max(1, len(values))
    return shares


def _numbers(values: Iterable[str]) -> list[str]:
    plain = FileFormat()
    return [value for value in values if plain.number(value) is not None]


def _class_words(schema: Schema, tables: Mapping[str, Sequence[Table]]) -> list[tuple[str, ...]]:
    if schema.target.kind == "regression":
        return []
    return list(target_classes(schema, [table for parts in tables.values() for table in parts]))


def _facts(
    hospital_id: str,
    parts: Sequence[Table],
    columns: Mapping[str, list[str]],
    records: Sequence[tuple[str, ...]],
    schema: Schema,
    levels: Mapping[str, Mapping[str, list[str]]],
    away: Mapping[str, Mapping[str, float]],
    classes: Sequence[tuple[str, ...]],
) -> HospitalFacts:
    rows = sum(table.records for table in parts)
    common = {name: collections.Counter(cells).most_common(1)[0] for name, cells in columns.items() if cells}
    features = {feature.name for feature in schema.features}
    constant = [name for name, (_, count) in common.items() if count == rows and name in features]
    nearly = [name for name, (_, count) in common.items() if rows >= _FEW and NEARLY * rows <= count < rows]
    whose = _cells(parts, schema.patient_column)
    found = collections.Counter(_labels(columns[schema.target.name], classes))
    return HospitalFacts(
        hospital_id,
        rows,
        {name: cells.count("") for name, cells in columns.items() if "" in cells},
        rows * len(columns),
        len(records) - len(set(records)),
        tuple(constant),
        tuple(name for name in nearly if name in features),
        {name: tuple(words) for name, words in levels[hospital_id].items()},
        {words[0]: found[label] for label, words in enumerate(classes)},
        dict(away[hospital_id]),
        max(collections.Counter(whose).values()) if whose else None,
    )


def _records(parts: Sequence[Table], columns: Mapping[str, list[str]], schema: Schema) -> list[tuple[str, ...]]:
    """Each record's cells in every column that is read, and its patient's id."""
    whose = _cells(parts, schema.patient_column)
    return list(zip(*columns.values(), *([whose] if whose else []), *_since(parts, schema)))


def _labels(cells: Sequence[str], classes: Sequence[tuple[str, ...]]) -> list[int]:
    """Each record's class; -1 where it is missing or unknown."""
    known = {
        cell: next((label for label, words in enumerate(classes) if match_level(cell, words) is not None), -1)
        for cell in set(cells)
    }
    return [known[cell] for cell in cells]


def _since(parts: Sequence[Table], schema: Schema) -> list[list[str]]:
    names = {one.since_column for one in schema.features if one.since_column is not None}
    return [_cells(parts, name) for name in sorted(names)]


def _cells(parts: Sequence[Table], column: str | None) -> list[str]:
    return [] if column is None else [cell for table in parts for cell in table.columns[column]]
