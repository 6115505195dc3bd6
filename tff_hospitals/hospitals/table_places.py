"""What a schema says of single files and hospitals: that they are there, and which units they use."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from tff_hospitals.foundations.validation import one_of
from tff_hospitals.hospitals.schema import Schema
from tff_hospitals.hospitals.tables import Problems, Table


def check_places(schema: Schema, files: Sequence[str], ids: Iterable[str], problems: Problems) -> None:
    """Notes files and hospitals of which the schema says something and that are not there."""
    for setting, known in (("files", files), ("headers", files), ("units", [*files, *ids])):
        for name in getattr(schema, setting):
            problem = one_of(f"schema, {setting}", name, known)
            if problem is not None:
                problems.add(problem.name, name, problem.bound, problem.remedy)


def with_units(schema: Schema, hospital_id: str, tables: Sequence[Table]) -> list[Table]:
    """The tables of a hospital with the units that the schema states for their file or for the hospital."""
    own = schema.units.get(hospital_id, {})
    return [dataclasses.replace(table, units={**schema.units.get(table.file, {}), **own}) for table in tables]
