"""Numbers and privacy statements in the words that every report shares.

>>> percent(0.7314), epsilon_text(4.98), bytes_text(33600.0)
('73.1', '4.98', '33.6 kB')
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tff_hospitals.foundations.validation import counted
from tff_hospitals.reports.fields import finite_or_none
from tff_hospitals.reports.rows import Row
from tff_hospitals.reports.spread import Interval
from tff_hospitals.training.metrics import Metric

MISSING = "-"
NO_RECORDS = "no test records"
"""Instead of a figure of a hospital that has none to measure it on."""
NO_EVENT = "no event"
"""Instead of an epsilon, where TFF runs what it wrote and states no event for it."""
UNIT_WORDS = {"none": "no unit", "record": "one record (patient)", "hospital": "one whole hospital"}
UNIT_SHORT = {"none": "no guarantee", "record": "record level", "hospital": "hospital level"}
_SCOPE_WORDS = {
    "record": "This protects each patient's record, wherever the model goes. It does not hide what a whole hospital "
    "has in common.",
    "hospital": "This hides everything that one hospital contributed, and with it each of its patients.",
}
ADJACENCY_WORDS = {
    "add_or_remove_one": "one is added or removed",
    "replace_one": "one is replaced by another",
    "replace_special": "what one contributes is blanked out (becomes zero)",
    "zero_out": "what one contributes is replaced by zeros",
}
CONVERSION_WORDS = {
    "rdp": "Rényi differential privacy (RDP) of the steps that the run took, composed and converted to (epsilon, "
    "delta) "
    "with the improved conversion that dp_accounting uses",
    "pld": "privacy loss distributions (PLD) of the steps that the run took, composed numerically",
    "rdp_classical": "Rényi differential privacy (RDP) of the steps that the run took, converted to (epsilon, delta) "
    "with the "
    "classical conversion of Mironov (2017)",
    "zcdp": "zero-concentrated differential privacy of the steps that the run took, composed and converted",
    "gaussian_exact": "the exact analysis of the Gaussian mechanism over the steps that the run took",
}


def percent(value: float | None, digits: int = 1) -> str:
    """A share as percent without the sign, a dash when missing."""
    return MISSING if value is None else f"{100.0 * value:.{digits}f}"


def score_text(metric: Metric, value: float | None) -> str:
    """A metric's value: percent with one digit, other shares with three, numbers with four significant digits.

    >>> from tff_hospitals.training.metrics import METRICS
    >>> score_text(METRICS["accuracy"], 0.7314), score_text(METRICS["auc"], 0.8716), score_text(METRICS["rmse"], 5412.3)
    ('73.1', '0.872', '5412')
    """
    if value is None or metric.percent:
        return percent(value)
    return significant(value, 4) if metric.high is None else f"{value:.3f}"


def spread_text(metric: Metric, value: float | None, spread: float | None) -> str:
    """What stands behind a mean's "±": as many decimals as the mean has.

    >>> from tff_hospitals.training.metrics import METRICS
    >>> spread_text(METRICS["rmse"], 1.4532, 1.8e-6), spread_text(METRICS["accuracy"], 0.71, 0.0123)
    ('0.000', '1.2')
    """
    shown = score_text(metric, value)
    if spread is None or metric.high is not None or "e" in shown:
        return score_text(metric, spread)
    return f"{spread:.{len(shown.partition('.')[2])}f}"


def some(names: Sequence[str], last: str = "") -> str:
    """Up to four names, or the first three and how many more; apart by semicolons where a name has a comma.

    Args:
      names: what is listed.
      last: what stands before the last name instead of a comma, such as " and ".

    >>> some(["a", "b", "c", "d"], last=" and "), some(list("abcde")), some(["FedAvg", "FedAvg, equal weights"])
    ('a, b, c and d', 'a, b, c and 2 more', 'FedAvg; FedAvg, equal weights')
    """
    mark = "; " if any("," in one for one in names) else ", "
    if len(names) > 4:
        return f"{mark.join(names[:3])}{mark.rstrip() if mark == '; ' else ''} and {len(names) - 3} more"
    if last and len(names) > 1 and mark == ", ":
        return f"{mark.join(names[:-1])}{last}{names[-1]}"
    return mark.join(names)


def score_words(metric: Metric, value: float | None) -> str:
    """A metric's value with its percent sign and its name.

    >>> from tff_hospitals.training.metrics import METRICS
    >>> score_words(METRICS["accuracy"], 0.7314), score_words(METRICS["auc"], 0.8716)
    ('73.1 % accuracy', 'AUC 0.872')
    """
    text = score_text(metric, value)
    return f"{with_unit(metric, text)} {metric.label}" if metric.percent else f"{metric.label} {text}"


def with_unit(metric: Metric, text: str) -> str:
    """A text of values with a percent sign where they are percentages; what is missing has none.

    >>> from tff_hospitals.training.metrics import METRICS
    >>> with_unit(METRICS["accuracy"], "73.1"), with_unit(METRICS["accuracy"], MISSING)
    ('73.1 %', '-')
    """
    return f"{text} %" if metric.percent and text != MISSING else text


def metric_head(metric: Metric) -> str:
    """A metric as the head of a column."""
    return with_unit(metric, metric.short or metric.label)


def metric_title(metric: Metric) -> str:
    """A metric at the beginning of a sentence."""
    return metric.label[0].upper() + metric.label[1:]


def short_interval(metric: Metric, interval: Interval | None) -> str:
    """An interval in few letters, whole percents or two digits.

    >>> from tff_hospitals.training.metrics import METRICS
    >>> (
    ...     short_interval(METRICS["accuracy"], Interval(0.7512, 0.8649)),
    ...     short_interval(METRICS["auc"], Interval(0.8, 0.9)),
    ... )
    ('(75–86)', '(0.80–0.90)')
    """
    if interval is None:
        return ""
    if metric.percent:
        ends = [f"{100.0 * end:.0f}" for end in interval]
    else:
        ends = [significant(end, 3) if metric.high is None else f"{end:.2f}" for end in interval]
    return f"({'–'.join(ends)})"


def significant(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits and no exponent between 1e-4 and 1e7.

    >>> significant(0.00123456), significant(1234.5), significant(0.0)
    ('0.00123', '1234', '0')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))  # of the rounded number: 0.9996 is 1.00
    if magnitude < -4 or magnitude >= 7:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - magnitude)}f}"


def epsilon_text(value: float | None) -> str:
    """An epsilon, or "none" where there is no guarantee."""
    return "none" if value is None or not math.isfinite(value) else significant(value)


def asked_text(row: Row) -> str:
    """The target of a method that could not be run, in brackets."""
    return MISSING if row.target_epsilon is None else f"({target_text(row.target_epsilon)})"


def target_text(value: float | None) -> str:
    """A target as the user typed it: 5.0 reads 5."""
    return MISSING if value is None else f"{value:g}"


def delta_text(value: float | None) -> str:
    """A delta: 0.001 reads 1e-3.

    >>> delta_text(1e-3), delta_text(2.5e-6)
    ('1e-3', '2.5e-6')
    """
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(value) + 1e-9)
    return f"{value / 10.0**exponent:.3g}e{exponent}"


def bytes_text(value: float | None) -> str:
    """One amount of bytes with its unit, powers of 1000."""
    if value is None:
        return MISSING
    for limit, divisor, unit in ((1e3, 1.0, "bytes"), (1e6, 1e3, "kB"), (1e9, 1e6, "MB")):
        if abs(value) < limit:
            return f"{significant(value / divisor)} {unit}"
    return f"{significant(value / 1e9)} GB"


def byte_scale(rows: Iterable[Row]) -> tuple[float, str]:
    """The divisor and the unit in which the bytes of all rows read well: kB, MB or GB, powers of 1000."""
    largest = max((row.bytes_total or 0.0 for row in rows), default=0.0)
    if largest and largest < 5e5:
        return 1e3, "kB"
    return (1e9, "GB") if largest >= 1e11 else (1e6, "MB")


def seconds_text(value: float | None) -> str:
    """Seconds with two significant digits, milliseconds at the finest.

    >>> seconds_text(0.0032), seconds_text(12.3), seconds_text(0.0001)
    ('0.003', '12', '<0.001')
    """
    if value is not None and 0.0 < value < 0.0005:
        return "<0.001"
    return f"{value:.3f}" if value is not None and value < 0.01 else significant(value, 2)


def worst_hospital(row: Row) -> str | None:
    """The hospital whose epsilon is the row's; None when all spent the same, as with a hospital-level guarantee."""
    spent = set(row.epsilon_per_hospital.values())
    return row.worst_hospital if len(spent) > 1 or len(row.epsilon_per_hospital) == 1 or not spent else None


