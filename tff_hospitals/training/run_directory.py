"""The run directory: everything that a reader needs to believe a run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import pathlib
import platform
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tff_hospitals import __version__
from tff_hospitals.foundations import files
from tff_hospitals.training import cross_site, event_files
from tff_hospitals.training.byte_counts import BYTES_COLUMNS, DRIFT_COLUMNS
from tff_hospitals.training.checkpoints import Checkpoint, CheckpointFolder
from tff_hospitals.training.extension import Extension
from tff_hospitals.training.published_fields import INSIDE, OWN_MODELS, leaves, part_of
from tff_hospitals.training.run_history import METRIC_COLUMNS, RunHistory
from tff_hospitals.training.run_record import RunIdentity, fullest, read_record

if TYPE_CHECKING:
    import numpy as np

    from tff_hospitals.training.results import Run

_SECONDS_BETWEEN_FLUSHES = 1.0
_PACKAGES = ("tensorflow", "tensorflow-federated", "tensorflow-privacy", "dp-accounting", "numpy", "absl-py")


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of what it computes with; a missing package reads `absent`."""
    return dict(_versions())


@functools.lru_cache(maxsize=1)  # every run of a comparison writes them, and looking them up takes 10 ms
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "tff_hospitals": __version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


class RunDirectory:
    """The files of one run.

    Nothing is written before `claim`: a run that is refused leaves everything as it was.

    Args:
      identity: of the run.
      runtime: its name.
      path: of the folder; None keeps nothing.
      extension: where the run that the folder holds is, or was, extended.

    Raises:
      files.RecordError: the folder belongs to another plan, model or version, to other data or to something else.
    """

    def __init__(
        self,
        identity: RunIdentity,
        runtime: str,
        path: str | pathlib.Path | None = None,
        extension: Extension | None = None,
    ):
        self.path = None if path is None else pathlib.Path(path)
        self._identity, self._runtime, self._extension = identity, runtime, extension
        self._may_stand_open = leaves(identity.plan)
        self._record: Mapping[str, Any] | None = None
        self._flushed = time.monotonic()
        open_here = self._may_stand_open(f"{event_files.FOLDER}/", "**")
        self._events = event_files.EventFiles(self.path and self._place(event_files.FOLDER, inside=not open_here))
        if self.path is not None:
            self._record = self._record_there(self.path)
        self.attempt = secrets.token_hex(16) if self._record is None else str(self._record["attempt"])

    def _record_there(self, path: pathlib.Path) -> Mapping[str, Any] | None:
        """The record of this run if the folder holds it, None for a free folder."""
        if not (path / "plan.json").exists():
            if (path / "summary.json").exists():
                bound = "already holds results of something else. Remedy: choose another --run_dir."
                raise files.RecordError(f"{path} {bound}")
            return None
        identity, extended = self._identity, self._extension
        if extended is not None and extended.new:
            identity = dataclasses.replace(identity, plan=extended.stages[-1].plan)
        differing = identity.differences(path)
        if differing:
            raise files.RecordError(
                f"{path} belongs to another run: it differs in {', '.join(differing[:6])}. Nothing was changed. "
                "Remedy: choose another --run_dir, or give the same flags to resume."
            )
        record = read_record(path)
        if record["extended_from"] and extended is None and not (path / "summary.json").exists():
            raise files.RecordError(
                f"{path} holds a run that was extended and has not finished. Remedy: go on with it by itself "
                "(scripts/train.py), then start this again."
            )
        return record

    def claim(self) -> None:
        """Writes plan.json and record.json of a run that begins here, or is extended here."""
        if self.path is None or (self._record is not None and not (self._extension and self._extension.new)):
            return
        record = self._record or {**self._identity.record(self._runtime, versions()), "attempt": self.attempt}
        if self._extension is not None:
            stages = [stage.record() for stage in self._extension.stages]
            record = {**record, "identity": self._identity.fingerprint(), "extended_from": stages}
        self._write_json("record.json", record)
        files.write_json(self.path / "plan.json", self._identity.plan.to_json())
        for folder in (self.path, self.path / INSIDE):  # of the run that was extended: this one has not finished
            (folder / "summary.json").unlink(missing_ok=True)
        self._record = record

    @property
    def execution(self) -> Mapping[str, Any]:
        """How the run's rounds are executed, by its record (`runtimes.base.Runtime.settle`); empty: nothing yet."""
        found: Mapping[str, Any] = (self._record or {}).get("execution") or {}
        return found

    def keep_execution(self, found: Mapping[str, Any]) -> None:
        """Enters into record.json how the rounds are executed. What the rule chose, it would choose again: that does
        not wait for the disk.
        """
        if self.path is None or self._record is None or not found:
            return
        self._record = {**self._record, "execution": dict(found)}
        with files.without_waiting() if found.get("chosen_by") == "rule" else contextlib.nullcontext():
            self._write_json("record.json", self._record)

    def checkpoint(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest whole checkpoint of this run, and warnings about those passed over.

        Raises:
          files.RecordError: none is whole, or it belongs to another plan.
        """
        if self.path is None:
            return None, []
        checkpoint, warnings = CheckpointFolder(self.path / "checkpoints").latest()
        stages = () if self._extension is None else self._extension.stages
        plans = [self._identity.plan, *(stage.plan for stage in stages)]
        known = [dataclasses.replace(self._identity, plan=plan).fingerprint() for plan in plans]
        if checkpoint is not None and checkpoint.plan not in known:
            raise files.RecordError(
                f"{self.path} holds a checkpoint of another plan ({checkpoint.plan}, this one is {known[0]}). "
                "Remedy: choose another --run_dir."
            )
        return checkpoint, warnings

    def save(self, next_round: int, arrays: tuple[np.ndarray, ...], progress: Mapping[str, Any], *, last: bool) -> None:
        """Keeps a point between two rounds.

        A run whose noise can be drawn again waits for the disk at its end and once a second: a power cut costs it that
        much work and no privacy.
        """
        if self.path is None:
            return
        now, kept = time.monotonic(), Checkpoint(next_round, self._identity.fingerprint(), arrays, progress)
        waits = last or self._identity.plan.privacy.secure_noise or now - self._flushed > _SECONDS_BETWEEN_FLUSHES
        with contextlib.nullcontext() if waits else files.without_waiting():
            CheckpointFolder(self.path / "checkpoints").save(kept)
        self._flushed = now if waits else self._flushed

    def finished_summary(self) -> Mapping[str, Any] | None:
        """The summary of a run that finished here and is not extended now, or None."""
        going_on = self._extension is not None and self._extension.new
        if self.path is None or going_on or not (self.path / "summary.json").exists():
            return None
        summary = files.read_json(fullest(self.path, "summary.json"))
        return summary if summary.get("status") == "finished" else None

    def write_tables(self, history: RunHistory, seconds: Sequence[tuple[int, float]], *, last: bool) -> None:
        """metrics.csv, timing.csv, bytes.csv, drift.csv and ledger.json as they stand, and the event files.

        They are made from what a checkpoint keeps, which alone must survive a power cut.
        """
        if self.path is None:
            return
        with files.without_waiting():
            self._write_csv("metrics.csv", METRIC_COLUMNS, history.metric_rows)
            rows = [{"round": number, "seconds": value} for number, value in seconds]
            self._write_csv("timing.csv", ("round", "seconds"), rows)
            self._write_csv("bytes.csv", BYTES_COLUMNS, history.bytes_sent.rows)
            self._write_csv("drift.csv", DRIFT_COLUMNS, history.bytes_sent.drift_rows)
            self._write_json("ledger.json", history.released().to_json())
        self._events.write(history.metric_rows, seconds, last=last)

    def finish(self, run: Run, summary: Mapping[str, Any], across: Sequence[Mapping[str, Any]] = ()) -> None:
        """Writes the models and, last of all, summary.json: its presence means that the run is whole.

        Args:
          run: that ended.
          summary: of it.
          across: rows of `cross_site`.
        """
        if self.path is None:
            return
        name = run.plan.model.name
        warnings = run.model.save_trained(run.weights, run.frozen, self.path, name)
        for hospital, weights in run.own.items():  # whatever the plan promises: another's model is nobody's business
            run.model.save_trained(*weights, self._place(OWN_MODELS, inside=True) / hospital, name)
        if across:
            self._write_csv("cross_site.csv", cross_site.COLUMNS, across)
        summary = {**summary, "warnings": [*summary["warnings"], *warnings]} if warnings else summary
        self._write_json("summary.json", summary)

    def _place(self, name: str, *, inside: bool = False) -> pathlib.Path:
        folder = self.path or pathlib.Path()
        return folder / INSIDE / name if inside else folder / name

    def _write_csv(self, name: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """A table that may be seen as it is, or the whole of it inside and here with empty cells, if at all."""
        shown = [column for column in columns if self._may_stand_open(name, column)]
        if len(shown) < len(columns):
            files.write_csv(self._place(name, inside=True), columns, rows)
            rows = [{column: row[column] for column in shown if column in row} for row in rows]
        if shown:
            files.write_csv(self._place(name), columns, rows)

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """As `_write_csv`, by fields."""
        value = files.plain(value)
        shown = part_of(name, value, self._may_stand_open)
        if shown != value:
            files.write_json(self._place(name, inside=True), value)
        files.write_json(self._place(name), shown)
