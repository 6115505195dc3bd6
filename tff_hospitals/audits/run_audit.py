"""The default audit of a finished run: every attack that applies, the promise against its lower bounds, one file.

`audit.json` in the run directory holds all of it, so that reports are drawn without attacking again.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tff_hospitals.audits import attack_parts, promise
from tff_hospitals.audits.loading import LoadedRun, load_run
from tff_hospitals.audits.options import PARTS, AuditOptions
from tff_hospitals.audits.threat_models import ATTACKS, THREAT_MODELS
from tff_hospitals.foundations import files as records_lib
from tff_hospitals.foundations.validation import InvalidInput, raise_if

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset

HEADLINE = "calibrated"  # the membership attack of the comparison's columns, fixed before anything is measured


def audit_run(
    run_dir: os.PathLike[str] | str,
    options: AuditOptions | None = None,
    on_part: Callable[[str], None] | None = None,
    dataset: HospitalDataset | None = None,
) -> dict[str, Any]:
    """Attacks a finished run and writes `audit.json` into its directory.

    An audit of single parts leaves what an earlier audit of the same run found of the others in the file.

    Args:
      run_dir: of a finished run.
      options: what to do; parts that were asked for by name must apply, others are skipped with a reason.
      on_part: called with the name of each part before it starts.
      dataset: the hospitals of its plan where they are in memory; None: as the plan names them.

    Raises:
      validation.InvalidInput: options that do not fit the run: too few records for a rate, an attribute that is the
      target
        or unknown, a model without the layer that an attack needs.
      records.RecordError: no finished run, other data, or no stored updates where they were asked for.
    """
    options = AuditOptions() if options is None else options
    raise_if(options.problems())
    started = time.perf_counter()
    run = load_run(run_dir, dataset)
    raise_if(attack_parts.fpr_problems(run, options))
    result: dict[str, Any] = {
        "schema_version": 2,
        "run": {
            name: run.summary.get(name)
            for name in ("method", "label", "unit", "epsilon", "delta", "adjacency", "seed", "rounds")
        },
        "dataset": run.dataset.name,
        "model": run.plan.model.name,
        "confidence": options.confidence,
        "threat_models": {name: dataclasses.asdict(model) for name, model in THREAT_MODELS.items()},
        "attacks": {name: dataclasses.asdict(attack) for name, attack in ATTACKS.items()},
        "skipped": {},
    }
    steps: dict[str, Callable[[LoadedRun, AuditOptions], Any]] = {
        "membership": attack_parts.membership,
        "attribute": attack_parts.attribute,
        "reconstruction": attack_parts.reconstruction,
        "updates": attack_parts.updates,
        "promise": promise.examine,
        "defences": attack_parts.defences,
    }
    default = tuple(name for name in PARTS if name not in options.leave_out)
    for name in default if options.parts is None else options.parts:
        if on_part is not None:
            on_part(name)
        try:
            result[name] = steps[name](run, options)
        except (InvalidInput, records_lib.RecordError) as error:
            if options.parts is not None:
                raise
            result["skipped"][name] = str(error)
    result["columns"] = columns(result)
    result["seconds"] = round(time.perf_counter() - started, 2)
    path = pathlib.Path(run_dir) / "audit.json"
    kept = {} if options.parts is None else _earlier(path, result)
    stored = {**kept, **result}
    records_lib.write_json(path, {**stored, "columns": columns(stored)})
    return result


def _earlier(path: pathlib.Path, result: dict[str, Any]) -> dict[str, Any]:
    """Parts that an earlier audit of the same run found, and that this one was not asked for."""
    try:
        before = records_lib.read_json(path) if path.is_file() else {}
    except records_lib.RecordError:
        return {}
    same = ("schema_version", "run", "dataset", "model", "confidence")
    if not isinstance(before, dict) or any(before.get(name) != result[name] for name in same):
        return {}
    return {name: before[name] for name in PARTS if name in before}


def columns(result: dict[str, Any]) -> dict[str, float | None]:
    """The columns of a comparison, from an audit's result; None where a part was not run or does not apply."""
    found: dict[str, float | None] = dict.fromkeys(
        ("membership_auc", "membership_tpr", "reconstruction_error", "epsilon_lower_bound")
    )
    if "membership" in result:
        outcome = result["membership"]["attacks"][HEADLINE]["groups"].get("all")
        if outcome is not None:
            found["membership_auc"] = outcome["auc"]
            found["membership_tpr"] = outcome["tprs"][0]["tpr"] if outcome["tprs"] else None
    if "reconstruction" in result:
        found["reconstruction_error"] = result["reconstruction"]["error"]
    if "promise" in result:
        unit = result["run"]["unit"] if result["run"]["unit"] in ("record", "hospital") else "record"
        bounds = [one["lower_bound"] for one in result["promise"]["bounds"] if one["unit"] == unit]
        found["epsilon_lower_bound"] = max(bounds, default=None)
    return found