def scaled_bytes(value: float | None, divisor: float) -> str:
    """Bytes in the unit that `byte_scale` chose."""
    return MISSING if value is None else significant(value / divisor)


def shorten(text: str, width: int) -> str:
    """Cuts the middle out of a long name, so that names which differ at their end stay apart.

    >>> shorten("a_method_with_a_very_long_name_at_epsilon_5", 20)
    'a_method_w…epsilon_5'
    """
    clean = " ".join(text.split())
    if len(clean) <= width:
        return clean
    front = width // 2
    back = width - 1 - front
    return clean[:front] + "…" + (clean[-back:] if back else "")


def shorten_all(texts: list[str], width: int) -> list[str]:
    """Shortens names and keeps different ones different: those that would meet get a number at their end."""
    short = [shorten(text, width) for text in texts]
    originals: dict[str, list[str]] = {}
    for text, brief in zip(texts, short):
        if text not in originals.setdefault(brief, []):
            originals[brief].append(text)
    result = []
    for text, brief in zip(texts, short):
        clashing = originals[brief]
        if len(clashing) > 1:
            mark = f"~{clashing.index(text) + 1}"
            brief = brief[: max(1, width - len(mark))] + mark
        result.append(brief)
    return result


def row_title(row: Row) -> str:
    """A row's name with its target where one was asked for."""
    if row.group not in UNIT_WORDS:
        return row.name
    asked = epsilon_text(row.epsilon) if row.target_epsilon is None else target_text(row.target_epsilon)
    return f"{row.name}, ε = {asked}"


