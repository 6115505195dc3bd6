"""Who gains from taking part, and who loses: a hospital's figure under a method minus that of its training alone.

Gains above 0 are better, whichever way the metric goes. A hospital gains or loses where the 95 % interval of the paired
difference lies on one side of 0; else its test records cannot tell.

>>> low, high = {"a": 0.01, "b": -0.2, "c": -0.1}, {"a": 0.1, "b": -0.1, "c": 0.2}
>>> gained = {"gain_per_hospital": {"a": 0.05, "b": -0.15, "c": 0.04}}
>>> row = Row("mean", values={**gained, "gain_low_per_hospital": low, "gain_high_per_hospital": high})
>>> verdicts(row)
{'a': 'gains', 'b': 'loses', 'c': 'cannot tell'}
>>> cell(row, None)
'1/1 of 3'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tff_hospitals.foundations.validation import counted
from tff_hospitals.reports.rows import Row
from tff_hospitals.reports.spread import Interval
from tff_hospitals.reports.wording import MISSING, NO_RECORDS, percent, row_title, some
from tff_hospitals.training.metrics import Metric

GAINS, LOSES, CANNOT_TELL = "gains", "loses", "cannot tell"


def gains(row: Row) -> dict[str, float]:
    """By hospital, where it is known; empty without a row of each hospital alone."""
    found: Mapping[str, float | None] = row.get("gain_per_hospital") or {}
    return {one: value for one, value in found.items() if value is not None}


def gain_interval(row: Row, hospital_id: str) -> Interval | None:
    """The 95 % interval of a hospital's gain."""
    low, high = ((row.get(f"gain_{end}_per_hospital") or {}).get(hospital_id) for end in ("low", "high"))
    return None if low is None or high is None else Interval(low, high)


def verdicts(row: Row) -> dict[str, str]:
    """By hospital: whether it gains, loses, or its test records cannot tell."""
    found = {}
    for one in gains(row):
        ends = gain_interval(row, one)
        above, below = ends is not None and ends.low > 0, ends is not None and ends.high < 0
        found[one] = GAINS if above else LOSES if below else CANNOT_TELL
    return found


def decided(row: Row) -> int | None:
    """Hospitals that gain minus those that lose; None where nothing is known."""
    found = list(verdicts(row).values())
    return found.count(GAINS) - found.count(LOSES) if found else None


def cell(row: Row, _: Any) -> str:
    """How many hospitals gain and how many lose, of all whose gain is known."""
    found = list(verdicts(row).values())
    return f"{found.count(GAINS)}/{found.count(LOSES)} of {len(found)}" if found else MISSING


def gain_text(metric: Metric, value: float | None) -> str:
    """A gain with its sign: points of a percentage, three digits of other shares, significant digits of the rest.

    >>> from tff_hospitals.training.metrics import METRICS
    >>> gain_text(METRICS["accuracy"], 0.0312), gain_text(METRICS["auc"], -0.02), gain_text(METRICS["rmse"], 12.34)
    ('+3.1', '-0.020', '+12.3')
    """
    if value is None:
        return MISSING
    if metric.percent:
        return ("+" if value >= 0 else "") + percent(value)
    return f"{value:+.3g}" if metric.high is None else f"{value:+.3f}"


def gain_words(metric: Metric) -> str:
    """What a gain is counted in."""
    return f"{metric.label}, points" if metric.percent else metric.label


def interval_text(metric: Metric, ends: Interval | None) -> str:
    """An interval of a gain; empty where there is none."""
    return "" if ends is None else f" ({gain_text(metric, ends.low)} to {gain_text(metric, ends.high)})"


def gain_table(rows: Sequence[Row], ids: Sequence[str]) -> list[dict[str, Any]]:
    """The table of a page: hospitals down, methods across; empty where no row knows its gains."""
    known = [row for row in rows if gains(row)]
    if not known:
        return []
    metric = known[0].metric
    lines = [
        [
            one,
            *(
                NO_RECORDS
                if one in row.untested
                else gain_text(metric, gains(row).get(one)) + interval_text(metric, gain_interval(row, one))
                for row in known
            ),
        ]
        for one in ids
    ]
    lines.append(["gain/lose", *(cell(row, None) for row in known)])
    caption = (
        f"Gain in {gain_words(metric)}: the method's figure on the hospital's own test records minus that of the "
        "hospital's own model, above 0 is better; in brackets the 95 % interval. The last line counts intervals above "
        "and below 0."
    )
    title = "What each hospital gains over training alone"
    return [{"title": title, "caption": caption, "columns": ["hospital", *map(row_title, known)], "rows": lines}]


def gain_sentences(rows: Sequence[Row]) -> list[str]:
    """A sentence for each method whose gains can be told, and one for all others together."""
    unclear = [row for row in rows if set(verdicts(row).values()) == {CANNOT_TELL}]
    told = [sentence for row in rows if row not in unclear and (sentence := gain_sentence(row))]
    if len(unclear) < 2:
        return told + [gain_sentence(row) for row in unclear]
    names = "; ".join(map(row_title, unclear))
    return [*told, f"Against each hospital alone no hospital gains or loses more than chance may have it from {names}."]


def gain_sentence(row: Row) -> str:
    """Who gains from a method and who loses, by name where it can be told; empty where nothing is known."""
    found = verdicts(row)
    if not found:
        return ""
    title, counts = f"{row_title(row)}, against each hospital alone", list(found.values())
    unknown = counts.count(CANNOT_TELL)
    if unknown == len(found):
        return f"{title}: no hospital gains or loses more than chance may have it."
    said = []
    for verdict, one, many in ((GAINS, "gains", "gain"), (LOSES, "loses", "lose")):
        names = [name for name, of in found.items() if of == verdict]
        if names:
            said.append(f"{some(names, last=' and ')} {many if len(names) > 1 else one}")
    rest = f"; of {counted(unknown, 'other')} the test records cannot tell" if unknown else ""
    return f"{title}: {', '.join(said)}{rest}."
