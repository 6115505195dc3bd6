"""What lessons draw and say alike: curves over seeds, and the difference of two measured means in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tff_hospitals.hospitals import HospitalDataset
from tff_hospitals.models import FunctionalModel
from tff_hospitals.plan.plan import Plan
from tff_hospitals.reports.plot_style import SERIES, SMALL_SIZE, TEXT_SIZE, WIDTH, Picture, Sheet, drawing
from tff_hospitals.reports.spread import sample_sd, t_interval
from tff_hospitals.training.loop import train_seeds
from tff_hospitals.training.results import Run

Measured = Mapping[float, Sequence[float]]
"""Figures by seed, at every place of the axis."""


def over_seeds(plan: Plan, seeds: Sequence[int], dataset: HospitalDataset, model: FunctionalModel) -> list[Run]:
    """Trains a plan with each seed on the same hospitals; what is compiled is shared."""
    return train_seeds([plan.replace(seed=seed) for seed in seeds], dataset, model=model)


def mean_accuracy(runs: Sequence[Run]) -> list[float]:
    """Accuracy, the mean of the hospitals, of every run."""
    return [float(run.summary["accuracy_mean"]) for run in runs]


def percent(values: Sequence[float]) -> str:
    """The mean of shares as a percentage.

    >>> percent([0.5, 0.25])
    '37.5%'
    """
    return f"{np.mean(values):.1%}"


def difference(first: Sequence[float], second: Sequence[float], more: str = "more", less: str = "less") -> str:
    """How many points the first shares lie above the second ones, seed by seed, with the 95 % interval over seeds.

    Args:
      first, second: shares, one for each seed.
      more, less: words for above and below.

    >>> difference([0.8, 0.9], [0.8, 0.9])
    'the same'
    >>> difference([0.8, 0.9, 0.85], [0.4, 0.5, 0.46])
    '39.7 points more (95 % interval 38.2 to 41.1)'
    >>> difference([0.8, 0.5], [0.5, 0.8])
    'indistinguishable (+0.0 points, 95 % interval -381.2 to 381.2)'
    """
    points = [100 * (one - other) for one, other in zip(first, second)]
    centre = float(np.mean(points))
    if not any(points):
        return "the same"
    words = f"{abs(centre):.1f} points {more if centre > 0 else less}"
    found = t_interval(centre, sample_sd(points), len(points))
    if found is None:
        return f"{words} (one seed, so no interval)"
    if found.low <= 0 <= found.high:
        return f"indistinguishable ({centre:+.1f} points, 95 % interval {found.low:.1f} to {found.high:.1f})"
    low, high = sorted(map(abs, found))
    return f"{words} (95 % interval {low:.1f} to {high:.1f})"


def curves(
    name: str,
    title: str,
    subtitle: str,
    footer: str,
    series: Mapping[str, Measured],
    across: str,
    *,
    up: str = "accuracy, %",
    scale: float = 100.0,
    highest: float | None = 100.0,
) -> Picture:
    """One line for each series through the means over seeds, a dot for each seed; the axis across is logarithmic.

    Args:
      name: of the file, without ending.
      title, subtitle, footer: see `Sheet`; the subtitle is the caption too.
      series: by their labels; a place without figures is left out.
      across, up: what the axes show.
      scale: what figures are multiplied by.
      highest: end of the axis up; None fits it.
    """
    with drawing():
        sheet = Sheet(title, subtitle, footer, 3.6)
        axes = sheet.axes(0.8, WIDTH - 2.9, 0.45, sheet.height - 0.1)
        for place, (label, measured) in enumerate(series.items()):
            colour = SERIES[place % len(SERIES)]
            found = {x: [scale * value for value in values] for x, values in measured.items() if len(values)}
            axes.plot(list(found), [np.mean(values) for values in found.values()], "-", color=colour, label=label)
            for x, values in found.items():
                axes.plot([x] * len(values), values, "o", color=colour, markersize=3)
        places = sorted({x for measured in series.values() for x in measured})
        axes.set_xscale("log")
        axes.set_xticks(places, [f"{one:g}" for one in places])
        axes.minorticks_off()
        axes.set_ylim(0, highest)
        axes.set_xlabel(across, size=TEXT_SIZE)
        axes.set_ylabel(up, size=TEXT_SIZE)
        axes.legend(frameon=False, fontsize=SMALL_SIZE, loc="center left", bbox_to_anchor=(1.01, 0.5))
        ends = []
        for label, measured in series.items():
            means = [scale * float(np.mean(values)) for values in measured.values() if len(values)]
            ends += [f"{label} from {means[0]:.3g} to {means[-1]:.3g}"] if means else []
        return sheet.finish(name, title, subtitle, f"{title}: {'; '.join(ends)}.")
