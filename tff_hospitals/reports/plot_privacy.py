"""The headline metric against epsilon: what each promise costs, with 95 % intervals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from tff_hospitals.foundations.validation import counted
from tff_hospitals.reports.plot_labels import SideLabel, column_labels, side_labels
from tff_hospitals.reports.plot_style import (
    CARD,
    DASHES,
    INK,
    MARGIN,
    NEUTRAL,
    SMALL_SIZE,
    TEXT_SIZE,
    UNIT_MARKERS,
    WIDTH,
    Picture,
    Sheet,
    log_axis,
    private_styles,
    score_axis,
)
from tff_hospitals.reports.rows import Row, ordered
from tff_hospitals.reports.summary import Summary
from tff_hospitals.reports.wording import (
    UNIT_SHORT,
    adjacency_sentence,
    conversions_text,
    delta_sentence,
    epsilon_text,
    interval_words,
    metric_head,
    metric_title,
    score_words,
    shorten_all,
)
from tff_hospitals.training.metrics import Metric

_MOST_LABELS = 12  # of one panel; above that, numbers with a key
_MOST_BESIDE = 5  # of one panel when two panels stand side by side; above that, one below the other
_SAME_SCALE = 2.5  # panels whose ranges differ more have scales of their own
_SAME_EPSILON = 1.06  # neighbours within six percent are drawn side by side
PANEL_TITLES = {
    "record": "Record level: hides one patient's record",
    "hospital": "Hospital level: hides a whole hospital",
}


@dataclasses.dataclass(frozen=True)
class Mark:
    """A private row as it is drawn: dodged epsilon, colour, filled or open, number in the key."""

    row: Row
    x: float
    factor: float
    colour: str
    filled: bool
    number: int


def accuracy_against_epsilon(summary: Summary) -> Picture | None:
    """The picture, or None when no row has both a guarantee and a headline figure."""
    private = [row for row in ordered(summary.rows) if row.private and row.score.mean is not None and row.epsilon]
    if not private:
        return None
    sheet = _draw(summary, private)
    lines = "; ".join(
        f"{row.name} at epsilon {epsilon_text(row.epsilon)}: {score_words(row.metric, row.score.mean)}"
        for row in private
    )
    return sheet.finish(
        "accuracy_against_epsilon",
        "Accuracy against epsilon",
        f"Further left is a stronger promise, {better(summary.metric)} is better. Each mark is a method after its "
        f"last round, with the 95 % interval over {intervals_over(summary)} (bars that reach the frame go on beyond "
        "it); the faint line is the way there, round by round: where the run would stand had it stopped earlier. Grey "
        "lines stand at the level of methods without any guarantee, the grey band is the interval of "
        f"the {'highest' if summary.metric.higher_is_better else 'lowest'} of them. "
        "A record-level and a hospital-level epsilon promise different things: compare within a panel.",
        f"{summary.metric.label} against epsilon. {lines}.",
    )


def footer_text(summary: Summary) -> str:
    """Data set, seeds, delta and adjacency, as every figure states them."""
    seeds = len(summary.seeds)
    parts = [f"Data: {summary.dataset.name}" + (" (simulated hospitals)" if summary.dataset.simulated else "")]
    parts.append(counted(len(summary.hospital_ids), "hospital"))
    named = f" ({', '.join(map(str, summary.seeds))})" if 1 < seeds <= 8 else ""
    parts.append(counted(seeds, "seed") + named)
    parts += [f"{summary.splits} splits"] if summary.splits > 1 else []
    if any(row.private for row in summary.rows):
        parts.append(f"delta {delta_sentence(summary.rows)}")
        adjacency = adjacency_sentence(summary.rows)
        parts += [f"neighbours at {adjacency}"] if adjacency else []
        how = conversions_text(summary.conversion, summary.rows)
        parts += [f"epsilon by {how}"] if how else []
    return " · ".join(parts)


def better(metric: Metric) -> str:
    """Which way a figure gets better."""
    return "higher" if metric.higher_is_better else "lower"


def intervals_over(summary: Summary) -> str:
    """What the intervals of a comparison are over."""
    patients = any(row.score.low is not None for row in summary.rows)
    return interval_words(summary.splits) if patients else "seeds"


def score_limits(metric: Metric, centres: Sequence[float], intervals: Sequence[Any]) -> tuple[float, float]:
    """Limits that show every point, and intervals as far as they do not crush the rest (two seeds give huge ones)."""
    low, high = min(centres), max(centres)
    scale = 1.0 if metric.high is not None else max(abs(low), abs(high), 1e-12)
    room = max(high - low, 0.06 * scale)
    low = min([low, *(max(i.low, low - 0.25 * room) for i in intervals if i is not None)])
    high = max([high, *(min(i.high, high + 0.25 * room) for i in intervals if i is not None)])
    missing = max(0.08 * scale - (high - low), 0.0)
    pad = 0.06 * (high - low) + missing / 2
    least = -math.inf if metric.low is None else metric.low - 0.02 * scale
    return max(low - pad, least), high + pad if metric.high is None else min(high + pad, metric.high + 0.02)


def dodge(epsilons: Sequence[float], step: float) -> list[float]:
    """Factors that move marks at nearly the same epsilon apart on a logarithmic axis.

    Args:
      epsilons: where the marks belong.
      step: the factor between neighbours that are drawn side by side; it shrinks where clusters would meet.

    >>> [round(factor, 2) for factor in dodge([1.0, 1.0, 5.0], 1.21)]
    [0.91, 1.1, 1.0]
    """
    order = sorted(range(len(epsilons)), key=lambda k: epsilons[k])
    clusters: list[list[int]] = []
    for k in order:
        if clusters and epsilons[k] <= epsilons[clusters[-1][0]] * _SAME_EPSILON:
            clusters[-1].append(k)
        else:
            clusters.append([k])
    ratios = [epsilons[b[0]] / epsilons[a[0]] for a, b in zip(clusters, clusters[1:])]
    largest = max(map(len, clusters), default=1)
    if ratios:
        step = min(step, max(min(ratios) ** (0.75 / largest), 1.0))
    factors = [1.0] * len(epsilons)
    for cluster in clusters:
        for place, k in enumerate(sorted(cluster)):
            factors[k] = step ** (place - (len(cluster) - 1) / 2)
    return factors


def _draw(summary: Summary, private: Sequence[Row]) -> Sheet:
    plain = [row for row in ordered(summary.rows) if not row.private and row.score.mean is not None]
    styles = private_styles(private)
    methods = list(styles)
    units = [unit for unit in ("record", "hospital") if any(row.unit == unit for row in private)]
    most = max(sum(key[1] == unit for key in methods) for unit in units)
    intervals = {id(row): row.score.interval for row in (*private, *plain)}
    limits = _panel_limits(private, plain, units, intervals)
    own_scales = len(set(limits.values())) > 1
    numbered, stacked = most > _MOST_LABELS, len(units) > 1 and (own_scales or most > _MOST_BESIDE)
    plain_names = shorten_all([row.name for row in plain], 28)
    bars = (
        f"Bars: 95 % intervals over {intervals_over(summary)}."
        if any(intervals.values())
        else "No intervals: they need two seeds or more."
    )
    panel_height = 4.3 if not stacked else 3.4
    key_height = 0.15 + 0.19 * -(-len(methods) // 3) if numbered else 0.0
    sheet = Sheet(
        f"What each privacy promise costs in {summary.metric.label}",
        f"{metric_title(summary.metric)} (mean of the hospitals) against epsilon; left is a stronger promise. {bars}"
        + (" The scales of the panels differ." if own_scales else ""),
        footer_text(summary) + " · marks at the same epsilon are drawn side by side",
        key_height + (panel_height + 0.3) * (len(units) if stacked else 1),
    )
    margin = max([sheet.text_width(name, SMALL_SIZE) for name in plain_names], default=0.0)
    left, gap, right = 0.75, 0.25, WIDTH - MARGIN - (margin + 0.5 if plain else 0.1)
    width = right - left if stacked else (right - left - gap * (len(units) - 1)) / len(units)
    names = [next(row.name for row in private if (row.method, row.unit) == key) for key in methods]
    letters = 36 if numbered else min(int((0.58 * width - 0.4) / 0.077), 44)
    short = dict(zip(methods, shorten_all(names, letters)))
    first_plain = max((row for row in plain if row.ranked), key=lambda row: row.merit or 0.0, default=None)
    for place, unit in enumerate(units):
        start = left + (0 if stacked else place * (width + gap))
        top = sheet.height - 0.3 - (place * (panel_height + 0.3) if stacked else 0.0)
        axes = sheet.axes(start, start + width, top - panel_height + 0.5, top)
        axes.set_title(PANEL_TITLES[unit], loc="left", size=TEXT_SIZE, weight="bold", color=INK, pad=7)
        axes.set_ylim(*limits[unit])
        score_axis(axes.yaxis, summary.metric)
        axes.set_xlabel("epsilon of the worst hospital (log scale)", size=TEXT_SIZE)
        if place == 0 or stacked:
            axes.set_ylabel(metric_head(summary.metric), size=TEXT_SIZE)
        else:
            axes.tick_params(labelleft=False)
        for index, row in enumerate(plain):
            _level(axes, row, intervals[id(row)] if row is first_plain else None, index)
        rows = [row for row in private if row.unit == unit]
        reserved = 0.0
        if not numbered:
            reserved = max(sheet.text_width(short[(row.method, row.unit)], SMALL_SIZE) for row in rows) + 0.4
        zone = 1.0 - min(reserved / width, 0.62)
        marks = _limits_and_marks(axes, rows, styles, zone, (0.17 if numbered else 0.11) / (zone * width))
        _points(axes, marks, intervals, numbered)
        if not numbered:
            _labels(axes, marks, short, zone + 0.3 / width)
        if place == len(units) - 1 or stacked:
            side_labels(axes, [_side(row, name, k) for k, (row, name) in enumerate(zip(plain, plain_names))])
    if numbered:
        _key(sheet, styles, short, key_height - 0.2)
    return sheet


def _panel_limits(
    private: Sequence[Row], plain: Sequence[Row], units: Sequence[str], intervals: dict[int, Any]
) -> dict[str, tuple[float, float]]:
    """Limits of each panel: shared, unless one method's failure would flatten the other panel."""
    limits = {}
    for unit in units:
        rows = [*(row for row in private if row.unit == unit), *plain]
        limits[unit] = score_limits(
            rows[0].metric, [row.score.mean or 0.0 for row in rows], [intervals[id(row)] for row in rows]
        )
    spans = [high - low for low, high in limits.values()]
    if max(spans) > _SAME_SCALE * min(spans):
        return limits
    shared = min(low for low, _ in limits.values()), max(high for _, high in limits.values())
    return dict.fromkeys(units, shared)


