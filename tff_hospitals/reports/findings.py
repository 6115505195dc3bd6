"""The answer in sentences: which method costs least at each promise, and what the promise costs.

Every sentence is a comparison of two rows of the summary with its uncertainty; where the interval of the difference
covers zero it says so instead of naming a winner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tff_hospitals.reports.differences import paired_difference
from tff_hospitals.reports.rows import Row, common_warnings
from tff_hospitals.reports.spread import Interval
from tff_hospitals.reports.summary import Summary
from tff_hospitals.reports.wording import (
    UNIT_SHORT,
    bytes_text,
    row_title,
    score_text,
    score_words,
    significant,
    target_text,
    with_unit,
)


def best_rows(rows: Iterable[Row]) -> dict[tuple[str, float | None], Row]:
    """The best row of each group and target, in the order of the groups."""
    best: dict[tuple[str, float | None], Row] = {}
    for row in rows:
        if row.merit is None:
            continue
        key = (row.group, row.target_epsilon if row.private else None)
        if key not in best or row.merit > (best[key].merit or 0.0):
            best[key] = row
    return best


def findings(summary: Summary) -> list[str]:
    """Sentences for the top of a report; empty when nothing but the loss is known."""
    if summary.metric.name == "loss":
        return []
    best = best_rows(summary.rows)
    yardstick = best.get(("no_guarantee", None)) or best.get(("baseline", None))
    sentences = []
    if yardstick is not None:
        sentences.append(
            f"Without any privacy guarantee, {_among(yardstick, summary.rows)} {yardstick.name}: "
            f"{score_words(yardstick.metric, yardstick.score.mean)} (mean of the hospitals)."
        )
    for unit in ("record", "hospital"):
        for target in sorted({key[1] for key in best if key[0] == unit}, key=lambda value: (value is None, value)):
            sentences.append(_private_sentence(best[(unit, target)], yardstick, summary.rows))
    cheapest = _cheapest(summary.rows)
    if cheapest:
        sentences.append(cheapest)
    return sentences


def _private_sentence(row: Row, yardstick: Row | None, rows: Sequence[Row]) -> str:
    target = "as spent" if row.target_epsilon is None else target_text(row.target_epsilon)
    promise = f"{UNIT_SHORT[row.unit]}, epsilon {target}"
    text = (
        f"At {promise}, {_among(row, rows)} {row.name}: {with_unit(row.metric, score_text(row.metric, row.score.mean))}"
    )
    difference = None if yardstick is None else paired_difference(row, yardstick)
    if yardstick is not None and difference is not None:
        text += f", {_difference_words(difference, yardstick)}"
    if any(text not in common_warnings(rows) for text in row.warnings):
        text += ". Read its warnings before relying on it"
    return text + "."


def _among(row: Row, rows: Sequence[Row]) -> str:
    rivals = [
        other
        for other in rows
        if other.group == row.group
        and other.score.mean is not None
        and (not row.private or other.target_epsilon == row.target_epsilon)
    ]
    return f"the best of {len(rivals)} methods is" if len(rivals) > 1 else "the only method is"


def _difference_words(difference: tuple[float, Interval | None], other: Row) -> str:
    centre, interval = difference
    scale, unit = (100.0, " points") if other.metric.percent else (1.0, "")
    digits = 1 if other.metric.percent else 3
    size = f"{scale * abs(centre):.{digits}f}{unit}" if other.metric.high is not None else significant(abs(centre))
    text = f"{size} {'below' if centre < 0 else 'above'} {other.name} (no guarantee)"
    if interval is None:
        return text + "; one seed or unpaired seeds, so no interval"
    low, high = (f"{scale * end:+.{digits}f}" if other.metric.high is not None else f"{end:+.3g}" for end in interval)
    text += f"; 95 % interval of the difference {low} to {high}"
    return text + (", so these seeds cannot tell them apart" if interval.low <= 0.0 <= interval.high else "")


def _cheapest(rows: Sequence[Row]) -> str:
    sent = [row for row in rows if row.private and row.bytes_total is not None and row.merit is not None]
    amounts = [row.bytes_total or 0.0 for row in sent]
    if len(sent) < 2 or max(amounts) <= 1.1 * min(amounts):  # nothing to choose by bytes
        return ""
    least = min(sent, key=lambda row: (row.bytes_total or 0.0, -(row.merit or 0.0)))
    return (
        f"Fewest bytes with a guarantee: {row_title(least)}, {bytes_text(least.bytes_total)} for the whole run "
        f"at {score_words(least.metric, least.score.mean)}."
    )
