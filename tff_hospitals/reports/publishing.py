"""The folder of a run that may leave the house: the model, the guarantee, and nothing that no release covers.

Research mode (noise from keys that follow from a seed and the data set's key) makes runs reproducible: whoever knows
seed and key takes the noise away. What is to leave the house takes its noise from the operating system
(`--secure_noise`). Embedded public data have a public key and nobody to protect: research on them may be published as
such, and the page says so.
"""

from __future__ import annotations

import csv
import json
import pathlib
import shutil
import zipfile
from collections.abc import Mapping
from typing import Any

from tff_hospitals.accounting import Ledger
from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import InvalidInput, Problem, raise_if
from tff_hospitals.hospitals import HospitalDataset, load_dataset
from tff_hospitals.plan.plan import Plan
from tff_hospitals.reports.audit_section import read_audit
from tff_hospitals.reports.guarantee import facts
from tff_hospitals.reports.guarantee_json import as_json
from tff_hospitals.reports.guarantee_page import guarantee_page
from tff_hospitals.training.odometer import Odometer
from tff_hospitals.training.published_fields import INSIDE, is_private, may_be_published, part_of
from tff_hospitals.training.run_record import read_record

PAGE, FOR_MACHINES = "guarantee.html", "guarantee.json"
_JSON = ("plan.json", "record.json", "ledger.json", "summary.json")
_TABLES = ("metrics.csv", "bytes.csv")
_NO_TIME = "1980-01-01@00:00:00"
_MODEL = ("model.keras", "model.weights.h5", "model_config.json")


def publish(
    run_dir: pathlib.Path, out: pathlib.Path, *, research: bool = False, dataset: HospitalDataset | None = None
) -> list[pathlib.Path]:
    """Writes what of a finished run may leave the house into a new folder, the page with its guarantee on top.

    Args:
      run_dir: of the run.
      out: the folder to make; must not exist, or be empty.
      research: publish a run whose noise follows from a seed, as research on public data.
      dataset: of the run, for what else was released about it; None: as the plan names it, if it can be loaded here.

    Returns:
      The files that were written, the pages with the guarantee first.

    Raises:
      files.RecordError: no finished run of this version.
      validation.InvalidInput: a folder that is in use, or noise that somebody can draw again.
    """
    if not (run_dir / "summary.json").is_file() or not (run_dir / "plan.json").is_file():
        raise files.RecordError(
            f"{run_dir} holds no finished run (plan.json and summary.json). Remedy: name the --run_dir of a run that "
            "has ended; of a comparison name a folder below runs/."
        )
    record, plan = read_record(run_dir), Plan.from_json(files.read_json(run_dir / "plan.json"))
    raise_if([*_folder_problems(run_dir, out), *_noise_problems(run_dir, plan, record, research)])
    allowed = may_be_published(plan)
    private = is_private(plan)
    odometer = _odometer(plan, record, dataset) if private else None
    found = facts(
        plan,
        Ledger.from_json(files.read_json(run_dir / "ledger.json")),
        part_of("summary.json", files.read_json(run_dir / "summary.json"), allowed),
        part_of("record.json", record, allowed),
        joint=None if odometer is None else odometer.totals() or None,
        without_guarantee=0 if odometer is None else len(odometer.without_guarantee()),
        audit=read_audit(run_dir),
        research=research and bool(_noise_problems(run_dir, plan, record, research=False)),
    )
    files.write_text(out / PAGE, guarantee_page(found))
    files.write_json(out / FOR_MACHINES, part_of(FOR_MACHINES, as_json(found), allowed))
    written = [out / PAGE, out / FOR_MACHINES]
    for name in _JSON:
        content = part_of(name, files.read_json(run_dir / name), allowed)
        if name == "plan.json":  # a path tells where data lie
            content["data"]["name"] = pathlib.PurePath(content["data"]["name"]).name
            content["data"]["options"].pop("schema", None)
            for part in ("data", "model"):
                content[part]["options"] = _without_folders(content[part]["options"])
        if name == "record.json":  # the model's file says when training had ended: how long it took stays inside
            content["started"] = str(content["started"])[:10]
        if name == "summary.json" and "stop_reason" in content:  # without the figure of test records at its end
            content["stop_reason"] = content["stop_reason"].split(" (best")[0]
        files.write_json(out / name, content)
        written.append(out / name)
    for name in _TABLES:
        columns, rows = _table(run_dir / name)
        kept = [column for column in columns if allowed(name, column)]
        if kept:
            files.write_csv(out / name, kept, rows)
            written.append(out / name)
    for name in _MODEL:
        if (run_dir / name).exists():
            _copy_model(run_dir / name, out / name)
            written.append(out / name)
    return written


