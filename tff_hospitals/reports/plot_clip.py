"""The norm that clips updates by round: whether an adaptive clip of TFF's goes the way of ours."""

from __future__ import annotations

from typing import Any

from tff_hospitals.reports.plot_labels import SideLabel, side_labels
from tff_hospitals.reports.plot_privacy import footer_text
from tff_hospitals.reports.plot_style import (
    DASHES,
    MARGIN,
    SERIES,
    SMALL_SIZE,
    TEXT_SIZE,
    WIDTH,
    Picture,
    Sheet,
    log_axis,
)
from tff_hospitals.reports.rows import Row, ordered
from tff_hospitals.reports.spread import Interval, t_interval
from tff_hospitals.reports.summary import Summary
from tff_hospitals.reports.wording import row_title, shorten_all, significant

_LEAST_CHANGE = 1e-3
_HEIGHT = 3.4


def clip_norm_by_round(summary: Summary) -> Picture | None:
    """The picture, or None when no row has a clip norm that moves."""
    rows = [row for row in ordered(summary.rows) if len(_norms(row)) > 1]
    if not any(_moves(row) for row in rows):
        return None
    sheet, axes, names = lines_panel(
        summary,
        rows,
        "Clip norm by round",
        "Norm that the updates of a round were clipped to (logarithmic scale); bands: 95 % intervals over seeds. "
        "Methods that follow the same quantile should go the same way.",
    )
    values = [value for row in rows for _, value in _norms(row)]
    axes.set_xlim(1, max(number for row in rows for number, _ in _norms(row)))
    axes.set_yscale("log")
    axes.set_ylim(min(values) / 1.15, max(values) * 1.15)
    log_axis(axes.yaxis, min(values) / 1.15, max(values) * 1.15)
    axes.set_ylabel("clip norm", size=TEXT_SIZE)
    axes.set_xlabel("round", size=TEXT_SIZE)
    axes.xaxis.get_major_locator().set_params(integer=True)
    methods = list(dict.fromkeys(row.method for row in rows))
    targets = sorted({row.target_epsilon or 0.0 for row in rows}, reverse=True)
    labels = []
    for row in rows:
        colour = SERIES[methods.index(row.method) % len(SERIES)]
        dashes = DASHES[targets.index(row.target_epsilon or 0.0) % len(DASHES)]
        points = _norms(row)
        axes.plot(*zip(*points), color=colour, lw=1.6, linestyle=dashes, zorder=3)
        bands = [(number, band) for number, band in _bands(row)]
        if bands and _moves(row):
            lows, highs = [max(band.low, min(values) / 1.15) for _, band in bands], [band.high for _, band in bands]
            axes.fill_between([number for number, _ in bands], lows, highs, color=colour, alpha=0.13, lw=0, zorder=2)
        labels.append(SideLabel(points[-1][1], names[id(row)], colour, dashes))
    side_labels(axes, labels)
    ends = "; ".join(f"{row_title(row)}: {significant(_norms(row)[-1][1])}" for row in rows)
    return sheet.finish(
        "clip_norm_by_round",
        "Clip norm by round",
        "Each line is the mean over seeds. An adaptive norm follows a noised quantile of the update norms; a fixed one "
        "is a level line.",
        f"Clip norm by round. In the last round: {ends}.",
    )


def lines_panel(summary: Summary, rows: list[Row], title: str, words: str) -> tuple[Sheet, Any, dict[int, str]]:
    """A sheet with one panel for a line of each row, room for their names beside it, and the names by row's id."""
    names = dict(zip(map(id, rows), shorten_all([row_title(row) for row in rows], 38)))
    sheet = Sheet(title, words, footer_text(summary), max(_HEIGHT, 0.2 * len(rows)) + 0.5)
    margin = max(sheet.text_width(name, SMALL_SIZE) for name in names.values())
    return sheet, sheet.axes(0.75, WIDTH - MARGIN - margin - 0.5, 0.45, sheet.height - 0.1), names


def _norms(row: Row) -> list[tuple[int, float]]:
    """(round, norm) of the rounds that have one, rounds from 1."""
    found = enumerate(row.get("clip_norms") or (), start=1)
    return [(number, value) for number, value in found if value is not None and value > 0]


def _moves(row: Row) -> bool:
    values = [value for _, value in _norms(row)]
    return max(values) > (1 + _LEAST_CHANGE) * min(values)


def _bands(row: Row) -> list[tuple[int, Interval]]:
    deviations = row.get("clip_norms_sd") or ()
    means = row.get("clip_norms") or ()
    found = []
    for number, (centre, deviation) in enumerate(zip(means, deviations), start=1):
        band = t_interval(centre, deviation, row.score.seeds)
        if band is not None:
            found.append((number, band))
    return found
