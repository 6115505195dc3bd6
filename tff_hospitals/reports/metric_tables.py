"""Every metric of a comparison: the mean, all test records together, the worst hospital, and each one, with counts.

A dash is a figure that is not defined: a hospital whose test records are of one class has no AUC, one without test
records has nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tff_hospitals.reports.rows import Row
from tff_hospitals.reports.spread import Interval
from tff_hospitals.reports.summary import Summary
from tff_hospitals.reports.wording import NO_RECORDS, metric_head, metric_title, row_title, score_text, short_interval
from tff_hospitals.training.metrics import METRICS, Metric

MEAN, TOGETHER, WORST = "mean of the hospitals", "all test records together", "worst hospital"


def metric_tables(summary: Summary, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One table for each metric that a row has, the headline first: hospitals down, methods across.

    Args:
      summary: the comparison.
      rows: in the order in which they are shown.

    Returns:
      dictionaries with `title`, `caption`, `columns` and `rows` (texts, the first one of each is its head).
    """
    measured = [row for row in rows if row.measured]
    names = [name for name in METRICS if any(row.figures(name).mean is not None for row in measured)]
    names.sort(key=lambda name: name != summary.headline)
    return [_table(summary, METRICS[name], measured) for name in names]


def _table(summary: Summary, metric: Metric, rows: Sequence[Row]) -> dict[str, Any]:
    figures = [row.figures(metric.name) for row in rows]
    by_class = summary.test_records_by_class
    sizes = {one.id: one.test_records for one in summary.dataset.hospitals}
    counts = {key: _count(by_class.get(key), sizes.get(key)) for key in summary.hospital_ids}
    total = {name: sum(of.get(name, 0) for of in by_class.values()) for of in by_class.values() for name in of}
    together = _count(total, sum(size or 0 for size in sizes.values()) or None)
    lines = [
        [MEAN, "", *(_cell(metric, one.mean, one.low, one.high) for one in figures)],
        [TOGETHER, together, *(score_text(metric, one.pooled_mean) for one in figures)],
        [WORST, "", *(_named(score_text(metric, one.worst), one.worst_hospital) for one in figures)],
    ]
    for key, count in counts.items():
        cells = (
            _cell(metric, one.per_hospital.get(key), one.low_per_hospital.get(key), one.high_per_hospital.get(key))
            for one in figures
        )
        lines.append([key, count, *cells])
    better = "higher" if metric.higher_is_better else "lower"
    splits = ", all splits together" if summary.splits > 1 else ""
    return {
        "title": metric_title(metric),
        "caption": f"{metric_head(metric)}; {better} is better; test records{splits}",
        "columns": ["hospital", "test records", *map(row_title, rows)],
        "rows": lines,
    }


def _count(by_class: Mapping[str, Any] | None, records: int | None) -> str:
    """Test records, and how many of them are of class 1 where there are two classes."""
    if not by_class:
        return "" if records is None else str(records) if records else NO_RECORDS
    total = sum(by_class.values())
    return f"{total} ({by_class['1']} positive)" if set(by_class) == {"0", "1"} else str(total)


def _cell(metric: Metric, value: float | None, low: float | None, high: float | None) -> str:
    ends = "" if low is None or high is None else f" {short_interval(metric, Interval(low, high))}"
    return score_text(metric, value) + (ends if value is not None else "")


def _named(text: str, hospital: str | None) -> str:
    return f"{text} at {hospital}" if hospital else text
