"""Differences between two methods, with the interval that says whether they can be told apart."""

from __future__ import annotations

from tff_hospitals.reports.rows import Row
from tff_hospitals.reports.spread import Interval, mean, sample_sd, t_interval


def paired_difference(first: Row, second: Row) -> tuple[float, Interval | None] | None:
    """The headline figure of `first` minus that of `second`, seed by seed where both ran the same number of seeds.

    Returns:
      the mean difference and its 95 % interval over seeds (None when the seeds cannot be paired), or None without
      figures.
    """
    one, other = first.score, second.score
    if one.mean is None or other.mean is None:
        return None
    pairs = list(zip(one.per_seed, other.per_seed))
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    if len(one.per_seed) != len(other.per_seed) or len(differences) < len(pairs) or not differences:
        return one.mean - other.mean, None
    centre = mean(differences)
    return centre or 0.0, t_interval(centre, sample_sd(differences), len(differences))
