"""The columns of a comparison, each declared once: how it is read, joined over seeds, written and shown.

The reader of `summary.json`, the aggregation over seeds, `summary.csv`, the printed table and the page take what they
need from these declarations. A further column is one `Column`, here or registered from elsewhere:

>>> carbon = Column("carbon_kg", number(low=0), over_seeds=mean, csv=True, head="kg|CO2")
>>> with registered(carbon):
...     row = row_from_json({"method": "mean", "unit": "none", "carbon_kg": 1.5})
...     row.get("carbon_kg"), carbon.text_of(row, Shown([row]))
(1.5, '1.50')

The field names are stable: other programs read them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tff_hospitals.reports import gains, wording
from tff_hospitals.reports.column import Column, Reader, Shown, always, is_empty, number, text
from tff_hospitals.reports.fields import FieldReader, raise_record_error
from tff_hospitals.reports.rows import KINDS, NAMED, UNITS, CurvePoint, Row
from tff_hospitals.reports.spread import (
    by_hospital,
    first,
    first_known,
    highest,
    joined,
    largest,
    lowest,
    mean,
    median,
    sample_sd,
)
from tff_hospitals.training.metrics import METRICS, Metric


def _name(fields: FieldReader, name: str) -> str | None:
    return fields.text(name) or None


def _kind(fields: FieldReader, name: str) -> str:
    """The kind of method; files of earlier versions have only the method's name."""
    method = fields.anything("method")
    return fields.text(name, known=KINDS) or (str(method) if method in KINDS else "federated")


def _curve(fields: FieldReader, name: str) -> tuple[CurvePoint, ...]:
    found = []
    for point in fields.items(name):
        metrics = {
            f"{metric.name}_{what}": point.number(f"{metric.name}_{what}", low=low, high=high)
            for metric in METRICS.values()
            for what, low, high in (("mean", metric.low, metric.high), ("sd", 0.0, None))
            if point.has(f"{metric.name}_{what}")
        }
        own = {key: point.number(key, low=0.0) for key in ("epsilon", "bytes_up", "bytes_down")}
        found.append(CurvePoint(round=point.whole("round") or 0, values=metrics, **own))
    return tuple(found)


_share = number(low=0.0, high=1.0)
_amount = number(low=0.0)
_texts: Reader = FieldReader.texts
_numbers: Reader = FieldReader.numbers
_by_id: Reader = FieldReader.numbers_by_id


# --------------------------------------------------------------------------------------------- how to join over seeds


def merge_curves(curves: Sequence[Sequence[CurvePoint]]) -> tuple[CurvePoint, ...]:
    """One curve over the rounds that any seed evaluated.

    A run that ended early keeps its last point for the later rounds: that is the model which it would release.
    """
    curves = [sorted(curve, key=lambda point: point.round) for curve in curves if curve]
    merged = []
    for round_number in sorted({point.round for curve in curves for point in curve}):
        reached = [[point for point in curve if point.round <= round_number] for curve in curves]
        if not all(reached):  # a seed whose first evaluation comes later: no mean over all seeds yet
            continue
        points = [points[-1] for points in reached]
        values: dict[str, float | None] = {}
        for name in METRICS:
            measured = [point.values.get(f"{name}_mean") for point in points]
            if any(value is not None for value in measured):
                values[f"{name}_mean"] = mean(measured)
                values[f"{name}_sd"] = sample_sd(measured)
        merged.append(
            CurvePoint(
                round=round_number,
                epsilon=largest(point.epsilon for point in points),
                bytes_up=mean(point.bytes_up for point in points),
                bytes_down=mean(point.bytes_down for point in points),
                values=values,
            )
        )
    return tuple(merged)


def _worst_of(values: Sequence[Mapping[str, float | None]]) -> str | None:
    """The hospital that spent most."""
    spent = {key: value for key, value in by_hospital(largest)(values).items() if value is not None}
    return max(spent, key=lambda key: spent[key]) if spent else None


