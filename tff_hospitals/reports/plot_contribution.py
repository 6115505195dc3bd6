"""Figures of what hospitals add, how their updates differ, and how unlike their records are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tff_hospitals.reports.gains import gain_text, gain_words
from tff_hospitals.reports.plot_style import (
    CARD,
    GRID,
    INK,
    MARGIN,
    MUTED,
    NEUTRAL,
    SERIES,
    SMALL_SIZE,
    TEXT_SIZE,
    WIDTH,
    Picture,
    Sheet,
)
from tff_hospitals.reports.wording import NO_RECORDS, shorten
from tff_hospitals.training.metrics import METRICS

_STEP = 0.26
_MOST_NAMES, _MOST_LINES, _MOST_COLUMNS, _MOST_CELLS = 40, 8, 24, 16


def without_tests(found: Mapping[str, Any]) -> set[str]:
    """Ids of hospitals without test records."""
    return {one["id"] for one in found["dataset"]["hospitals"] if not one["test_records"]}


def contribution(found: Mapping[str, Any]) -> Picture:
    """What training without each hospital costs: all hospitals, and itself."""
    metric, rows = METRICS[found["headline"]], _shown(found["hospitals"])
    title = "What each hospital adds"
    subtitle = (
        f"{gain_words(metric)[0].upper()}{gain_words(metric)[1:]}: the model of all minus that without the hospital, "
        "above 0 it helps. Lines: 95 % intervals."
    )
    sheet = Sheet(title, subtitle, _footer(found), _STEP * len(rows) + 0.85)
    names = [shorten(row["hospital"], 26) for row in rows]
    left = MARGIN + max(sheet.text_width(one, SMALL_SIZE) for one in names) + 0.15
    middle = (left + WIDTH - MARGIN) / 2
    panels = (
        (left, middle - 0.12, "contribution", "low", "high", "at all hospitals, mean"),
        (middle + 0.12, WIDTH - MARGIN, "own", "own_low", "own_high", "at the hospital itself"),
    )
    scale = 100.0 if metric.percent else 1.0
    for number, (start, end, field, low, high, head) in enumerate(panels):
        axes = sheet.axes(start, end, 0.45, sheet.height - 0.3)
        axes.axvline(0.0, color=MUTED, lw=0.9, linestyle=(0, (1, 2)), zorder=1)
        for place, row in enumerate(rows):
            if row[field] is None:
                why = NO_RECORDS if row["hospital"] in without_tests(found) else "not defined there"
                axes.text(0.0, place, f" {why}", size=SMALL_SIZE, color=MUTED, va="center")
                continue
            ends = None if row[low] is None else (row[low], row[high])
            told = ends is not None and not ends[0] <= 0 <= ends[1]
            colour = NEUTRAL[0] if not told else SERIES[0] if row[field] > 0 else SERIES[1]
            if ends is not None:
                axes.plot([scale * one for one in ends], [place, place], color=colour, lw=1.6, zorder=2)
            axes.plot([scale * row[field]], [place], "o", color=colour, markersize=5.5, zorder=3)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), names if number == 0 else [""] * len(rows))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_title(head, size=TEXT_SIZE, color=INK, loc="left")
        axes.set_xlabel(gain_words(metric), size=TEXT_SIZE)
    alt = "; ".join(f"{row['hospital']} {gain_text(metric, row['contribution'])}" for row in rows)
    caption = "Blue: the interval lies above 0, orange: below, grey: the test records cannot tell."
    return sheet.finish("contribution", title, caption, f"Contribution in {gain_words(metric)}: {alt}.")


def effect_at(found: Mapping[str, Any]) -> Picture | None:
    """What leaving out a hospital does at every other, as a matrix."""
    matrix, metric = found["effect_at"], METRICS[found["headline"]]
    ids = list(matrix)
    if len(ids) < 2 or len(ids) > _MOST_NAMES:
        return None
    columns = list(next(iter(matrix.values())))
    values = [[matrix[one][name] for name in columns] for one in ids]
    title = "Whom each hospital helps"
    subtitle = f"{gain_words(metric)}: row, the hospital that is left out; column, whose test records. Blue: it helps."
    return _matrix(
        "contribution_at",
        title,
        subtitle[0].upper() + subtitle[1:],
        _footer(found),
        ids,
        columns,
        values,
        lambda value: gain_text(metric, value),
        "The diagonal is what a hospital's own records are worth to itself.",
    )


def drift(found: Mapping[str, Any]) -> Picture | None:
    """Norms and directions of updates by round, and gradient diversity."""
    rows, rounds = found["drift"]["hospitals"], found["drift"]["rounds"]
    if not rows:
        return None
    ids = list(dict.fromkeys(row["hospital"] for row in rows))
    many = len(ids) > _MOST_LINES
    title = "How far hospitals pull apart in a round"
    subtitle = (
        "Left: sizes of updates. Middle: their cosine to the mean. Right: diversity, 1 alike, dotted: orthogonal."
    )
    sheet = Sheet(title, subtitle, _footer(found), 3.3)
    width = (WIDTH - 2 * MARGIN) / 3
    top = sheet.height - (0.15 if many else 0.45)
    left, middle, right = (
        sheet.axes(MARGIN + k * width + 0.55, MARGIN + (k + 1) * width - 0.12, 0.45, top) for k in range(3)
    )
    for axes, field, words in ((left, "update_norm", "norm (L2)"), (middle, "cosine_to_mean", "cosine to the mean")):
        for number, one in enumerate(ids):
            own = [row for row in rows if row["hospital"] == one and row[field] is not None]
            style = {"color": NEUTRAL[0], "alpha": 0.5} if many else {"color": SERIES[number % len(SERIES)]}
            across, values = [row["round"] for row in own], [row[field] for row in own]
            axes.plot(across, values, marker="o" if len(own) < 3 else "", lw=1.3, label=one, **style)
        axes.set_ylabel(words, size=TEXT_SIZE)
    known = [row for row in rounds if row["times_diversity"] is not None]
    across = [row["round"] for row in known]
    right.plot(
        across, [row["times_diversity"] for row in known], color=INK, lw=1.5, marker="o" if len(known) < 3 else ""
    )
    right.plot(across, [row["hospitals"] for row in known], color=MUTED, lw=1.0, linestyle=(0, (1, 2)))
    right.set_ylabel("hospitals x gradient diversity", size=TEXT_SIZE)
    right.set_ylim(bottom=0)
    for axes in (left, middle, right):
        axes.set_xlabel("round", size=TEXT_SIZE)
        axes.xaxis.get_major_locator().set_params(integer=True)
    if not many:
        left.legend(
            loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(ids), fontsize=SMALL_SIZE, frameon=False,
            handlelength=1.2, columnspacing=1.0, labelcolor=INK, borderaxespad=0.2,
        )  # fmt: skip
    last = rounds[-1]["times_diversity"] or 0.0
    alt = f"{len(ids)} hospitals over {len(rounds)} rounds; diversity times hospitals ends at {last:.2f}."
    caption = (
        "Updates before they are encoded, means over seeds. Diversity: the sum of squared norms over the squared norm "
        "of the sum (Yin et al. 2018), times the number of hospitals: near 1 a mean loses nothing, at the dotted line "
        "updates are orthogonal, above it they undo each other."
    )
    return sheet.finish("drift", title, caption, alt)


def feature_shift(found: Mapping[str, Any]) -> Picture | None:
    """Standardised mean differences of the columns that differ most, by hospital."""
    rows = found["shift"]["columns"]
    ids = list(dict.fromkeys(row["hospital"] for row in rows))
    if not rows or len(ids) > _MOST_NAMES:
        return None
    largest: dict[str, float] = {}
    for row in rows:
        largest[row["column"]] = max(largest.get(row["column"], 0.0), abs(row["mean_difference"]))
    columns = sorted(largest, key=lambda name: -largest[name])[:_MOST_COLUMNS]
    by = {(row["hospital"], row["column"]): row["mean_difference"] for row in rows}
    noise = found["shift"]["noise_multiplier"]
    source = "exact counts of training records" if noise is None else f"counts with noise, multiplier {noise:g}"
    more = f" The {len(columns)} of {len(largest)} columns that differ most." if len(columns) < len(largest) else ""
    return _matrix(
        "feature_shift",
        "How columns differ between hospitals",
        "Standardised mean difference of a hospital to all others together. Blue: higher there, orange: lower.",
        f"{_footer(found)} From {source}.",
        columns,
        ids,
        [[by[one, name] for one in ids] for name in columns],
        lambda value: f"{round(value, 1) + 0.0:+.1f}",
        f"In units of standard deviations; beyond 0.5 either way is much.{more}",
    )


def _matrix(
    name: str,
    title: str,
    subtitle: str,
    footer: str,
    down: Sequence[str],
    across: Sequence[str],
    values: Sequence[Sequence[float | None]],
    text: Any,
    caption: str,
) -> Picture:
    """Numbers in cells that are the stronger coloured the further they are from 0."""
    from matplotlib.patches import Rectangle

    upright = len(across) > _MOST_CELLS
    heads = [shorten(one, 18 if upright else max(4, 72 // len(across) + 2)) for one in across]
    probe = Sheet(title, subtitle, footer, 1.0)
    top = 0.15 + max(probe.text_width(one, SMALL_SIZE) for one in heads) if upright else 0.35
    sheet = Sheet(title, subtitle, footer, _STEP * len(down) + top + 0.1)
    left = MARGIN + max(sheet.text_width(shorten(one, 26), SMALL_SIZE) for one in down) + 0.15
    axes = sheet.axes(left, WIDTH - MARGIN, 0.05, sheet.height - top)
    most = max((abs(value) for row in values for value in row if value is not None), default=0.0) or 1.0
    for place, row in enumerate(values):
        for column, value in enumerate(row):
            strength = 0.0 if value is None else 0.85 * abs(value) / most
            colour = SERIES[0] if (value or 0.0) > 0 else SERIES[1]
            axes.add_patch(Rectangle((column, place), 1, 1, facecolor=colour, alpha=strength, lw=0))
            axes.add_patch(Rectangle((column, place), 1, 1, facecolor="none", edgecolor=GRID, lw=0.6))
            if len(across) <= _MOST_CELLS:
                shown, ink = "-" if value is None else text(value), CARD if strength > 0.6 else INK
                axes.text(column + 0.5, place + 0.5, shown, ha="center", va="center", size=SMALL_SIZE, color=ink)
    axes.set_xlim(0, len(across))
    axes.set_ylim(len(down), 0)
    axes.set_yticks([place + 0.5 for place in range(len(down))], [shorten(one, 26) for one in down])
    axes.set_xticks([place + 0.5 for place in range(len(across))], heads, rotation=90 if upright else 0)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for side in ("left", "bottom", "top", "right"):
        axes.spines[side].set_visible(False)
    known = [
        (value, one, other) for one, row in zip(down, values) for other, value in zip(across, row) if value is not None
    ]
    ends = (max(known), min(known)) if known else ()
    alt = "; ".join(f"{one} at {other} {text(value)}" for value, one, other in ends)
    return sheet.finish(name, title, caption, f"{title}: {alt}.")


def _shown(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The hospitals that are drawn: all, or of many those that matter most either way."""
    ranked = sorted(rows, key=lambda row: -(row["contribution"] or 0.0))
    if len(ranked) <= _MOST_NAMES:
        return ranked
    return [*ranked[: _MOST_NAMES // 2], *ranked[-_MOST_NAMES // 2 :]]


def _footer(found: Mapping[str, Any]) -> str:
    seeds = len(found["seeds"])
    return (
        f"{found['method']} on {found['dataset']['name']}; {found['rounds']} rounds, {seeds} seed{'s' * (seeds != 1)}."
    )
