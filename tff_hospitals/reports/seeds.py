"""From runs of one method with several seeds to one row: means, standard deviations and 95 % t-intervals.

One run is never a result: the smallest hospital of the embedded set has 16 test records, so one record moves it by six
points.

>>> round(sample_sd([0.70, 0.72, 0.74]), 6)
0.02
>>> interval = t_interval(0.72, 0.02, 3)
>>> round(interval.low, 4), round(interval.high, 4)
(0.6703, 0.7697)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.reports.fields import finite_or_none
from tff_hospitals.reports.rows import PRIVACY_FIELDS, CurvePoint, Row, row_from_json
from tff_hospitals.training.signal_to_noise import SWAMPS, swamped_words


class Interval(NamedTuple):
    """Both ends of an interval."""

    low: float
    high: float


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are numbers, None when there is none."""
    known = [value for value in map(finite_or_none, values) if value is not None]
    return math.fsum(known) / len(known) if known else None


def sample_sd(values: Iterable[float | None]) -> float | None:
    """The standard deviation with ddof 1 of the values that are numbers, None below two of them."""
    known = [value for value in map(finite_or_none, values) if value is not None]
    if len(known) < 2:
        return None
    centre = math.fsum(known) / len(known)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in known) / (len(known) - 1))


def t_interval(centre: float | None, sd: float | None, count: int, level: float = 0.95) -> Interval | None:
    """The two-sided Student interval of a mean of `count` values; None below two values.

    Args:
      centre: the mean.
      sd: the standard deviation of the values, ddof 1.
      count: how many values were averaged.
      level: coverage, between 0 and 1.

    Source: Student (W. S. Gosset) 1908, Biometrika 6(1).
    """
    if centre is None or sd is None or count < 2:
        return None
    from scipy.special import stdtrit

    half = float(stdtrit(count - 1, 0.5 + level / 2.0)) * sd / math.sqrt(count)
    return Interval(centre - half, centre + half)


def accuracy_interval(row: Row) -> Interval | None:
    """The 95 % interval over seeds of a row's accuracy, None with fewer than two seeds."""
    return t_interval(row.accuracy_mean, row.accuracy_sd, row.seeds_measured)


def hospital_interval(row: Row, hospital_id: str) -> Interval | None:
    """The 95 % interval over seeds of one hospital's accuracy, None with fewer than two seeds."""
    centre = row.accuracy_per_hospital.get(hospital_id)
    return t_interval(centre, row.accuracy_sd_per_hospital.get(hospital_id), row.seeds_measured)


def paired_difference(first: Row, second: Row) -> tuple[float, Interval | None] | None:
    """Accuracy of `first` minus `second`, seed by seed where both ran the same number of seeds.

    Returns:
      the mean difference and its 95 % interval (None when the seeds cannot be paired), or None without accuracies.
    """
    if first.accuracy_mean is None or second.accuracy_mean is None:
        return None
    pairs = list(zip(first.accuracy_per_seed, second.accuracy_per_seed))
    if len(first.accuracy_per_seed) != len(second.accuracy_per_seed) or any(None in pair for pair in pairs):
        return first.accuracy_mean - second.accuracy_mean, None
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    centre = mean(differences)
    if centre is None:
        return first.accuracy_mean - second.accuracy_mean, None
    return centre, t_interval(centre, sample_sd(differences), len(differences))