def _all_numbers(values: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The medians by name, where every run measured some."""
    return by_hospital(median)(values) if all(values) else {}


def _by_position(
    combine: Callable[[Sequence[float | None]], float | None],
) -> Callable[[Sequence[Sequence[float | None]]], tuple[float | None, ...]]:
    """Numbers by round, each joined over the seeds that came so far."""

    def joined_numbers(values: Sequence[Sequence[float | None]]) -> tuple[float | None, ...]:
        rounds = max(map(len, values), default=0)
        return tuple(combine([one[number] for one in values if number < len(one)]) for number in range(rounds))

    return joined_numbers


def _mean_of_all(values: Sequence[float | None]) -> float | None:
    """The mean where every run has a value: of those alone that got there, it would flatter."""
    return None if None in values else mean(values)


def _every(values: Sequence[bool | None]) -> bool | None:
    """Whether it holds for every run; None where no run says so."""
    said = [value for value in values if value is not None]
    return all(said) if said else None


def _means_by_name(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of what runs measured on the way; texts are those of the first run."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(key for one in values for key in one):
        measured = [one.get(name) for one in values]
        average = mean(measured)
        found[name] = first_known(measured) if average is None else average
    return found


def _at_worst(higher_is_better: bool, pick: int) -> Callable[[Sequence[Mapping[str, float | None]]], Any]:
    """Mean of the hospital that does worst (pick 0), or its id (pick 1)."""

    def worst(values: Sequence[Mapping[str, float | None]]) -> Any:
        means = [(value, key) for key, value in by_hospital(mean)(values).items() if value is not None]
        return (min(means) if higher_is_better else max(means))[pick] if means else None

    return worst


# ------------------------------------------------------------------------------------------------------ how to show


def _epsilon_text(row: Row, value: float | None, shown: Shown) -> str:
    if not row.measured:
        return wording.asked_text(row)
    if row.get("event_stated") is False:
        return wording.NO_EVENT
    found = wording.epsilon_text(value if row.private else None)
    several = row.private and len(shown.deltas) > 1 and not shown.html  # a page has a column for it
    return f"{found} ({wording.delta_text(row.delta)})" if several else found


def _epsilon_head(shown: Shown) -> str:
    if shown.html:
        return "epsilon"
    (delta, *others) = shown.deltas
    return f"epsilon|({'delta' if others or delta is None else wording.delta_text(delta)})"


def _bytes(field: str, direction: str) -> Column:
    return Column(
        field,
        _amount,
        mean,
        csv=True,
        head=lambda shown: f"{shown.byte_scale[1]}|{direction}",
        text=lambda row, shown: wording.scaled_bytes(row.get(field), shown.byte_scale[0]),
        shown=always,
    )


def _score_head(shown: Shown) -> str:
    what = wording.metric_head(shown.metric)
    if shown.html:
        return what
    return f"{what}|{'95 % interval' if shown.has_intervals else 'mean ± sd'}"


def _score_text(row: Row, shown: Shown) -> str:
    """The mean with its interval or deviation, columns of digits under each other."""
    score = row.score
    if score.mean is None:
        return wording.MISSING if row.measured else "not run"
    found = wording.score_text(row.metric, score.mean)
    if shown.html or not shown.has_intervals:
        if score.sd is not None:
            spread = wording.spread_text(row.metric, score.mean, score.sd)
            return f"{found} ± {spread:>{0 if shown.html else shown.spread_width}}"
        return found if shown.html or not shown.spread_width else found + " " * (shown.spread_width + 3)
    return f"{found} {wording.short_interval(row.metric, score.interval)}"


def _interval_text(row: Row, _: Shown) -> str:
    interval = row.score.interval
    if interval is None:
        return wording.MISSING
    return f"{wording.score_text(row.metric, interval.low)} to {wording.score_text(row.metric, interval.high)}"


def _interval_low(row: Row) -> float | None:
    return None if row.score.interval is None else row.score.interval.low


def _recall_shown(shown: Shown) -> bool:
    """Where the headline is not accuracy, since classes are unequal, it must be seen who is found at all."""
    return shown.metric.name not in ("accuracy", "sensitivity") and "binary" in shown.metric.tasks


# ------------------------------------------------------------------------------------------------------ the columns


def metric_columns(metric: Metric) -> tuple[Column, ...]:
    """The fields of one metric; `rows.Figures` is their view."""
    value, spread = number(metric.low, metric.high), number(low=0.0)
    name, optional = metric.name, metric.name != "accuracy"

    def column(suffix: str, read: Reader, join: Any, of: str, csv: bool | str = False, always: bool = False) -> Column:
        show: dict[str, Any] = {}
        if (name, suffix) == ("sensitivity", "mean"):
            show = {
                "head": "recall|%",
                "text": lambda row, _: wording.percent(row.figures(name).mean),
                "shown": _recall_shown,
                "before_hospitals": True,
            }
        absent = not always and (optional or suffix.startswith(("low", "high", "worst")))
        source = of and f"{name}_{of}"
        return Column(f"{name}_{suffix}", read, join, of=source, optional=absent, csv=csv, **show)

    return (
        column("mean", value, mean, "", csv=True, always=name in ("auc", "loss")),
        column("sd", spread, sample_sd, "mean", csv=True),
        column("low", value, first_known, "", csv=True),
        column("high", value, first_known, "", csv=True),
        column("pooled_mean", value, mean, "", csv=True),
        column("pooled_sd", spread, sample_sd, "pooled_mean", csv=True),
        column("worst", value, _at_worst(metric.higher_is_better, 0), "per_hospital", csv=True),
        column("worst_hospital", _name, _at_worst(metric.higher_is_better, 1), "per_hospital", csv=True),
        column("per_hospital", _by_id, by_hospital(mean), "", csv=name),
        column("sd_per_hospital", _by_id, by_hospital(sample_sd), "per_hospital", csv=f"{name}_sd"),
        column("low_per_hospital", _by_id, first_known, "", csv=f"{name}_low"),
        column("high_per_hospital", _by_id, first_known, "", csv=f"{name}_high"),
        column("per_seed", _numbers, tuple, "mean"),
    )


_STORED = (
    Column("method", text(required=True), first, csv=True),
    Column("label", text(), first, csv=True),
    Column("kind", _kind, first, csv=True),
    Column(
        "unit",
        text(required=True, known=UNITS),
        first,
        csv=True,
        head="unit",
        text=lambda row, _: row.unit,
        shown=always,
        words=True,
        before_hospitals=True,
    ),
    Column("target_epsilon", _amount, first, csv=True),
    Column(
        "epsilon",
        _amount,
        largest,
        csv=True,
        head=_epsilon_head,
        text=lambda row, shown: _epsilon_text(row, row.epsilon, shown),
        sort=lambda row: row.epsilon if row.private else None if row.measured else row.target_epsilon,
        shown=always,
        before_hospitals=True,
    ),
    Column(
        "epsilon_pld",
        _amount,
        largest,
        csv=True,
        head="epsilon (PLD)",
        text=lambda row, shown: _epsilon_text(row, row.epsilon_pld, shown),
        before_hospitals=True,
        printed=False,
    ),
    Column("epsilon_per_hospital", _by_id, by_hospital(largest), csv="epsilon"),
    Column("worst_hospital", _name, _worst_of, of="epsilon_per_hospital", csv=True),
    Column(
        "delta",
        _share,
        first,
        csv=True,
        head="delta",
        text=lambda row, _: wording.delta_text(row.delta if row.private else None),
        sort=lambda row: row.delta if row.private else None,
        shown=lambda shown: len(shown.deltas) > 1,
        before_hospitals=True,
        printed=False,
    ),
    Column("adjacency", text(), first, csv=True),
    Column("conversion", text(), first, csv=True),
    Column("noise_multiplier_per_hospital", _by_id, by_hospital(lowest), csv="noise_multiplier"),
    Column(
        "score",
        derive=lambda row: row.score.mean,
        head=_score_head,
        text=_score_text,
        shown=always,
        before_hospitals=True,
    ),
    Column(
        "interval",
        derive=_interval_low,
        head="95 % interval",
        text=_interval_text,
        shown=lambda shown: shown.metric.name != "loss",
        before_hospitals=True,
        printed=False,
    ),
    *(column for metric in METRICS.values() for column in metric_columns(metric)),
    Column("seeds", derive=lambda row: row.score.seeds, csv=True),
    _bytes("bytes_up", "up"),
    _bytes("bytes_down", "down"),
    Column(
        "seconds_per_round",
        _amount,
        mean,
        csv=True,
        head="s per|round",
        text=lambda row, _: wording.seconds_text(row.seconds_per_round),
        shown=always,
    ),
    # Of runs with speeds of hospitals.
    Column("simulated_seconds", _amount, mean, optional=True, csv=True),
    Column("target_accuracy", _share, mean, optional=True, csv=True),
    Column(
        "time_to_accuracy",
        _amount,
        _mean_of_all,
        optional=True,
        csv=True,
        head="simulated s|to target",
        text=lambda row, _: wording.seconds_text(row.get("time_to_accuracy")),
    ),
    Column("rounds", FieldReader.whole, highest, csv=True),
    Column("stop_reason", text(), joined, csv=True),
    Column("runtime", text(), joined, csv=True),
    Column("guarantee", text(), first),
    Column("warnings", _texts, csv=True),
    Column("curve", _curve, merge_curves),
    Column("status", text(), joined, optional=True),
    Column("converged", FieldReader.flag, _every, optional=True, csv=True),
    # Of plans with two units, several records per patient, noise that nobody can draw again, or releases that have no
    # loss distribution.
    Column("epsilon_rdp", _amount, largest, optional=True),
    Column("epsilon_pld_missing", _name, first_known, optional=True),
    Column("second_unit", _name, first_known, optional=True),
    Column("second_epsilon", _amount, largest, optional=True),
    Column("second_conversion", _name, first_known, optional=True),
    Column("second_noise_multiplier", _amount, lowest, optional=True),
    Column("records_per_patient", FieldReader.whole, largest, optional=True),
    Column("epsilon_per_patient", _amount, largest, optional=True),
    Column("reproducible", FieldReader.flag, _every, optional=True),
    Column("event_stated", FieldReader.flag, _every, optional=True),
    Column("clip_norms", _numbers, _by_position(mean), optional=True),
    Column("clip_norms_sd", _numbers, _by_position(sample_sd), of="clip_norms", optional=True),
    Column("error_by_bands", _by_id, _all_numbers, optional=True),
    Column("communication", FieldReader.mapping, _means_by_name, optional=True),
    Column("signal_to_noise", _by_id, _all_numbers, optional=True),
    # Of comparisons in which every hospital also trains alone.
    Column("gain_per_hospital", _by_id, first_known, optional=True, csv="gain"),
    Column("gain_low_per_hospital", _by_id, first_known, optional=True, csv="gain_low"),
    Column("gain_high_per_hospital", _by_id, first_known, optional=True, csv="gain_high"),
    Column("gainers", derive=gains.decided, head="hospitals|gain/lose", text=gains.cell),
    Column("backdoor_success", _share, mean, optional=True, csv=True, head="backdoor|success"),
    # Of audits.
    Column("membership_auc", _share, mean, optional=True, csv=True, head="membership AUC", printed=False),
    Column("membership_tpr", _share, mean, optional=True, csv=True, head="membership TPR", printed=False),
    Column("reconstruction_error", _amount, mean, optional=True, csv=True, head="reconstruction error", printed=False),
    Column(
        "epsilon_lower_bound", _amount, highest, optional=True, csv=True, head="epsilon proved by attack", printed=False
    ),
)

COLUMNS: dict[str, Column] = {column.field: column for column in _STORED}
"""Every column by its field, in the order of the tables."""


def register(column: Column) -> Column:
    """Adds a column to every table and file; its field must be new.

    Raises:
      ValueError: the field is taken.
    """
    if column.field in COLUMNS:
        raise ValueError(f"column {column.field!r} is there already. Remedy: give the new column another field.")
    COLUMNS[column.field] = column
    return column


@contextlib.contextmanager
def registered(column: Column) -> Iterator[Column]:
    """A column that is there for a while."""
    try:
        yield register(column)
    finally:
        del COLUMNS[column.field]


# --------------------------------------------------------------------------------------------------- reading a row


def row_of(values: Mapping[str, Any], extra: Mapping[str, Any] | None = None) -> Row:
    """A row from the values of its columns; optional ones that are missing are left out."""
    further = {
        field: values[field]
        for field, column in COLUMNS.items()
        if field in values and field not in NAMED and not (column.optional and is_empty(values[field]))
    }
    named = {name: values[name] for name in NAMED if name in values}
    row = Row(**named, values=further, extra=dict(extra or {}))
    return dataclasses.replace(row, headline=measured_headline([row]))


def measured_headline(rows: Sequence[Row]) -> str:
    """The headline metric where none was recorded: accuracy, else what a regression has."""
    names = ("accuracy", "rmse", "loss")
    return next((name for name in names if any(row.figures(name).mean is not None for row in rows)), "accuracy")


def row_from_json(source: Any, where: str = "row", problems: list[str] | None = None) -> Row:
    """Reads and checks one row.

    Args:
      source: the JSON object.
      where: what messages call it.
      problems: collects the clashes; without it they are raised.

    Raises:
      RecordError: lists every clash, when `problems` was not given.
    """
    found: list[str] = [] if problems is None else problems
    fields = FieldReader(source, where, found)
    values = {field: column.read(fields, field) for field, column in COLUMNS.items() if column.read is not None}
    row = row_of(values, fields.rest())
    if row.unit == "none" and row.epsilon is not None:
        found.append(f"{where}: epsilon is {row.epsilon} with unit 'none': an epsilon must name its unit")
    if problems is None:
        raise_record_error(found, "write rows with tff_hospitals.reports.rows.Row")
    return row
