"""Run directories that were trained one by one, as one comparison: rows over their seeds, and their joint epsilon."""

from __future__ import annotations

import collections
import datetime
import json
import pathlib
from collections.abc import Sequence

from tff_hospitals.accounting import Ledger
from tff_hospitals.experiments.outcome import joint_of
from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import Problem, raise_if
from tff_hospitals.reports.run_files import RunFiles, read_run
from tff_hospitals.reports.seeds import aggregate_runs
from tff_hospitals.reports.summary import Summary, summary_from_json


def merged(directories: Sequence[str | pathlib.Path]) -> Summary:
    """The summary of several finished runs on the same data.

    Runs whose plans differ in their seed alone become one row. Intervals are over seeds: what was predicted for each
    patient is not kept in a run directory.

    Args:
      directories: of runs; of a comparison, all of its runs are taken.

    Raises:
      validation.InvalidInput: all problems at once: runs that are damaged, have not finished, were named twice, or have
        other data than the first one.
    """
    folders = [run for one in directories for run in _runs(pathlib.Path(one))]
    found: dict[pathlib.Path, RunFiles] = {}
    problems = []
    for folder in folders:
        try:
            found[folder] = _finished(folder)
        except files.RecordError as error:
            said, _, remedy = str(error).partition(" Remedy: ")
            problems.append(Problem("run", str(folder), said, remedy.rstrip(".") or "leave it out"))
    for key, words in (("attempt", "is the same run as"), ("identity", "has plan, seed and data of")):
        seen: dict[str, pathlib.Path] = {}
        for folder, run in found.items():
            known = str(run.record.get(key) or folder)
            if known in seen and not any(one.value == str(folder) for one in problems):
                problems.append(Problem("run", str(folder), f"{words} {seen[known]}", "name every run once"))
            seen.setdefault(known, folder)
    data = {folder: _data(run) for folder, run in found.items()}
    first = next(iter(data), None)
    for folder, (name, fingerprint) in data.items():
        if first is not None and (name, fingerprint) != data[first]:
            bound = f"has other data ({name}, {fingerprint}) than {first} ({data[first][0]}, {data[first][1]})"
            problems.append(Problem("run", str(folder), bound, "report each data set by itself"))
    if not problems and len(found) < 2:
        problems.append(Problem("run_dir", [str(one) for one in directories], "hold fewer than two runs", "name more"))
    raise_if(problems)
    return _summary(found)


def _runs(folder: pathlib.Path) -> list[pathlib.Path]:
    inner = folder / "runs"
    if (folder / "plan.json").is_file() or not inner.is_dir():
        return [folder]
    return sorted(one for one in inner.iterdir() if (one / "plan.json").is_file())


def _finished(folder: pathlib.Path) -> RunFiles:
    if (folder / "plan.json").is_file() and not (folder / "summary.json").is_file():
        raise files.RecordError(f"{folder} has not finished. Remedy: leave it out, or wait until it has.")
    run = read_run(folder)
    if not run.record or not run.plan or run.dataset is None:
        raise files.RecordError(
            f"{folder}: {' '.join(run.missing) or 'plan or record are missing'} Remedy: leave it out."
        )
    return run


def _data(run: RunFiles) -> tuple[str, str]:
    dataset = run.record.get("dataset") or {}
    return str(dataset.get("name")), str(dataset.get("fingerprint"))


def _summary(runs: dict[pathlib.Path, RunFiles]) -> Summary:
    groups: dict[str, list[pathlib.Path]] = {}
    for folder, run in runs.items():
        plan = {name: value for name, value in run.plan.items() if name != "seed"}
        groups.setdefault(json.dumps(plan, sort_keys=True), []).append(folder)
    rows = [aggregate_runs([runs[one].row for one in folders]) for folders in groups.values()]
    alike = collections.Counter((row.method, row.target_epsilon) for row in rows)
    named = []
    for row, folders in zip(rows, groups.values()):
        value = row.to_json()
        if alike[row.method, row.target_epsilon] > 1:  # plans that differ in something else
            value.update(method=f"{row.method} ({folders[0].name})", label=f"{row.name} ({folders[0].name})")
        named.append(value)
    ledgers = [Ledger.from_json(files.read_json(folder / "ledger.json")) for folder in runs]
    private = [ledger for ledger in ledgers if ledger.units()]
    first = next(iter(runs.values()))
    return summary_from_json(
        {
            "schema_version": 1,
            "title": f"{len(runs)} runs on {first.record['dataset']['name']}, put together",
            "command": "tff-hospitals report " + " ".join(map(str, runs)),
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "versions": first.record.get("versions") or {},
            "machine": first.record.get("machine") or {},
            "dataset": first.record["dataset"],
            "seeds": sorted({int(run.seed) for run in runs.values()}),
            "rounds": max(int(run.plan["rounds"]) for run in runs.values()),
            "delta": max((ledger.delta for ledger in private), default=None),
            "joint_epsilon": joint_of(private, len(ledgers) - len(private)),
            "rows": named,
        }
    )
