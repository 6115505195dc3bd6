"""How the cells of a file are written: separators, decimal mark, marks between thousands, encoding, dates.

>>> FileFormat(decimal=",", thousands=".").number("1.234,5"), FileFormat().number("1,234")
(1234.5, None)
"""

from __future__ import annotations

import dataclasses
import math
import re

from tff_hospitals.foundations.validation import Problem, one_of
from tff_hospitals.hospitals.dates import ISO, days, is_format

_SIDES = ("<", ">", "\u2264", "\u2265")
_LARGEST = 3.4e38  # float32 holds no larger number


@dataclasses.dataclass(frozen=True)
class FileFormat:
    """Of one file, or of all files that say nothing else.

    Attributes:
      delimiter: between the cells of a CSV file.
      decimal: the decimal mark, "." or ",".
      thousands: the mark between groups of three digits: "", ",", ".", "'" or a space (of any width).
      encoding: of a CSV file, such as utf-8, cp1252 or utf-16.
      date: how dates are written, in the letters of `strptime`, such as %d.%m.%Y; ISO dates are always read.
      sheet: of an Excel file with several.
    """

    delimiter: str = ","
    decimal: str = "."
    thousands: str = ""
    encoding: str = "utf-8"
    date: str = ISO
    sheet: str = ""

    def problems(self, where: str) -> list[Problem | None]:
        """What is wrong with it; `where` is put before the names of the settings."""
        found: list[Problem | None] = []
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n\0':
            found.append(Problem(f"{where}delimiter", self.delimiter, "must be one character", "give , or ;"))
        found.append(one_of(f"{where}decimal", self.decimal, (".", ",")))
        if self.thousands not in ("", ",", ".", "'", " ") or self.thousands == self.decimal:
            bound = "must be one of , . ' or a space, and not the decimal mark"
            found.append(Problem(f"{where}thousands", self.thousands, bound, "give another mark, or drop it"))
        try:
            "a".encode(self.encoding)  # knows text encodings only, unlike a look-up
        except (LookupError, ValueError):
            remedy = "give utf-8, cp1252 (Windows, Western Europe), latin-1 or utf-16"
            found.append(Problem(f"{where}encoding", self.encoding, "must be a known encoding", remedy))
        if not is_format(self.date):
            bound = "must say day, month and year in the letters of strptime"
            found.append(Problem(f"{where}date", self.date, bound, "give %d.%m.%Y, %m/%d/%Y or %Y-%m-%d"))
        return found

    def number(self, cell: str) -> float | None:
        """The finite number that a cell holds, or None: no "nan", no "1_000", no mark of another format."""
        if self.thousands == " ":
            cell = cell.replace("\u00a0", " ").replace("\u202f", " ")
        if self.thousands and self.thousands in cell:
            mark, point = re.escape(self.thousands), re.escape(self.decimal)
            if not re.fullmatch(rf"[+-]?\d{{1,3}}({mark}\d{{3}})+({point}\d*)?", cell):
                return None
            cell = cell.replace(self.thousands, "")
        if self.decimal == ",":
            if "." in cell:
                return None
            cell = cell.replace(",", ".")
        try:
            number = float(cell)
        except ValueError:
            return None
        return number if math.isfinite(number) and "_" not in cell else None

    def limit(self, cell: str) -> tuple[str, float] | None:
        """The side and the number of a limit of detection: of "<40", ">= 200", "\u22645" or "90+"; None: it is none."""
        if cell[:1] not in _SIDES and not cell.endswith("+"):
            return None
        match = re.fullmatch(r"([<>\u2264\u2265])=?\s*(\S.*)|(.*\d)\s*\+", cell)
        number = None if match is None else self.number(match[2] or match[3])
        if match is None or number is None:
            return None
        return ("<" if match[1] in ("<", "\u2264") else ">"), number

    def day(self, cell: str) -> float | None:
        """Days from 1970-01-01 to the date in a cell, or None."""
        return days(cell, self.date)

    def expected_day(self, cell: str) -> tuple[str, str]:
        """Why a cell is no date here, and what to do about it."""
        others = [written for written in DATES if days(cell, written) is not None]
        remedy = f"write {' or '.join(f'date: {chr(34)}{one}{chr(34)}' for one in others)} in the schema, "
        remedy += "or under files: for this file alone"
        return f"must be a date as {self.date}", remedy if others else "mend the cell, or list it as missing_values"

    def expected(self, cell: str, of: str = "feature") -> tuple[str, str]:
        """Why a cell of a feature or of the target is no number here, and what to do about it."""
        asks = "must be a number" if self.decimal == "." else "must be a number with a decimal comma"
        readings: dict[float, tuple[str, str]] = {}
        for words, setting, other in _OTHERS:
            value = other.number(cell) if not other.thousands or other.thousands in cell else None
            if value is not None:
                readings.setdefault(value, (words, f'"{setting}"'))
        if len(readings) > 1:
            meant = " or ".join(f"{value:g} ({words})" for value, (words, _) in readings.items())
            choices = " or ".join(setting for _, setting in readings.values())
            return f"{asks}: it may mean {meant}", f"write {choices} in the schema"
        if readings:
            ((words, setting),) = readings.values()
            return f"{asks}: it has a {words}", f"replace the {words}, or write {setting} in the schema"
        if self.limit(cell) is not None:
            remedy = "give the column censored: bound (the limit) or half of it"
            return f"{asks}: it is a limit of detection", remedy if of == "feature" else "mend it or remove the record"
        words = "mend the cell, or list the word under missing in the schema"
        return asks, words if of == "feature" else "mend the cell or remove the record"


DATES = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y%m%d", "%d.%m.%y", "%d %b %Y", "%d-%b-%Y")

# How a number may have been meant that is none in the format of its file.
_OTHERS = (
    ("decimal comma", "decimal: ','", FileFormat(decimal=",")),
    ("decimal point", "decimal: '.'", FileFormat()),
    ("comma between thousands", "thousands: ','", FileFormat(thousands=",")),
    ("point between thousands", "thousands: '.'", FileFormat(decimal=",", thousands=".")),
)


def too_large(number: float) -> bool:
    """Whether a feature of that size would become infinite."""
    return abs(number) > _LARGEST
