"""The columns of the printed table: heads in up to two lines and one text per row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tff_hospitals.reports.rows import Row, by_loss
from tff_hospitals.reports.summary import Summary
from tff_hospitals.reports.wording import (
    MISSING,
    asked_text,
    byte_scale,
    delta_text,
    epsilon_text,
    percent,
    scaled_bytes,
    seconds_text,
    shorten_all,
    significant,
)

_NARROWEST_METHOD = 18
_NARROWEST_HOSPITAL = 6
_WIDEST_HOSPITAL = 24


@dataclasses.dataclass(frozen=True)
class Column:
    """Two head lines (the upper one may be empty), the cells, and on which side the texts stand."""

    upper: str
    lower: str
    cells: tuple[str, ...]
    left: bool = False

    @property
    def width(self) -> int:
        """Characters of the widest text."""
        return max(map(len, (self.upper, self.lower, *self.cells)))

    def place(self, text: str) -> str:
        """A text of this column, padded to its width."""
        return text.ljust(self.width) if self.left else text.rjust(self.width)


def left_columns(rows: Sequence[Row], delta: float | None, one_delta: bool) -> list[Column]:
    """Unit, epsilon and accuracy."""
    epsilons = [epsilon_text(row.epsilon if row.private else None) if row.measured else asked_text(row) for row in rows]
    if not one_delta:
        epsilons = [f"{text} ({delta_text(row.delta)})" if row.private else text for text, row in zip(epsilons, rows)]
    head = f"({delta_text(delta)})" if one_delta and delta is not None else "(delta)"
    spread = max((len(percent(row.accuracy_sd)) for row in rows if row.accuracy_sd is not None), default=0)
    score = Column("accuracy %", "mean ± sd", tuple(_accuracy(row, spread) for row in rows))
    if by_loss(rows):
        score = Column("loss", "mean", tuple(significant(row.loss_mean, 4) for row in rows))
    units = Column("", "unit", tuple(row.unit for row in rows), left=True)
    return [units, Column("epsilon", head, tuple(epsilons)), score]


def right_columns(rows: Sequence[Row]) -> list[Column]:
    """Bytes in both directions and seconds."""
    divisor, size = byte_scale(rows)
    return [
        Column(size, "up", tuple(scaled_bytes(row.bytes_up, divisor) for row in rows)),
        Column(size, "down", tuple(scaled_bytes(row.bytes_down, divisor) for row in rows)),
        Column("s per", "round", tuple(seconds_text(row.seconds_per_round) for row in rows)),
    ]


def _accuracy(row: Row, spread: int) -> str:
    if row.accuracy_mean is None:
        return MISSING if row.measured else "not run"
    text = percent(row.accuracy_mean)
    if row.accuracy_sd is not None:
        return f"{text} ± {percent(row.accuracy_sd):>{spread}}"
    return text + " " * (spread + 3 if spread else 0)


def method_column(rows: Sequence[Row], marks: Sequence[str], width: int) -> Column:
    """Names with their warning marks in `width` characters; different methods stay different."""
    names = list(dict.fromkeys(row.name for row in rows))
    longest_mark = {name: max(len(mark) for row, mark in zip(rows, marks) if row.name == name) for name in names}
    brief = {name: shorten_all(names, width - longest_mark[name])[index] for index, name in enumerate(names)}
    cells = [(brief[row.name] + mark).ljust(width) for row, mark in zip(rows, marks)]
    return Column("", "method", tuple(cells), left=True)


def hospital_columns(
    summary: Summary, rows: Sequence[Row], marks: Sequence[str], room: int
) -> tuple[list[Column], int, bool]:
    """Columns per hospital where they fit, otherwise lowest, median and highest.

    Args:
      summary, rows, marks: what is printed.
      room: characters that hospitals and method share.

    Returns:
      the columns, the width left for the method, and whether the hospitals were collapsed.
    """
    wanted = max([len(row.name) + len(mark) for row, mark in zip(rows, marks)] + [len("method")])
    narrowest = min(wanted, _NARROWEST_METHOD + max(map(len, marks)))
    if by_loss(rows):
        return [], min(wanted, room), False
    ids = list(summary.hospital_ids)
    cells = [tuple(percent(row.accuracy_per_hospital.get(one)) for row in rows) for one in ids]
    for enough in (wanted, narrowest):  # first with whole method names, then with shortened ones
        lowest = 8 if enough == wanted else _NARROWEST_HOSPITAL
        for widest in range(_WIDEST_HOSPITAL, lowest - 1, -1):
            columns = [Column(*head, texts) for head, texts in zip(_heads(ids, widest), cells)]
            left = room - sum(column.width + 2 for column in columns)
            if left >= enough:
                return columns, min(wanted, left), False
    columns = [
        Column("", name, tuple(percent(quantile(row, share)) for row in rows))
        for name, share in (("lowest", 0.0), ("median", 0.5), ("highest", 1.0))
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


def quantile(row: Row, share: float) -> float | None:
    """The quantile of a row's accuracies over its hospitals, linear between neighbours."""
    known = sorted(value for value in row.accuracy_per_hospital.values() if value is not None)
    if not known:
        return None
    position = share * (len(known) - 1)
    below = int(position)
    above = min(below + 1, len(known) - 1)
    return known[below] + (position - below) * (known[above] - known[below])
