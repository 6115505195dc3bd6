"""The audit of a run as its page tells it: who attacks, what came out, and whether the promise holds."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Mapping
from typing import Any

from tff_hospitals.foundations import files
from tff_hospitals.reports.plot_audit import membership_picture, rebuilt_picture, rounds_picture
from tff_hospitals.reports.plot_style import Picture, drawing
from tff_hospitals.reports.wording import percent, significant

_MOST_FAILED = 5  # that one kind of test lists for one hospital


def read_audit(directory: pathlib.Path) -> Mapping[str, Any] | None:
    """The audit.json of a run directory, or None when the run was not audited.

    Raises:
      records.RecordError: the file is damaged or of another version.
    """
    path = directory / "audit.json"
    if not path.is_file():
        return None
    found = files.read_json(path)
    if not isinstance(found, Mapping) or found.get("schema_version") != 2:
        raise files.RecordError(f"{path} is no audit of this version. Remedy: run scripts/audit.py again.")
    return found


def audit_pictures(audit: Mapping[str, Any]) -> list[Picture]:
    """The figures that the audit allows."""
    with drawing():
        made = [membership_picture(audit), rounds_picture(audit), rebuilt_picture(audit)]
    return [picture for picture in made if picture is not None]


def audit_section(audit: Mapping[str, Any]) -> dict[str, Any]:
    """What the template takes: sentences, tables and what was skipped."""
    promise = audit.get("promise") or {}
    verdicts = [one["words"] for one in promise.get("bounds", [])]
    return {
        "outcome": promise.get("words"),
        "verdicts": verdicts,
        "tables": [table for table in _tables(audit) if table["rows"]],
        "notes": (audit.get("membership") or {}).get("notes", []),
        "skipped": [f"{name}: {reason}" for name, reason in audit.get("skipped", {}).items()],
        "models": [(one["title"], one["words"]) for one in audit.get("threat_models", {}).values()],
        "seconds": significant(audit.get("seconds")),
    }


def _tables(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        _membership(audit),
        _attributes(audit),
        _others(audit),
        _columns(audit),
        _updates(audit),
        _self_tests(audit),
        _not_tested(audit),
        _defences(audit),
    ]


def _title(audit: Mapping[str, Any], name: str) -> str:
    return str(audit.get("threat_models", {}).get(name, {}).get("title", name))


def _interval(found: Mapping[str, Any], scale: float = 1.0) -> str:
    return f"{significant(scale * found['low'])} to {significant(scale * found['high'])}"


def _membership(audit: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for name, attack in ((audit.get("membership") or {}).get("attacks") or {}).items():
        outcome = attack["groups"].get("all")
        if outcome is None:
            continue
        rates = [f"{percent(one['tpr'])} at {100 * one['asked_fpr']:g}" for one in outcome["tprs"]]
        rates += [f"- at {100 * asked:g}" for asked in outcome["unsupported"]]
        rows.append(
            [
                audit["attacks"][name]["title"],
                _title(audit, attack["assumes"]),
                significant(outcome["auc"]),
                _interval(outcome["auc_interval"]),
                "; ".join(rates),
                significant(outcome["advantage"]),
            ]
        )
    for name, area in ((audit.get("membership") or {}).get("suite") or {}).items():
        rows.append([f"TensorFlow Privacy: {name}", "Outsider", significant(area), "", "", ""])
    caption = "Membership inference over all records. A dash: too few records for that rate"
    columns = ["attack", "attacker", "AUC", "interval", "true positives, % at false positives, %", "advantage"]
    return {"caption": caption, "columns": columns, "rows": rows}


def _attributes(audit: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        [
            f"{one['attribute']} from the {one['from']}",
            one["hospital"],
            percent(one["baseline"]),
            percent(one["attack"]),
            percent(one["gain"]),
            _interval(one["interval"], 100.0),
        ]
        for one in audit.get("attribute") or []
    ]
    caption = "Attribute inference: share of training records guessed rightly, %. Only the gain is a leak"
    columns = ["hidden column", "hospital", "imputation alone", "with the attack", "gain", "interval"]
    return {"caption": caption, "columns": columns, "rows": rows}


def _others(audit: Mapping[str, Any]) -> dict[str, Any]:
    found = audit.get("reconstruction") or {}
    everything = ([found] if found else []) + list(found.get("others", []))
    rows = []
    for one in everything:
        attack = audit["attacks"][one["attack"]]
        share = percent(one["share_recovered"]) if "share_recovered" in one else "-"
        error = significant(one.get("error"))
        rows.append([attack["title"], _title(audit, attack["assumes"]), str(one["records"]), error, share])
    caption = "Reconstruction under this run's own clipping and noise, one local step"
    columns = ["attack", "attacker", "records", "median error, standard deviations", "recovered exactly, %"]
    return {"caption": caption, "columns": columns, "rows": rows}


def _columns(audit: Mapping[str, Any]) -> dict[str, Any]:
    examples = [one for one in (audit.get("reconstruction") or {}).get("examples", []) if "errors" in one]
    rows = []
    for name in examples[0]["errors"] if examples else ():
        errors = [one["errors"][name] for one in examples]
        numeric = isinstance(examples[0]["original"][name], float)
        middle = significant(statistics.median(errors)) if numeric else "-"
        wrong = "-" if numeric else f"{sum(errors):.0f} of {len(errors)}"
        rows.append([name, middle, wrong])
    caption = f"Rebuilt columns of {len(examples)} records, in their own units"
    return {"caption": caption, "columns": ["column", "median error", "wrong category"], "rows": rows}


def _updates(audit: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        [f"round {one['round']}", one["hospital"], percent(one["share_recovered"]), significant(one["nearest_error"])]
        for one in audit.get("updates") or []
    ]
    caption = "Analytic recovery from the updates that hospitals really sent: records recovered exactly, %"
    columns = ["stored round", "hospital", "recovered", "nearest candidate, standard deviations"]
    return {"caption": caption, "columns": columns, "rows": rows}


def _self_tests(audit: Mapping[str, Any]) -> dict[str, Any]:
    """Every test that failed, and of the others the least powerful of each kind and hospital."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in (audit.get("promise") or {}).get("self_tests", []):
        groups.setdefault((one["name"].partition(":")[0], one["hospital"] or "all"), []).append(one)
    rows = []
    for (kind, hospital), tests in groups.items():
        failed = [one for one in tests if not one["passed"]]
        weakest = min(tests, key=lambda one: one["power"])
        rows += [[one["name"], hospital, "FAILED", one["words"]] for one in failed[:_MOST_FAILED]]
        if len(failed) < len(tests):
            passed = f"{len(tests) - len(failed)} passed"
            rows.append([kind, hospital, passed, f"the weakest would have noticed {weakest['notices']}"])
    columns = ["test", "hospital", "outcome", "what was seen"]
    return {"caption": "Self-tests of the mechanism", "columns": columns, "rows": rows}


def _not_tested(audit: Mapping[str, Any]) -> dict[str, Any]:
    missing = (audit.get("promise") or {}).get("not_tested", [])
    rows = [[one["name"], one["hospital"] or "all", one["reason"]] for one in missing]
    return {"caption": "Not tested: this is no pass", "columns": ["test", "hospital", "why"], "rows": rows}


def _defences(audit: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for one in audit.get("defences") or []:
        stops = ", ".join(_title(audit, name).lower() for name in one["stops"]) or "nobody"
        accuracy = percent(one["label_accuracy"])
        cells = [significant(one["reconstruction_error"]), accuracy, significant(one["membership_auc"]), stops]
        rows.append([f"{one['title']}, {one['detail']}", *cells])
    caption = (
        "The same plan under each defence: error of rebuilt records (0 exact, 1 like guessing the mean), labels, AUC"
    )
    columns = ["defence", "rebuilding error", "labels right, %", "membership AUC", "stops with a guarantee"]
    return {"caption": caption, "columns": columns, "rows": rows}
