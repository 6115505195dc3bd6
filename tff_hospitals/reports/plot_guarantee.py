"""The figure of a guarantee: the whole trade-off between false alarms and missed units, on a plain and a log scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tff_hospitals.reports.guarantee import UnitGuarantee
from tff_hospitals.reports.plot_style import (
    DASHES,
    INK,
    MARGIN,
    MUTED,
    SERIES,
    SMALL_SIZE,
    TEXT_SIZE,
    WIDTH,
    Picture,
    Sheet,
)

_LOWEST = 1e-4


def trade_off_picture(units: Sequence[UnitGuarantee], delta: float) -> Picture | None:
    """The picture, or None where no unit has a curve."""
    drawn = [one for one in units if one.curve is not None]
    if not drawn:
        return None
    sheet = Sheet(
        "What an attacker can reach, whatever he does",
        "He knows all else and decides for one unit whether it was used. No attacker is beyond the lines.",
        f"Delta {delta:g} · epsilon as the run states it · worst hospital",
        3.6,
    )
    half = WIDTH / 2
    top = sheet.height - 0.32
    plain = sheet.axes(0.72, half - 0.3, 0.62, top)
    plain.set_title("Missed units at each rate of false alarms", loc="left", size=TEXT_SIZE, weight="bold", color=INK)
    logs = sheet.axes(half + 0.6, WIDTH - MARGIN - 0.1, 0.62, top)
    logs.set_title("Found units at few false alarms", loc="left", size=TEXT_SIZE, weight="bold", color=INK)
    for number, one in enumerate(drawn):
        _lines(plain, logs, one, delta, SERIES[number % len(SERIES)])
    plain.plot([0, 1], [1, 0], color=MUTED, linewidth=1.0, linestyle=DASHES[2], label="guessing: nothing is learnt")
    logs.plot([_LOWEST, 1], [_LOWEST, 1], color=MUTED, linewidth=1.0, linestyle=DASHES[2])
    _percent_axes(plain)
    logs.set_xscale("log")
    logs.set_yscale("log")
    logs.set_xlim(_LOWEST, 1.0)
    logs.set_ylim(_LOWEST, 1.15)
    plain.set_xlim(0, 1)
    plain.set_ylim(0, 1.02)
    plain.set_xlabel("false alarms: unused units that are accused, %", size=SMALL_SIZE)
    plain.set_ylabel("missed: used units that are not accused, %", size=SMALL_SIZE)
    logs.set_xlabel("false alarms, %", size=SMALL_SIZE)
    logs.set_ylabel("found: used units that are accused, %", size=SMALL_SIZE)
    _percent_axes(logs)
    plain.legend(loc="upper right", frameon=False, fontsize=SMALL_SIZE)
    words = "; ".join(f"per {one.unit}: epsilon {one.epsilon:.3g}" for one in drawn)
    return sheet.finish(
        "trade_off",
        "What an attacker can reach",
        "Left, the nearer a line is to the corner at zero, the more an attacker learns; on the dotted line nothing. "
        "Right, the same at few false alarms, where single people are at risk. The dashed line is what epsilon and "
        "delta alone would allow; the curve is the whole promise.",
        f"Trade-off curve of the guarantee ({words})",
    )


def _lines(plain: Any, logs: Any, one: UnitGuarantee, delta: float, colour: str) -> None:
    import numpy as np

    if one.curve is None:
        return
    rates = np.concatenate([10.0 ** np.linspace(-6, -2, 161), np.linspace(0.01, 1.0, 199)[1:]])
    missed = np.array([one.curve.fnr_at(float(rate)) for rate in rates])
    plain.plot(
        [0.0, *rates],
        [one.curve.fnr_at(0.0), *missed],
        color=colour,
        linewidth=1.8,
        label=f"the curve, per {one.unit}" + (f" (mu {one.curve.mu:.3g})" if one.curve.mu is not None else ""),
    )
    logs.plot(rates, np.maximum(1.0 - missed, 1e-12), color=colour, linewidth=1.8)
    if math.isfinite(one.epsilon) and one.epsilon < 700:
        rise = math.exp(one.epsilon)
        line = np.maximum.reduce([np.zeros_like(rates), 1 - delta - rise * rates, (1 - delta - rates) / rise])
        plain.plot(
            rates,
            line,
            color=colour,
            linewidth=1.2,
            linestyle=DASHES[1],
            label=f"epsilon {one.epsilon:.3g} alone, per {one.unit}",
        )
        logs.plot(rates, 1.0 - line, color=colour, linewidth=1.2, linestyle=DASHES[1])


def _percent_axes(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
