"""How unlike hospitals are: their mixes of labels, and how their columns are spread, each against all others together.

Everything is computed from counts: of labels, and of equal bins of each column between its public bounds; ten where
they are noised, a hundred where they are exact. So one function serves both.

| figure | of | says |
|---|---|---|
| total variation | shares of labels | the share of records that would need another label; 0 alike, 1 disjoint |
| Jensen-Shannon divergence | shares of labels | Lin 1991, in bits: 0 alike, 1 disjoint |
| standardised mean difference | a column | difference of means over the root of the mean variance (Austin 2009) |
| population stability index | a column | sum of (p - q) ln(p / q) over the bins; above 0.25 is called a large shift |

Counts become private by one Gaussian release per hospital: a record adds one to the counts of labels and one to those
of each column, so that adding or removing one moves them by at most sqrt(1 + columns) in the Euclidean norm.

>>> total_variation([0.5, 0.5], [1.0, 0.0]), round(jensen_shannon([1.0, 0.0], [0.0, 1.0]), 3)
(0.5, 1.0)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import Problem, in_range, raise_if
from tff_hospitals.hospitals.dataset import HospitalDataset
from tff_hospitals.hospitals.hospital import Hospital
from tff_hospitals.hospitals.lazy import load_part

BINS = 10
"""Of a column, where counts are noised and for the stability index; exact counts have ten times as many."""
LARGE = 0.25
"""A population stability index above it is called a large shift (Siddiqi 2006)."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """A column that is counted between two bounds.

    Attributes:
      name: of the column.
      low, high: bounds of its bins.
      public: whether the bounds were known before anybody looked at records.
    """

    name: str
    low: float
    high: float
    public: bool

    def counts(self, values: np.ndarray, bins: int) -> np.ndarray:
        """Records in each of `bins` equal bins, float64; what lies outside the bounds counts in the outer ones."""
        width = (self.high - self.low) / bins or 1.0
        places = np.clip(np.floor((values - self.low) / width), 0, bins - 1).astype(int)
        return np.bincount(places, minlength=bins).astype(np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class Counts:
    """What shifts are computed from.

    Attributes:
      labels: by hospital, counts of classes (of a number: of bins).
      columns: by hospital, counts of shape [columns, bins].
      axes: the columns.
      noise_multiplier: of the release; None: the counts are exact.
      left_out: columns without public bounds, or filled with medians, which noised counts have not.
    """

    labels: Mapping[str, np.ndarray]
    columns: Mapping[str, np.ndarray]
    axes: tuple[Axis, ...]
    noise_multiplier: float | None = None
    left_out: tuple[str, ...] = ()


def counts(
    dataset: HospitalDataset, *, noise_multiplier: float | None = None, streams: Streams | None = None
) -> Counts:
    """Counts of every hospital's training records.

    Args:
      dataset: the hospitals.
      noise_multiplier: of one Gaussian release per hospital, over the sensitivity sqrt(1 + columns); None: exact.
      streams: source of the noise; default: the operating system, so that nobody can draw it again.

    Raises:
      InvalidInput: a noise multiplier that is not positive, or `noise_problem`.
    """
    if noise_multiplier is not None:
        remedy = "give a positive number such as 2"
        positive = in_range("counts_noise_multiplier", noise_multiplier, low=0.0, low_open=True, remedy=remedy)
        raise_if([positive, noise_problem(dataset, noise_multiplier)])
    found = {one.hospital_id: _values(one) for one in dataset.hospitals}
    axes = _axes(dataset, [values for values, _ in found.values()])
    target = _target_axis(dataset, [labels for _, labels in found.values()])
    left_out: tuple[str, ...] = ()
    kept, bins = list(range(len(axes))), BINS if noise_multiplier is not None else 10 * BINS
    if noise_multiplier is not None:
        left_out = tuple(axis.name for axis in (*axes, *([target] if target else [])) if not axis.public)
        kept = [place for place in kept if axes[place].public]
    labels, columns = {}, {}
    for one, (values, classes) in found.items():
        if target is None:
            own = np.bincount(classes.astype(int), minlength=dataset.num_classes).astype(np.float64)
        else:
            own = target.counts(classes, BINS) if target.public or noise_multiplier is None else np.zeros(0)
        table = np.array([axes[place].counts(values[:, place], bins) for place in kept]).reshape(len(kept), bins)
        if noise_multiplier is not None:
            generator = (streams or Streams.from_operating_system()).child("counts", one).generator()
            scale = noise_multiplier * math.sqrt(1 + len(kept))
            own = own + scale * generator.normal(size=own.shape)
            table = table + scale * generator.normal(size=table.shape)
        labels[one], columns[one] = np.maximum(own, 0.0), np.maximum(table, 0.0)
    return Counts(labels, columns, tuple(axes[place] for place in kept), noise_multiplier, left_out)


def noise_problem(dataset: HospitalDataset, noise_multiplier: float) -> Problem | None:
    """That the sensitivity of noised counts is unknown: one record would move others across the edge of a bin.

    Features are kept as they were scaled. Where the scale follows the records, taking it back leaves an error that
    depends on all of them, which is enough for whole columns of values that lie on an edge.
    """
    kind = dataset.preprocessing.kind
    if kind in ("fixed_bounds", "none"):
        return None
    bound = f"needs columns that were scaled by public numbers, and {kind} follows the records"
    remedy = "take --data_option=scaling=fixed_bounds with public bounds, or drop it: shifts are then not shown"
    return Problem("counts_noise_multiplier", noise_multiplier, bound, remedy)


def _values(one: Hospital) -> tuple[np.ndarray, np.ndarray]:
    """Training records in original units, float64 [records, columns] (of images: the mean of each), and labels."""
    part = load_part(one.train)
    values = one.restore(part.features)
    return (values if values.ndim == 2 else values.reshape(len(values), -1).mean(axis=1)[:, None]), part.labels


def _axes(dataset: HospitalDataset, found: Sequence[np.ndarray]) -> list[Axis]:
    schema = dataset.schema
    medians: set[str] = set()  # a cell that was filled with one follows from other records: its bin is not public
    if schema is not None:
        known = [(column.name, column.low, column.high) for column in schema.columns]
        medians = {one.name for one in schema.columns if schema.feature(one.source).impute == "median"}
    elif len(dataset.feature_shape) > 1:
        scaler = dataset.hospitals[0].scaler
        bounded = scaler is not None and dataset.preprocessing.kind == "fixed_bounds" and scaler.scales.ndim == 0
        known = [("mean of a record", 0.0 if bounded else None, float(scaler.scales) if bounded and scaler else None)]
    else:
        names = dataset.feature_names or tuple(f"x{number}" for number in range(1, found[0].shape[1] + 1))
        known = [(name, None, None) for name in names]
    axes = []
    for place, (name, low, high) in enumerate(known):
        if low is None or high is None:
            parts = [values[:, place] for values in found if len(values)]
            axes.append(Axis(name, min(map(np.min, parts)), max(map(np.max, parts)), public=False))
        else:
            axes.append(Axis(name, float(low), float(high), public=name not in medians))
    return axes


def _target_axis(dataset: HospitalDataset, labels: Sequence[np.ndarray]) -> Axis | None:
    if dataset.task != "regression":
        return None
    if dataset.target_bounds is not None:
        return Axis("target", *dataset.target_bounds, public=True)
    return Axis("target", min(map(np.min, labels)), max(map(np.max, labels)), public=False)


def shares(values: npt.ArrayLike) -> np.ndarray:
    """Counts as shares of their sum; equal ones where there is nothing."""
    found = np.asarray(values, np.float64)
    return found / found.sum() if found.sum() > 0 else np.full(found.shape, 1 / max(1, found.size))


def total_variation(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Half of the summed absolute differences of two mixes."""
    return float(np.abs(np.asarray(one) - np.asarray(other)).sum() / 2)


