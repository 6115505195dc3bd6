"""Means, deviations and intervals of few numbers, some of which may be missing.

>>> round(sample_sd([0.70, 0.72, 0.74]), 6), mean([0.5, None, 1.0])
(0.02, 0.75)
>>> interval = t_interval(0.72, 0.02, 3)
>>> round(interval.low, 4), round(interval.high, 4)
(0.6703, 0.7697)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tff_hospitals.reports.fields import finite_or_none

ByHospital = Mapping[str, "float | None"]


class Interval(NamedTuple):
    """Both ends of an interval."""

    low: float
    high: float


def known(values: Iterable[Any]) -> list[float]:
    """The values that are finite numbers."""
    return [value for value in map(finite_or_none, values) if value is not None]


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are numbers, None when there is none."""
    found = known(values)
    return math.fsum(found) / len(found) if found else None


def median(values: Iterable[float | None]) -> float | None:
    """The median of the values that are numbers, None when there is none."""
    found = known(values)
    return statistics.median(found) if found else None


def sample_sd(values: Iterable[float | None]) -> float | None:
    """The standard deviation with ddof 1 of the values that are numbers, None below two of them."""
    found = known(values)
    return statistics.stdev(found) if len(found) > 1 else None


def largest(values: Iterable[float | None]) -> float | None:
    """The largest value, None where one is missing: what is not known may be larger still."""
    every = list(values)
    found = [value for value in every if value is not None]
    return max(found) if found and len(found) == len(every) else None


def highest(values: Iterable[float | None]) -> float | None:
    """The largest of the values that are there."""
    return max((value for value in values if value is not None), default=None)


def lowest(values: Iterable[float | None]) -> float | None:
    """The smallest of the values that are there."""
    return min((value for value in values if value is not None), default=None)


def first(values: Sequence[Any]) -> Any:
    """The first value."""
    return values[0]


def first_known(values: Iterable[Any]) -> Any:
    """The first value that is there."""
    return next((value for value in values if value is not None), None)


def joined(values: Iterable[str]) -> str:
    """The different texts, in their order."""
    return "; ".join(dict.fromkeys(value for value in values if value))


def by_hospital(
    combine: Callable[[Iterable[float | None]], float | None],
) -> Callable[[Sequence[ByHospital]], dict[str, float | None]]:
    """Combines the values of each hospital.

    >>> by_hospital(mean)([{"a": 1.0, "b": 2.0}, {"a": 3.0}])
    {'a': 2.0, 'b': 2.0}
    """

    def combined(values: Sequence[ByHospital]) -> dict[str, float | None]:
        ids = dict.fromkeys(key for one in values for key in one)
        return {key: combine(one.get(key) for one in values) for key in ids}

    return combined


def quantile(values: Iterable[float | None], share: float) -> float | None:
    """The quantile of the values that are numbers, linear between neighbours."""
    found = sorted(known(values))
    if not found:
        return None
    position = share * (len(found) - 1)
    below = int(position)
    above = min(below + 1, len(found) - 1)
    return found[below] + (position - below) * (found[above] - found[below])


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
