"""A user's own tables: a folder with one file per hospital, or one file with a hospital column, and a schema.

Where the schema names a hospital column, that column says whose record a row is; else the name of a file (without its
extension) is its hospital's id. Columns that the schema does not name are never read.
All problems of all files are found before anything is raised; see `data/example_own_data` for a small example.
"""

from __future__ import annotations

import os
import pathlib

from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.hospitals.assembly import table_fields
from tff_hospitals.hospitals.checks import id_problem
from tff_hospitals.hospitals.dataset import HospitalDataset
from tff_hospitals.hospitals.division import Division
from tff_hospitals.hospitals.locations import data_folder, read_checked
from tff_hospitals.hospitals.pools import pools_of
from tff_hospitals.hospitals.preprocessing import Scaling
from tff_hospitals.hospitals.schema import Schema
from tff_hospitals.hospitals.schema_files import SUFFIXES as SCHEMA_SUFFIXES
from tff_hospitals.hospitals.schema_files import read_schema
from tff_hospitals.hospitals.secret import public_secret, secret_of
from tff_hospitals.hospitals.table_files import SUFFIXES, read_table
from tff_hospitals.hospitals.table_places import check_places, with_units
from tff_hospitals.hospitals.tables import InvalidTable, Problems, Table, plain_text

_PASSED_OVER = ("readme", "licence", "license", "sha256sums", "notes")
_SYSTEM = ("thumbs.db", "desktop.ini")


def own_data(
    path: os.PathLike[str] | str,
    *,
    schema: Schema | os.PathLike[str] | str | None = None,
    division: Division | None = None,
    scaling: Scaling | None = None,
) -> HospitalDataset:
    """Loads and checks a user's hospitals.

    Args:
      path: a folder of CSV, Parquet or Excel files, one per hospital; or one such file with the schema's
        `hospital_column`.
      schema: a schema or its file; default: `schema.yaml`, `.yml` or `.toml` in the folder (beside the file).
      division: partition, seed and test fraction; default: natural, as the schema says.
      scaling: default: as the schema says, else `per_hospital`.

    Raises:
      RecordError: the path or the schema file cannot be read.
      InvalidInput: the schema has problems.
      InvalidTable: files have problems; names file, line and column of each.
    """
    place = pathlib.Path(path)
    rules = schema_of(place, schema)
    found = [*rules.problems(), *place_problems(place, rules)]
    if found:
        raise InvalidInput(found)
    problems = Problems()
    pools = pools_of(tables_of(place, rules, problems), rules, problems)
    if problems:
        raise InvalidTable(problems.list())
    fields = table_fields(
        pools,
        rules,
        division or Division(seed=rules.seed),
        scaling or Scaling(rules.scaling or "per_hospital", rules.scaling_noise_multiplier),
        secret=public_secret("example_own_data") if _is_the_example(place) else secret_of(place),
        given=rules.given_split,
        simulated=rules.simulated,
    )
    return HospitalDataset(
        name=rules.name or place.stem,
        provenance=rules.provenance or f"own data: {place.name}",
        licence=rules.licence or "not stated",
        **fields,
    )


def _is_the_example(place: pathlib.Path) -> bool:
    """Whether this is the embedded example with the tables that were published with it."""
    example = data_folder() / "example_own_data"
    if example not in (place.resolve(), place.resolve().parent):
        return False
    try:
        for path in example.iterdir():
            if path.suffix.lower() in SUFFIXES:
                read_checked(example, path.name)
    except RecordError:
        return False  # somebody put tables of their own there
    return True


def schema_of(place: pathlib.Path, schema: Schema | os.PathLike[str] | str | None) -> Schema:
    """The given schema, or the one in the folder (beside the file) of own data.

    Raises:
      RecordError: the path does not exist, or no schema is there.
    """
    if not place.exists():
        raise RecordError(f"{place} does not exist. Remedy: give a folder with one file per hospital, or one file.")
    if isinstance(schema, Schema):
        return schema
    if schema is not None:
        return read_schema(schema)
    found = schema_file(place)
    if found is not None:
        return read_schema(found)
    names = ", ".join(f"schema{suffix}" for suffix in SCHEMA_SUFFIXES)
    raise RecordError(
        f"{place if place.is_dir() else place.parent} holds no schema ({names}). Remedy: draft one with tff-hospitals "
        f"inspect {place}, or name it by --schema=FILE."
    )


def schema_file(place: pathlib.Path) -> pathlib.Path | None:
    """The schema file in a folder (beside a file) of own data, if there is one."""
    folder = place if place.is_dir() else place.parent
    candidates = (folder / f"schema{suffix}" for suffix in SCHEMA_SUFFIXES)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def place_problems(place: pathlib.Path, schema: Schema) -> list[Problem]:
    """A file alone whose rows nobody can tell whose they are."""
    if not place.is_file() or schema.hospital_column is not None:
        return []
    bound = "must be given when one file holds all hospitals"
    return [Problem("hospital_column", None, bound, "name the column, or put the file of one hospital into a folder")]