def jensen_shannon(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """The Jensen-Shannon divergence of two mixes in bits."""
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    middle = (first + second) / 2

    def divergence(mix: np.ndarray) -> float:
        there = mix > 0
        return float((mix[there] * np.log2(mix[there] / middle[there])).sum())

    return (divergence(first) + divergence(second)) / 2


def mean_difference(one: np.ndarray, other: np.ndarray) -> float:
    """The standardised mean difference of two columns by their counts in equal bins; 0 where both are empty.

    A bin is taken for its middle; a variance is at least that of values spread evenly over one bin.
    """
    middles = np.arange(len(one)) + 0.5
    (first, spread), (second, spreads) = (_moments(shares(counts), middles) for counts in (one, other))
    return (first - second) / math.sqrt((spread + spreads) / 2)


def _moments(mix: np.ndarray, middles: np.ndarray) -> tuple[float, float]:
    mean = float(mix @ middles)
    return mean, max(float(mix @ middles**2) - mean**2, 1 / 12)


def stability_index(one: np.ndarray, other: np.ndarray) -> float:
    """The population stability index of two columns by `BINS` counts; half a record is added to every bin.

    Counts of more bins are added up first.
    """
    few = (np.asarray(counts).reshape(min(BINS, len(counts)), -1).sum(axis=1) for counts in (one, other))
    first, second = (shares(counts + 0.5) for counts in few)
    return float(((first - second) * np.log(first / second)).sum())


def label_rows(found: Counts) -> list[dict[str, Any]]:
    """A row for each hospital: its mix of labels against that of all others together."""
    rows = []
    for one, own in found.labels.items():
        rest = np.sum([counts for name, counts in found.labels.items() if name != one], axis=0)
        both = shares(own), shares(rest)
        empty = not own.size or not np.any(own) or not np.any(rest)
        rows.append(
            {
                "hospital": one,
                "total_variation": None if empty else total_variation(*both),
                "jensen_shannon": None if empty else jensen_shannon(*both),
            }
        )
    return rows


def column_rows(found: Counts) -> list[dict[str, Any]]:
    """A row for each hospital and column: how it is spread there against all others together."""
    rows = []
    for one, table in found.columns.items():
        rest = np.sum([counts for name, counts in found.columns.items() if name != one], axis=0)
        for axis, own, others in zip(found.axes, table, rest):
            rows.append(
                {
                    "hospital": one,
                    "column": axis.name,
                    "mean_difference": mean_difference(own, others),
                    "stability_index": stability_index(own, others),
                }
            )
    return rows
