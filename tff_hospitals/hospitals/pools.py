"""Tables of hospitals as pools of encoded records: what each record is known by, and its side of a given split.

Everything that does not fit is noted with file, line and column before anything is raised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tff_hospitals.hospitals.division import Pool
from tff_hospitals.hospitals.encoding import encode, target_classes
from tff_hospitals.hospitals.schema import Schema
from tff_hospitals.hospitals.tables import Problems, Table

SIDES = ("train", "test")


def pools_of(tables: Mapping[str, Sequence[Table]], schema: Schema, problems: Problems) -> list[Pool]:
    """One pool per hospital; cells that do not fit are noted in `problems`.

    Args:
      tables: for each hospital its tables; each has all columns that the schema names.
      schema: what the columns mean.
      problems: takes everything that does not fit.
    """
    classes = target_classes(schema, [table for parts in tables.values() for table in parts])
    pools = []
    for hospital_id, parts in tables.items():
        encoded = [encode(schema, table, problems, classes) for table in parts]
        values, labels = (np.concatenate(arrays) for arrays in zip(*encoded))
        sides = _sides(parts, schema, problems)
        ids = _ids(hospital_id, parts, schema, sides, problems)
        tested = None if sides is None else np.flatnonzero(np.array(sides) == "test")
        names = None if ids is None else [one.encode() for one in ids]
        pools.append(Pool(hospital_id, values, labels, tested, names, schema.patient_column is not None))
    everything = np.concatenate([pool.labels for pool in pools]) if pools else np.zeros(0)
    if schema.target.kind != "regression" and not problems and len(everything) and np.ptp(everything) == 0:
        bound = "must hold at least two classes over all hospitals"
        remedy = "check the target's values in the schema"
        problems.add("all files", f"class {int(everything[0])} only", bound, remedy, column=schema.target.name)
    return pools


def _cells(parts: Sequence[Table], column: str) -> list[tuple[str, Table, str]]:
    """Each record's cell of a column, with its table and place."""
    return [(cell, table, place) for table in parts for cell, place in zip(table.columns[column], table.places)]


def _sides(parts: Sequence[Table], schema: Schema, problems: Problems) -> list[str] | None:
    """The words train or "test" for each record, where the schema names a column that says it."""
    if schema.split_column is None:
        return None
    sides = []
    for cell, table, place in _cells(parts, schema.split_column):
        sides.append(cell.casefold())
        if sides[-1] not in SIDES:
            remedy = "write train or test, or drop split_column from the schema: records are then split by themselves"
            problems.add(table.file, cell, "must be train or test", remedy, column=schema.split_column, place=place)
    return sides


def _ids(
    hospital_id: str, parts: Sequence[Table], schema: Schema, sides: Sequence[str] | None, problems: Problems
) -> list[str] | None:
    """What each record is known by: its patient, else its own id; None: its cells."""
    column = schema.patient_column or schema.id_column
    if column is None:
        return None
    first: dict[str, tuple[int, str]] = {}
    counts: dict[str, int] = {}
    ids: list[str] = []
    for row, (cell, table, place) in enumerate(_cells(parts, column)):
        ids.append(cell)
        if schema.is_missing(cell):
            whose = "whose record this is" if schema.patient_column else "which record this is"
            bound, remedy = f"must not be missing: it says {whose}", "fill it in"
            problems.add(table.file, cell, bound, remedy, column=column, place=place)
            continue
        at, where = first.setdefault(cell, (row, f"{table.file}, {place}"))
        counts[cell] = counts.get(cell, 0) + 1
        if schema.patient_column is None:
            if at != row:
                remedy = "give each record an id of its own, or name the column as patient_column"
                problems.add(table.file, cell, f"stands in {where} too", remedy, column=column, place=place)
        elif sides is not None and sides[at] != sides[row]:
            bound = f"is for {sides[at]} in {where}: a patient must not be on both sides"
            remedy = f"put all records of a patient of {hospital_id} on one side"
            problems.add(table.file, cell, bound, remedy, column=column, place=place)
        elif counts[cell] == (schema.records_per_patient or 0) + 1:
            bound = f"has more records at {hospital_id} than records_per_patient={schema.records_per_patient}"
            remedy = "state a larger public bound, or keep fewer records of each patient"
            problems.add(table.file, cell, bound, remedy, column=column, place=place)
    return ids