def tables_of(place: pathlib.Path, schema: Schema, problems: Problems) -> dict[str, list[Table]]:
    """Each hospital's tables, sorted by id: by the hospital column where the schema names one, else by file."""
    paths = _folder_files(place, schema, problems) if place.is_dir() else [place]
    read = []
    for path in paths:
        file = plain_text(path.name)
        table = read_table(path, schema.columns_read, schema.format_of(file), problems, schema.headers.get(file))
        read += [] if table is None else [table]
    found: dict[str, list[Table]] = {}
    if schema.hospital_column is None:
        found = {pathlib.Path(table.file).stem: [table] for table in read}
    else:
        spelling: dict[str, str] = {}
        for table in read:
            for hospital_id, rows in _rows_by_hospital(table, schema, spelling, problems).items():
                found.setdefault(hospital_id, []).append(table.take(rows))
    if len(read) == len(paths):
        files = [plain_text(path.name) for path in paths]
        check_places(schema, files if place.is_dir() else [*files, *schema.files, *schema.headers], found, problems)
    return {hospital_id: with_units(schema, hospital_id, tables) for hospital_id, tables in sorted(found.items())}


def table_paths(folder: pathlib.Path) -> list[pathlib.Path]:
    """What lies in a folder and is taken for a table.

    That is neither a folder, nor hidden, nor of the operating system (a file that Excel has open leaves one that begins
    with "~$"), nor a schema or a page about the tables.
    """
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.is_dir()
        and not path.name.startswith((".", "~$"))
        and path.name.lower() not in _SYSTEM
        and path.suffix.lower() not in SCHEMA_SUFFIXES
        and path.stem.lower() not in _PASSED_OVER
    ]


def _folder_files(folder: pathlib.Path, schema: Schema, problems: Problems) -> list[pathlib.Path]:
    """The tables in a folder; without a hospital column their names are hospital ids."""
    owner: dict[str, str] = {}
    kept = []
    for path in table_paths(folder):
        if not path.is_file():
            bound = "must be a file: it is a link to nothing, or no file"
            problems.add(path.name, "nothing to read", bound, "mend or remove it")
            continue
        key = path.stem.casefold() if schema.hospital_column is None else path.name
        if path.suffix.lower() in SUFFIXES and key in owner:
            remedy = "keep one of the two files, or rename one"
            problems.add(path.name, path.stem, f"is the hospital id of {owner[key]} too", remedy)
            continue
        owner.setdefault(key, path.name)
        bad = id_problem(path.name, path.stem) if schema.hospital_column is None else None
        if bad is not None:
            problems.add(path.name, path.stem, bad.bound, bad.remedy)
        kept.append(path)
    if not owner:
        no_tables(folder, problems)
    return kept


def no_tables(folder: pathlib.Path, problems: Problems) -> None:
    """Notes that a folder holds none, and where they may be."""
    inner = next((p for p in sorted(folder.glob("*/*")) if p.suffix.lower() in SUFFIXES and p.is_file()), None)
    remedy = "put them there"
    if inner is not None:
        here, name = f"{inner.parent.name}/{inner.name}", f"{inner.parent.name}{inner.suffix}"
        remedy = f"folders in it are not looked at: move {here} to {name}, and the others likewise"
    problems.add(folder.name, "no tables", f"must hold one file per hospital ({', '.join(SUFFIXES)})", remedy)


def _rows_by_hospital(
    table: Table, schema: Schema, spelling: dict[str, str], problems: Problems
) -> dict[str, list[int]]:
    """Row numbers by the hospital column; `spelling` remembers how ids were written in all files."""
    column = schema.hospital_column or ""
    rows: dict[str, list[int]] = {}
    for row, hospital_id in enumerate(table.columns[column]):
        place = table.places[row]
        if schema.is_missing(hospital_id):
            bound = "must not be missing: it says whose record this is"
            problems.add(table.file, hospital_id, bound, "fill it in", column=column, place=place)
            continue
        first = spelling.setdefault(hospital_id.casefold(), hospital_id)
        if first != hospital_id:
            remedy = "spell the id one way"
            problems.add(table.file, hospital_id, f"is also spelled {first!r}", remedy, column=column, place=place)
            continue
        if hospital_id not in rows:
            bad = id_problem(column, hospital_id)
            if bad is not None:
                problems.add(table.file, hospital_id, bad.bound, bad.remedy, column=column, place=place)
        rows.setdefault(hospital_id, []).append(row)
    return rows