def aggregate_runs(results: Sequence[Mapping[str, Any] | Row]) -> Row:
    """One comparison row from the summaries of runs that differ in their seed only.

    Accuracy, loss, bytes and seconds are means over seeds; epsilon is the *largest* of the seeds and the noise
    the *smallest*, so that the row never promises more than every run kept. A run that ended early keeps its last point
    for the later rounds of the curve: that is the model which it would release. A run whose status is "failed" is left
    out and named in the warnings.

    Args:
      results: the `summary.json` objects of single runs, in the order of the seeds.

    Raises:
      InvalidInput: no runs, or runs of different methods, units or targets.
      RecordError: a summary that is not valid.
    """
    if not results:
        raise InvalidInput([Problem("results", [], "must hold at least one run", "give the summaries of the runs")])
    rows = [item if isinstance(item, Row) else row_from_json(item, f"run {k}") for k, item in enumerate(results)]
    for name in ("method", "unit", "target_epsilon"):
        values = {getattr(row, name) for row in rows}
        if len(values) > 1:
            shown = sorted(map(str, values))
            raise InvalidInput(
                [Problem(name, shown, "must be the same in all runs", "aggregate each method by itself")]
            )
    failed = [row for row in rows if row.extra.get("status") == "failed"]
    used = [row for row in rows if row not in failed] or rows
    accuracies = () if len(failed) == len(rows) else tuple(row.accuracy_mean for row in used)
    epsilons = _largest_by_id(row.epsilon_per_hospital for row in used)
    epsilon = _largest(row.epsilon for row in used)
    return Row(
        method=rows[0].method,
        label=rows[0].label,
        unit=rows[0].unit,
        target_epsilon=rows[0].target_epsilon,
        epsilon=epsilon,
        epsilon_pld=_largest(row.epsilon_pld for row in used),
        epsilon_per_hospital=epsilons,
        worst_hospital=_worst(used, epsilon, epsilons),
        delta=used[0].delta,
        adjacency=used[0].adjacency,
        conversion=used[0].conversion,
        noise_multiplier_per_hospital=_smallest_by_id(row.noise_multiplier_per_hospital for row in used),
        accuracy_mean=mean(accuracies),
        accuracy_sd=sample_sd(accuracies),
        accuracy_pooled_mean=mean(row.accuracy_pooled_mean for row in used) if accuracies else None,
        accuracy_pooled_sd=sample_sd(row.accuracy_pooled_mean for row in used) if accuracies else None,
        accuracy_per_hospital=_by_id((row.accuracy_per_hospital for row in used), mean) if accuracies else {},
        accuracy_sd_per_hospital=_by_id((row.accuracy_per_hospital for row in used), sample_sd) if accuracies else {},
        auc_mean=mean(row.auc_mean for row in used) if accuracies else None,
        loss_mean=mean(row.loss_mean for row in used) if accuracies else None,
        accuracy_per_seed=accuracies,
        bytes_up=mean(row.bytes_up for row in used),
        bytes_down=mean(row.bytes_down for row in used),
        seconds_per_round=mean(row.seconds_per_round for row in used),
        rounds=max((row.rounds for row in used if row.rounds is not None), default=None),
        stop_reason="; ".join(dict.fromkeys(row.stop_reason for row in used if row.stop_reason)),
        runtime="; ".join(dict.fromkeys(row.runtime for row in used if row.runtime)),
        guarantee=used[0].guarantee,
        warnings=_warnings(rows, used, failed),
        curve=merge_curves([row.curve for row in used]),
        membership_auc=mean(row.membership_auc for row in used),
        membership_tpr=mean(row.membership_tpr for row in used),
        reconstruction_error=mean(row.reconstruction_error for row in used),
        epsilon_lower_bound=max((b for row in used if (b := row.epsilon_lower_bound) is not None), default=None),
        extra={**_privacy(used), **_communication(used), **_measured_noise(used)},
    )


def merge_curves(curves: Sequence[Sequence[CurvePoint]]) -> tuple[CurvePoint, ...]:
    """One curve over the rounds that any seed evaluated; see `aggregate_runs` for runs that ended early."""
    curves = [sorted(curve, key=lambda point: point.round) for curve in curves if curve]
    merged = []
    for round_number in sorted({point.round for curve in curves for point in curve}):
        reached = [[point for point in curve if point.round <= round_number] for curve in curves]
        if not all(reached):  # a seed whose first evaluation comes later: no mean over all seeds yet
            continue
        points = [points[-1] for points in reached]
        merged.append(
            CurvePoint(
                round=round_number,
                epsilon=_largest(point.epsilon for point in points),
                accuracy_mean=mean(point.accuracy_mean for point in points),
                accuracy_sd=sample_sd(point.accuracy_mean for point in points) if len(points) > 1 else None,
                bytes_up=mean(point.bytes_up for point in points),
                bytes_down=mean(point.bytes_down for point in points),
            )
        )
    return tuple(merged)


