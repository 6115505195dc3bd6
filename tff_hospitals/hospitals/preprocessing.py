"""Fills empty cells and scales columns, and says which of it respects privacy.

Means and deviations of a hospital's records are private data: features that were made with them carry them into
everything that follows, and no epsilon of the training covers that. So there is a choice, and the data set says which
one was made:

| scaling | centre and scale come from | private |
|---|---|---|
| `per_hospital` | the hospital's own training records (exact; sample deviation + 1e-9) | no |
| `pooled` | all hospitals' training records together (exact; needs them in one place) | no |
| `fixed_bounds` | public bounds of the schema: numbers to -2 .. 2, yes/no columns stay 0 and 1 | yes |
| `dp_moments` | one noised release per hospital (`dp_moments`); the ledger must hold its event | yes |
| `none` | nothing | yes |

Filling in a constant is private, filling in the hospital's median is not.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import Problem, in_range, one_of, raise_if
from tff_hospitals.hospitals import dp_moments
from tff_hospitals.hospitals.features import Column
from tff_hospitals.hospitals.hospital import Preprocessing, Scaler
from tff_hospitals.hospitals.schema import SCALINGS, Schema


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Which scaling, with what it needs.

    Attributes:
      kind: one of `SCALINGS`.
      noise_multiplier: noise of `dp_moments` over its sensitivity, > 0; unused otherwise.
      streams: source of that noise; default: the data set's secret, which for embedded data is public: who knows it
        knows the noise.
    """

    kind: str = "per_hospital"
    noise_multiplier: float | None = None
    streams: Streams | None = None

    def problems(self, columns: Sequence[Column]) -> list[Problem | None]:
        """Unknown kinds, missing noise, columns without public bounds."""
        found = [one_of("scaling", self.kind, SCALINGS)]
        if self.kind == "dp_moments":
            remedy = "give scaling_noise_multiplier, for example 5: epsilon 0.45 at delta 1e-3"
            found.append(
                in_range("scaling_noise_multiplier", self.noise_multiplier, low=0.0, low_open=True, remedy=remedy)
            )
        elif self.noise_multiplier is not None:
            remedy = "drop it or choose scaling=dp_moments"
            found.append(
                Problem("scaling_noise_multiplier", self.noise_multiplier, "is only used with dp_moments", remedy)
            )
        open_ended = [column.name for column in columns if column.low is None]
        if self.kind in ("fixed_bounds", "dp_moments") and open_ended:
            bound = f"must have public bounds for scaling={self.kind}"
            found.append(Problem("columns", open_ended, bound, "give low and high in the schema"))
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """One hospital's records before scaling.

    Attributes:
      hospital_id: its id.
      values: float64 of shape [records, columns] in original units, NaN where a median is to be filled in.
      labels: of shape [records].
      tested: sorted row numbers of the test records.
      trained: sorted row numbers of the training records.
      patients: of shape [records], a number for each patient, the same in every split; None: not known.
    """

    hospital_id: str
    values: np.ndarray
    labels: np.ndarray
    tested: np.ndarray
    trained: np.ndarray
    patients: np.ndarray | None = None


def prepare(
    sites: Sequence[Site], schema: Schema, scaling: Scaling, streams: Streams
) -> tuple[list[np.ndarray], list[Scaler], Preprocessing]:
    """Fills, scales and accounts.

    Args:
      sites: hospitals before scaling.
      schema: what their columns mean.
      scaling: which scaling.
      streams: source of the noise of `dp_moments` unless `scaling` has its own; each hospital gets its own child.

    Returns:
      For each site float32 features of shape [records, columns] and the scaler that restores original units; and what
      was done.
    """
    columns = schema.columns
    raise_if([*scaling.problems(columns), *_median_problems(sites, columns)])
    filled = [_fill_medians(site, columns) for site in sites]
    pooled = None
    if scaling.kind == "pooled":
        pooled = _moments(np.concatenate([values[site.trained] for site, values in zip(sites, filled)]))
    scalers: list[Scaler] = []
    events: list[dict[str, Any]] = []
    for site, values in zip(sites, filled):
        if pooled is not None:
            scalers.append(pooled)
        elif scaling.kind == "per_hospital":
            scalers.append(_moments(values[site.trained]))
        elif scaling.kind == "fixed_bounds":
            scalers.append(_bounds_scaler(columns))
        elif scaling.kind == "dp_moments":
            scaler, event = _private_moments(site, values, columns, scaling, scaling.streams or streams)
            scalers.append(scaler)
            events.extend(event)
        else:
            scalers.append(Scaler(np.zeros(len(columns)), np.ones(len(columns))))
    if scaling.kind in ("fixed_bounds", "dp_moments"):  # the guarantee and the range hold only inside the bounds
        low, high = (np.array([getattr(c, side) for c in columns]) for side in ("low", "high"))
        filled = [np.clip(values, low, high) for values in filled]
    features = [scaler.apply(values) for scaler, values in zip(scalers, filled)]
    return features, scalers, _account(schema, scaling, tuple(events))


