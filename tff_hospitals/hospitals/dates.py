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
      cell: as it stands in the file.
      written: how dates are written, in the letters of `strptime`; ISO dates are read in any case.
    """
    moment: datetime.datetime | None
    try:
        moment = datetime.datetime.strptime(cell, written)
    except ValueError:
        try:
            moment = datetime.datetime.fromisoformat(cell) if len(cell) >= 10 and cell[4:5] == "-" else None
        except ValueError:
            moment = None
    if moment is None:
        return None
    return (moment.replace(tzinfo=None) - _START).total_seconds() / 86400


def is_format(written: str) -> bool:
    """Whether a date that is written so can be read again."""
    day = datetime.datetime(2001, 2, 3)
    try:
        return datetime.datetime.strptime(day.strftime(written), written) == day
    except ValueError:
        return False
