"""The figure of one run: accuracy, loss, epsilon and bytes by round, for every hospital."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from tff_hospitals.reports.plot_labels import SideLabel, side_labels
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
    score_axis,
)
from tff_hospitals.reports.run_files import POOLED, SERVER, RunFiles
from tff_hospitals.reports.wording import byte_scale, conversion_name, delta_text, percent, shorten, shorten_all
from tff_hospitals.training.metrics import METRICS

MOST_LINES = 8  # hospitals with a line of their own; more are drawn as median and range
_SCOPE_WORDS = {POOLED: "all test records", SERVER: "held by the server"}


def run_by_round(run: RunFiles) -> Picture | None:
    """The picture, or None when no column was measured in any round."""
    row = run.row
    divisor, size = byte_scale([row])
    spent = "epsilon_rdp" if row.conversion in ("", "rdp") else "epsilon_pld"  # exact for Gaussian noise by itself
    panels: list[tuple[str, str, str, float]] = [  # column, title, unit of the axis, divisor
        ("accuracy", "Accuracy on test records", "%", 1.0),
        ("loss", "Loss on test records", "loss", 1.0),
        (spent, f"Epsilon spent so far, {row.unit} level", "epsilon", 1.0),
        ("bytes", "Bytes so far, both directions", size, divisor),
    ]
    drawn = [panel for panel in panels if any(_curve(run, scope, panel[0]) for scope in run.metrics)]
    if row.unit == "none":
        drawn = [panel for panel in drawn if panel[0] != spent]
    if not drawn:
        return None
    footer = f"Data: {run.dataset.name if run.dataset else 'not recorded'} · seed {run.seed}"
    if row.private:
        footer += f" · delta {delta_text(row.delta)} · epsilon by {conversion_name(row.conversion)}"
    many = len(run.hospital_ids) > MOST_LINES
    sheet = Sheet(
        f"{shorten(row.name, 60)}, round by round",
        f"Lines: the median of {len(run.hospital_ids)} hospitals, bands: lowest to highest."
        if many
        else "One line per hospital.",
        footer,
        3.15 * -(-len(drawn) // 2),
    )
    half = (WIDTH - MARGIN) / 2
    names = [_SCOPE_WORDS.get(scope, scope) for scope in run.metrics]
    short = dict(zip(run.metrics, shorten_all(names, 18)))
    margin = max(sheet.text_width(name, SMALL_SIZE) for name in (*short.values(), "every hospital")) + 0.5
    for place, (column, title, unit, scale) in enumerate(drawn):
        left = 0.72 + (place % 2) * half
        top = sheet.height - 0.3 - (place // 2) * 3.15
        axes = sheet.axes(left, half * (1 + place % 2) - margin, top - 2.35, top)
        axes.set_title(title, loc="left", size=TEXT_SIZE, weight="bold", color=INK, pad=6)
        axes.set_ylabel(unit, size=SMALL_SIZE)
        axes.set_xlabel("round", size=SMALL_SIZE)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _panel(axes, run, column, scale, short)
        if column == "accuracy":
            score_axis(axes.yaxis, METRICS["accuracy"])
        if column in (spent, "bytes"):
            axes.set_ylim(bottom=0.0)
    best = _curve(run, POOLED, "accuracy")
    return sheet.finish(
        "run_by_round",
        "The run, round by round",
        "All test records together are drawn dashed. Epsilon and bytes add up over the rounds; the epsilon that "
        "counts is that of the worst hospital.",
        f"{row.name} by round: accuracy on all test records after round {best[-1][0]:g} is {percent(best[-1][1])} %."
        if best
        else f"{row.name} by round.",
    )


def _curve(run: RunFiles, scope: str, column: str) -> list[tuple[float, float]]:
    if column != "bytes":
        return run.curve(scope, column)
    if scope in (POOLED, SERVER):  # the sum over hospitals would flatten every hospital's line
        return []
    down = dict(run.curve(scope, "bytes_down"))
    return [(number, value + down.get(number, 0.0)) for number, value in run.curve(scope, "bytes_up")]


def _panel(axes: Any, run: RunFiles, column: str, divisor: float, short: dict[str, str]) -> None:
    labels = []
    ids = run.hospital_ids
    curves = [_curve(run, scope, column) for scope in ids]
    if len(ids) > 1 and curves[0] and all(curve == curves[0] for curve in curves):  # one line instead of a pile
        labels += _line(axes, curves[0], divisor, SERIES[0], "-", "every hospital")
    elif len(ids) > MOST_LINES:
        labels += _range(axes, curves, divisor)
    else:
        for index, scope in enumerate(ids):
            labels += _line(axes, curves[index], divisor, SERIES[index % len(SERIES)], "-", short[scope])
    if not column.startswith("epsilon"):  # the pooled epsilon is the worst hospital's: its line is there already
        for index, scope in enumerate(scope for scope in (POOLED, SERVER) if scope in run.metrics):
            labels += _line(axes, _curve(run, scope, column), divisor, INK, DASHES[1 + index], short[scope])
    side_labels(axes, labels)


def _line(
    axes: Any, curve: Sequence[tuple[float, float]], divisor: float, colour: str, dashes: Any, name: str
) -> list[SideLabel]:
    if not curve:
        return []
    xs, ys = [x for x, _ in curve], [y / divisor for _, y in curve]
    single = {"marker": "o", "ms": 4} if len(curve) == 1 else {}
    axes.plot(xs, ys, color=colour, lw=1.5, linestyle=dashes, **single)
    return [SideLabel(ys[-1], name, colour, dashes)]


def _range(axes: Any, curves: Sequence[Sequence[tuple[float, float]]], divisor: float) -> list[SideLabel]:
    by_round: dict[float, list[float]] = {}
    for curve in curves:
        for number, value in curve:
            by_round.setdefault(number, []).append(value / divisor)
    if not by_round:
        return []
    xs = sorted(by_round)
    middle = [statistics.median(by_round[x]) for x in xs]
    axes.fill_between(
        xs, [min(by_round[x]) for x in xs], [max(by_round[x]) for x in xs], color=SERIES[0], alpha=0.18, lw=0
    )
    axes.plot(xs, middle, color=SERIES[0], lw=1.6)
    return [SideLabel(middle[-1], "median", SERIES[0])]
