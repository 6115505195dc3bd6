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

from tff_hospitals.reports.columns import Shown
from tff_hospitals.reports.findings import cautions
from tff_hospitals.reports.rows import GROUP_TITLES, Row, common_warnings, ordered
from tff_hospitals.reports.summary import Summary
from tff_hospitals.reports.table_columns import Printed, hospital_columns, method_column, printed_columns
from tff_hospitals.reports.wording import (
    adjacency_sentence,
    conversions_text,
    delta_text,
    joint_sentences,
    worst_hospital,
)

_BOLD, _DIM, _YELLOW, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[33m", "\x1b[0m"


def terminal_table(summary: Summary, *, width: int = 120, colours: bool = False) -> str:
    """The table as text, every line at most `width` characters.

    Args:
      summary: the comparison.
      width: columns of the terminal, at least 80; four hospitals fit 120.
      colours: whether to add ANSI colours.
    """
    rows = ordered(summary.rows)
    notes = _Notes(rows)
    marks = [notes.mark(row) for row in rows]
    shown = Shown(rows, delta=summary.delta, splits=summary.splits)
    left, right = printed_columns(shown, before_hospitals=True), printed_columns(shown, before_hospitals=False)
    dropped: list[str] = []
    while True:
        room = max(width, 80) - sum(column.width + 2 for column in (*left, *right))
        hospitals, method_width, collapsed = hospital_columns(summary.hospital_ids, rows, marks, room)
        columns = [method_column(rows, marks, method_width), *left, *hospitals, *right]
        if not right or sum(column.width + 2 for column in columns) - 2 <= max(width, 80):
            break
        dropped.insert(0, f"{right[-1].upper} {right[-1].lower}".strip())
        right = right[:-1]
    lines = _head_lines(columns, hospitals, shown.hospital_title(collapsed))
    rule = "─" * max(map(len, lines))
    lines.append(rule)
    group = ""
    for index, row in enumerate(rows):
        if row.group != group:
            group = row.group
            lines.append(_paint(GROUP_TITLES[group], _DIM, colours))
        line = "  ".join(column.place(column.cells[index]) for column in columns).rstrip()
        lines.append(_paint(line, _YELLOW, colours and bool(marks[index])))
    lines.append(rule)
    title = _paint(summary.title or f"Comparison on {summary.dataset.name}", _BOLD, colours)
    below = [*_footer(summary, shown, collapsed), *notes.lines()]
    if dropped:
        below.insert(1, f"Columns that do not fit the width are in summary.csv: {', '.join(dropped)}.")
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
        for special, simple in (("±", "+-"), ("─", "-"), ("…", "~"), ("–", "-")):
            text = text.replace(special, simple)
        text = text.encode("ascii", "replace").decode()
    out.write(text)


class _Notes:
    """Numbers the warnings: equal words share a number, words that hold for every row need none."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._common = common_warnings(rows)
        self._texts: list[str] = []

    def mark(self, row: Row) -> str:
        """The numbers of a row's own warnings."""
        own = [text for text in row.warnings if text not in self._common]
        self._texts += [text for text in dict.fromkeys(own) if text not in self._texts]
        numbers = sorted({self._texts.index(text) + 1 for text in own})
        return f" [{','.join(map(str, numbers))}]" if numbers else ""

    def lines(self) -> list[str]:
        """The footnotes, those for all rows first."""
        everywhere = [f"All rows: {' '.join(text.split())}" for text in self._common]
        return everywhere + [f"[{k}] {' '.join(text.split())}" for k, text in enumerate(self._texts, start=1)]


def _head_lines(columns: Sequence[Printed], hospitals: Sequence[Printed], title: str) -> list[str]:
    """Head lines with one title over all hospital columns; it has a line of its own when a name needs two."""
    two_lines = any(column.upper for column in hospitals)
    inside = {id(column) for column in hospitals}
    above, upper = [], []
    for column in columns:
        upper.append(column.place(column.upper))
        if id(column) not in inside:
            above.append(" " * column.width if two_lines else column.place(column.upper))
        elif column is hospitals[0]:
            above.append(_over(title, sum(one.width + 2 for one in hospitals) - 2))
    lines = ["  ".join(above), *(["  ".join(upper)] if two_lines else [])]
    lines.append("  ".join(column.place(column.lower) for column in columns))
    return [line.rstrip() for line in lines]


def _over(title: str, span: int) -> str:
    if len(title) > span:
        title = "hospitals"
    return title.center(span, "·") if len(title) + 2 > span else f" {title} ".center(span, "·")


def _footer(summary: Summary, shown: Shown, collapsed: bool) -> list[str]:
    rows = shown.rows
    lines = [f"{shown.score_sentence} Bytes: whole run, all hospitals."]
    if summary.headline_reason and shown.metric.name != "accuracy":
        lines.append(f"Ranked by {shown.metric.label}: {summary.headline_reason}.")
    lines += cautions(summary)
    private = [row for row in rows if row.private]
    if private:
        worst = list(dict.fromkeys(worst for row in private if (worst := worst_hospital(row))))
        named = f" ({', '.join(worst[:3])})" if worst else ""
        adjacency = adjacency_sentence(rows)
        conversion = conversions_text(summary.conversion, private)
        how = "; ".join(
            text for text in (f"neighbouring data sets at {adjacency}" if adjacency else "", conversion) if text
        )
        where = f"at delta {delta_text(shown.deltas[0])}" if len(shown.deltas) == 1 else "with its delta in brackets"
        lines.append(f"Epsilon: of the worst hospital{named}, {where}{'; ' + how if how else ''}. none = no guarantee.")
    lines += [" ".join(joint)] if (joint := joint_sentences(summary.joint_epsilon, summary.splits)) else []
    if not all(row.measured for row in rows):
        lines.append("An epsilon in brackets is a target that was out of reach: the method was not run.")
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
