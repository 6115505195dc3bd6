"""Tables of text, and every cell in them that does not fit the schema.

Cells stay text until the schema says what they are, so that an error can show what stands in the file. Problems are
grouped: a column of 300 unreadable cells is one problem that names the first line and says how many more there are.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.hospitals.file_formats import FileFormat

PROBLEMS_SHOWN = 10
_UNSEEN = "\u200b\u2060\ufeff"  # characters without width, which copies from web pages and joined files leave


def lines_above(usual: int, place: str) -> tuple[str, str]:
    """Why a first line with fewer cells than most others is no header, and what to do about it."""
    bound = f"must name the columns: most lines have {usual} cells"
    return bound, f"remove the lines above the header, which seems to be {place}"


def plain_text(text: str) -> str:
    """A cell, a header or a name without what nobody sees: spaces at its ends, and two ways to write one letter.

    >>> plain_text(" age\\u200b "), plain_text("a\\u0308") == "\\u00e4"
    ('age', True)
    """
    text = text.strip()
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", text).strip(_UNSEEN).strip()


class InvalidTable(InvalidInput):
    """Problems in a user's files; the message shows the first ten and counts the others."""

    def __str__(self) -> str:
        lines = [InvalidInput([problem]).args[0] for problem in self.problems[:PROBLEMS_SHOWN]]
        hidden = len(self.problems) - PROBLEMS_SHOWN
        return "\n".join(lines + ([f"and {hidden} more"] if hidden > 0 else []))


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A file as it was read, before anything is known of its columns.

    Attributes:
      header: names of the columns, without spaces around them.
      column: the cells (stripped text) of the column at a position.
      places: as in `Table`.
      empty: where it holds no record: what it holds.
    """

    header: list[str]
    column: Callable[[int], list[str]]
    places: list[str]
    empty: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of one file.

    Attributes:
      file: name for messages.
      columns: header to cells (stripped text); all of one length.
      places: "line 2" (CSV; the header is line 1) or "row 1" (others), one per record.
      format: how numbers and dates are written.
      units: of columns whose unit here is not the schema's.
    """

    file: str
    columns: dict[str, list[str]]
    places: list[str]
    format: FileFormat = dataclasses.field(default_factory=FileFormat)
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def records(self) -> int:
        """Number of records."""
        return len(self.places)

    def take(self, rows: Sequence[int], file: str | None = None) -> Table:
        """The table of some rows, in that order."""
        columns = {name: [cells[row] for row in rows] for name, cells in self.columns.items()}
        return Table(file or self.file, columns, [self.places[row] for row in rows], self.format, self.units)


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
