"""The audit columns of a comparison: each method's run of the first seed is attacked, and the outcome joins its row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.reports.columns import COLUMNS

if TYPE_CHECKING:
    from tff_hospitals.experiments.runner import MethodRunner

# What is left out, scripts/audit.py does for a run of interest.
OPTIONS: dict[str, Any] = {
    "leave_out": ("attribute", "updates", "defences"),
    "shadow_models": 16,
    "rebuilt_records": 16,
    "audit_runs": 4000,
}


def audit_columns(runner: MethodRunner, seed: int) -> dict[str, Any]:
    """Attacks the run of one seed (for a local baseline: every hospital's own run) and returns its columns.

    An audit that cannot be made, or a promise that it breaks, becomes a warning of the row: the other rows go on.

    Args:
      runner: a method whose run of that seed has finished.
      seed: which run.
    """
    from tff_hospitals.audits.run_audit import AuditOptions, audit_run
    from tff_hospitals.reports import write_report

    options = AuditOptions(**OPTIONS)
    local = runner.method.kind == "local"
    names = [runner.name(seed, one) for one in runner.dataset.ids] if local else [runner.name(seed)]
    results, warnings = [], []
    for name in names:
        try:
            results.append(audit_run(runner.folder / name, options))
            write_report(runner.folder / name)  # the comparison's page links to it
        except (InvalidInput, files.RecordError) as error:
            warnings.append(f"{name} was not audited: {error}")
    for result in results:
        tested = result.get("promise", {})
        if tested.get("units") and tested["exit_code"]:
            warnings.append(f"{tested['words']} See audit.json of its run.")
    columns = [result["columns"] for result in results]
    found = {name: COLUMNS[name].join([one[name] for one in columns]) for name in (columns[0] if columns else ())}
    return {**found, "audit_warnings": warnings}
