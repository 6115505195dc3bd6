"""Cells to numbers as a schema says, and numbers back to cells.

>>> from tff_hospitals.hospitals import Feature, Schema, Target
>>> schema = Schema((Feature("age", low=18, high=100), Feature("sex", "binary", categories=("f", "m"))), Target("ill"))
>>> table = Table("north.csv", {"age": ["63", "41"], "sex": ["m", "f"], "ill": ["1", "0"]}, ["line 2", "line 3"])
>>> problems = Problems()
>>> matrix, labels = encode(schema, table, problems)
>>> matrix.tolist(), labels.tolist(), problems.list()
([[63.0, 1.0], [41.0, 0.0]], [1, 0], [])
>>> decode(schema, matrix)
{'age': [63.0, 41.0], 'sex': ['m', 'f']}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.hospitals.dates import UNITS, apart, days
from tff_hospitals.hospitals.features import Feature, canonical, match_level
from tff_hospitals.hospitals.file_formats import FileFormat, too_large
from tff_hospitals.hospitals.schema import Schema
from tff_hospitals.hospitals.tables import Problems, Table

if TYPE_CHECKING:
    Classes = tuple[tuple[str, ...], ...]  # for each class, the cells that mean it


def encode(
    schema: Schema, table: Table, problems: Problems, classes: Classes | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A table as numbers; cells that do not fit are noted in `problems`.

    Args:
      schema: what the columns mean.
      table: cells of one hospital.
      problems: takes every cell that does not fit.
      classes: `target_classes` of *all* hospitals' tables; default: of this one.

    Returns:
      float64 of shape [records, columns of the schema] in original units, NaN only where a median is to be filled in;
      and labels of shape [records]: int64, or float32 for regression.
    """
    blocks = [_encode_feature(schema, feature, table, problems) for feature in schema.features]
    return np.concatenate(blocks, axis=1), _encode_target(
        schema, table, problems, classes or target_classes(schema, [table])
    )


def _encode_feature(schema: Schema, feature: Feature, table: Table, problems: Problems) -> np.ndarray:
    read = _reader(schema, feature, table)
    cells = _cells(feature, table)
    values = np.zeros(len(cells))
    missing = np.zeros(len(cells))
    known: dict[tuple[str, ...], float | None] = {}  # a column repeats few different cells: read each once
    for row, parts in enumerate(cells):
        if parts not in known:
            known[parts] = read(parts)
        value, cell, place = known[parts], " since ".join(parts), table.places[row]
        if value is None:
            missing[row] = 1
            if feature.impute is None:
                bound = "is missing, and the schema has no rule for that"
                remedy = "fill it in, or give the column impute: VALUE in the schema"
                problems.add(table.file, cell, bound, remedy, column=feature.name, place=place)
            values[row] = _fill(feature)
        elif np.isnan(value):
            bound, remedy = _expected(feature, parts, table.format)
            problems.add(table.file, cell, bound, remedy, column=feature.name, place=place)
        elif feature.low is not None and not feature.low <= value <= float(feature.high or 0.0):
            if schema.outside_bounds == "refuse":
                bound, remedy = _outside(feature, cell, value)
                problems.add(table.file, cell, bound, remedy, column=feature.name, place=place)
            elif too_large(value):
                problems.add(table.file, cell, *_TOO_LARGE, column=feature.name, place=place)
            clipped = min(max(value, feature.low), float(feature.high or 0.0))
            values[row] = value if schema.outside_bounds == "keep" else clipped
        elif too_large(value):
            problems.add(table.file, cell, *_TOO_LARGE, column=feature.name, place=place)
        else:
            values[row] = value
    columns = []
    for column in feature.columns():
        if column.kind == "missing":
            columns.append(missing)
        elif column.kind == "level":
            columns.append((values == feature.levels.index(column.category or "")).astype(float))
        else:
            columns.append(values)
    return np.stack(columns, axis=1)


def _cells(feature: Feature, table: Table) -> list[tuple[str, ...]]:
    """What a feature is made of, per record: its cell; for a date that counts from another column, that one's too."""
    columns = [feature.name, *([] if feature.since_column is None else [feature.since_column])]
    return list(zip(*(table.columns[name] for name in columns)))


def _reader(schema: Schema, feature: Feature, table: Table) -> Callable[[tuple[str, ...]], float | None]:
    """Reads cells as a number (categories: their position): None when they are missing, NaN when they do not fit."""
    written = table.format
    extra = {written.number(word) for word in feature.missing_values} - {None} if feature.is_number else set()
    own = {*feature.missing_values, *map(canonical, feature.missing_values)}
    listed = (*feature.levels, *(word for words in feature.spellings.values() for word in words))
    unit = table.units.get(feature.name, feature.unit)

    def is_missing(cell: str) -> bool:
        if canonical(cell) in own or cell in own or (bool(extra) and written.number(cell) in extra):
            return True
        return schema.is_missing(cell, listed)

    def read(parts: tuple[str, ...]) -> float | None:
        if any(map(is_missing, parts)):
            return None
        if feature.kind == "date":
            return _time(feature, parts, written)
        value = _value(feature, parts[0], written)
        return feature.converted(value, unit) if feature.kind == "numeric" else value

    return read


def _time(feature: Feature, parts: tuple[str, ...], written: FileFormat) -> float:
    if feature.since_column is None:
        end, start = written.day(parts[0]), days(feature.since or "1970-01-01")
        passed = None if end is None or start is None else end - start
    else:
        passed = apart(parts[1], parts[0], written.date)
    return np.nan if passed is None else passed / UNITS[feature.unit or "days"]


