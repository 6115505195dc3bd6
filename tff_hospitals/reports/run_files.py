"""The files of one finished run, read and checked: summary, record, metrics by round and hospital, seconds.

What a report of a run cannot do without is `summary.json` and `metrics.csv`; what else is missing is named on the page.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tff_hospitals.foundations import files as records
from tff_hospitals.reports.columns import row_from_json
from tff_hospitals.reports.fields import FieldReader, raise_record_error
from tff_hospitals.reports.rows import Row
from tff_hospitals.reports.summary import DatasetFacts, check_schema_version, dataset_from_json
from tff_hospitals.training.metrics import METRICS
from tff_hospitals.training.run_record import fullest

POOLED, SERVER = "pooled", "server"
METRIC_NUMBERS = (
    "loss",
    "accuracy",
    "auc",
    "records",
    "train_loss",
    "steps",
    "learning_rate",
    "epsilon_rdp",
    "epsilon_pld",
    "delta",
    "bytes_down",
    "bytes_up",
)


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """One run.

    Attributes:
      row: its summary.
      seed, status: as the summary says.
      dataset: from the run record; None when there is no record.
      record, plan: the JSON objects, empty when missing.
      metrics: for each scope (hospital id, `pooled`, `server`) the rows by round; rounds count from 1.
      seconds: seconds of each round, in order.
      files: names of the files that are there.
      missing: one sentence for each file that is not there or cannot be read.
      across: the rows of `cross_site.csv`; none where hospitals have no models of their own.
    """

    row: Row
    seed: Any
    status: str
    dataset: DatasetFacts | None
    record: Mapping[str, Any]
    plan: Mapping[str, Any]
    metrics: Mapping[str, list[dict[str, float | None]]]
    seconds: tuple[float, ...]
    files: tuple[str, ...]
    missing: tuple[str, ...]
    across: tuple[Mapping[str, str], ...] = ()

    def curve(self, scope: str, column: str) -> list[tuple[float, float]]:
        """The (round, value) pairs that were measured."""
        pairs = [(row["round"], row.get(column)) for row in self.metrics.get(scope, [])]
        return [(number, value) for number, value in pairs if number is not None and value is not None]

    @property
    def hospital_ids(self) -> tuple[str, ...]:
        """Hospitals in the order of the metrics."""
        return tuple(scope for scope in self.metrics if scope not in (POOLED, SERVER))


def read_run(directory: os.PathLike[str] | str) -> RunFiles:
    """Reads a run directory.

    Raises:
      records.RecordError: summary or metrics are missing, corrupt or of another program.
    """
    folder = pathlib.Path(directory)
    path = fullest(folder, "summary.json")
    where, summary = str(path), records.read_json(path)
    problems: list[str] = []
    fields = FieldReader(summary, where, problems)
    remedy = "restore the file that the run wrote, or train again into a new folder"
    raise_record_error(problems, remedy)
    check_schema_version(fields, where)
    row = row_from_json(summary, where, problems)
    raise_record_error(problems, remedy)
    missing: list[str] = []
    record = _optional_json(fullest(folder, "record.json"), missing)
    plan = _optional_json(folder / "plan.json", missing)
    dataset = None
    if record.get("dataset"):
        dataset = dataset_from_json(record["dataset"], f"{folder / 'record.json'}: dataset", problems)
        raise_record_error(problems, remedy)
    seconds: list[float] = []
    try:
        seconds = [float(line["seconds"]) for line in read_csv(fullest(folder, "timing.csv"), ("round", "seconds"))]
    except (records.RecordError, ValueError) as error:
        missing.append(f"Seconds by round are not shown: {_first_sentence(error)}.")
    across = fullest(folder, "cross_site.csv")
    return RunFiles(
        row=row,
        seed=row.extra.get("seed"),
        status=row.get("status", ""),
        dataset=dataset,
        record=record,
        plan=plan,
        metrics=read_metrics(fullest(folder, "metrics.csv")),
        seconds=tuple(value for value in seconds if math.isfinite(value)),
        files=tuple(sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if path.name[0] != ".")),
        missing=tuple(missing),
        across=tuple(read_csv(across, ("model", "tested_on"))) if across.exists() else (),
    )


def read_metrics(path: pathlib.Path) -> dict[str, list[dict[str, float | None]]]:
    """`metrics.csv` by scope, rounds in order; empty cells are None.

    Raises:
      records.RecordError: names file, line and column of what is wrong.
    """
    scopes: dict[str, list[dict[str, float | None]]] = {}
    for number, line in enumerate(read_csv(path, ("round", "hospital", *METRIC_NUMBERS)), start=2):
        names = [name for name in line if name in ("round", *METRIC_NUMBERS, *METRICS)]
        values = {name: _number(line[name], path, number, name) for name in names}
        scopes.setdefault(line["hospital"], []).append(values)
    if not scopes:
        raise records.RecordError(f"{path} has no rows. Remedy: the run has not finished a round; start it again.")
    return scopes


def by_scope(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, float | None]]]:
    """The rows of a run's metrics, as they are in memory, by hospital id, `pooled` and `server`."""
    scopes: dict[str, list[dict[str, float | None]]] = {}
    for row in rows:
        values = {name: row.get(name) for name in ("round", *METRIC_NUMBERS, *METRICS)}
        scopes.setdefault(row["hospital"], []).append(values)
    return scopes


def read_csv(path: pathlib.Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header; extra columns are kept.

    Raises:
      records.RecordError: the file is missing, half-written or lacks columns.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise records.RecordError(f"{path} does not exist. Remedy: name a folder that a finished run wrote.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise records.RecordError(f"{path} cannot be read: {error}. Remedy: restore the file.") from error
    reader = csv.DictReader(io.StringIO(text))
    lacking = [name for name in columns if name not in (reader.fieldnames or ())]
    if lacking:
        raise records.RecordError(f"{path} lacks the columns {', '.join(lacking)}. Remedy: restore the file.")
    rows = []
    for line in reader:
        if None in line or None in line.values():
            raise records.RecordError(
                f"{path} line {reader.line_num} has not {len(reader.fieldnames or ())} cells: the file is "
                f"half-written. "
                "Remedy: start the run again, it resumes and writes the file anew."
            )
        rows.append(line)
    return rows


def _number(text: str, path: pathlib.Path, line: int, column: str) -> float | None:
    if text == "":
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise records.RecordError(
            f"{path} line {line}, column {column}: {text[:40]!r} is not a number. Remedy: restore the file."
        ) from error
    return value if math.isfinite(value) else None


def _optional_json(path: pathlib.Path, missing: list[str]) -> dict[str, Any]:
    try:
        value = records.read_json(path)
    except records.RecordError as error:
        missing.append(f"{path.name} is not shown: {_first_sentence(error)}.")
        return {}
    return dict(value) if isinstance(value, Mapping) else {}


def _first_sentence(error: Exception) -> str:
    return str(error).split(" Remedy:")[0].rstrip(".")
