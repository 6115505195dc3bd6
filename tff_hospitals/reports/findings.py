"""The answer in sentences: which method costs least at each promise, and what the promise costs.

Every sentence is a comparison of two rows of the summary with its uncertainty; where the interval of the difference
covers zero it says so instead of naming a winner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tff_hospitals.reports.differences import difference, told_apart
from tff_hospitals.reports.gains import gain_sentences
from tff_hospitals.reports.rows import Row, common_warnings, ordered
from tff_hospitals.reports.spread import Interval
from tff_hospitals.reports.summary import Summary
from tff_hospitals.reports.wording import (
    UNIT_SHORT,
    bytes_text,
    percent,
    row_title,
    score_text,
    score_words,
    significant,
    some,
    target_text,
    unranked_sentences,
    with_unit,
)
from tff_hospitals.training.metrics import UNEQUAL, Metric

_FEW_TESTS = 10  # records: each moves a percentage by ten points or more


def best_rows(rows: Iterable[Row]) -> dict[tuple[str, float | None], Row]:
    """The best row of each group and target, in the order of the groups; what has not converged is not ranked."""
    best: dict[tuple[str, float | None], Row] = {}
    for row in rows:
        if row.merit is None or not row.ranked:
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
        lead, alike = _among(yardstick, summary)
        sentences.append(
            f"Without any privacy guarantee, {lead} {yardstick.name}: "
            f"{score_words(yardstick.metric, yardstick.score.mean)} (mean of the hospitals){alike}."
        )
    for unit in ("record", "hospital"):
        for target in sorted({key[1] for key in best if key[0] == unit}, key=lambda value: (value is None, value)):
            sentences.append(_private_sentence(best[(unit, target)], yardstick, summary))
    sentences += gain_sentences(list(best.values()))
    cheapest = _cheapest(summary.rows)
    if cheapest:
        sentences.append(cheapest)
    return sentences


def headline(summary: Summary) -> list[str]:
    """The answer in words for who decides: what each promise costs; a sentence for each unit, or that there is none.

    Of each unit the strongest promise is told, by its best row that is ranked, against the best row without a promise,
    which is named. A unit that was asked for and has no ranked row has a sentence that says so.
    """
    if summary.metric.name == "loss":
        return []
    best = best_rows(summary.rows)
    yardstick = best.get(("no_guarantee", None)) or best.get(("baseline", None))
    if not any(row.private for row in summary.rows):
        return ["No method here makes a promise: what updates and models give away of a patient is not bounded."]
    sentences = []
    for unit, whom in (("record", "each patient's record"), ("hospital", "each hospital as a whole")):
        targets = [key[1] for key in best if key[0] == unit]
        if not targets:
            asked = [row for row in summary.rows if row.private and row.group == unit]
            if any(row.measured for row in asked):
                sentences.append(f"Hiding {whom}: no answer yet, since no such method was trained to its end.")
            elif asked:
                sentences.append(f"Hiding {whom}: no answer, since the promise was out of reach of these hospitals.")
            continue
        target = min(targets, key=lambda one: float("inf") if one is None else one)
        row = best[unit, target]
        promise = f"Hiding {whom} (epsilon {'as spent' if target is None else target_text(target)})"
        found = None if yardstick is None else difference(summary, row, yardstick)
        if yardstick is None or found is None:
            sentences.append(f"{promise} reaches {score_words(row.metric, row.score.mean)} with {row.name}.")
            continue
        sentences.append(f"{promise} {_cost(row.metric, *found)}: {row.name} against {yardstick.name}.")
    together = [row for row in summary.rows if row.group == "no_guarantee" and row.measured]
    if together and not any(row.ranked for row in together) and any(key[0] in ("record", "hospital") for key in best):
        sentences.append(
            "Part of this may be training that had not come to its end: no method that trains together without a "
            "promise did."
        )
    return sentences


def _cost(metric: Metric, centre: float, interval: Interval | None) -> str:
    """What a difference to the yardstick says of the cost."""

    def size(value: float) -> str:
        return f"{100 * abs(value):.1f} points" if metric.percent else f"{significant(abs(value))} {metric.label}"

    worse = centre < 0 if metric.higher_is_better else centre > 0
    if interval is None:
        return f"was {size(centre)} {'worse' if worse else 'better'} without an interval, too few seeds to tell"
    if interval.low <= 0.0 <= interval.high:
        most = interval.low if metric.higher_is_better else interval.high
        return f"costs at most {size(most)} (95 % interval), perhaps nothing"
    return f"{'costs' if worse else 'gains'} {size(centre)}"


def cautions(summary: Summary) -> list[str]:
    """What a reader must know before ranking rows: which are not ranked, and where accuracy says little."""
    return [*unranked_sentences(ordered(summary.rows)), *_one_sided(summary), *_hardly_tested(summary)]


def _one_sided(summary: Summary) -> list[str]:
    """Hospitals most of whose test records are of one class, where accuracy is what rows are ranked by."""
    if summary.metric.name != "accuracy":
        return []
    shares = {}
    for hospital, counts in summary.test_records_by_class.items():
        total = sum(counts.values())
        if total and max(counts.values()) > UNEQUAL * total:
            shares[hospital] = max(counts.values()) / total
    if not shares:
        return []
    first = sorted(shares, key=lambda one: -shares[one])
    names = some([f"{one} ({percent(shares[one], 0)} %)" for one in first])
    return [
        f"Most test records are of one class at {names}: accuracy there says more about the classes than about "
        "the model. AUC, balanced accuracy and recall are on the page and in summary.csv."
    ]


def _hardly_tested(summary: Summary) -> list[str]:
    """Hospitals of so few test records that each moves the mean of all."""
    few = {
        one.id: one.test_records
        for one in summary.dataset.hospitals
        if one.test_records is not None and 0 < one.test_records < _FEW_TESTS
    }
    if not few or len(summary.dataset.hospitals) < 2:
        return []
    names = some([f"{one} ({count})" for one, count in sorted(few.items(), key=lambda pair: pair[1])])
    return [
        f"Fewer than {_FEW_TESTS} test records at {names}: the figure there is much of chance, and counts in the mean "
        "as much as that of a large hospital. The page has figures on all test records together."
    ]


def _private_sentence(row: Row, yardstick: Row | None, summary: Summary) -> str:
    target = "as spent" if row.target_epsilon is None else target_text(row.target_epsilon)
    lead, alike = _among(row, summary)
    figure = with_unit(row.metric, score_text(row.metric, row.score.mean))
    text = f"At {UNIT_SHORT[row.unit]}, epsilon {target}, {lead} {row.name}: {figure}{alike}"
    found = None if yardstick is None else difference(summary, row, yardstick)
    if yardstick is not None and found is not None:
        text += f", {_difference_words(found, yardstick)}"
    if any(text not in common_warnings(summary.rows) for text in row.warnings):
        text += ". Read its warnings before relying on it"
    return text + "."


def _among(row: Row, summary: Summary) -> tuple[str, str]:
    """How a row stands among its rivals; it is the best only where the interval of every difference excludes zero."""
    rivals = [
        other
        for other in summary.rows
        if other is not row
        and other.group == row.group
        and other.ranked
        and other.score.mean is not None
        and (not row.private or other.target_epsilon == row.target_epsilon)
    ]
    left_out = any(
        other.group == row.group
        and other.measured
        and not other.ranked
        and (not row.private or other.target_epsilon == row.target_epsilon)
        for other in summary.rows
    )
    ranked = "ranked " if left_out else ""
    if not rivals:
        return f"the only {ranked}method is", ""
    alike = [other.name for other in rivals if not told_apart(summary, row, other)]
    if not alike:
        return f"the best of {len(rivals) + 1} {ranked}methods is", ""
    words = f", which these tests cannot tell from {some(alike, last=' or ')}"
    return f"of {len(rivals) + 1} {ranked}methods the first is", words


def _difference_words(found: tuple[float, Interval | None], other: Row) -> str:
    centre, interval = found
    scale, unit = (100.0, " points") if other.metric.percent else (1.0, "")
    digits = 1 if other.metric.percent else 3
    size = f"{scale * abs(centre):.{digits}f}{unit}" if other.metric.high is not None else significant(abs(centre))
    text = f"{size} {'below' if centre < 0 else 'above'} {other.name} (no guarantee)"
    if interval is None:
        return text + "; one seed or unpaired seeds, so no interval"
    low, high = (f"{scale * end:+.{digits}f}" if other.metric.high is not None else f"{end:+.3g}" for end in interval)
    text += f"; 95 % interval of the difference {low} to {high}"
    return text + (", so these tests cannot tell them apart" if interval.low <= 0.0 <= interval.high else "")


def _cheapest(rows: Sequence[Row]) -> str:
    measured = [row for row in rows if row.private and row.ranked and row.merit is not None]
    sent = [row for row in measured if row.bytes_total is not None]
    amounts = [row.bytes_total or 0.0 for row in sent]
    if len(sent) < 2 or max(amounts) <= 1.1 * min(amounts):  # nothing to choose by bytes
        return ""
    least = min(sent, key=lambda row: (row.bytes_total or 0.0, -(row.merit or 0.0)))
    return (
        f"Fewest bytes with a guarantee: {row_title(least)}, {bytes_text(least.bytes_total)} for the whole run "
        f"at {score_words(least.metric, least.score.mean)}."
    )
