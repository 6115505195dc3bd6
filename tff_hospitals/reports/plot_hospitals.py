"""The headline metric per hospital, and what each gains over training alone: who gains and who pays, with the size of
every hospital in sight.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tff_hospitals.reports.gains import gain_interval, gain_text, gain_words, gains
from tff_hospitals.reports.plot_privacy import footer_text, intervals_over, score_limits
from tff_hospitals.reports.plot_style import (
    GRID,
    INK,
    MARGIN,
    MUTED,
    NEUTRAL,
    SERIES,
    SMALL_SIZE,
    TEXT_SIZE,
    UNIT_MARKERS,
    WIDTH,
    Picture,
    Sheet,
    score_axis,
)
from tff_hospitals.reports.rows import GROUPS, Row, ordered
from tff_hospitals.reports.spread import Interval
from tff_hospitals.reports.summary import HospitalFacts, Summary
from tff_hospitals.reports.wording import metric_head, metric_title, row_title, score_text, shorten, shorten_all

MOST_PANELS = 8  # hospitals with a panel of their own; more are drawn as one distribution per method
_PER_LINE = 4
_STEP = 0.235  # inches from one method to the next
GROUP_COLOURS = dict(zip(GROUPS, (NEUTRAL[2], NEUTRAL[0], SERIES[0], SERIES[1])))


@dataclasses.dataclass(frozen=True)
class _View:
    """What is drawn of each hospital.

    Attributes:
      file, name: of the picture.
      titles: of panels, and of a distribution over so many hospitals.
      words: what a value is.
      head: of the axis.
      values, interval: of a row, by hospital.
      text: a value in letters.
      limits: of the axis, from values and intervals.
      higher_is_better: which hospital is served worst.
      from_zero: whether 0 is what values are read against; else the median method is.
      caption: what else a reader of the panels must know.
    """

    file: str
    name: str
    titles: tuple[str, str]
    words: str
    head: str
    values: Callable[[Row], Mapping[str, float | None]]
    interval: Callable[[Row, str], Interval | None]
    text: Callable[[float | None], str]
    limits: Callable[[Sequence[float], Sequence[Interval | None]], tuple[float, float]]
    higher_is_better: bool
    from_zero: bool
    caption: str


def accuracy_per_hospital(summary: Summary) -> Picture | None:
    """The picture, or None when no row knows its figure of each hospital."""
    metric = summary.metric
    view = _View(
        "accuracy_per_hospital",
        "Accuracy per hospital",
        ("What every hospital gets from each method", "How evenly each method serves the {} hospitals"),
        f"{metric_title(metric)} on the hospital's own test records",
        metric_head(metric),
        lambda row: row.score.per_hospital,
        lambda row, key: row.score.interval_of(key),
        lambda value: score_text(metric, value),
        lambda values, ends: score_limits(metric, values, ends),
        metric.higher_is_better,
        False,
        "Small test sets make wide intervals: read the number of test records under each name first.",
    )
    return _drawn(summary, view)


def gain_per_hospital(summary: Summary) -> Picture | None:
    """The picture, or None without a row of each hospital alone."""
    metric = summary.metric

    def limits(values: Sequence[float], ends: Sequence[Interval | None]) -> tuple[float, float]:
        reach = 1.1 * max(map(abs, [*values, *(end for one in ends if one is not None for end in one)])) or 0.01
        return -reach, reach

    view = _View(
        "gain_per_hospital",
        "Who gains from taking part, and who loses",
        ("Who gains from taking part, and who loses", "Who of {} hospitals gains from taking part, and who loses"),
        f"{metric_title(metric)} minus that of the hospital's own model, same test records; right of 0 is a gain",
        f"gain in {gain_words(metric)}",
        gains,
        gain_interval,
        lambda value: gain_text(metric, value),
        limits,
        True,
        True,
        "A hospital whose bar lies right of the dotted line gains, left of it it loses; where the bar crosses the line "
        "its test records cannot tell.",
    )
    return _drawn(summary, view)


def _drawn(summary: Summary, view: _View) -> Picture | None:
    rows = [row for row in ordered(summary.rows) if any(v is not None for v in view.values(row).values())]
    if not rows:
        return None
    ids = [key for key in summary.hospital_ids if any(view.values(row).get(key) is not None for row in rows)]
    return (_panels if len(ids) <= MOST_PANELS else _distributions)(summary, rows, ids, view)


def size_words(summary: Summary, hospital_id: str) -> str:
    """Train and test records of a hospital as a figure states them."""
    facts = {hospital.id: hospital for hospital in summary.dataset.hospitals}.get(
        hospital_id, HospitalFacts(hospital_id)
    )
    parts = [
        f"{count} {kind}"
        for count, kind in ((facts.train_records, "train"), (facts.test_records, "test"))
        if count is not None
    ]
    return " · ".join(parts)


def _places(rows: Sequence[Row]) -> list[float]:
    """Heights of the rows from the top, with a gap between groups and between targets."""
    places, height = [], 0.0
    for before, row in zip([None, *rows], rows):
        if before is not None:
            changed = before.group != row.group or (row.private and before.target_epsilon != row.target_epsilon)
            height += 1.0 + (0.55 if before.group != row.group else 0.3 if changed else 0.0)
        places.append(height)
    return places


def _frame(axes: Any, places: Sequence[float], limits: tuple[float, float], rows: Sequence[Row]) -> None:
    axes.set_ylim(places[-1] + 0.7, -0.7)
    axes.set_yticks(places)
    axes.set_xlim(*limits)
    score_axis(axes.xaxis, rows[0].metric)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    for place in places:
        axes.axhline(place, color=GRID, lw=0.6, zorder=0.5)
    for (before, above), (row, below) in zip(zip(rows, places), list(zip(rows, places))[1:]):
        if before.group != row.group:
            axes.axhline((above + below) / 2, color=MUTED, lw=0.7, zorder=1)


def _panels(summary: Summary, rows: Sequence[Row], ids: Sequence[str], view: _View) -> Picture:
    names = shorten_all([row_title(row) for row in rows], 40)
    places = _places(rows)
    lines = -(-len(ids) // _PER_LINE)
    body = _STEP * (places[-1] + 1.4)
    intervals = {(id(row), key): view.interval(row, key) for row in rows for key in ids}
    some = any(interval is not None for interval in intervals.values())
    sheet = Sheet(
        view.titles[0],
        f"{view.words}; "
        + (
            f"bars: 95 % intervals over {intervals_over(summary)}."
            if some
            else "no intervals: they need two seeds or more."
        )
        + ("" if view.from_zero else " Dotted: the median method."),
        footer_text(summary),
        lines * (body + 0.95) - 0.1,
    )
    left = MARGIN + max(sheet.text_width(name, SMALL_SIZE) for name in names) + 0.15
    columns = min(_PER_LINE, len(ids))
    gap = 0.18
    width = (WIDTH - MARGIN - left - gap * (columns - 1)) / columns
    centres = [value for row in rows for key in ids if (value := view.values(row).get(key)) is not None]
    limits = view.limits(centres, list(intervals.values()))
    for index, key in enumerate(ids):
        start = left + (index % columns) * (width + gap)
        top = sheet.height - 0.4 - (index // columns) * (body + 0.95)
        axes = sheet.axes(start, start + width, top - body, top)
        _frame(axes, places, limits, rows)
        axes.set_yticklabels(names if index % columns == 0 else [])
        title = shorten(key, int(width / 0.105))
        sheet.text(start, sheet.bottom + top + 0.22, title, size=TEXT_SIZE, weight="bold", va="bottom")
        sheet.text(
            start, sheet.bottom + top + 0.05, size_words(summary, key), size=SMALL_SIZE, color=MUTED, va="bottom"
        )
        axes.set_xlabel(view.head, size=SMALL_SIZE)
        known = sorted(value for row in rows if (value := view.values(row).get(key)) is not None)
        axes.axvline(
            0.0 if view.from_zero else known[len(known) // 2], color=MUTED, lw=0.9, linestyle=(0, (1, 2)), zorder=1
        )
        for row, place in zip(rows, places):
            value = view.values(row).get(key)
            colour = GROUP_COLOURS[row.group]
            if value is None:
                axes.text(limits[0], place, " not measured", size=7.5, color=MUTED, va="center")
                continue
            interval = intervals[(id(row), key)]
            if interval is not None:
                axes.plot(
                    [interval.low, interval.high], [place, place], color=colour, lw=1.5, zorder=3, solid_capstyle="butt"
                )
            axes.plot(value, place, marker=UNIT_MARKERS[row.unit], ms=5.5, color=colour, ls="none", zorder=4)
    words = "; ".join(
        f"{row_title(row)}: " + ", ".join(f"{key} {view.text(view.values(row).get(key))}" for key in ids)
        for row in rows
    )
    return sheet.finish(
        view.file,
        view.name,
        "One panel per hospital, one line per method in the order of the table. Grey diamonds give no guarantee, blue "
        f"circles protect records, orange squares whole hospitals. {view.caption}",
        f"{view.head[:1].upper()}{view.head[1:]} per hospital. {words}.",
    )


def _box(axes: Any, values: Sequence[float], place: float, colour: str) -> None:
    """A box over the middle half, a line at the median, thin lines out to the lowest and highest."""
    import numpy as np

    low, first, middle, third, high = np.quantile(values, (0.0, 0.25, 0.5, 0.75, 1.0))
    top, bottom = place - 0.31, place + 0.31
    axes.plot([low, first], [place, place], color=colour, lw=0.8, zorder=3)
    axes.plot([third, high], [place, place], color=colour, lw=0.8, zorder=3)
    axes.plot([first, third, third, first, first], [top, top, bottom, bottom, top], color=colour, lw=1.3, zorder=3)
    axes.plot([middle, middle], [top, bottom], color=INK, lw=1.8, zorder=3.5)


def _distributions(summary: Summary, rows: Sequence[Row], ids: Sequence[str], view: _View) -> Picture:
    names = shorten_all([row_title(row) for row in rows], 40)
    places = _places(rows)
    facts = {hospital.id: hospital.train_records for hospital in summary.dataset.hospitals}
    known_sizes = [size for size in facts.values() if size]
    sheet = Sheet(
        view.titles[1].format(len(ids)),
        "Each dot is a hospital (larger dot: more training records). Box: the middle half of the hospitals, line: "
        "their median.",
        footer_text(summary)
        + (f" · {min(known_sizes)} to {max(known_sizes)} training records per hospital" if known_sizes else ""),
        (_STEP + 0.06) * (places[-1] + 1.4) + 0.75,
    )
    pick, end = (min, "lowest") if view.higher_is_better else (max, "highest")
    worst = [pick((v, key) for key in ids if (v := view.values(row).get(key)) is not None) for row in rows]
    worst_names = [f"{view.text(value)} {shorten(key, 18)}" for value, key in worst]
    left = MARGIN + max(sheet.text_width(name, SMALL_SIZE) for name in names) + 0.15
    right = WIDTH - MARGIN - max(sheet.text_width(text, SMALL_SIZE) for text in (*worst_names, end)) - 0.15
    axes = sheet.axes(left, right, 0.45, sheet.height - 0.25)
    values = [value for row in rows for key in ids if (value := view.values(row).get(key)) is not None]
    _frame(axes, places, view.limits(values, []), rows)
    if view.from_zero:
        axes.axvline(0.0, color=MUTED, lw=0.9, linestyle=(0, (1, 2)), zorder=1)
    axes.set_yticklabels(names)
    axes.set_xlabel(view.head, size=TEXT_SIZE)
    axes.text(1.015, 1.0, end, transform=axes.transAxes, size=SMALL_SIZE, color=MUTED, va="bottom")
    for row, place, text in zip(rows, places, worst_names):
        colour = GROUP_COLOURS[row.group]
        keys = [key for key in ids if view.values(row).get(key) is not None]
        xs = [view.values(row)[key] for key in keys]
        areas = [
            6.0 + 26.0 * ((facts.get(key) or 0) / max(known_sizes)) ** 0.5 if known_sizes else 14.0 for key in keys
        ]
        offsets = [place + 0.34 * (((index * 7) % 11) / 10.0 - 0.5) for index in range(len(keys))]
        axes.scatter(xs, offsets, s=areas, color=colour, alpha=0.45, lw=0, zorder=2.5)
        _box(axes, [x for x in xs if x is not None], place, colour)
        axes.text(1.015, place, text, transform=axes.get_yaxis_transform(), size=SMALL_SIZE, color=INK, va="center")
    words = "; ".join(f"{row_title(row)}: {end} {view.text(value)} at {key}" for row, (value, key) in zip(rows, worst))
    return sheet.finish(
        view.file,
        view.name,
        f"With {len(ids)} hospitals each method is drawn as a distribution: dots are hospitals, the box holds the "
        f"middle half, the lines reach the "
        "lowest and highest; the hospital that is served worst is named at the right. summary.csv holds every "
        "hospital's figure.",
        f"Distribution of {'gains in ' * view.from_zero}{summary.metric.label} over {len(ids)} hospitals. {words}.",
    )
