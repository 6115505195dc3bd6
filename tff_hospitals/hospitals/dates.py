"""Dates in cells, and how far apart they lie.

>>> days("03.02.2024", "%d.%m.%Y"), days("2024-02-03 12:00"), days("02/03/2024")
(19756.0, 19756.5, None)
"""

from __future__ import annotations

import datetime

ISO = "%Y-%m-%d"
UNITS = {"days": 1.0, "years": 365.25}
_START = datetime.datetime(1970, 1, 1)


def days(cell: str, written: str = ISO) -> float | None:
    """Days from 1970-01-01 to the date (and time) in a cell, or None where there is none.

    Args:
      cell: as it stands in the file; a time zone changes nothing, the clock on the wall counts.
      written: how dates are written, in the letters of `strptime`; ISO dates are read in any case.
    """
    moment = _moment(cell, written)
    return None if moment is None else (moment.replace(tzinfo=None) - _START).total_seconds() / 86400


def apart(start: str, end: str, written: str = ISO) -> float | None:
    """Days from the date in one cell to that in another: by the clock on the wall unless both name a time zone.

    >>> apart("2024-02-03T10:00+02:00", "2024-02-03T20:00Z"), apart("2024-02-03", "2024-02-04T12:00Z")
    (0.5, 1.5)
    """
    moments = [_moment(cell, written) for cell in (start, end)]
    first, last = moments
    if first is None or last is None:
        return None
    if first.tzinfo is None or last.tzinfo is None:
        first, last = first.replace(tzinfo=None), last.replace(tzinfo=None)
    return (last - first).total_seconds() / 86400


def _moment(cell: str, written: str) -> datetime.datetime | None:
    try:
        return datetime.datetime.strptime(cell, written)
    except ValueError:
        pass
    try:
        iso = f"{cell[:-1]}+00:00" if cell.endswith("Z") else cell  # only newer Pythons know the letter
        return datetime.datetime.fromisoformat(iso) if len(cell) >= 10 and cell[4:5] == "-" else None
    except ValueError:
        return None


def is_format(written: str) -> bool:
    """Whether a date that is written so can be read again."""
    day = datetime.datetime(2001, 2, 3)
    try:
        return datetime.datetime.strptime(day.strftime(written), written) == day
    except ValueError:
        return False
