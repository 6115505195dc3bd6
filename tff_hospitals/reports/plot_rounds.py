"""The headline metric by round: how fast each method learns, one panel for each kind of promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tff_hospitals.reports.plot_labels import SideLabel, side_labels
from tff_hospitals.reports.plot_privacy import footer_text, score_limits
from tff_hospitals.reports.plot_style import (
    DASHES,
    INK,
    MARGIN,
    SERIES,
    SMALL_SIZE,
    TEXT_SIZE,
    WIDTH,
    Picture,
    Sheet,
    private_styles,
    score_axis,
)
from tff_hospitals.reports.rows import GROUP_TITLES, CurvePoint, Row, ordered
from tff_hospitals.reports.spread import Interval, t_interval
from tff_hospitals.reports.summary import Summary
from tff_hospitals.reports.wording import metric_head, metric_title, row_title, score_words, shorten_all

_MOST_BANDS = 4  # of one panel; more bands would only hide each other


def accuracy_by_round(summary: Summary) -> Picture | None:
    """The picture, or None when no row has a curve of two points."""
    rows = [row for row in ordered(summary.rows) if _measured(row)]
    if not rows:
        return None
    groups = [group for group in GROUP_TITLES if any(row.group == group for row in rows)]
    if "baseline" in groups and "no_guarantee" in groups:
        groups.remove("baseline")  # both stand in one panel
    panels = [(group, [row for row in rows if _panel(row, groups) == group]) for group in groups]
    styles = {key: colour for key, (colour, _) in private_styles(summary.rows).items()}
    names = dict(zip(map(id, rows), shorten_all([row_title(row) for row in rows], 38)))
    limits = [_limits(members) for _, members in panels]
    spans = [high - low for low, high in limits]
    own_scales = max(spans) > 2.0 * min(spans)
    if not own_scales:
        limits = [(min(low for low, _ in limits), max(high for _, high in limits))] * len(panels)
    heights = [max(1.75, 0.165 * len(members)) for _, members in panels]
    bands = "between the two seeds" if all(row.score.seeds == 2 for row in rows) else "95 % intervals over seeds"
    banded = any(len(members) <= _MOST_BANDS and _bands(members) for _, members in panels)
    sheet = Sheet(
        f"{metric_title(summary.metric)} by round",
        f"{metric_title(summary.metric)} (mean of the hospitals) after each evaluated round"
        + (f"; bands: {bands}, in panels of up to four methods." if banded else ". Lines are means over seeds."),
        footer_text(summary) + (" · the scales of the panels differ" if own_scales else ""),
        sum(heights) + 0.42 * len(panels) + 0.4,
    )
    margin = max(sheet.text_width(name, SMALL_SIZE) for name in names.values())
    left, right = 0.75, WIDTH - MARGIN - margin - 0.5
    top = sheet.height - 0.3
    last = max(point.round for row in rows for point, _ in _measured(row))
    for (group, members), height, limit in zip(panels, heights, limits):
        axes = sheet.axes(left, right, top - height, top)
        title = "No privacy guarantee" if group in ("baseline", "no_guarantee") else GROUP_TITLES[group]
        axes.set_title(title, loc="left", size=TEXT_SIZE, weight="bold", color=INK, pad=5)
        axes.set_xlim(min(point.round for row in rows for point, _ in _measured(row)), last)
        axes.set_ylim(*limit)
        score_axis(axes.yaxis, summary.metric)
        axes.set_ylabel(metric_head(summary.metric), size=TEXT_SIZE)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if group == panels[-1][0]:
            axes.set_xlabel("round", size=TEXT_SIZE)
        else:
            axes.tick_params(labelbottom=False)
        _lines(axes, members, names, last, styles)
        top -= height + 0.42
    ends_words = "; ".join(f"{row_title(row)}: {score_words(row.metric, _measured(row)[-1][1])}" for row in rows)
    return sheet.finish(
        "accuracy_by_round",
        "Accuracy by round",
        "Each line is the mean over seeds. A run that stopped early keeps its last figure, which is that of the "
        "model it would release. Line colours "
        "name the method within a panel; broken lines are the same method at a tighter epsilon.",
        f"{metric_title(summary.metric)} by round. After the last round: {ends_words}.",
    )


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    points = [(row, *point) for row in rows for point in _measured(row)]
    banded = len(rows) <= _MOST_BANDS
    intervals = [_interval(row, point) if banded else None for row, point, _ in points]
    return score_limits(rows[0].metric, [value for _, _, value in points], intervals)


def _measured(row: Row) -> list[tuple[CurvePoint, float]]:
    return row.way if len(row.way) > 1 else []


def _panel(row: Row, groups: Sequence[str]) -> str:
    return row.group if row.group in groups else "no_guarantee"


def _interval(row: Row, point: CurvePoint) -> Interval | None:
    mean, sd = (point.values.get(f"{row.headline}_{what}") for what in ("mean", "sd"))
    if row.score.seeds == 2 and mean is not None and sd is not None:
        # An interval over two seeds is thirteen times as wide as they lie apart: it would fill the panel.
        return Interval(mean - sd / math.sqrt(2.0), mean + sd / math.sqrt(2.0))
    return t_interval(mean, sd, row.score.seeds)


def _bands(rows: Sequence[Row]) -> bool:
    return any(_interval(row, point) is not None for row in rows for point, _ in _measured(row))


def _lines(
    axes: Any, rows: Sequence[Row], names: dict[int, str], last: int, styles: dict[tuple[str, str], str]
) -> None:
    methods = list(dict.fromkeys(row.method for row in rows))
    targets = sorted({row.target_epsilon or 0.0 for row in rows}, reverse=True)
    labels = []
    for row in rows:
        points = _measured(row)
        place = methods.index(row.method)
        turn = place // len(SERIES) + (targets.index(row.target_epsilon or 0.0) if row.private else 0)
        colour = styles.get((row.method, row.unit), SERIES[place % len(SERIES)])
        dashes = DASHES[turn % len(DASHES)]
        xs, ys = [point.round for point, _ in points], [value for _, value in points]
        axes.plot(xs, ys, color=colour, lw=1.6, linestyle=dashes, zorder=3)
        if xs[-1] < last:  # stopped early: a dot where it ended
            axes.plot(xs[-1], ys[-1], marker="o", ms=4, color=colour, zorder=4)
        if len(rows) <= _MOST_BANDS:
            intervals = [
                (point.round, interval) for point, _ in points if (interval := _interval(row, point)) is not None
            ]
            if intervals:
                lows, highs = [i.low for _, i in intervals], [i.high for _, i in intervals]
                axes.fill_between([x for x, _ in intervals], lows, highs, color=colour, alpha=0.13, lw=0, zorder=2)
        labels.append(SideLabel(ys[-1], names[id(row)], colour, dashes))
    side_labels(axes, labels)
