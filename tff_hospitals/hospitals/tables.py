"""Reads CSV and Parquet files into columns of text, and finds every cell that does not fit the schema.

Cells stay text until the schema says what they are, so that an error can show what stands in the file. Problems are
grouped: a column of 300 unreadable cells is one problem that names the first line and says how many more there are.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import importlib
import io
import pathlib
from collections.abc import Sequence
from typing import Any

from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.hospitals.file_formats import FileFormat

SUFFIXES = (".csv", ".parquet")
PROBLEMS_SHOWN = 10


class InvalidTable(InvalidInput):
    """Problems in a user's files; the message shows the first ten and counts the others."""

    def __str__(self) -> str:
        lines = [InvalidInput([problem]).args[0] for problem in self.problems[:PROBLEMS_SHOWN]]
        hidden = len(self.problems) - PROBLEMS_SHOWN
        return "\n".join(lines + ([f"and {hidden} more"] if hidden > 0 else []))


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of one file.

    Attributes:
      file: name for messages.
      columns: header to cells (stripped text); all of one length.
      places: "line 2" (CSV; the header is line 1) or "row 1" (Parquet), one per record.
      format: how numbers are written.
    """

    file: str
    columns: dict[str, list[str]]
    places: list[str]
    format: FileFormat = dataclasses.field(default_factory=FileFormat)

    @property
    def records(self) -> int:
        """Number of records."""
        return len(self.places)

    def take(self, rows: Sequence[int], file: str | None = None) -> Table:
        """The table of some rows, in that order."""
        columns = {name: [cells[row] for row in rows] for name, cells in self.columns.items()}
        return Table(file or self.file, columns, [self.places[row] for row in rows], self.format)


class Problems:
    """Collects problems of files; equal ones in the same column become one with a count."""

    def __init__(self) -> None:
        self._found: dict[tuple[Any, ...], tuple[Problem, int, str]] = {}

    def add(self, file: str, value: Any, bound: str, remedy: str, *, column: str = "", place: str = "") -> None:
        """Notes one problem; of those that differ in value and place only, the first is kept and the others counted."""
        key = (file, column, bound) if place else (file, column, bound, str(value))
        if key in self._found:
            first, count, _ = self._found[key]
            self._found[key] = (first, count + 1, place)
            return
        where = ", ".join(part for part in (file, place, f"column {column!r}" if column else "") if part)
        self._found[key] = (Problem(where, value, bound, remedy), 0, place)

    def list(self) -> list[Problem]:
        """The problems so far, in the order in which they were met."""
        made = []
        for problem, more, last in self._found.values():
            if more:
                places = f"{more} more such cell{'s' if more > 1 else ''}, the last in {last}"
                problem = dataclasses.replace(problem, bound=f"{problem.bound} ({places})")
            made.append(problem)
        return made

    def __bool__(self) -> bool:
        return bool(self._found)


def read_table(path: pathlib.Path, wanted: Sequence[str], written: FileFormat, problems: Problems) -> Table | None:
    """The wanted columns of a CSV or Parquet file; notes problems and returns None when it cannot be used."""
    if path.suffix.lower() == ".csv":
        return _read_csv(path, wanted, written, problems)
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path, wanted, problems)
    problems.add(path.name, path.suffix, f"must be one of {', '.join(SUFFIXES)}", "save the table as CSV (UTF-8)")
    return None


def _read_csv(path: pathlib.Path, wanted: Sequence[str], written: FileFormat, problems: Problems) -> Table | None:
    text = _decoded(path, written, problems)
    if text is None:
        return None
    delimiter = written.delimiter
    first = text.split("\n", 1)[0].strip().strip('"')
    stated = first[4] if len(first) == 5 and first.lower().startswith("sep=") else None
    if stated not in (None, delimiter):
        remedy = f"write delimiter: {stated!r} in the schema (under files: {path.name} if it is this file alone)"
        bound = f"names another delimiter than the schema's {delimiter!r}"
        problems.add(path.name, first, bound, remedy, place="line 1")
        return None
    rows: list[list[str]] = []
    lines: list[int] = []
    start = 1
    largest = csv.field_size_limit(2**31 - 1)  # the library's own limit of 128 KiB stops at long notes
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for row in reader:
            spreadsheet = start == 1 and stated is not None  # Excel's first line says how to read, it is no header
            if any(cell.strip() for cell in row) and not spreadsheet:  # blank lines say nothing
                rows.append(row)
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        problems.add(path.name, f"line {start}: {error}", "must be a readable CSV file", "check its quotes")
        return None
    finally:
        csv.field_size_limit(largest)
    if not rows:
        problems.add(path.name, "no lines", "must have a header and at least one record", "remove the file or fill it")
        return None
    header = [cell.strip() for cell in rows[0]]
    if not _check_header(path.name, header, wanted, delimiter, problems):
        return None
    width = len(header)
    kept = []
    for number, (row, line) in enumerate(zip(rows[1:], lines[1:]), 1):
        if len(row) == width:
            kept.append(number)
        else:
            bound = f"must have {width} cells, as the header"
            problems.add(path.name, f"{len(row)} cells", bound, "check separators and quotes", place=f"line {line}")
    if len(rows) == 1:
        problems.add(path.name, "header only", "must have at least one record", "remove the file or fill it")
    index = {name: header.index(name) for name in wanted}
    columns = {name: [rows[number][at].strip() for number in kept] for name, at in index.items()}
    return Table(path.name, columns, [f"line {lines[number]}" for number in kept], written)


def _decoded(path: pathlib.Path, written: FileFormat, problems: Problems) -> str | None:
    """The text of a file; bytes that its encoding does not know are named by their line."""
    try:
        content = path.read_bytes()
    except OSError as error:
        problems.add(path.name, error.strerror, "must be a readable CSV file", "check its permissions")
        return None
    encoding = "utf-8-sig" if codecs.lookup(written.encoding).name == "utf-8" else written.encoding
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        wide = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        line = content[: error.start].count(b"\n") + 1
        likely = "utf-16" if wide else "cp1252"
        problems.add(
            path.name,
            f"byte {error.start}",
            f"must be {written.encoding.upper()} text",
            f"save the file in that encoding, or write encoding: {likely} in the schema (under files: {path.name} if "
            "it is this file alone)",
            place=f"line {line}",
        )
        return None


def _read_parquet(path: pathlib.Path, wanted: Sequence[str], problems: Problems) -> Table | None:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        remedy = "install a pyarrow that fits (numpy 1.26: pyarrow < 26), or save the table as CSV"
        problems.add(path.name, str(error), "needs pyarrow, which cannot be imported", remedy)
        return None
    try:
        file = parquet.ParquetFile(path)
        header = list(file.schema_arrow.names)
        if not _check_header(path.name, header, wanted, "", problems):
            return None
        table = file.read(columns=list(wanted))
    except Exception as error:  # pyarrow has many kinds of error, all of them mean the same
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        problems.add(path.name, text, "must be a readable Parquet file", "write it again, or save the table as CSV")
        return None
    if not table.num_rows:
        problems.add(path.name, "no rows", "must have at least one record", "remove the file or fill it")
    columns = {name: [_cell_text(value) for value in table.column(name).to_pylist()] for name in wanted}
    return Table(path.name, columns, [f"row {row}" for row in range(1, table.num_rows + 1)])


def _cell_text(value: Any) -> str:
    """A Parquet value as the cell of a CSV file would hold it; null and NaN as an empty cell."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).strip()


def _check_header(file: str, header: Sequence[str], wanted: Sequence[str], delimiter: str, problems: Problems) -> bool:
    """Notes missing and doubled columns; True if all wanted ones are there once."""
    import difflib

    sound = True
    for name in wanted:
        count = header.count(name)
        if count == 1:
            continue
        sound = False
        if count > 1:
            problems.add(file, f"{count} times", "must be there once", "rename or remove the others", column=name)
            continue
        near = difflib.get_close_matches(name, header, n=3, cutoff=0.5)
        other = next((d for d in ";\t|" if len(header) == 1 and d in header[0]), None)
        if other is not None and other != delimiter:
            remedy = f"the header holds {other!r}: write delimiter: {other!r} in the schema"
        elif near:
            remedy = f"did you mean {' or '.join(repr(n) for n in near)}?"
        else:
            shown = ", ".join(header[:12]) + (f" and {len(header) - 12} more" if len(header) > 12 else "")
            remedy = f"the file has: {shown}"
        problems.add(file, "missing", "must be in the header", remedy, column=name)
    return sound
