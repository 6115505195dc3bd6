"""The comparison summary: `summary.json` and `summary.csv`, written, read back and checked.

Everything that a report shows comes from this file; nothing is trained again. The field names are stable under
`SCHEMA_VERSION` and other programs read them.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from tff_hospitals.foundations import files
from tff_hospitals.reports.columns import COLUMNS, measured_headline, row_from_json
from tff_hospitals.reports.fields import FieldReader, raise_record_error
from tff_hospitals.reports.rows import Row, ordered
from tff_hospitals.training.metrics import METRICS, Metric

SCHEMA_VERSION = 1
SUMMARY_FIELDS = (
    "schema_version",
    "title",
    "command",
    "created",
    "versions",
    "machine",
    "dataset",
    "seeds",
    "splits",
    "rounds",
    "target_epsilons",
    "delta",
    "adjacency",
    "conversion",
    "headline",
    "headline_reason",
    "differences",
    "test_records_by_class",
    "joint_epsilon",
    "rows",
)


@dataclasses.dataclass(frozen=True)
class HospitalFacts:
    """A hospital's id and the size of its parts, in records."""

    id: str
    train_records: int | None = None
    test_records: int | None = None


@dataclasses.dataclass(frozen=True)
class DatasetFacts:
    """Where the data come from and how they were split; `extra` keeps what else the data set says of itself."""

    name: str
    hospitals: tuple[HospitalFacts, ...] = ()
    provenance: str = ""
    licence: str = ""
    simulated: bool | None = None
    partition: str = ""
    preprocessing: Any = ""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def preprocessing_words(self) -> str:
        """How the features were prepared, in words, whichever form the run recorded."""
        if isinstance(self.preprocessing, Mapping):
            return str(self.preprocessing.get("words") or self.preprocessing.get("kind") or "")
        return str(self.preprocessing or "")

    def to_json(self) -> dict[str, Any]:
        """Plain types under the stable names."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "extra"}
        own["hospitals"] = [dataclasses.asdict(hospital) for hospital in self.hospitals]
        return {**own, **self.extra}


@dataclasses.dataclass(frozen=True)
class Summary:
    """A whole comparison; see `SUMMARY_FIELDS`."""

    dataset: DatasetFacts
    rows: tuple[Row, ...]
    title: str = ""
    command: str = ""
    created: str = ""
    versions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    machine: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    splits: int = 1
    rounds: int | None = None
    target_epsilons: tuple[float, ...] = ()
    delta: float | None = None
    adjacency: str = ""
    conversion: str = ""
    headline: str = ""
    headline_reason: str = ""
    differences: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    test_records_by_class: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    joint_epsilon: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def metric(self) -> Metric:
        """The headline metric: what methods are ranked by."""
        return METRICS[self.headline or "accuracy"]

    @property
    def hospital_ids(self) -> tuple[str, ...]:
        """The hospitals in the order of the data set, then any that only a row knows."""
        known = [hospital.id for hospital in self.dataset.hospitals]
        measured = [key for row in self.rows for key in row.score.per_hospital]
        return tuple(dict.fromkeys([*known, *measured]))

    def to_json(self) -> dict[str, Any]:
        """Plain types under the stable names."""
        own: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
        own.update({name: getattr(self, name) for name in SUMMARY_FIELDS if name != "schema_version"})
        own["dataset"] = self.dataset.to_json()
        own["rows"] = [row.to_json() for row in self.rows]
        return {**own, **self.extra}


def summary_from_json(source: Any, where: str = "summary.json") -> Summary:
    """Reads and checks a comparison summary.

    Raises:
      RecordError: lists the clashes, each with field, value and what it must be.
    """
    remedy = "restore the file that compare_aggregators wrote, or run the comparison again into a new folder"
    problems: list[str] = []
    fields = FieldReader(source, where, problems)
    raise_record_error(problems, remedy)
    check_schema_version(fields, where)
    hospitals_and_data = dataset_from_json(fields.anything("dataset"), f"{where}: dataset", problems)
    items = fields.objects("rows")
    if not items and not problems:
        problems.append(f"{where}: rows is empty, must hold at least one method")
    rows = [row_from_json(item, f"{where}: rows[{k}]", problems) for k, item in enumerate(items)]
    headline = fields.text("headline", known=tuple(METRICS)) or measured_headline(rows)
    summary = Summary(
        dataset=hospitals_and_data,
        rows=tuple(dataclasses.replace(row, headline=headline) for row in rows),
        title=fields.text("title"),
        command=fields.text("command"),
        created=fields.text("created"),
        versions=fields.mapping("versions"),
        machine=fields.mapping("machine"),
        seeds=tuple(int(seed) for seed in fields.numbers("seeds") if seed is not None),
        splits=fields.whole("splits") or 1,
        rounds=fields.whole("rounds"),
        target_epsilons=tuple(value for value in fields.numbers("target_epsilons") if value is not None),
        delta=fields.number("delta", low=0.0, high=1.0),
        adjacency=fields.text("adjacency"),
        conversion=fields.text("conversion"),
        headline=headline,
        headline_reason=fields.text("headline_reason"),
        differences=fields.mapping("differences"),
        test_records_by_class=fields.mapping("test_records_by_class"),
        joint_epsilon=fields.mapping("joint_epsilon"),
        extra=fields.rest(),
    )
    seen: set[tuple[str, str, float | None]] = set()
    for row in summary.rows:
        key = (row.method, row.unit, row.target_epsilon)
        if key in seen and row.method:
            problems.append(
                f"{where}: two rows for method {row.method!r} at target_epsilon {row.target_epsilon}, must be one"
            )
        seen.add(key)
    raise_record_error(problems, remedy)
    return summary


def check_schema_version(fields: FieldReader, where: str) -> None:
    """Refuses files of another program or of another schema version.

    Raises:
      RecordError: names the version found and the one that is read.
    """
    version = fields.anything("schema_version")
    if version is None:
        raise files.RecordError(
            f"{where} has no schema_version: it was not written by tff_hospitals. "
            "Remedy: name a folder that compare_aggregators or train wrote."
        )
    if version != SCHEMA_VERSION:
        raise files.RecordError(
            f"{where} has schema_version {version!r}, this version of tff_hospitals reads {SCHEMA_VERSION}. "
            "Remedy: use the version of tff_hospitals that wrote the folder."
        )


def dataset_from_json(source: Any, where: str, problems: list[str]) -> DatasetFacts:
    """Reads what a data set says of itself; clashes go to `problems`."""
    fields = FieldReader(source, where, problems)
    hospitals = []
    for one in fields.items("hospitals"):
        sizes = one.whole("train_records"), one.whole("test_records")
        hospitals.append(HospitalFacts(one.text("id", required=True), *sizes))
    return DatasetFacts(
        name=fields.text("name", required=True),
        hospitals=tuple(hospitals),
        provenance=fields.text("provenance"),
        licence=fields.text("licence"),
        simulated=fields.flag("simulated"),
        partition=fields.text("partition"),
        preprocessing=fields.anything("preprocessing"),
        extra=fields.rest(),
    )


def read_summary(directory: os.PathLike[str] | str) -> Summary:
    """The checked summary of a comparison directory.

    Raises:
      RecordError: the file is missing, not JSON, of another program, or has wrong fields.
    """
    path = pathlib.Path(directory) / "summary.json"
    return summary_from_json(files.read_json(path), str(path))


def write_summary(directory: os.PathLike[str] | str, summary: Summary) -> list[pathlib.Path]:
    """Writes `summary.json` and `summary.csv`, each whole or not at all; returns their paths."""
    folder = pathlib.Path(directory)
    checked = summary_from_json(files.plain(summary.to_json()), str(folder / "summary.json"))
    files.write_json(folder / "summary.json", checked.to_json())
    columns, rows = summary_table(checked)
    files.write_csv(folder / "summary.csv", columns, rows)
    return [folder / "summary.json", folder / "summary.csv"]


def summary_table(summary: Summary) -> tuple[list[str], list[dict[str, Any]]]:
    """The flat table of `summary.csv`: columns, and one dictionary per row in the order of the printed table."""
    rows = ordered(summary.rows)
    written = [one for one in COLUMNS.values() if one.csv and not (one.optional and not any(map(one.has_value, rows)))]
    flat: list[dict[str, Any]] = [
        {one.field: _cell(one.value(row)) for one in written if one.csv is True} for row in rows
    ]
    taken = set(flat[0]) if flat else set()
    for one in written:
        for hospital_id in summary.hospital_ids if one.csv is not True else ():
            name = f"{one.csv}_{hospital_id}"
            while name in taken:  # a hospital called "mean" must not overwrite accuracy_mean
                name += " (hospital)"
            taken.add(name)
            for line, row in zip(flat, rows):
                line[name] = one.value(row).get(hospital_id)
    return list(flat[0]) if flat else [], flat


def _cell(value: Any) -> Any:
    return "; ".join(value) if isinstance(value, tuple) else value
