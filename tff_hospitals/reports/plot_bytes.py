"""The headline metric against bytes sent: what a byte buys, marked by the privacy promise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tff_hospitals.reports.plot_labels import SideLabel, column_labels, place_labels, side_labels
from tff_hospitals.reports.plot_privacy import better, dodge, footer_text, intervals_over, score_limits
from tff_hospitals.reports.plot_style import (
    DASHES,
    MARGIN,
    NEUTRAL,
    SMALL_SIZE,
    STEPS,
    TEXT_SIZE,
    UNIT_MARKERS,
    WIDTH,
    Picture,
    Sheet,
    log_axis,
    score_axis,
)
from tff_hospitals.reports.rows import Row, ordered
from tff_hospitals.reports.summary import Summary
from tff_hospitals.reports.wording import (
    byte_scale,
    bytes_text,
    metric_head,
    metric_title,
    row_title,
    score_words,
    shorten_all,
    target_text,
)

_LEVEL_STEPS = 60  # closer than a label is wide
_MOST_LABELS = 14  # with more rows only those that no other of their promise beats are named


def bytes_against_accuracy(summary: Summary) -> Picture | None:
    """The picture, or None when fewer than two rows have both bytes and a headline figure."""
    measured = [row for row in ordered(summary.rows) if row.score.mean is not None]
    rows = [row for row in measured if row.bytes_total]
    quiet = [row for row in measured if not row.bytes_total]
    if len(rows) < 2:
        return None
    divisor, size = byte_scale(rows)
    names = shorten_all([row_title(row) for row in rows], 40)
    quiet_names = shorten_all([f"{row.name} (nothing sent)" for row in quiet], 38)
    sheet = Sheet(
        "What the bytes buy",
        f"{metric_title(summary.metric)} (mean of the hospitals) against {size} sent in both directions by all "
        "hospitals, whole run."
        + (" Named: figures that no other of the same promise beats in both." if len(rows) > _MOST_LABELS else "")
        + (" All send about the same." if _alike(rows) else ""),
        footer_text(summary) + " · marks at the same bytes are drawn side by side",
        max(4.6, 0.175 * min(len(rows), _MOST_LABELS) + 0.9),
    )
    margin = max([sheet.text_width(name, SMALL_SIZE) for name in quiet_names], default=0.0)
    left, right = 0.75, WIDTH - MARGIN - (margin + 0.5 if quiet else 0.1)
    axes = sheet.axes(left, right, 0.5, sheet.height - 0.35)
    axes.set_ylim(
        *score_limits(
            summary.metric, [row.score.mean or 0.0 for row in measured], [row.score.interval for row in measured]
        )
    )
    score_axis(axes.yaxis, summary.metric)
    axes.set_ylabel(metric_head(summary.metric), size=TEXT_SIZE)
    axes.set_xlabel(f"{size} sent, both directions (log scale)", size=TEXT_SIZE)
    amounts = [(row.bytes_total or 1.0) / divisor for row in rows]
    colours = _colours(rows)
    front = [_on_front(row, rows) for row in rows]
    named = [is_front or len(rows) <= _MOST_LABELS for is_front in front]
    xs = _marks(axes, rows, amounts, colours, named, right - left)
    points = [(x, row.score.mean or 0.0) for x, row, chosen in zip(xs, rows, named) if chosen]
    others = [(x, row.score.mean or 0.0) for x, row, chosen in zip(xs, rows, named) if not chosen]
    for x, row in zip(xs, rows):
        interval = row.score.interval
        if interval is not None and len(rows) <= _MOST_LABELS:  # labels keep off the intervals too
            others += [(x, interval.low + share * (interval.high - interval.low)) for share in (0.0, 0.25, 0.75, 1.0)]
    texts = [name for name, chosen in zip(names, named) if chosen]
    _limit(axes, xs, 0.84)
    left_end, right_end = axes.get_xlim()
    for row in quiet:  # and off the lines: the level of what sends nothing, and the steps of a promise
        others += _along(left_end, right_end, row.score.mean or 0.0)
    for line in axes.lines:
        if line.get_drawstyle() == "steps-post":
            ends = list(zip(*line.get_data()))
            for (start, level), (end, _) in zip(ends, ends[1:]):
                others += _along(start, end, level)
    if len(set(amounts)) < 3 or not place_labels(axes, points, texts, obstacles=others):
        reserved = min((max(sheet.text_width(text, SMALL_SIZE) for text in texts) + 0.45) / (right - left), 0.6)
        _limit(axes, xs, 1.0 - reserved)
        shades = [colours[_promise(row)] for row, chosen in zip(rows, named) if chosen]
        labels = [SideLabel(0.0, text, shade) for text, shade in zip(texts, shades)]
        column_labels(axes, points, labels, 1.0 - reserved + 0.33 / (right - left))
    levels = []
    for index, (row, name) in enumerate(zip(quiet, quiet_names)):
        look = NEUTRAL[index % len(NEUTRAL)], DASHES[index % len(DASHES)]
        axes.axhline(row.score.mean, color=look[0], lw=1.2, linestyle=look[1], zorder=1.6)
        levels.append(SideLabel(row.score.mean or 0.0, name, *look))
    side_labels(axes, levels)
    _legend(axes, rows, colours)
    words = "; ".join(
        f"{row_title(row)}: {bytes_text(row.bytes_total)}, {score_words(row.metric, row.score.mean)}" for row in rows
    )
    return sheet.finish(
        "bytes_against_accuracy",
        "Accuracy against bytes",
        f"Further left is cheaper, {better(summary.metric)} is better. The darker the mark, the stronger the "
        "promise; grey marks promise nothing. Compare only methods of the same promise: giving up privacy also saves "
        "noise. Steps join the methods of one promise whose figures no other's beat in both; where intervals overlap "
        "that may be chance."
        + (f" Vertical bars are 95 % intervals over {intervals_over(summary)}." if len(rows) <= _MOST_LABELS else ""),
        f"{metric_title(summary.metric)} against bytes. {words}.",
    )


def _along(start: float, end: float, level: float) -> list[tuple[float, float]]:
    """Points on a level line, closer than a label is wide."""
    return [(start * (end / start) ** (step / _LEVEL_STEPS), level) for step in range(_LEVEL_STEPS + 1)]


def _alike(rows: Sequence[Row]) -> bool:
    amounts = [row.bytes_total or 0.0 for row in rows]
    return max(amounts) <= 1.1 * min(amounts)


def _promise(row: Row) -> float | None:
    """What a mark's colour stands for: the target (or spent) epsilon, None without a guarantee."""
    if not row.private:
        return None
    return row.target_epsilon if row.target_epsilon is not None else row.epsilon


