"""Attack success against epsilon: whether the promise holds against somebody who tries; drawn when an audit has run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tff_hospitals.reports.plot_labels import SideLabel, column_labels
from tff_hospitals.reports.plot_privacy import dodge, footer_text
from tff_hospitals.reports.plot_style import (
    CARD,
    INK,
    MARGIN,
    MUTED,
    NEUTRAL,
    SMALL_SIZE,
    TEXT_SIZE,
    UNIT_MARKERS,
    WIDTH,
    Picture,
    Sheet,
    log_axis,
    private_styles,
)
from tff_hospitals.reports.rows import Row, ordered
from tff_hospitals.reports.summary import Summary
from tff_hospitals.reports.wording import row_title, shorten_all, significant


@dataclasses.dataclass(frozen=True)
class Attack:
    """One column of an audit: its field, its title, the level of a guess without any leak, and how to read it."""

    field: str
    title: str
    chance: float | None
    note: str


ATTACKS = (
    Attack("membership_auc", "Membership inference: AUC", 0.5, "0.5 is guessing"),
    Attack("membership_tpr", "Membership inference: true positive rate", None, "higher leaks more"),
    Attack("reconstruction_error", "Reconstruction of records: error", None, "lower leaks more"),
    Attack("epsilon_lower_bound", "Audit: epsilon that the attack proves", None, "must stay under the line"),
)


def attacks_against_epsilon(summary: Summary) -> Picture | None:
    """The picture, or None when the summary holds no audit columns."""
    attacks = [attack for attack in ATTACKS if any(_value(row, attack) is not None for row in summary.rows)]
    rows = [row for row in ordered(summary.rows) if any(_value(row, attack) is not None for attack in attacks)]
    if not attacks or not rows:
        return None
    styles = private_styles(summary.rows)
    methods = list(dict.fromkeys((row.method, row.unit) for row in rows))
    columns = min(2, len(attacks))
    lines = -(-len(attacks) // columns)
    panel_height = max(2.8, 0.185 * len(methods) + 0.4)
    sheet = Sheet(
        "How far attacks get at each privacy promise",
        "Outcome of the audit's attacks against epsilon (left: stronger promise). Grey, at the right: methods without "
        "a guarantee.",
        footer_text(summary),
        lines * (panel_height + 0.95),
    )
    left, gap = 0.75, 0.75
    width = (WIDTH - MARGIN - left - gap * (columns - 1)) / columns
    names = [next(row.name for row in rows if (row.method, row.unit) == key) for key in methods]
    short = dict(zip(methods, shorten_all(names, 24 if columns > 1 else 40)))
    for place, attack in enumerate(attacks):
        start = left + (place % columns) * (width + gap)
        top = sheet.height - 0.35 - (place // columns) * (panel_height + 0.95)
        axes = sheet.axes(start, start + width, top - panel_height, top)
        axes.set_title(attack.title, loc="left", size=TEXT_SIZE, weight="bold", color=INK, pad=7)
        axes.set_title(attack.note, loc="right", size=SMALL_SIZE, color=MUTED, pad=7)
        members = [row for row in rows if _value(row, attack) is not None]
        reserved = max(sheet.text_width(short[(row.method, row.unit)], SMALL_SIZE) for row in members) + 0.45
        _panel(axes, attack, members, styles, short, min(reserved / width, 0.6), 0.33 / width)
    words = "; ".join(
        f"{row_title(row)}: " + ", ".join(f"{attack.field} {significant(_value(row, attack))}" for attack in attacks)
        for row in rows
    )
    return sheet.finish(
        "attacks_against_epsilon",
        "Attack success against epsilon",
        "An attack that succeeds shows a leak; an attack that fails proves nothing by itself. The epsilon that the "
        "audit proves is a lower bound: a mark above "
        "the dashed line would show that the promise is broken.",
        f"Attack success against epsilon. {words}.",
    )


def _value(row: Row, attack: Attack) -> float | None:
    value = row.get(attack.field)
    return value if value is None else float(value)


def _panel(
    axes: Any,
    attack: Attack,
    rows: Sequence[Row],
    styles: dict[tuple[str, str], tuple[str, bool]],
    short: dict[tuple[str, str], str],
    reserved: float,
    lead: float,
) -> None:
    known = [row.epsilon for row in rows if row.private and row.epsilon]
    low, high = (min(known) / 1.8, max(known) * 1.8) if known else (0.5, 2.0)
    none_at = high * 1.6
    plain = [row for row in rows if not (row.private and row.epsilon)]
    end = none_at * 1.5 if plain else high
    positions = [none_at if row in plain else row.epsilon or 1.0 for row in rows]
    zone = 1.0 - reserved
    xs = [x * factor for x, factor in zip(positions, dodge(positions, (end / low) ** 0.03))]
    axes.set_xscale("log")
    axes.set_xlim(low, low * (end / low) ** (1.0 / zone))
    log_axis(axes.xaxis, low, high)
    axes.set_xlabel("epsilon of the worst hospital (log scale)", size=TEXT_SIZE)
    values = [_value(row, attack) or 0.0 for row in rows]
    if attack.field == "epsilon_lower_bound":
        values = _bound_axis(axes, values, low, high)
    else:
        _value_axis(axes, values, attack.chance)
    if plain:
        axes.axvline(high * 1.12, color=MUTED, lw=0.7)
        axes.annotate(
            "none",
            (none_at, 0),
            (0, -6),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            ha="center",
            va="top",
            size=SMALL_SIZE,
        )
    last: dict[tuple[str, str], tuple[float, float, str]] = {}
    for row, x, value in zip(rows, xs, values):
        key = (row.method, row.unit)
        colour, filled = (NEUTRAL[0], True) if row in plain else styles[key]
        face = colour if filled else CARD
        axes.plot(x, value, marker=UNIT_MARKERS[row.unit], ms=6.5, mfc=face, mec=colour, mew=1.3, ls="none", zorder=5)
        if key not in last or x > last[key][0]:
            last[key] = (x, value, colour)
    labels = [SideLabel(0.0, short[key], colour) for key, (_, _, colour) in last.items()]
    column_labels(axes, [(x, y) for x, y, _ in last.values()], labels, zone + lead)


def _value_axis(axes: Any, values: Sequence[float], chance: float | None) -> None:
    known = [*values, *([chance] if chance is not None else [])]
    spread = max(max(known) - min(known), 0.02)
    axes.set_ylim(min(known) - 0.12 * spread, max(known) + 0.12 * spread)
    if chance is not None:
        axes.axhline(chance, color=MUTED, lw=1.1, linestyle=(0, (4, 2)), zorder=1.5)


def _bound_axis(axes: Any, values: Sequence[float], low: float, high: float) -> list[float]:
    """Logarithmic axis with the line on which bound and ledger agree; bounds of zero stand at the lower edge."""
    positive = [value for value in values if value > 0]
    floor = min([*positive, low]) / 2.5
    axes.set_yscale("log")
    top = max([*positive, high]) * 1.3
    axes.set_ylim(floor / 1.2, top)
    log_axis(axes.yaxis, floor, top)
    axes.plot([low, high], [low, high], color=MUTED, lw=1.1, linestyle=(0, (4, 2)), zorder=1.5)
    return [max(value, floor) for value in values]