def privacy_statement(row: Row) -> str:
    """What the row promises to whom, without its figures; the words that the run recorded win over these."""
    if row.guarantee:
        return row.guarantee
    if not row.measured:
        return "The method was not run, so it promises nothing; its warnings say why."
    if row.kind == "local":
        return (
            "Each hospital trains alone and shares nothing; the finished models carry no formal guarantee for "
            "their own records."
        )
    if row.kind == "pooled":
        return "All records are brought to one place: the data leave the hospitals, and there is no formal guarantee."
    if not row.private:
        return (
            "No formal guarantee: the records stay in the hospitals, but the updates and the finished model may "
            "reveal them to whoever sees them."
        )
    changed = ADJACENCY_WORDS.get(row.adjacency, row.adjacency or "one is changed")
    return (
        f"Whoever sees what the run releases can hardly tell apart two data sets that differ in {UNIT_WORDS[row.unit]} "
        f"({changed}): no outcome becomes more than exp(epsilon) times as likely, but for a failure probability delta. "
        + _SCOPE_WORDS[row.unit]
    )


def promise_figures(row: Row) -> str:
    """The figures of a row's guarantee in a sentence; empty without a guarantee."""
    if not row.private:
        return ""
    growth = _growth(row.epsilon)
    likely = f", at most {significant(growth)} times as likely" if growth is not None else ""
    worst = f", the worst hospital being {worst_hospital(row)}" if worst_hospital(row) else ""
    pld = f" By PLD: {epsilon_text(row.epsilon_pld)}." if row.epsilon_pld is not None else ""
    if row.conversion not in ("", "rdp"):
        loose = row.get("epsilon_rdp")
        pld = f" By RDP: {epsilon_text(loose)}." if loose is not None else ""
    if row.epsilon_pld is None and row.get("epsilon_pld_missing"):
        pld = f" By PLD: none; it {row.get('epsilon_pld_missing')}."
    how = f" ({conversion_name(row.conversion)})" if row.conversion not in ("", "rdp") else ""
    return f"epsilon {epsilon_text(row.epsilon)} at delta {delta_text(row.delta)}{how}{likely}{worst}.{pld}"


def _growth(epsilon: float | None) -> float | None:
    return None if epsilon is None or epsilon > 500 else math.exp(epsilon)


def adjacency_sentence(rows: Iterable[Row]) -> str:
    """What neighbouring data sets differ in, for every unit that has a guarantee; empty without one."""
    parts = []
    for unit in ("record", "hospital"):
        kinds = dict.fromkeys(row.adjacency for row in rows if row.private and row.unit == unit and row.adjacency)
        parts += [f"{unit} level: {ADJACENCY_WORDS.get(kind, kind)}" for kind in kinds]
    return "; ".join(parts)


