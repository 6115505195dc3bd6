"""How the cells of a file seem to be written: encoding, delimiter, decimal mark, dates."""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
import pathlib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

from tff_hospitals.hospitals.csv_files import cells_of_any_length, likely_encoding, stated_delimiter
from tff_hospitals.hospitals.dates import ISO, days
from tff_hospitals.hospitals.file_formats import DATES, FileFormat
from tff_hospitals.hospitals.inspection.words import MISSING

T = TypeVar("T")
_LOOKED_AT = 200  # lines that tell the delimiter
_NUMBERS = (
    FileFormat(),
    FileFormat(decimal=","),
    FileFormat(thousands=","),
    FileFormat(decimal=",", thousands="."),
    FileFormat(thousands=" "),
    FileFormat(decimal=",", thousands=" "),
    FileFormat(thousands="'"),
)

_MARKS = {".": "point", ",": "comma"}
_BETWEEN = {",": "commas", ".": "points", " ": "spaces", "'": "apostrophes"}
# A number and what stands around it: no letters before it, which are an id's.
_BESIDE = re.compile(r"([^\w]*)([\d.,' ]*\d)([^\d]{0,12})")


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
    """The delimiter that divides most lines into equally many cells, most cells first."""
    lines = text.splitlines(keepends=True)[:_LOOKED_AT]
    stated = stated_delimiter(text)
    if stated is not None:
        return stated
    best, width = ",", 1
    for delimiter in (",", ";", "\t", "|"):
        with cells_of_any_length():
            rows = [row for row in csv.reader(io.StringIO("".join(lines), newline=""), delimiter=delimiter) if row]
        usual, alike = collections.Counter(map(len, rows)).most_common(1)[0] if rows else (0, 0)
        if usual > width and alike >= 0.8 * len(rows):
            best, width = delimiter, usual
    return best


def guess_cells(columns: Sequence[Iterable[str]], written: FileFormat) -> tuple[FileFormat, list[str]]:
    """How numbers and dates are written in the columns of a file, and what could not be decided, in words.

    >>> guess_cells([["1,5", "2,25"], ["03.02.2024", "28.02.2024"]], FileFormat(delimiter=";"))[0].decimal
    ','
    """
    distinct = [{cell for cell in cells if cell.casefold() not in MISSING} for cells in columns]
    notes = []
    scores = [sum(scores) for scores in zip(*map(_scores, distinct))] or [0] * len(_NUMBERS)
    best = max(scores)
    winners = [one for one, score in zip(_NUMBERS, scores) if score == best]
    winners = [one for one in winners if not one.thousands or FileFormat(decimal=one.decimal) not in winners]
    if FileFormat(thousands=" ") in winners:  # no cell has decimals: any mark will do
        winners = [one for one in winners if one != FileFormat(decimal=",", thousands=" ")]
    if scores[0] < best and len(winners) > 1:
        notes.append("numbers may be written with a decimal comma or with a comma between thousands: state which")
    elif scores[0] < best:
        written = dataclasses.replace(written, decimal=winners[0].decimal, thousands=winners[0].thousands)
    dates = [cells for cells in distinct if cells and any(all(_is_day(c, d) for c in cells) for d in (ISO, *DATES))]
    fitting = [one for one in (ISO, *DATES) if all(_is_day(cell, one) for cells in dates for cell in cells)]
    if dates and len(fitting) == 1:
        written = dataclasses.replace(written, date=fitting[0])
        if "%y" in fitting[0]:
            notes.append(
                "years have two digits: 69 is read as 1969 and 68 as 2068; write four digits where that is wrong"
            )
    elif dates and ISO not in fitting:
        notes.append(f"dates may be written in several ways ({', '.join(fitting) or 'one per column'}): state which")
    return written, notes


def _scores(cells: set[str]) -> list[int]:
    """How many different cells of a column are numbers, by format; a mark that occurs nowhere makes no difference."""
    there = set().union(*cells) if cells else set()
    there |= {" "} if there & {"\u00a0", "\u202f"} else set()
    known: dict[FileFormat, int] = {}
    scores = []
    for one in _NUMBERS:
        same = FileFormat(
            decimal=one.decimal if there & {".", ","} else ".",
            thousands=one.thousands if one.thousands in there else "",
        )
        if same not in known:
            known[same] = _numbers(cells, same)
        scores.append(known[same])
    return scores


def _numbers(cells: set[str], written: FileFormat) -> int:
    """How many different cells of a column are numbers, if nearly all are."""
    return count_of(cells, lambda cell: is_number(cell, written), 0.8)


def count_of(cells: Collection[T], fits: Callable[[T], object], share: float) -> int:
    """How many cells fit; 0 as soon as it is sure that less than a share of them does.

    >>> count_of(["1", "2", "a"], str.isdigit, 0.5), count_of(["1", "a", "b"], str.isdigit, 0.5)
    (2, 0)
    """
    misses, most = 0, (1 - share) * len(cells) + 1e-9
    for cell in cells:
        if not fits(cell):
            misses += 1
            if misses > most:
                return 0
    return len(cells) - misses


def other_marks(cells: Iterable[str]) -> str:
    """Why cells that hold numbers are no numbers in the format of their file, in words; "" where they hold none.

    >>> other_marks(["1,5", "2,25"]), other_marks(["60 kg", "70 kg"]), other_marks(["12.03.2024"]), other_marks(["a1"])
    ('numbers with a decimal comma, unlike others of the file: write one mark throughout', "numbers with 'kg' beside \
them: write the numbers alone (units go into the schema)", 'dates that may be written in several ways: state date in \
the schema', '')
    """
    distinct = set(cells)
    if any(all(_is_day(cell, one) for cell in distinct) for one in DATES):
        return "dates that may be written in several ways: state date in the schema"
    for one in _NUMBERS:
        if count_of(distinct, lambda cell, one=one: is_number(cell, one), 0.9):  # type: ignore[misc]
            if all(cell.isalnum() for cell in distinct):
                return ""
            mark = f"a decimal {_MARKS[one.decimal]}"
            mark = f"{_BETWEEN[one.thousands]} between thousands" if one.thousands else mark
            return f"numbers with {mark}, unlike others of the file: write one mark throughout"
    if not count_of(distinct, _BESIDE.fullmatch, 0.9):
        return ""
    beside = [match[1] + match[3] for match in map(_BESIDE.fullmatch, distinct) if match is not None]
    most = collections.Counter(words.strip() for words in beside).most_common(3)
    shown = ", ".join(repr(words) for words, _ in most if words)
    return f"numbers with {shown} beside them: write the numbers alone (units go into the schema)"


def is_number(cell: str, written: FileFormat) -> bool:
    """Whether a cell is a number or a limit of detection."""
    return written.number(cell) is not None or written.limit(cell) is not None


def _is_day(cell: str, written: str) -> bool:
    return days(cell, written) is not None and not cell.isdigit()
