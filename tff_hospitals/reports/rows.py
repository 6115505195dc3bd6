"""One row of a comparison: what one method cost and kept, with the field names that other programs read.

The names in `ROW_FIELDS` are stable; `ATTACK_FIELDS` join them when an audit has run. Fields that this version does not
know are carried along unchanged.

>>> row = row_from_json({"method": "fedavg", "unit": "none", "accuracy_mean": 0.73, "epsilon": None})
>>> row.name, row.private, row.group
('fedavg', False, 'no_guarantee')
>>> row_from_json({"method": "dp_sgd", "unit": "record", "target_epsilon": 5, "epsilon": 4.98}).group
'record'
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from tff_hospitals.reports.fields import FieldReader, finite_or_none, raise_record_error

UNITS = ("none", "record", "hospital")
ROW_FIELDS = (
    "method",
    "label",
    "unit",
    "target_epsilon",
    "epsilon",
    "epsilon_pld",
    "epsilon_per_hospital",
    "worst_hospital",
    "delta",
    "adjacency",
    "conversion",
    "noise_multiplier_per_hospital",
    "accuracy_mean",
    "accuracy_sd",
    "accuracy_pooled_mean",
    "accuracy_pooled_sd",
    "accuracy_per_hospital",
    "accuracy_sd_per_hospital",
    "auc_mean",
    "loss_mean",
    "accuracy_per_seed",
    "bytes_up",
    "bytes_down",
    "seconds_per_round",
    "rounds",
    "stop_reason",
    "runtime",
    "guarantee",
    "warnings",
    "curve",
)
# Kept in `extra`: of plans with two units, several records per patient, noise that nobody can draw again, or releases
# that have no loss distribution.
PRIVACY_FIELDS = (
    "epsilon_rdp",
    "epsilon_pld_missing",
    "second_unit",
    "second_epsilon",
    "second_conversion",
    "second_noise_multiplier",
    "records_per_patient",
    "epsilon_per_patient",
    "reproducible",
)
ATTACK_FIELDS = ("membership_auc", "membership_tpr", "reconstruction_error", "epsilon_lower_bound")
CURVE_FIELDS = ("round", "epsilon", "accuracy_mean", "accuracy_sd", "bytes_up", "bytes_down")

GROUPS = ("baseline", "no_guarantee", "record", "hospital")
GROUP_TITLES = {
    "baseline": "Baselines: nothing is trained together",
    "no_guarantee": "Trained together, no privacy guarantee",
    "record": "Private for each record (patient)",
    "hospital": "Private for each hospital as a whole",
}
_BASELINE_WORDS = ("local", "pooled", "centralised", "centralized")


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """The state after one evaluated round: mean over hospitals, then mean and sd over seeds; bytes are cumulative."""

    round: int
    epsilon: float | None = None
    accuracy_mean: float | None = None
    accuracy_sd: float | None = None
    bytes_up: float | None = None
    bytes_down: float | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """One method at one target; see `ROW_FIELDS`. None means not measured, for `epsilon`: no guarantee."""

    method: str
    label: str = ""
    unit: str = "none"
    target_epsilon: float | None = None
    epsilon: float | None = None
    epsilon_pld: float | None = None
    epsilon_per_hospital: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    worst_hospital: str | None = None
    delta: float | None = None
    adjacency: str = ""
    conversion: str = ""
    noise_multiplier_per_hospital: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    accuracy_mean: float | None = None
    accuracy_sd: float | None = None
    accuracy_pooled_mean: float | None = None
    accuracy_pooled_sd: float | None = None
    accuracy_per_hospital: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    accuracy_sd_per_hospital: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    auc_mean: float | None = None
    loss_mean: float | None = None
    accuracy_per_seed: tuple[float | None, ...] = ()
    bytes_up: float | None = None
    bytes_down: float | None = None
    seconds_per_round: float | None = None
    rounds: int | None = None
    stop_reason: str = ""
    runtime: str = ""
    guarantee: str = ""
    warnings: tuple[str, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    membership_auc: float | None = None
    membership_tpr: float | None = None
    reconstruction_error: float | None = None
    epsilon_lower_bound: float | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """What a reader sees: the label, or the method's name when it has none."""
        return self.label or self.method

    @property
    def private(self) -> bool:
        """Whether the ledger gives this row a finite epsilon."""
        return self.unit != "none" and finite_or_none(self.epsilon) is not None

    @property
    def group(self) -> str:
        """One of `GROUPS`: its block of the table; a private method that could not run stays in its own."""
        if self.unit != "none" and (self.private or not self.measured):
            return self.unit
        words = self.method.lower().replace("-", "_").split("_")
        return "baseline" if words[0] in _BASELINE_WORDS else "no_guarantee"

    @property
    def measured(self) -> bool:
        """Whether the method ran: a target out of reach leaves a row without figures."""
        return self.accuracy_mean is not None or self.loss_mean is not None or bool(self.rounds)

    @property
    def bytes_total(self) -> float | None:
        """Bytes in both directions, whole run, all hospitals; None when neither was measured."""
        if self.bytes_up is None and self.bytes_down is None:
            return None
        return (self.bytes_up or 0.0) + (self.bytes_down or 0.0)

    @property
    def seeds_measured(self) -> int:
        """How many seeds gave an accuracy."""
        return sum(value is not None for value in self.accuracy_per_seed)

    def to_json(self) -> dict[str, Any]:
        """Plain types under the stable names; attack fields only where an audit filled them."""
        result: dict[str, Any] = {name: getattr(self, name) for name in ROW_FIELDS}
        result["curve"] = [dataclasses.asdict(point) for point in self.curve]
        for name in ATTACK_FIELDS:
            if getattr(self, name) is not None:
                result[name] = getattr(self, name)
        return {**result, **self.extra}


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
    row = Row(
        method=fields.text("method", required=True),
        label=fields.text("label"),
        unit=fields.text("unit", required=True, known=UNITS),
        target_epsilon=fields.number("target_epsilon", low=0.0),
        epsilon=fields.number("epsilon", low=0.0),
        epsilon_pld=fields.number("epsilon_pld", low=0.0),
        epsilon_per_hospital=fields.numbers_by_id("epsilon_per_hospital"),
        worst_hospital=fields.text("worst_hospital") or None,
        delta=fields.number("delta", low=0.0, high=1.0),
        adjacency=fields.text("adjacency"),
        conversion=fields.text("conversion"),
        noise_multiplier_per_hospital=fields.numbers_by_id("noise_multiplier_per_hospital"),
        accuracy_mean=fields.number("accuracy_mean", low=0.0, high=1.0),
        accuracy_sd=fields.number("accuracy_sd", low=0.0),
        accuracy_pooled_mean=fields.number("accuracy_pooled_mean", low=0.0, high=1.0),
        accuracy_pooled_sd=fields.number("accuracy_pooled_sd", low=0.0),
        accuracy_per_hospital=fields.numbers_by_id("accuracy_per_hospital"),
        accuracy_sd_per_hospital=fields.numbers_by_id("accuracy_sd_per_hospital"),
        auc_mean=fields.number("auc_mean", low=0.0, high=1.0),
        loss_mean=fields.number("loss_mean"),
        accuracy_per_seed=fields.numbers("accuracy_per_seed"),
        bytes_up=fields.number("bytes_up", low=0.0),
        bytes_down=fields.number("bytes_down", low=0.0),
        seconds_per_round=fields.number("seconds_per_round", low=0.0),
        rounds=fields.whole("rounds"),
        stop_reason=fields.text("stop_reason"),
        runtime=fields.text("runtime"),
        guarantee=fields.text("guarantee"),
        warnings=fields.texts("warnings"),
        curve=tuple(_curve_point(item, where, index, found) for index, item in enumerate(fields.objects("curve"))),
        membership_auc=fields.number("membership_auc", low=0.0, high=1.0),
        membership_tpr=fields.number("membership_tpr", low=0.0, high=1.0),
        reconstruction_error=fields.number("reconstruction_error", low=0.0),
        epsilon_lower_bound=fields.number("epsilon_lower_bound", low=0.0),
        extra=fields.rest(),
    )
    if row.unit == "none" and row.epsilon is not None:
        found.append(f"{where}: epsilon is {row.epsilon} with unit 'none': an epsilon must name its unit")
    if problems is None:
        raise_record_error(found, "write rows with tff_hospitals.reports.rows.Row")
    return row