def _moments(values: np.ndarray) -> Scaler:
    """Means and sample deviations + 1e-9; a column that does not vary is only centred.

    What rounding leaves of a deviation, about 1e-14 of the values, is no variation: dividing by it would blow up the
    one test record that differs.
    """
    means = values.mean(axis=0)
    deviations = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    varies = deviations > 1e-9 * np.abs(values).max(axis=0)
    return Scaler(means, np.where(varies, deviations + 1e-9, 1.0))


def _bounds_scaler(columns: Sequence[Column]) -> Scaler:
    """Numbers between bounds to -2 .. 2, as if the public range were four deviations wide; 0 and 1 stay."""
    centres = np.zeros(len(columns))
    scales = np.ones(len(columns))
    for at, column in enumerate(columns):
        if column.kind == "numeric":
            low, high = float(column.low or 0.0), float(column.high or 0.0)
            centres[at], scales[at] = (low + high) / 2, (high - low) / 4
    return Scaler(centres, scales)


def _private_moments(
    site: Site, values: np.ndarray, columns: Sequence[Column], scaling: Scaling, streams: Streams
) -> tuple[Scaler, list[dict[str, Any]]]:
    """Noised moments for the numeric columns; the others keep their public 0 and 1 and cost nothing."""
    scaler = _bounds_scaler(columns)
    numeric = [at for at, column in enumerate(columns) if column.kind == "numeric"]
    if not numeric:
        return scaler, []
    noise_multiplier = float(scaling.noise_multiplier or 0.0)
    rows = values[site.trained][:, numeric]
    # Another release has noise of its own: equal noise on other records or of another size would cancel out.
    released = hashlib.sha256(repr([columns[at] for at in numeric]).encode() + rows.astype("<f8").tobytes()).hexdigest()
    moments = dp_moments.release(
        rows,
        np.array([columns[at].low for at in numeric], np.float64),
        np.array([columns[at].high for at in numeric], np.float64),
        noise_multiplier=noise_multiplier,
        streams=streams.child("dp_moments", site.hospital_id, repr(noise_multiplier), released),
    )
    scaler.centres[numeric], scaler.scales[numeric] = moments.means, moments.deviations
    event = {"unit": "record", "hospital_id": site.hospital_id, "kind": "gaussian"}
    return scaler, [{**event, "noise_multiplier": noise_multiplier, "count": 1}]


def _without_median(sites: Sequence[Site], columns: Sequence[Column]) -> list[tuple[Site, Column]]:
    """Where a cell is to be filled with a median, and no training record has a value."""
    return [
        (site, column)
        for site in sites
        for at, column in enumerate(columns)
        if np.isnan(site.values[:, at]).any() and np.isnan(site.values[site.trained, at]).all()
    ]


def _median_problems(sites: Sequence[Site], columns: Sequence[Column]) -> list[Problem]:
    return [
        Problem(
            f"median of {column.name!r} at {site.hospital_id}",
            None,
            "cannot be taken: no training record there has a value",
            "give the column impute: NUMBER or bounds in the schema, or leave the column or the hospital out",
        )
        for site, column in _without_median(sites, columns)
        if column.low is None
    ]


def median_warnings(sites: Sequence[Site], schema: Schema) -> tuple[str, ...]:
    """One sentence for each hospital that has no value to take a median of; for those inside."""
    return tuple(
        f"{site.hospital_id} has no value of {column.name} among its training records: the middle of the public bounds "
        "stands for the median"
        for site, column in _without_median(sites, schema.columns)
    )


def _fill_medians(site: Site, columns: Sequence[Column]) -> np.ndarray:
    """Empty cells become the median of the training records; where there is none, the middle of the public bounds."""
    values = site.values.copy()
    for at in np.flatnonzero(np.isnan(values).any(axis=0)):
        train = values[site.trained, at]
        column = columns[at]
        middle = 0.0 if column.low is None else (column.low + float(column.high or 0.0)) / 2
        median = middle if np.isnan(train).all() else np.nanmedian(train)
        values[np.isnan(values[:, at]), at] = median
    return values


_SCALING_WORDS = {
    "per_hospital": "each column standardised with the mean and sample deviation of the hospital's own training "
    "records (exact, so not private)",
    "pooled": "each column standardised with the mean and sample deviation of all hospitals' training records together "
    "(exact and in one place, so not private)",
    "fixed_bounds": "numbers scaled by fixed public bounds to -2 .. 2 (nothing is learnt from the records)",
    "dp_moments": "numbers standardised with means and deviations that each hospital released once with Gaussian noise "
    "(private; the ledger holds the event)",
    "none": "features in original units",
}


def _account(schema: Schema, scaling: Scaling, events: tuple[dict[str, Any], ...]) -> Preprocessing:
    medians = [feature.name for feature in schema.features if feature.impute == "median"]
    constants = [feature.name for feature in schema.features if feature.impute not in (None, "median")]
    words = [_SCALING_WORDS[scaling.kind]]
    if constants:
        words.append(f"empty cells of {', '.join(constants)} filled with public constants")
    if medians:
        words.append(
            f"empty cells of {', '.join(medians)} filled with the hospital's training median (exact, so not private); "
            "where it has no value, with the middle of the public bounds"
        )
    if any(feature.has_indicator for feature in schema.features):
        words.append("a column <name>_missing marks filled cells")
    private = scaling.kind not in ("per_hospital", "pooled") and not medians
    return Preprocessing(scaling.kind, private, "; ".join(words), events)
