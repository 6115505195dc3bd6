"""Whose model serves whom: every hospital's own model on every hospital's test records, as a heat map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tff_hospitals.reports.plot_style import CARD, INK, MARGIN, MUTED, SERIES, SMALL_SIZE, TEXT_SIZE, Picture, Sheet
from tff_hospitals.reports.run_files import RunFiles
from tff_hospitals.reports.wording import metric_title, score_text, shorten, shorten_all
from tff_hospitals.training.cross_site import FEDERATED
from tff_hospitals.training.metrics import Metric

MOST_FIGURES = 12  # hospitals whose cells hold their figure; more are coloured alone
_FAINT, _STRONG = 0.04, 0.6  # how much colour the lowest and the highest figure get; letters stay readable on both
_COLOUR = SERIES[0]


def cross_site(run: RunFiles) -> Picture | None:
    """The picture, or None for a run whose hospitals have no models of their own."""
    metric = run.row.metric
    values = {(row["model"], row["tested_on"]): _number(row.get(metric.name)) for row in run.across}
    models, sites = list(dict.fromkeys(one for one, _ in values)), list(dict.fromkeys(one for _, one in values))
    known = [value for value in values.values() if value is not None]
    if not known:
        return None
    many = len(sites) > MOST_FIGURES
    data = run.dataset.name if run.dataset else "not recorded"
    cell = 0.24 if many else 0.42
    sheet = Sheet(
        "Whose model serves whom",
        f"{metric_title(metric)} of each hospital's own model (rows) on each hospital's test records (columns); "
        "the darker the better, framed: at home.",
        f"Data: {data} · seed {run.seed} · lowest {score_text(metric, min(known))}, highest "
        f"{score_text(metric, max(known))} · a simulation's figure: own models never leave their hospitals",
        cell * len(models) + (1.5 if many else 0.5),
    )
    names = dict(zip((*sites, FEDERATED), shorten_all([*sites, "all: federated"], 20)))
    left = MARGIN + 0.3 + max(sheet.text_width(names[one], SMALL_SIZE) for one in models)
    width = min(_width(len(sites), many), 10.0 - left)
    top = sheet.height - (1.4 if many else 0.35)
    axes = sheet.axes(left, left + width, top - cell * len(models), top)
    _cells(axes, metric, values, models, sites, known)
    axes.set_xlim(0, len(sites))
    axes.set_ylim(len(models), 0)
    axes.grid(False)
    axes.xaxis.tick_top()
    axes.set_xticks([place + 0.5 for place in range(len(sites))])
    space = width / len(sites)
    labels = [names[one] if many else _fitting(sheet, names[one], space) for one in sites]
    axes.set_xticklabels(labels, rotation=90 if many else 0, size=SMALL_SIZE)
    axes.set_yticks([place + 0.5 for place in range(len(models))])
    axes.set_yticklabels([names[one] for one in models], size=SMALL_SIZE)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return sheet.finish("cross_site", "Whose model serves whom", _caption(metric, values, sites), _words(metric, known))


def _width(sites: int, many: bool) -> float:
    """Inches of the cells."""
    return sites * (0.24 if many else 1.15)


def _cells(
    axes: Any,
    metric: Metric,
    values: Mapping[tuple[str, str], float | None],
    models: Sequence[str],
    sites: Sequence[str],
    known: Sequence[float],
) -> None:
    from matplotlib.patches import Rectangle

    low, high = min(known), max(known)
    for down, model in enumerate(models):
        for right, site in enumerate(sites):
            value = values.get((model, site))
            home = model == site
            if value is not None:
                share = 0.5 if high == low else (value - low) / (high - low)
                share = share if metric.higher_is_better else 1.0 - share
                depth = _FAINT + (_STRONG - _FAINT) * share
                axes.add_patch(Rectangle((right, down), 1, 1, facecolor=_COLOUR, alpha=depth, edgecolor="none"))
            axes.add_patch(Rectangle((right, down), 1, 1, fill=False, edgecolor=CARD, lw=1.2))
            if home:
                inner = Rectangle((right + 0.03, down + 0.05), 0.94, 0.9, fill=False, edgecolor=INK, lw=1.3, zorder=3)
                axes.add_patch(inner)
            if len(sites) <= MOST_FIGURES:
                text, colour = ("-", MUTED) if value is None else (score_text(metric, value), INK)
                weight = "bold" if home else "normal"
                look = {"size": TEXT_SIZE, "color": colour, "weight": weight, "ha": "center", "va": "center"}
                axes.text(right + 0.5, down + 0.5, text, parse_math=False, **look)


def _fitting(sheet: Sheet, name: str, space: float) -> str:
    """A name that is no wider than its column."""
    letters = len(name)
    while letters > 4 and sheet.text_width(shorten(name, letters), SMALL_SIZE) > space - 0.06:
        letters -= 1
    return shorten(name, letters)


def _caption(metric: Metric, values: Mapping[tuple[str, str], float | None], sites: Sequence[str]) -> str:
    """At how many hospitals another's model, or that of all, does better than their own."""
    if all(values.get((site, site)) is None for site in sites):
        return "No own model has a figure at its own hospital: nothing can be told."
    better = []
    for site in sites:
        home = values.get((site, site))
        if home is not None:
            others = [value for (model, of), value in values.items() if of == site and model != site]
            sign = 1 if metric.higher_is_better else -1
            if any(value is not None and sign * (value - home) > 0 for value in others):
                better.append(site)
    if not better:
        return "No hospital is served better by another's model than by its own."
    named = ", ".join(better[:4]) + (f" and {len(better) - 4} more" if len(better) > 4 else "")
    return (
        f"Another's model, or that of all, does better than their own on the test records of {named}. Small test sets "
        "decide little."
    )


def _words(metric: Metric, known: Sequence[float]) -> str:
    return (
        f"A heat map of {metric_title(metric)}: own models by hospitals, from {score_text(metric, min(known))} to "
        f"{score_text(metric, max(known))}."
    )


def _number(text: str | float | None) -> float | None:
    if text is None or text == "":
        return None
    value = float(text)
    return value if math.isfinite(value) else None