def _curve_point(source: Any, where: str, index: int, problems: list[str]) -> CurvePoint:
    fields = FieldReader(source, f"{where}: curve[{index}]", problems)
    return CurvePoint(
        round=fields.whole("round") or 0,
        epsilon=fields.number("epsilon", low=0.0),
        accuracy_mean=fields.number("accuracy_mean", low=0.0, high=1.0),
        accuracy_sd=fields.number("accuracy_sd", low=0.0),
        bytes_up=fields.number("bytes_up", low=0.0),
        bytes_down=fields.number("bytes_down", low=0.0),
    )


def by_loss(rows: Iterable[Row]) -> bool:
    """Whether the rows can only be compared by loss: a regression has no accuracy."""
    known = list(rows)
    return all(row.accuracy_mean is None for row in known) and any(row.loss_mean is not None for row in known)


def common_warnings(rows: Iterable[Row]) -> tuple[str, ...]:
    """Warnings of every row that ran, when there are several: they speak of the data, not of a method."""
    ran = [row for row in rows if row.measured]
    if len(ran) < 2:
        return ()
    return tuple(dict.fromkeys(text for text in ran[0].warnings if all(text in row.warnings for row in ran)))


def ordered(rows: Iterable[Row]) -> list[Row]:
    """Rows as every table shows them: baselines, no guarantee, then record and hospital level by epsilon.

    Within a block the methods keep the order in which the comparison was asked for.
    """
    known = list(rows)
    methods = list(dict.fromkeys(row.method for row in known))

    def key(row: Row) -> tuple[int, float, int, float]:
        asked, got = finite_or_none(row.target_epsilon), finite_or_none(row.epsilon) or 0.0
        size = (asked if asked is not None else got) if row.group in UNITS else 0.0
        return GROUPS.index(row.group), size, methods.index(row.method), got

    return sorted(known, key=key)