def _value(feature: Feature, cell: str, written: FileFormat) -> float:
    """A cell as a number (categories: their position); NaN when it does not fit."""
    if feature.kind == "numeric":
        number = written.number(cell)
        limit = written.limit(cell) if number is None and feature.censored else None
        if limit is not None:
            side, number = limit
            number /= 2 if feature.censored == "half" and side == "<" else 1
        return np.nan if number is None else number
    level = match_level(cell, feature.levels, feature.spellings)
    return np.nan if level is None else float(level)


def _fill(feature: Feature) -> float:
    """What stands for a missing cell; NaN for a median that is taken later."""
    if feature.impute is None or feature.impute == "median":
        return np.nan if feature.impute == "median" else 0.0
    if feature.impute == "middle" and feature.is_number:
        return (float(feature.low or 0.0) + float(feature.high or 0.0)) / 2
    if feature.is_number:
        return float(feature.impute)
    return float(match_level(str(feature.impute), feature.levels) or 0)


_TOO_LARGE = ("is too large: must be at most 3.4e38", "mend the cell, or list it as missing_values of the column")


def _outside(feature: Feature, cell: str, value: float) -> tuple[str, str]:
    unit = f" {feature.unit}" if feature.unit else ""
    bound = f"must be between {feature.low:g} and {feature.high:g}{unit}"
    if feature.kind == "date" or feature.conversions:
        bound += f", and is {value:g}"
    return bound, (
        f"mend the cell, write missing_values: [{cell}] for the column if it means missing, widen the "
        "bounds, or write outside_bounds: clip in the schema"
    )


def _expected(feature: Feature, parts: tuple[str, ...], written: FileFormat) -> tuple[str, str]:
    if feature.kind == "date":
        return written.expected_day(next(part for part in parts if written.day(part) is None))
    if feature.kind == "numeric":
        return written.expected(parts[0])
    remedy = "mend the cell, or list it for the value that it means: "
    remedy += f"spellings: {{{feature.levels[-1]}: ['{parts[0]}']}}"
    if feature.kind == "categorical":
        remedy += ", or add it to the categories"
    return f"must be one of {', '.join(feature.levels)}", remedy


def _encode_target(schema: Schema, table: Table, problems: Problems, classes: Classes) -> np.ndarray:
    target = schema.target
    cells = table.columns[target.name]
    numeric = target.kind == "regression"
    labels = np.zeros(len(cells), np.float32 if numeric else np.int64)
    for row, cell in enumerate(cells):
        place = table.places[row]
        if schema.is_missing(cell, (*target.listed, *(word for words in target.spellings.values() for word in words))):
            bound, remedy = "must not be missing: it is what is predicted", "fill it in or remove the record"
            problems.add(table.file, cell, bound, remedy, column=target.name, place=place)
        elif numeric:
            number = table.format.number(cell)
            if number is not None:
                number = target.converted(number, table.units.get(target.name, target.unit))
            inside = number is not None and (target.low is None or target.low <= number <= float(target.high or 0.0))
            if number is not None and too_large(number):
                problems.add(
                    table.file,
                    cell,
                    _TOO_LARGE[0],
                    "mend the cell or remove the record",
                    column=target.name,
                    place=place,
                )
            elif number is None:
                problems.add(table.file, cell, *table.format.expected(cell, "target"), column=target.name, place=place)
            elif not inside:
                bound = f"must be a number from {target.low:g} to {target.high:g}"
                remedy = "mend the cell, remove the record, or widen the target's bounds"
                problems.add(table.file, cell, bound, remedy, column=target.name, place=place)
            else:
                labels[row] = number
        else:
            found = next((label for label, words in enumerate(classes) if match_level(cell, words) is not None), None)
            if found is None:
                words = ", ".join(word for group in classes for word in group)
                remedy = (
                    "mend the cell, or list all values of the target in the schema (positive and negative, or classes)"
                )
                problems.add(table.file, cell, f"must be one of {words}", remedy, column=target.name, place=place)
            else:
                labels[row] = found
    return labels


def target_classes(schema: Schema, tables: Sequence[Table] = ()) -> Classes:
    """For each class the cells that mean it.

    With `positive` alone, class 0 is the first other value in the tables: one further value is then an error, not a
    guess.
    """
    target = schema.target

    def spelled(words: Sequence[str]) -> tuple[str, ...]:
        return (*words, *(one for word in words for one in target.spellings.get(word, ())))

    if target.classes:
        return tuple(spelled((word,)) for word in target.classes)
    positive = spelled(target.positive or ("1",))
    if target.negative or not target.positive:
        return (spelled(target.negative or ("0",)), positive)
    others = (
        cell
        for table in tables
        for cell in table.columns[target.name]
        if not schema.is_missing(cell, target.listed) and match_level(cell, positive) is None
    )
    first = next(others, None)
    return (() if first is None else (first,), positive)


def decode(schema: Schema, matrix: np.ndarray) -> dict[str, list[Any]]:
    """Encoded columns in original units back to one list per feature: numbers, or the nearest category.

    A reference level that was left out wins when no other level's column reaches one half.
    """
    matrix = np.atleast_2d(np.asarray(matrix, np.float64))
    position = {column.name: at for at, column in enumerate(schema.columns)}
    decoded: dict[str, list[Any]] = {}
    for feature in schema.features:
        columns = [c for c in feature.columns() if c.kind != "missing"]
        block = matrix[:, [position[c.name] for c in columns]]
        if feature.is_number:
            decoded[feature.name] = block[:, 0].tolist()
        elif feature.kind == "binary":
            decoded[feature.name] = [feature.levels[int(value >= 0.5)] for value in block[:, 0]]
        else:
            if feature.drop_first:
                block = np.concatenate([np.full((len(block), 1), 0.5), block], axis=1)
            decoded[feature.name] = [feature.levels[at] for at in block.argmax(axis=1)]
    return decoded