def _colours(rows: Sequence[Row]) -> dict[float | None, str]:
    """Colours by promise: the darkest for the smallest epsilon; with more than three, neighbours share one."""
    promises = sorted({promise for row in rows if (promise := _promise(row)) is not None})
    steps = len(STEPS) - 1
    shades: dict[float | None, str] = {None: STEPS[-1]}
    for index, promise in enumerate(promises):
        place = index if len(promises) <= steps else index * steps // len(promises)
        shades[promise] = STEPS[place]
    return shades


def _on_front(row: Row, rows: Sequence[Row]) -> bool:
    rivals = [other for other in rows if (other.unit, _promise(other)) == (row.unit, _promise(row))]
    points = [(other.bytes_total or 0.0, other.merit or 0.0) for other in rivals]
    return (row.bytes_total or 0.0, row.merit or 0.0) in pareto(points)


def _marks(
    axes: Any,
    rows: Sequence[Row],
    amounts: Sequence[float],
    colours: dict[float | None, str],
    named: Sequence[bool],
    inches: float,
) -> list[float]:
    """Draws points, intervals and the steps of each promise; returns where the points stand."""
    axes.set_xscale("log")
    low, high = _range(amounts)
    largest = max(sum(other <= amount * 1.06 and amount <= other * 1.06 for other in amounts) for amount in amounts)
    step = min(0.06, 0.5 / largest) / inches  # side by side, but never far from the true amount
    xs = [amount * factor for amount, factor in zip(amounts, dodge(amounts, (high / low) ** step))]
    for row, x, chosen in zip(rows, xs, named):
        colour, interval = colours[_promise(row)], row.score.interval
        if interval is not None and len(rows) <= _MOST_LABELS:
            axes.plot(
                [x, x], [interval.low, interval.high], color=colour, lw=1.2, alpha=0.55, zorder=3, solid_capstyle="butt"
            )
        look: dict[str, Any] = {"ms": 7, "zorder": 5} if chosen else {"ms": 4.5, "alpha": 0.6, "zorder": 4}
        axes.plot(x, row.score.mean, marker=UNIT_MARKERS[row.unit], color=colour, ls="none", mec="none", **look)
    for key in dict.fromkeys((row.unit, _promise(row)) for row in rows):
        members = [k for k, row in enumerate(rows) if (row.unit, _promise(row)) == key]
        best = pareto([(amounts[k], rows[k].merit or 0.0) for k in members])
        chosen_ones = [k for k in members if (amounts[k], rows[k].merit or 0.0) in best]
        steps = sorted((xs[k], rows[k].score.mean or 0.0) for k in chosen_ones)
        if best[-1][0] > 1.06 * best[0][0]:
            look = {"color": colours[key[1]], "lw": 1.1, "alpha": 0.7, "zorder": 2}
            axes.plot([x for x, _ in steps], [y for _, y in steps], drawstyle="steps-post", **look)
    return xs


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both: fewer bytes (first) and more merit (second), by bytes.

    >>> pareto([(1.0, 0.70), (2.0, 0.69), (4.0, 0.75)])
    [(1.0, 0.7), (4.0, 0.75)]
    """
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def _range(amounts: Sequence[float]) -> tuple[float, float]:
    """Ends of the byte axis: at least a decade, so that nearly equal amounts look nearly equal."""
    low, high = min(amounts), max(amounts)
    pad = max((high / low) ** 0.08, (10.0 / (high / low)) ** 0.5, 1.3)
    return low / pad, high * pad


def _limit(axes: Any, xs: Sequence[float], zone: float) -> None:
    """Sets the byte axis so that all marks stand in the left `zone` of it."""
    low, high = _range(xs)
    axes.set_xlim(low, low * (high / low) ** (1.0 / zone))
    log_axis(axes.xaxis, low, high)


def _legend(axes: Any, rows: Sequence[Row], colours: dict[float | None, str]) -> None:
    """Names the colours and marker shapes in one line above the axes."""
    from matplotlib.lines import Line2D

    handles = []
    for unit, promise in sorted(
        {(row.unit if row.private else "none", _promise(row)) for row in rows},
        key=lambda pair: (pair[0] == "none", pair[0] != "record", pair[1] or 0),
    ):
        words = "no guarantee" if promise is None else f"{unit} level, ε = {target_text(promise)}"
        handles.append(Line2D([], [], marker=UNIT_MARKERS[unit], color=colours[promise], ls="none", ms=6, label=words))
    if len(handles) <= 7:
        look = {"frameon": False, "fontsize": SMALL_SIZE, "handletextpad": 0.1, "columnspacing": 1.2, "borderpad": 0}
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1.01), ncols=len(handles), **look)