def _limits_and_marks(
    axes: Any, rows: Sequence[Row], styles: dict[tuple[str, str], tuple[str, bool]], zone: float, step: float
) -> list[Mark]:
    """Sets the epsilon axis so that all marks stand in the left `zone` of it, and moves equal epsilons apart."""
    epsilons = [row.epsilon or 1.0 for row in rows]
    low, high = min(epsilons), max(epsilons)
    begin = min((p.epsilon for row in rows for p in row.curve if p.epsilon), default=low)
    low, high = min(max(begin, low / 5.0), low / 2.0), high * 1.35
    factors = dodge(epsilons, (high / low) ** step)
    most = max(factors)
    low, high = low / most, high * most
    limit = low * (high / low) ** (1.0 / zone)
    axes.set_xscale("log")
    axes.set_xlim(low, limit)
    log_axis(axes.xaxis, low, high if zone < 1.0 else limit)
    marks = []
    for row, factor in zip(rows, factors):
        key = (row.method, row.unit)
        marks.append(Mark(row, (row.epsilon or 1.0) * factor, factor, *styles[key], list(styles).index(key) + 1))
    return marks


def _points(axes: Any, marks: Sequence[Mark], intervals: dict[int, Any], numbered: bool) -> None:
    for mark in marks:
        way = [(point.epsilon * mark.factor, value) for point, value in mark.row.way if point.epsilon]
        axes.plot([x for x, _ in way], [y for _, y in way], color=mark.colour, lw=1.0, alpha=0.45, zorder=3)
        interval = intervals[id(mark.row)]
        if interval is not None:
            axes.plot(
                [mark.x] * 2, [interval.low, interval.high], color=mark.colour, lw=1.6, zorder=4, solid_capstyle="butt"
            )
        look = {"mfc": mark.colour if mark.filled else CARD, "mec": mark.colour, "mew": 1.4, "zorder": 5, "ls": "none"}
        axes.plot(mark.x, mark.row.score.mean, marker=UNIT_MARKERS[mark.row.unit], ms=13 if numbered else 7, **look)
        if numbered:
            text = {"size": 7.0, "weight": "bold", "color": CARD if mark.filled else mark.colour, "zorder": 6}
            axes.text(mark.x, mark.row.score.mean, str(mark.number), ha="center", va="center_baseline", **text)


