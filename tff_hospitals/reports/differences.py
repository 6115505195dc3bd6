"""Differences between two methods, with the interval that says whether they can be told apart."""

from __future__ import annotations

from collections.abc import Sequence

from tff_hospitals.reports.fields import finite_or_none
from tff_hospitals.reports.rows import Row
from tff_hospitals.reports.spread import Interval, mean, sample_sd, t_interval
from tff_hospitals.reports.summary import Summary


def difference(summary: Summary, first: Row, second: Row) -> tuple[float, Interval | None] | None:
    """The headline figure of `first` minus that of `second`, with its 95 % interval.

    The interval is the recorded one over patients and seeds, else that over seeds (None when they cannot be paired).
    """
    found = paired_difference(first, second)
    recorded = _recorded(summary, first, second)
    return found if found is None or recorded is None else (found[0], recorded)


def _recorded(summary: Summary, first: Row, second: Row) -> Interval | None:
    if summary.differences.get("metric") != summary.headline:
        return None
    place, other = (next(k for k, row in enumerate(summary.rows) if row is one) for one in (first, second))
    ends = [_at(summary.differences.get(name), place, other) for name in ("low", "high")]
    return None if None in ends else Interval(*(end for end in ends if end is not None))


def _at(table: object, row: int, column: int) -> float | None:
    """A cell of a recorded table; None where the file has no such cell."""
    for place in (row, column):
        if not isinstance(table, Sequence) or not place < len(table):
            return None
        table = table[place]
    return finite_or_none(table)


def told_apart(summary: Summary, first: Row, second: Row) -> bool:
    """Whether the interval of their difference excludes zero."""
    found = difference(summary, first, second)
    return found is not None and found[1] is not None and not found[1].low <= 0.0 <= found[1].high


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
