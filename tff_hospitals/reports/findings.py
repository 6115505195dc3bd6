"""The answer in sentences: which method costs least at each promise, and what the promise costs.

Every sentence is a comparison of two rows of the summary with its uncertainty; where the interval of the difference
covers zero it says so instead of naming a winner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tff_hospitals.reports.rows import Row, common_warnings
from tff_hospitals.reports.seeds import paired_difference
from tff_hospitals.reports.summary import Summary
from tff_hospitals.reports.wording import UNIT_SHORT, bytes_text, percent, row_title, target_text


def best_rows(rows: Iterable[Row]) -> dict[tuple[str, float | None], Row]:
    """The most accurate row of each group and target, in the order of the groups."""
    best: dict[tuple[str, float | None], Row] = {}
    for row in rows:
        if row.accuracy_mean is None:
            continue
        key = (row.group, row.target_epsilon if row.private else None)
        if key not in best or row.accuracy_mean > (best[key].accuracy_mean or 0.0):
            best[key] = row
    return best


def findings(summary: Summary) -> list[str]:
    """Sentences for the top of a report; empty when no row has an accuracy."""
    best = best_rows(summary.rows)
    yardstick = best.get(("no_guarantee", None)) or best.get(("baseline", None))
    sentences = []
    if yardstick is not None:
        sentences.append(
            f"Without any privacy guarantee, {_among(yardstick, summary.rows)} {yardstick.name}: "
            f"{percent(yardstick.accuracy_mean)} % accuracy (mean of the hospitals)."
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
    text = f"At {promise}, {_among(row, rows)} {row.name}: {percent(row.accuracy_mean)} %"
    difference = None if yardstick is None else paired_difference(row, yardstick)
    if yardstick is not None and difference is not None:
        text += f", {_difference_words(difference, yardstick.name)}"
    if any(text not in common_warnings(rows) for text in row.warnings):
        text += ". Read its warnings before relying on it"
    return text + "."


def _among(row: Row, rows: Sequence[Row]) -> str:
    rivals = [
        other
        for other in rows
        if other.group == row.group
        and other.accuracy_mean is not None
        and (not row.private or other.target_epsilon == row.target_epsilon)
    ]
    return f"the best of {len(rivals)} methods is" if len(rivals) > 1 else "the only method is"


def _difference_words(difference: tuple[float, object], name: str) -> str:
    centre, interval = difference
    points = abs(100.0 * centre)
    side = "below" if centre < 0 else "above"
    text = f"{points:.1f} points {side} {name} (no guarantee)"
    if not isinstance(interval, tuple):
        return text + "; one seed or unpaired seeds, so no interval"
    low, high = (100.0 * end for end in interval)
    text += f"; 95 % interval of the difference {low:+.1f} to {high:+.1f}"
    return text + (", so these seeds cannot tell them apart" if low <= 0.0 <= high else "")


def _cheapest(rows: Sequence[Row]) -> str:
    sent = [row for row in rows if row.private and row.bytes_total is not None and row.accuracy_mean is not None]
    amounts = [row.bytes_total or 0.0 for row in sent]
    if len(sent) < 2 or max(amounts) <= 1.1 * min(amounts):  # nothing to choose by bytes
        return ""
    least = min(sent, key=lambda row: (row.bytes_total or 0.0, -(row.accuracy_mean or 0.0)))
    return (
        f"Fewest bytes with a guarantee: {row_title(least)}, {bytes_text(least.bytes_total)} for the whole run "
        f"at {percent(least.accuracy_mean)} % accuracy."
    )