def _without_folders(value: Any) -> Any:
    """Options of a plan in which a path to a file is the file's name."""
    if isinstance(value, Mapping):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_folders(item) for item in value]
    is_path = isinstance(value, str) and ("/" in value or "\\" in value)
    return pathlib.PureWindowsPath(value).name if is_path else value


def _copy_model(there: pathlib.Path, here: pathlib.Path) -> None:
    """A model's file without the times at which it was written: they say how long training took."""
    if not zipfile.is_zipfile(there):
        shutil.copyfile(there, here)
        return
    with zipfile.ZipFile(there) as old, zipfile.ZipFile(here, "w") as new:
        for member in old.infolist():
            content = old.read(member)
            if member.filename == "metadata.json":
                content = json.dumps({**json.loads(content), "date_saved": _NO_TIME}).encode()
            new.writestr(zipfile.ZipInfo(member.filename), content, member.compress_type)


def _odometer(plan: Plan, record: Mapping[str, Any], dataset: HospitalDataset | None) -> Odometer | None:
    """That of a run's data; None where its data set, or that record of it, is not here."""
    if dataset is None:
        data = plan.data
        try:
            dataset = load_dataset(
                data.name, partition=data.partition, sites=data.sites, seed=data.seed, **dict(data.options)
            )
        except (InvalidInput, files.RecordError, OSError):
            return None
    if dataset.fingerprint() != record["dataset"].get("fingerprint"):
        return None
    return Odometer(dataset.secret)


def _folder_problems(run_dir: pathlib.Path, out: pathlib.Path) -> list[Problem]:
    here, there = run_dir.resolve(), out.resolve()
    remedy = "name a new folder outside of the run directory"
    if there == here or here in there.parents or there in here.parents:
        return [Problem("OUT", str(out), "must not be, hold or lie in the run directory, which holds its seed", remedy)]
    if not out.exists():
        return []
    if not out.is_dir():
        return [Problem("OUT", str(out), "must be a folder", remedy)]
    found = sorted(path.name for path in out.iterdir())
    if not found:
        return []
    bad = [name for name in found if name in (INSIDE, "checkpoints", "updates")]
    if _names_a_seed(out / "plan.json") or _names_a_seed(out / "record.json"):
        bad.append("a seed")
    what = f"still holds {', '.join(bad)}" if bad else f"is not empty ({', '.join(found[:3])})"
    return [Problem("OUT", str(out), what, f"remove it, or {remedy}")]


def _names_a_seed(path: pathlib.Path) -> bool:
    try:
        return "seed" in files.read_json(path)
    except files.RecordError:
        return False


def _noise_problems(run_dir: pathlib.Path, plan: Plan, record: Mapping[str, Any], research: bool) -> list[Problem]:
    public = record["dataset"].get("salt") == "public"
    drawn_again = public and (record["dataset"].get("preprocessing") or {}).get("kind") == "dp_moments"
    if not is_private(plan) or (plan.privacy.secure_noise and not drawn_again):
        return []
    remedy = "train it again with --secure_noise" + (", or say --research: its data are public" if public else "")
    if drawn_again:
        remedy = "train it again with fixed bounds and --secure_noise, or say --research: its data are public"
    if not research:
        what = "the noise of its means and deviations" if plan.privacy.secure_noise else "its noise"
        bound = f"{what} follows from a seed that is written down, and can be taken away again"
        return [Problem("RUN_DIR", str(run_dir), bound, remedy)]
    if public:
        return []
    return [Problem("--research", True, "is for embedded public data; this run's data are not", remedy)]


def _table(path: pathlib.Path) -> tuple[list[str], list[dict[str, Any]]]:
    if not path.exists():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows: list[dict[str, Any]] = [dict(row) for row in reader]
        return list(reader.fieldnames or ()), rows
