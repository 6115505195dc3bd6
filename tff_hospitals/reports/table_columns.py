"""The columns of the printed table, as wide as the terminal allows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from tff_hospitals.reports.columns import COLUMNS, Shown
from tff_hospitals.reports.rows import Row
from tff_hospitals.reports.spread import quantile
from tff_hospitals.reports.wording import score_text, shorten_all

_NARROWEST_METHOD = 14
_NARROWEST_HOSPITAL = 6
_WIDEST_HOSPITAL = 24
SHARES = (("lowest", 0.0), ("median", 0.5), ("highest", 1.0))
"""What stands for hospitals that are too many to be shown."""


@dataclasses.dataclass(frozen=True)
class Printed:
    """Two head lines (the upper one may be empty), the cells, and on which side the texts stand."""

    upper: str
    lower: str
    cells: tuple[str, ...]
    left: bool = False

    @functools.cached_property
    def width(self) -> int:
        """Characters of the widest text."""
        return max(map(len, (self.upper, self.lower, *self.cells)))

    def place(self, text: str) -> str:
        """A text of this column, padded to its width."""
        return text.ljust(self.width) if self.left else text.rjust(self.width)


def printed_columns(shown: Shown, before_hospitals: bool) -> list[Printed]:
    """The declared columns of one side."""
    return [
        Printed(*one.heads(shown), tuple(one.text_of(row, shown) for row in shown.rows), left=one.words)
        for one in COLUMNS.values()
        if one.before_hospitals == before_hospitals and one.in_table(shown)
    ]


def method_column(rows: Sequence[Row], marks: Sequence[str], width: int) -> Printed:
    """Names with their warning marks in `width` characters; different methods stay different."""
    names = list(dict.fromkeys(row.name for row in rows))
    longest_mark = {name: max(len(mark) for row, mark in zip(rows, marks) if row.name == name) for name in names}
    brief = {name: shorten_all(names, width - longest_mark[name])[index] for index, name in enumerate(names)}
    cells = [(brief[row.name] + mark).ljust(width) for row, mark in zip(rows, marks)]
    return Printed("", "method", tuple(cells), left=True)


def hospital_columns(
    ids: Sequence[str], rows: Sequence[Row], marks: Sequence[str], room: int
) -> tuple[list[Printed], int, bool]:
    """Columns per hospital where they fit, otherwise lowest, median and highest.

    Args:
      ids: the hospitals.
      rows, marks: what is printed.
      room: characters that hospitals and method share.

    Returns:
      the columns, the width left for the method, and whether the hospitals were collapsed.
    """
    wanted = max([len(row.name) + len(mark) for row, mark in zip(rows, marks)] + [len("method")])
    narrowest = min(wanted, _NARROWEST_METHOD + max(map(len, marks)))
    if not any(row.score.per_hospital for row in rows):
        return [], min(wanted, room), False
    cells = [tuple(score_text(row.metric, row.score.per_hospital.get(one)) for row in rows) for one in ids]
    for enough in (wanted, narrowest):  # first with whole method names, then with shortened ones
        shortest = 8 if enough == wanted else _NARROWEST_HOSPITAL
        for widest in range(_WIDEST_HOSPITAL, shortest - 1, -1):
            columns = [Printed(*head, texts) for head, texts in zip(_heads(ids, widest), cells)]
            left = room - sum(column.width + 2 for column in columns)
            if left >= enough:
                return columns, min(wanted, left), False
    columns = [
        Printed(
            "", name, tuple(score_text(row.metric, quantile(row.score.per_hospital.values(), share)) for row in rows)
        )
        for name, share in SHARES
    ]
    left = room - sum(column.width + 2 for column in columns)
    return columns, max(min(wanted, left), narrowest), True


def _heads(ids: Sequence[str], widest: int) -> list[tuple[str, str]]:
    """Names in one line, in two where one is too long and has a place to break, shortened otherwise."""
    short = shorten_all(list(ids), widest)
    return [("", brief) if brief == name else _broken(name, widest) or ("", brief) for name, brief in zip(ids, short)]


def _broken(name: str, widest: int) -> tuple[str, str] | None:
    places = [index + 1 for index, letter in enumerate(name) if letter in "_- ./" and index + 1 < len(name)]
    fitting = [place for place in places if place <= widest and len(name) - place <= widest]
    if not fitting:
        return None
    place = min(fitting, key=lambda one: max(one, len(name) - one))
    return name[:place].rstrip(), name[place:]
