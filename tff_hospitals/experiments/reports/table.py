"""The table that a comparison prints on the terminal: plain text that fits the width, footnotes in words below.

Rows stand in blocks: baselines, methods without a guarantee, record level, hospital level by epsilon. Colours are only
used on a terminal and never carry meaning alone.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

from tff_hospitals.experiments.reports.rows import GROUP_TITLES, Row, by_loss, ordered
from tff_hospitals.experiments.reports.summary import Summary
from tff_hospitals.experiments.reports.wording import (
    MISSING,
    adjacency_sentence,
    byte_scale,
    delta_text,
    epsilon_text,
    percent,
    scaled_bytes,
    shorten_all,
    significant,
)

_NARROWEST_METHOD = 18
_NARROWEST_HOSPITAL = 6
_WIDEST_HOSPITAL = 12
_BOLD, _DIM, _YELLOW, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[33m", "\x1b[0m"


def terminal_table(summary: Summary, *, width: int = 120, colours: bool = False) -> str:
    """The table as text, every line at most `width` characters.

    Args:
      summary: the comparison.
      width: columns of the terminal, at least 80; four hospitals fit 120.
      colours: whether to add ANSI colours.
    """
    rows = ordered(summary.rows)
    notes = _Notes()
    marks = [notes.mark(row) for row in rows]
    one_delta = len({row.delta for row in rows if row.private}) <= 1
    fixed = _fixed_columns(rows, one_delta, summary)
    room = max(width, 80) - sum(len(column[1]) + 2 for column in fixed)
    hospital_columns, method_width, collapsed = _hospital_columns(summary, rows, marks, room)
    names = _names(rows, marks, method_width)
    first = ["method".ljust(method_width), *[name.ljust(method_width) for name in names]]
    left, right = fixed[:3], fixed[3:]
    columns = [first, *[column[1:] for column in left], *hospital_columns, *[column[1:] for column in right]]
    heads = ["", *[column[0] for column in left], *[""] * len(hospital_columns), *[column[0] for column in right]]
    lines = [_super_header(heads, columns, len(left) + 1, hospital_columns, collapsed).rstrip()]
    lines.append("  ".join(column[0] for column in columns).rstrip())
    lines.append("─" * max(map(len, ("  ".join(column[0] for column in columns), lines[0]))))
    group = ""
    for index, row in enumerate(rows, start=1):
        if row.group != group:
            group = row.group
            lines.append(_paint(GROUP_TITLES[group], _DIM, colours))
        line = "  ".join(column[index] for column in columns).rstrip()
        lines.append(_paint(line, _YELLOW, colours) if row.warnings else line)
    lines.append(lines[2])
    title = _paint(summary.title or f"Comparison on {summary.dataset.name}", _BOLD, colours)
    below = [*_footer(summary, rows, one_delta, collapsed), *notes.lines()]
    wrapped = [line for text in below for line in textwrap.wrap(text, max(width, 80), subsequent_indent="    ")]
    return "\n".join([title, "", *lines, *wrapped])


def print_table(summary: Summary, stream: TextIO | None = None) -> None:
    """Prints the table in 120 columns; on a terminal with its own width and in colours."""
    out = sys.stdout if stream is None else stream
    terminal = bool(getattr(out, "isatty", lambda: False)())
    colours = terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    width = max(100, shutil.get_terminal_size((120, 40)).columns) if terminal else 120
    text = terminal_table(summary, width=width, colours=colours) + "\n"
    encoding = getattr(out, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        for special, simple in (("±", "+-"), ("─", "-"), ("…", "~")):
            text = text.replace(special, simple)
        text = text.encode("ascii", "replace").decode()
    out.write(text)


class _Notes:
    """Numbers the warnings: equal words share a number."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def mark(self, row: Row) -> str:
        for text in row.warnings:
            if text not in self._texts:
                self._texts.append(text)
        numbers = sorted({self._texts.index(text) + 1 for text in row.warnings})
        return f" [{','.join(map(str, numbers))}]" if numbers else ""

    def lines(self) -> list[str]:
        return [f"[{number}] {' '.join(text.split())}" for number, text in enumerate(self._texts, start=1)]


def _right(head: str, texts: Sequence[str]) -> list[str]:
    width = max(map(len, (head, *texts)))
    return [text.rjust(width) for text in (head, *texts)]


def _fixed_columns(rows: Sequence[Row], one_delta: bool, summary: Summary) -> list[list[str]]:
    """Columns as [line above the header, header, cells...]: three left of the hospitals, three right of them."""
    units = [row.unit for row in rows]
    width = max(map(len, ("unit", *units)))
    epsilons = [epsilon_text(row.epsilon if row.private else None) if row.measured else MISSING for row in rows]
    if not one_delta:
        epsilons = [f"{text} ({delta_text(row.delta)})" if row.private else text for text, row in zip(epsilons, rows)]
    shared = next((row.delta for row in rows if row.private), summary.delta)
    head = f"({delta_text(shared)})" if one_delta and shared is not None else "(delta)"
    epsilon_column = _right(head, epsilons)
    if len(epsilon_column[0]) < len("epsilon"):
        epsilon_column = [text.rjust(len("epsilon")) for text in epsilon_column]
    spread = max((len(percent(row.accuracy_sd)) for row in rows if row.accuracy_sd is not None), default=0)
    accuracy = [_accuracy(row, spread) for row in rows]
    score = ["accuracy %", *_right("mean ± sd", accuracy)]
    if by_loss(rows):
        score = ["loss", *_right("mean", [significant(row.loss_mean, 4) for row in rows])]
    divisor, size = byte_scale(rows)
    seconds = [significant(row.seconds_per_round, 2) for row in rows]
    return [
        ["", *[text.ljust(width) for text in ("unit", *units)]],
        ["epsilon", *epsilon_column],
        score,
        [size, *_right("up", [scaled_bytes(row.bytes_up, divisor) for row in rows])],
        [size, *_right("down", [scaled_bytes(row.bytes_down, divisor) for row in rows])],
        ["s per", *_right("round", seconds)],
    ]