def delta_sentence(rows: Iterable[Row]) -> str:
    """The deltas of the rows with a guarantee, one text when they agree."""
    return ", ".join(dict.fromkeys(delta_text(row.delta) for row in rows if row.private))


def conversion_name(conversion: str) -> str:
    """A conversion as footers name it.

    >>> conversion_name("gaussian_exact")
    'GAUSSIAN EXACT'
    """
    return conversion.upper().replace("_", " ")


def conversions_text(conversion: str, rows: Iterable[Row]) -> str:
    """The conversion of a comparison, and of the methods that have another; empty when nothing names one."""
    found = [conversion_name(conversion)] if conversion else []
    return "; ".join([*found, *(f"of {names}: {conversion_name(one)}" for one, names in _others(conversion, rows))])


def _others(conversion: str, rows: Iterable[Row]) -> list[tuple[str, str]]:
    """The conversions of rows that are not the comparison's, each with the names of its methods."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.private and row.conversion and row.conversion != conversion:
            found.setdefault(row.conversion, {})[row.name] = None
    return [(one, ", ".join(names)) for one, names in found.items()]


def accounting_words(conversion: str, rows: Iterable[Row] = ()) -> str:
    """How every epsilon of a comparison was computed; `rows` that were accounted for otherwise are named."""
    how = CONVERSION_WORDS.get(conversion, conversion or "a conversion that the file does not name")
    words = f"Every epsilon is computed from the ledger of the releases that the run really made, by {how}."
    others = [f"that of {names} by {CONVERSION_WORDS.get(one, one)}" for one, names in _others(conversion, rows)]
    return f"{words[:-1]}; {'; '.join(others)}." if others else words


def interval_words(splits: int = 1, seeds: int = 2) -> str:
    """What intervals over patients are over.

    >>> interval_words(), interval_words(splits=3), interval_words(seeds=1)
    ('test patients and seeds', 'test patients, seeds and splits', 'test patients')
    """
    over = ["test patients", *(["seeds"] if seeds > 1 else []), *(["splits"] if splits > 1 else [])]
    return " and ".join([", ".join(over[:-1]), over[-1]] if len(over) > 1 else over)


def unranked_sentences(rows: Iterable[Row]) -> list[str]:
    """Which rows are called neither better nor worse than others; empty where all are ranked."""
    names = list(dict.fromkeys(row_title(row) for row in rows if row.measured and not row.ranked))
    if not names:
        return []
    mark = "; " if any("," in one for one in names) else ", "
    return [f"Not ranked, since training had not come to its end (see the warnings): {mark.join(names)}."]


def joint_sentences(joint: Mapping[str, Any], splits: int = 1, releases: str = "") -> list[str]:
    """What everything that a comparison released costs together; empty where nothing was private.

    Args:
      joint: as its summary holds it.
      splits: of the records.
      releases: what was released, in words; by default the runs of a comparison.

    >>> both = {"runs": 10, "record": {"epsilon": 9.87, "worst_hospital": "va", "delta": 1e-3, "conversion": "rdp"}}
    >>> joint_sentences(both)[0]
    'Joint epsilon of all 10 private runs (every method, target and seed): 9.87 per record at va, delta 1e-3, by RDP.'
    """
    found = []
    for unit in ("record", "hospital"):
        total = joint.get(unit)
        if isinstance(total, Mapping):
            epsilon = finite_or_none(total.get("epsilon"))
            size = "infinite" if epsilon is None else significant(epsilon)
            of = f" at {total['worst_hospital']}" if total.get("worst_hospital") else ""
            how = conversion_name(str(total.get("conversion") or "rdp"))
            delta = delta_text(finite_or_none(total.get("delta")))
            found.append(f"{size} per {unit}{of}, delta {delta}, by {how}")
    if not found:
        return []
    runs = int(joint.get("runs") or 0)
    every = "every method, target, seed and split" if splits > 1 else "every method, target and seed"
    of = f"{counted(runs, 'release')} ({releases})" if releases else f"{counted(runs, 'private run')} ({every})"
    sentences = [f"Joint epsilon of {'all ' * (runs > 1)}{of}: {'; '.join(found)}."]
    bare = int(joint.get("runs_without_guarantee") or 0)
    if bare:
        are, models = ("is", "its model") if bare == 1 else ("are", "any of their models")
        sentences.append(
            f"{counted(bare, 'run')} without a mechanism {are} in no epsilon: never publish {models} beside a promise."
        )
    return sentences
