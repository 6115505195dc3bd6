"""The run directory: everything that a reader needs to believe a run."""

from __future__ import annotations

import datetime
import importlib.metadata
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tff_hospitals import __version__
from tff_hospitals.foundations import files
from tff_hospitals.plan import review
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.byte_counts import BYTES_COLUMNS, DRIFT_COLUMNS
from tff_hospitals.training.checkpoints import CheckpointFolder
from tff_hospitals.training.run_history import METRIC_COLUMNS, RunHistory

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.training.results import Run

_PACKAGES = ("tensorflow", "tensorflow-federated", "tensorflow-privacy", "dp-accounting", "numpy", "absl-py")


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of what it computes with; a missing package reads `absent`."""
    found = {"python": platform.python_version(), "tff_hospitals": __version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


class RunDirectory:
    """The files of one run below `path`."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.checkpoints = CheckpointFolder(path / "checkpoints")

    def claim(self, plan: Plan, dataset: HospitalDataset, identity: str, runtime: str) -> None:
        """Writes plan.json and record.json, or checks that those there are of this run.

        Raises:
          records.RecordError: when the folder belongs to another plan or to other data.
        """
        plan_file = self.path / "plan.json"
        if plan_file.exists():
            owner = files.read_json(self.path / "record.json").get("identity")
            if owner != identity:
                there = files.read_json(plan_file)
                differing = _differences(there, plan.to_json()) or ["the data"]
                raise files.RecordError(
                    f"{self.path} belongs to another run: it differs in {', '.join(differing[:6])}. Nothing was "
                    "changed. "
                    "Remedy: choose another --run_dir, or give the same flags to resume."
                )
            return
        if self.path.is_dir() and any(self.path.iterdir()):
            known = [p.name for p in self.path.iterdir() if p.name == "summary.json"]
            if known:
                raise files.RecordError(
                    f"{self.path} already holds results of something else. Remedy: choose another --run_dir."
                )
        record = {
            "schema_version": 1,
            "identity": identity,
            "seed": plan.seed,
            "runtime": runtime,
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "versions": versions(),
            "machine": {"system": platform.platform(), "processor": platform.machine()},
            "dataset": dataset.describe(),
            "reproducible": not plan.privacy.secure_noise,
            "warnings": review.warnings(plan, dataset),
        }
        files.write_json(self.path / "record.json", record)
        files.write_json(plan_file, plan.to_json())

    def finished_summary(self) -> Mapping[str, Any] | None:
        """The summary of a run that finished here, or None."""
        path = self.path / "summary.json"
        if not path.exists():
            return None
        summary = files.read_json(path)
        return summary if summary.get("status") == "finished" else None

    def write_tables(self, history: RunHistory, seconds: Sequence[tuple[int, float]]) -> None:
        """metrics.csv, timing.csv, bytes.csv and ledger.json as they stand."""
        files.write_csv(self.path / "metrics.csv", METRIC_COLUMNS, history.metric_rows)
        rows = [{"round": number, "seconds": value} for number, value in seconds]
        files.write_csv(self.path / "timing.csv", ("round", "seconds"), rows)
        files.write_csv(self.path / "bytes.csv", BYTES_COLUMNS, history.bytes_sent.rows)
        files.write_csv(self.path / "drift.csv", DRIFT_COLUMNS, history.bytes_sent.drift_rows)
        files.write_json(self.path / "ledger.json", history.released().to_json())

    def finish(self, run: Run, summary: Mapping[str, Any]) -> None:
        """Writes the model and, last of all, summary.json: its presence means that the run is whole."""
        from tff_hospitals.models import save_keras

        save_keras(run.keras_model(), self.path / "model.keras")
        files.write_json(self.path / "summary.json", summary)


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name in sorted({*there, *here}):
        old, new = there.get(name), here.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found.extend(_differences(old, new, f"{prefix}{name}."))
        elif old != new:
            found.append(f"{prefix}{name} ({old!r} there, {new!r} here)")
    return found
