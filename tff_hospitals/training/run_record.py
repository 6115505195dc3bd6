"""Whose run a directory holds: what makes two runs the same, and in what they differ."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import platform
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tff_hospitals.foundations import files
from tff_hospitals.plan import mechanisms, review
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.published_fields import INSIDE, is_private

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.models import FunctionalModel

SCHEMA_VERSION = 3
_NOT_COVERED = (
    f"no epsilon covers what lies in {INSIDE}/ (exact figures of test records, of training records and of single "
    "hospitals), nor checkpoints/ and updates/; publish a run by `tff-hospitals publish`, which leaves them out"
)


@dataclasses.dataclass(frozen=True)
class RunIdentity:
    """What makes a run this run and no other.

    Attributes:
      plan: what to do.
      dataset: the hospitals.
      evaluated: those that it is evaluated on.
      model: what is trained.
    """

    plan: Plan
    dataset: HospitalDataset
    evaluated: HospitalDataset
    model: FunctionalModel

    @property
    def model_name(self) -> str:
        """Of code, configuration and starting weights of the model."""
        return str(getattr(self.model, "identity", ""))

    @property
    def data_key(self) -> str:
        """Tells the secret keys of two data sets apart and says nothing of them."""
        return self.dataset.secret.digest("which key")[:16]

    def fingerprint(self) -> str:
        """Equal identities, equal fingerprints."""
        data = [self.dataset.fingerprint(), self.evaluated.fingerprint()]
        return files.fingerprint([self.plan.fingerprint(), *data, self.model_name])

    def record(self, runtime: str, versions: Mapping[str, str]) -> dict[str, Any]:
        """record.json of a run that begins."""
        return {
            "schema_version": SCHEMA_VERSION,
            "identity": self.fingerprint(),
            "data_key": self.data_key,
            "model": self.model_name,
            "attempt": secrets.token_hex(16),
            "extended_from": [],
            "seed": self.plan.seed,
            "runtime": runtime,
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "versions": dict(versions),
            "machine": {"system": platform.platform(), "processor": platform.machine()},
            "dataset": self.dataset.describe(),
            "reproducible": mechanisms.repeatable(self.plan.privacy),
            "not_covered": _NOT_COVERED if is_private(self.plan) else "everything: no mechanism",
            "warnings": review.warnings(self.plan, self.dataset),
        }

    def differences(self, folder: pathlib.Path) -> list[str]:
        """In what this run is not the one that `folder` holds, as words for a message; empty for the same run.

        Raises:
          files.RecordError: the run there is of an earlier version, or its data had another secret key.
        """
        record = read_record(folder)
        if record["data_key"] != self.data_key:
            raise files.RecordError(_other_key(folder, self.dataset))
        if record["identity"] == self.fingerprint():
            return []
        found = plan_differences(files.read_json(folder / "plan.json"), self.plan.to_json())
        if record["model"] != self.model_name:
            found.append("the model (its code, its configuration or the weights that it starts from)")
        return found or ["the data"]


def read_record(folder: pathlib.Path) -> dict[str, Any]:
    """The whole record of the run in `folder`.

    Raises:
      files.RecordError: it is missing or damaged, or an earlier version wrote it.
    """
    record = files.read_json(fullest(folder, "record.json"))
    version = record.get("schema_version")
    if version != SCHEMA_VERSION:
        raise files.RecordError(
            f"{folder} holds a run of another version of this program (record {version!r}, this one writes "
            f"{SCHEMA_VERSION}): its states or its noise were of another form, so that it can be "
            "neither resumed nor audited here. Nothing was changed. Remedy: choose another --run_dir and train again."
        )
    return record


def fullest(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The file of a run with all of its fields: the one in `inside/` where some were set apart."""
    inside = folder / INSIDE / name
    return inside if inside.exists() else folder / name


def _other_key(folder: pathlib.Path, dataset: HospitalDataset) -> str:
    place = dataset.secret.folder
    remedy = (
        f"restore the key file that lay in {place}"
        if place is not None
        else (
            "load the data from files, or give the data set the secret that it had (data in memory have another key "
            "in every process)"
        )
    )
    return (
        f"{folder} holds a run on data with another secret key than {dataset.name} has now: the key file is missing or "
        "was replaced, so that neither its data can be told from others nor its noise be drawn again. Nothing was "
        f"changed. Remedy: {remedy}, or choose another --run_dir."
    )


def plan_differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Fields in which two plans differ, each with both values."""
    found = []
    for name in sorted({*there, *here}):
        old, new = there.get(name), here.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found.extend(plan_differences(old, new, f"{prefix}{name}."))
        elif old != new:
            found.append(f"{prefix}{name} ({old!r} there, {new!r} here)")
    return found
