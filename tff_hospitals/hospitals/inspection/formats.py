"""How the cells of a file seem to be written: encoding, delimiter, decimal mark, dates."""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib
from collections.abc import Iterable, Sequence

from tff_hospitals.hospitals.csv_files import cells_of_any_length, likely_encoding, stated_delimiter
from tff_hospitals.hospitals.dates import ISO, days
from tff_hospitals.hospitals.file_formats import DATES, FileFormat
from tff_hospitals.hospitals.inspection.words import MISSING

_LOOKED_AT = 200  # lines that tell the delimiter
_NUMBERS = (
    FileFormat(),
    FileFormat(decimal=","),
    FileFormat(thousands=","),
    FileFormat(decimal=",", thousands="."),
    FileFormat(decimal=",", thousands=" "),
    FileFormat(thousands="'"),
)


def guess_text(path: pathlib.Path) -> FileFormat:
    """Encoding and delimiter of a CSV file (nothing is guessed of others).

    Raises:
      OSError: the file cannot be read.
    """
    if path.suffix.lower() != ".csv":
        return FileFormat()
    content = path.read_bytes()
    encoding = likely_encoding(content)
    text = content.decode(encoding, errors="replace").lstrip("\ufeff")
    return FileFormat(delimiter=_delimiter(text), encoding=encoding)


def _delimiter(text: str) -> str:
    """The delimiter that divides most lines into as many cells as the header has, most cells first."""
    lines = text.splitlines(keepends=True)[:_LOOKED_AT]
    stated = stated_delimiter(text)
    if stated is not None:
        return stated
    best, width = ",", 1
    for delimiter in (",", ";", "\t", "|"):
        with cells_of_any_length():
            rows = [row for row in csv.reader(io.StringIO("".join(lines), newline=""), delimiter=delimiter) if row]
        alike = sum(len(row) == len(rows[0]) for row in rows) if rows else 0
        if rows and len(rows[0]) > width and alike >= 0.8 * len(rows):
            best, width = delimiter, len(rows[0])
    return best


def guess_cells(columns: Sequence[Iterable[str]], written: FileFormat) -> tuple[FileFormat, list[str]]:
    """How numbers and dates are written in the columns of a file, and what could not be decided, in words.

    >>> guess_cells([["1,5", "2,25"], ["03.02.2024", "28.02.2024"]], FileFormat(delimiter=";"))[0].decimal
    ','
    """
    distinct = [{cell for cell in cells if cell.casefold() not in MISSING} for cells in columns]
    notes = []
    scores = [sum(_numbers(cells, one) for cells in distinct) for one in _NUMBERS]
    best = max(scores)
    winners = [one for one, score in zip(_NUMBERS, scores) if score == best]
    winners = [one for one in winners if not one.thousands or FileFormat(decimal=one.decimal) not in winners]
    if scores[0] < best and len(winners) > 1:
        notes.append("numbers may be written with a decimal comma or with a comma between thousands: state which")
    elif scores[0] < best:
        written = dataclasses.replace(written, decimal=winners[0].decimal, thousands=winners[0].thousands)
    dates = [cells for cells in distinct if cells and any(all(_is_day(c, d) for c in cells) for d in (ISO, *DATES))]
    fitting = [one for one in (ISO, *DATES) if all(_is_day(cell, one) for cells in dates for cell in cells)]
    if dates and len(fitting) == 1:
        written = dataclasses.replace(written, date=fitting[0])
    elif dates and ISO not in fitting:
        notes.append(f"dates may be written in several ways ({', '.join(fitting) or 'one per column'}): state which")
    return written, notes


def _numbers(cells: set[str], written: FileFormat) -> int:
    """How many different cells of a column are numbers, if nearly all are."""
    found = sum(is_number(cell, written) for cell in cells)
    return found if found >= 0.8 * len(cells) else 0


def is_number(cell: str, written: FileFormat) -> bool:
    """Whether a cell is a number or a limit of detection."""
    return written.number(cell) is not None or written.limit(cell) is not None


def _is_day(cell: str, written: str) -> bool:
    return days(cell, written) is not None and not cell.isdigit()
