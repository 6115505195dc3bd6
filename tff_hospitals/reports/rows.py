"""One row of a comparison: what one method cost and kept.

What a row may hold, how it is read, joined over seeds and shown, is declared in `columns.py`; here are the values, and
which rows stand together.

>>> Row("weighted_mean", values={"accuracy_mean": 0.73}).group, Row("pooled", kind="pooled").group
('no_guarantee', 'baseline')
>>> Row("dp_sgd", unit="record", target_epsilon=5.0, epsilon=4.98).group
'record'
>>> Row("local_dp", unit="hospital", rounds=3).group  # it ran, and its epsilon is infinite
'no_guarantee'
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from tff_hospitals.reports.fields import finite_or_none
from tff_hospitals.reports.spread import Interval, t_interval
from tff_hospitals.training.metrics import METRICS, Metric

UNITS = ("none", "record", "hospital")
KINDS = ("federated", "pooled", "local")
GROUPS = ("baseline", "no_guarantee", "record", "hospital")
GROUP_TITLES = {
    "baseline": "Baselines: nothing is trained together",
    "no_guarantee": "Trained together, no privacy guarantee",
    "record": "Private for each record (patient)",
    "hospital": "Private for each hospital as a whole",
}


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """The state after one evaluated round; bytes are cumulative.

    Attributes:
      round, epsilon, bytes_up, bytes_down: so far.
      values: `{metric}_mean` over hospitals and seeds, and `{metric}_sd` over seeds.
    """

    round: int
    epsilon: float | None = None
    bytes_up: float | None = None
    bytes_down: float | None = None
    values: Mapping[str, float | None] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain types, the values beside the rest."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "values"}
        return {**own, **self.values}


@dataclasses.dataclass(frozen=True)
class Figures:
    """What one metric came to: mean over the hospitals, all test records pooled, each hospital and the worst of them.

    Means and standard deviations are over seeds; `low` and `high` are the 95 % interval over patients and seeds, for
    the mean and for each hospital.
    """

    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    pooled_mean: float | None = None
    pooled_sd: float | None = None
    worst: float | None = None
    worst_hospital: str | None = None
    per_hospital: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    sd_per_hospital: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    low_per_hospital: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    high_per_hospital: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    per_seed: tuple[float | None, ...] = ()

    @property
    def seeds(self) -> int:
        """How many seeds gave a figure."""
        return sum(value is not None for value in self.per_seed)

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval over patients and seeds; where it was not recorded, over seeds, and None with one seed."""
        if self.low is not None and self.high is not None:
            return Interval(self.low, self.high)
        return t_interval(self.mean, self.sd, self.seeds)

    def interval_of(self, hospital_id: str) -> Interval | None:
        """The 95 % interval of one hospital's figure; where it was not recorded, over seeds."""
        low, high = self.low_per_hospital.get(hospital_id), self.high_per_hospital.get(hospital_id)
        if low is not None and high is not None:
            return Interval(low, high)
        return t_interval(self.per_hospital.get(hospital_id), self.sd_per_hospital.get(hospital_id), self.seeds)


@dataclasses.dataclass(frozen=True)
class Row:
    """One method at one target. None means not measured, for `epsilon`: no guarantee.

    Attributes:
      values: the columns that no code needs by name, all metrics among them.
      extra: fields that this version does not know; they are carried along.
      headline: the metric that methods are ranked by.
    """

    method: str
    label: str = ""
    kind: str = "federated"
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
    bytes_up: float | None = None
    bytes_down: float | None = None
    seconds_per_round: float | None = None
    rounds: int | None = None
    stop_reason: str = ""
    runtime: str = ""
    guarantee: str = ""
    warnings: tuple[str, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    headline: str = "accuracy"

    def get(self, field: str, default: Any = None) -> Any:
        """The value of a column, by its field."""
        return getattr(self, field) if field in NAMED else self.values.get(field, default)

    def figures(self, metric: str) -> Figures:
        """What a metric came to."""
        prefix = f"{metric}_"
        names = (field.name for field in dataclasses.fields(Figures))
        return Figures(**{name: self.values[prefix + name] for name in names if prefix + name in self.values})

    @property
    def metric(self) -> Metric:
        """The headline metric."""
        return METRICS[self.headline]

    @property
    def score(self) -> Figures:
        """What the headline metric came to."""
        return self.figures(self.headline)

    @property
    def untested(self) -> tuple[str, ...]:
        """Hospitals of which no metric is known, though those of others are asked for: they have no test records.

        >>> Row("mean", values={"accuracy_per_hospital": {"a": None, "b": 0.5}}).untested
        ('a',)
        """
        known = [of for name in METRICS if (of := self.figures(name).per_hospital)]
        ids = dict.fromkeys(one for of in known for one in of)
        return tuple(one for one in ids if all(of.get(one) is None for of in known))

    @property
    def merit(self) -> float | None:
        """The headline figure, its sign such that more is better."""
        mean = self.score.mean
        return mean if mean is None or self.metric.higher_is_better else -mean

    @property
    def ranked(self) -> bool:
        """Whether it may be called better or worse than others: not while its training has not ended."""
        return self.values.get("converged") is not False

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
        if self.kind != "federated":
            return "baseline"
        return self.unit if self.private or (self.unit != "none" and not self.measured) else "no_guarantee"

    @property
    def measured(self) -> bool:
        """Whether the method ran: a target out of reach leaves a row without figures."""
        return bool(self.rounds) or any(self.values.get(f"{name}_mean") is not None for name in METRICS)

    @property
    def bytes_total(self) -> float | None:
        """Bytes in both directions, whole run, all hospitals; None when neither was measured."""
        if self.bytes_up is None and self.bytes_down is None:
            return None
        return (self.bytes_up or 0.0) + (self.bytes_down or 0.0)

    @property
    def way(self) -> list[tuple[CurvePoint, float]]:
        """The evaluated rounds at which the headline metric is known, with its mean."""
        points = ((point, point.values.get(f"{self.headline}_mean")) for point in self.curve)
        return [(point, value) for point, value in points if value is not None]

    def to_json(self) -> dict[str, Any]:
        """Plain types under the stable names."""
        own = {name: getattr(self, name) for name in NAMED}
        return {**own, "curve": [point.to_json() for point in self.curve], **self.values, **self.extra}


NAMED = tuple(field.name for field in dataclasses.fields(Row) if field.name not in ("values", "extra", "headline"))
"""The fields that code needs by name."""


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