def _labels(axes: Any, marks: Sequence[Mark], short: dict[tuple[str, str], str], zone: float) -> None:
    """One label per method, joined to its mark with the largest epsilon."""
    last: dict[int, Mark] = {}
    for mark in marks:
        if mark.number not in last or mark.x > last[mark.number].x:
            last[mark.number] = mark
    chosen = list(last.values())
    points = [(mark.x, mark.row.score.mean or 0.0) for mark in chosen]
    labels = [SideLabel(0.0, short[(mark.row.method, mark.row.unit)], mark.colour) for mark in chosen]
    column_labels(axes, points, labels, zone)


def _level(axes: Any, row: Row, interval: Any, index: int) -> None:
    colour = NEUTRAL[index % len(NEUTRAL)]
    axes.axhline(row.score.mean, color=colour, lw=1.2, linestyle=DASHES[index % len(DASHES)], zorder=1.6)
    if interval is not None:
        axes.axhspan(interval.low, interval.high, color=colour, alpha=0.13, lw=0, zorder=1.2)


def _side(row: Row, name: str, index: int) -> SideLabel:
    return SideLabel(row.score.mean or 0.0, name, NEUTRAL[index % len(NEUTRAL)], DASHES[index % len(DASHES)])


def _key(
    sheet: Sheet, styles: dict[tuple[str, str], tuple[str, bool]], short: dict[tuple[str, str], str], top: float
) -> None:
    """The list that names the numbers, in three columns under the axes."""
    per_column = -(-len(styles) // 3)
    for index, key in enumerate(styles):
        colour, _ = styles[key]
        x = 0.55 + (index // per_column) * (WIDTH - 0.6) / 3
        y = sheet.bottom + top - 0.19 * (index % per_column)
        sheet.text(x + 0.2, y, str(index + 1), size=SMALL_SIZE, weight="bold", color=colour, ha="right", va="center")
        sheet.text(x + 0.28, y, f"{short[key]} ({UNIT_SHORT[key[1]].split()[0]})", size=SMALL_SIZE, va="center")