def _accuracy(row: Row, spread: int) -> str:
    if row.accuracy_mean is None:
        return MISSING if row.measured else "not run"
    text = percent(row.accuracy_mean)
    if row.accuracy_sd is not None:
        return f"{text} ± {percent(row.accuracy_sd):>{spread}}"
    return text + " " * (spread + 3 if spread else 0)


def _names(rows: Sequence[Row], marks: Sequence[str], width: int) -> list[str]:
    """Names with their marks in `width` characters; different methods stay different."""
    names = list(dict.fromkeys(row.name for row in rows))
    longest_mark = {name: max(len(mark) for row, mark in zip(rows, marks) if row.name == name) for name in names}
    brief = {name: shorten_all(names, width - longest_mark[name])[index] for index, name in enumerate(names)}
    return [brief[row.name] + mark for row, mark in zip(rows, marks)]


def _hospital_columns(
    summary: Summary, rows: Sequence[Row], marks: Sequence[str], room: int
) -> tuple[list[list[str]], int, bool]:
    """Columns per hospital where they fit, otherwise lowest, median and highest; and the width left for the method."""
    wanted = max([len(row.name) + len(mark) for row, mark in zip(rows, marks)] + [len("method")])
    narrowest = min(wanted, _NARROWEST_METHOD + max(map(len, marks)))
    ids = list(summary.hospital_ids)
    if by_loss(rows):
        return [], min(wanted, room), False
    for widest in range(_WIDEST_HOSPITAL, _NARROWEST_HOSPITAL - 1, -1):
        columns = [
            _right(name, [percent(row.accuracy_per_hospital.get(hospital_id)) for row in rows])
            for name, hospital_id in zip(shorten_all(ids, widest), ids)
        ]
        left = room - sum(len(column[0]) + 2 for column in columns)
        enough = wanted if widest > _NARROWEST_HOSPITAL + 2 else narrowest
        if left >= enough:
            return columns, min(wanted, left), False
    columns = [
        _right("lowest", [percent(quantile(row, 0.0)) for row in rows]),
        _right("median", [percent(quantile(row, 0.5)) for row in rows]),
        _right("highest", [percent(quantile(row, 1.0)) for row in rows]),
    ]
    left = room - sum(len(column[0]) + 2 for column in columns)
    return columns, max(min(wanted, left), min(narrowest, wanted)), True


def quantile(row: Row, share: float) -> float | None:
    """The quantile of a row's accuracies over its hospitals, linear between neighbours."""
    known = sorted(value for value in row.accuracy_per_hospital.values() if value is not None)
    if not known:
        return None
    position = share * (len(known) - 1)
    below = int(position)
    above = min(below + 1, len(known) - 1)
    return known[below] + (position - below) * (known[above] - known[below])


def _super_header(
    heads: Sequence[str],
    columns: Sequence[Sequence[str]],
    start: int,
    hospital_columns: Sequence[Sequence[str]],
    collapsed: bool,
) -> str:
    """The line above the header: units, and one title over all hospital columns."""
    pieces = []
    for index, (head, column) in enumerate(zip(heads, columns)):
        if index == start and hospital_columns:
            span = sum(len(one[0]) for one in hospital_columns) + 2 * (len(hospital_columns) - 1)
            title = "accuracy % of the hospitals" if collapsed else "accuracy % at each hospital"
            if len(title) > span:
                title = "hospitals, %"
            pieces.append(title.center(span, "·") if len(title) + 2 > span else f" {title} ".center(span, "·"))
        elif not (start < index < start + len(hospital_columns)):
            pieces.append(head.rjust(len(column[0])))
    return "  ".join(pieces)


def _footer(summary: Summary, rows: Sequence[Row], one_delta: bool, collapsed: bool) -> list[str]:
    seeds = len(summary.seeds) or max((row.seeds_measured for row in rows), default=0)
    over = f"mean and standard deviation over {seeds} seeds" if seeds > 1 else "one seed only, so no spread is known"
    score = (
        "Loss: mean over the hospitals' test sets" if by_loss(rows) else "Accuracy: mean over the hospitals' test sets"
    )
    lines = [f"{score}, {over}. Bytes: whole run, all hospitals."]
    private = [row for row in rows if row.private]
    if private:
        worst = list(dict.fromkeys(row.worst_hospital for row in private if row.worst_hospital))
        named = f" ({', '.join(worst[:3])})" if worst else ""
        adjacency = adjacency_sentence(rows)
        conversion = summary.conversion.upper().replace("_", " ")
        how = "; ".join(
            text for text in (f"neighbouring data sets at {adjacency}" if adjacency else "", conversion) if text
        )
        where = f"at delta {delta_text(private[0].delta)}" if one_delta else "with its delta in brackets"
        lines.append(f"Epsilon: of the worst hospital{named}, {where}{'; ' + how if how else ''}. none = no guarantee.")
    if collapsed:
        lines.append(
            f"{len(summary.hospital_ids)} hospitals do not fit the width: lowest, median and highest; all are in "
            f"summary.csv."
        )
    if summary.dataset.simulated:
        lines.append(f"Simulated hospitals: {summary.dataset.partition or summary.dataset.name}.")
    return lines


def _paint(text: str, code: str, colours: bool) -> str:
    return f"{code}{text}{_PLAIN}" if colours else text