def _warnings(rows: Sequence[Row], used: Sequence[Row], failed: Sequence[Row]) -> tuple[str, ...]:
    medians = _signal_to_noise(used)
    # What seeds measured differs by seed; their medians are one statement.
    texts = [text for row in rows for text in row.warnings if not (medians and text.startswith(SWAMPS))]
    texts += swamped_words(medians, "rounds and seeds" if len(used) > 1 else "rounds")
    for row in failed:
        texts.append(
            f"the run with seed {row.extra.get('seed')} failed and is left out: "
            f"{row.stop_reason or 'no reason recorded'}"
        )
    counts = sorted({row.rounds for row in used if row.rounds is not None})
    if len(counts) > 1:
        texts.append(f"the seeds stopped after different numbers of rounds, {counts[0]} to {counts[-1]}")
    return tuple(dict.fromkeys(texts))


def _signal_to_noise(used: Sequence[Row]) -> dict[str, float]:
    """The median over seeds of how loud each hospital's update was beside its noise; empty without such figures."""
    measured = [row.extra.get("signal_to_noise") for row in used]
    known = [one for one in measured if isinstance(one, dict) and one]
    if len(known) < len(used):
        return {}
    values = {scope: [finite_or_none(one.get(scope)) for one in known] for scope in _ids(known)}
    present = {scope: [value for value in of if value is not None] for scope, of in values.items()}
    return {scope: statistics.median(of) for scope, of in present.items() if of}


def _communication(used: Sequence[Row]) -> dict[str, Any]:
    """Means over the seeds of what runs measured on the way; texts are those of the first run."""
    parts = [row.extra["communication"] for row in used if isinstance(row.extra.get("communication"), dict)]
    if not parts:
        return {}
    found: dict[str, Any] = {}
    for name, first in parts[0].items():
        values = [part.get(name) for part in parts]
        known = [value for value in values if isinstance(value, (int, float))]
        found[name] = sum(known) / len(known) if known else first
    return {"communication": found}


def _measured_noise(used: Sequence[Row]) -> dict[str, Any]:
    medians = _signal_to_noise(used)
    return {"signal_to_noise": medians} if medians else {}


def _privacy(used: Sequence[Row]) -> dict[str, Any]:
    """What runs say of a second unit, of patients and of reproducing them: never less than the worst run."""
    found: dict[str, Any] = {}
    for name in PRIVACY_FIELDS:
        values = [row.extra[name] for row in used if name in row.extra]
        if not values:
            continue
        if name == "reproducible":
            found[name] = all(values)
        elif name.endswith("noise_multiplier"):
            found[name] = min((value for value in values if value is not None), default=None)
        elif name in ("second_unit", "second_conversion", "epsilon_pld_missing"):
            found[name] = next((value for value in values if value is not None), None)
        else:
            found[name] = _largest(values)
    return found


def _largest(values: Iterable[float | None]) -> float | None:
    known = list(values)
    numbers = [value for value in known if value is not None]
    return max(numbers) if numbers and len(numbers) == len(known) else None


def _ids(mappings: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _by_id(mappings: Iterable[Mapping[str, float | None]], combine: Any) -> dict[str, float | None]:
    known = list(mappings)
    return {key: combine(mapping.get(key) for mapping in known) for key in _ids(known)}


def _largest_by_id(mappings: Iterable[Mapping[str, float | None]]) -> dict[str, float | None]:
    return _by_id(mappings, _largest)


def _smallest_by_id(mappings: Iterable[Mapping[str, float | None]]) -> dict[str, float | None]:
    return _by_id(mappings, lambda values: min((value for value in values if value is not None), default=None))


def _worst(used: Sequence[Row], epsilon: float | None, epsilons: Mapping[str, float | None]) -> str | None:
    known = {key: value for key, value in epsilons.items() if value is not None}
    if epsilon is None or not known:
        return used[0].worst_hospital if len(used) == 1 else None
    return max(known, key=lambda key: known[key])
