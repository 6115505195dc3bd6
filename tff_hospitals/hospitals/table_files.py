"""Files of every kind as tables: which reader reads which, and which of their columns are wanted."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence

from tff_hospitals.hospitals.csv_files import read_csv
from tff_hospitals.hospitals.file_formats import FileFormat
from tff_hospitals.hospitals.tables import Problems, Sheet, Table, plain_text
from tff_hospitals.hospitals.typed_files import read_excel, read_parquet

READERS: Mapping[str, Callable[[pathlib.Path, FileFormat, Problems], Sheet | None]] = {
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".xlsx": read_excel,
}
SUFFIXES = tuple(READERS)
_PACKED = (".gz", ".zip", ".bz2", ".xz", ".zst", ".7z")
_TEXT = (".tsv", ".tab", ".txt", ".dat", ".psv")
_UNFINISHED = (".part", ".partial", ".filepart", ".crdownload", ".tmp")


def read_sheet(path: pathlib.Path, written: FileFormat, problems: Problems) -> Sheet | None:
    """Header and cells of a file; notes problems and returns None when it cannot be used."""
    suffix = path.suffix.lower()
    if suffix not in READERS:
        remedy = "save the table as CSV (UTF-8), or put the file elsewhere if it is none"
        if suffix in _PACKED:
            remedy = "unpack it first"
        elif suffix in _TEXT:
            remedy = f"rename it to {path.stem}.csv: the schema may state any delimiter"
        elif suffix in _UNFINISHED:
            remedy = "wait until it is written and has its name, or remove it"
        problems.add(path.name, path.suffix, f"must be one of {', '.join(SUFFIXES)}", remedy)
        return None
    return READERS[suffix](path, written, problems)


def read_table(
    path: pathlib.Path,
    wanted: Sequence[str],
    written: FileFormat,
    problems: Problems,
    headers: Mapping[str, str] | None = None,
) -> Table | None:
    """The wanted columns of a file; notes problems and returns None when it cannot be used.

    Args:
      path: the file.
      wanted: columns by the schema's names.
      written: how its cells are written.
      problems: takes what does not fit.
      headers: for columns that have another header in this file: that header.
    """
    sheet = read_sheet(path, written, problems)
    return None if sheet is None else table_of(plain_text(path.name), sheet, wanted, written, problems, headers or {})


def table_of(
    file: str,
    sheet: Sheet,
    wanted: Sequence[str],
    written: FileFormat,
    problems: Problems,
    headers: Mapping[str, str],
) -> Table | None:
    """The wanted columns of a sheet; see `read_table`."""
    names = {name: headers.get(name, name) for name in wanted}
    if not _check_header(file, sheet.header, names, written.delimiter, problems):
        return None
    if sheet.empty:
        problems.add(file, sheet.empty, "must have at least one record", "remove the file or fill it")
    columns = {name: sheet.column(sheet.header.index(header)) for name, header in names.items()}
    return Table(file, columns, sheet.places, written)


def _check_header(
    file: str, header: Sequence[str], names: Mapping[str, str], delimiter: str, problems: Problems
) -> bool:
    """Notes missing and doubled columns; True if all wanted ones are there once."""
    import difflib

    sound = True
    for name, written in names.items():
        count = header.count(written)
        if count == 1:
            continue
        sound = False
        if count > 1:
            problems.add(file, f"{count} times", "must be there once", "rename or remove the others", column=written)
            continue
        near = difflib.get_close_matches(written, header, n=3, cutoff=0.5)
        near = near or [one for one in header if one.casefold() == written.casefold()]
        other = next((d for d in ";\t|" if len(header) == 1 and d in header[0]), None)
        if other is not None and other != delimiter:
            remedy = f"the header holds {other!r}: write delimiter: {other!r} in the schema"
        elif near:
            remedy = f"did you mean {' or '.join(repr(n) for n in near)}?"
            remedy += f" Then write headers: {{{file}: {{{name}: {near[0]}}}}} in the schema"
        else:
            shown = ", ".join(header[:12]) + (f" and {len(header) - 12} more" if len(header) > 12 else "")
            remedy = f"the file has: {shown}"
        problems.add(file, "missing", "must be in the header", remedy, column=written)
    return sound
