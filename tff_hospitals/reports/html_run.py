"""The page of a single run: result, curves, promise, data and record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tff_hospitals.reports import own_models
from tff_hospitals.reports.html import accounting_facts
from tff_hospitals.reports.pages import badges, data_section, figures, link, pairs, readable_time, render
from tff_hospitals.reports.plot_style import Picture
from tff_hospitals.reports.rows import Row
from tff_hospitals.reports.run_files import POOLED, SERVER, RunFiles
from tff_hospitals.reports.wording import (
    NO_RECORDS,
    UNIT_SHORT,
    accounting_words,
    bytes_text,
    delta_text,
    epsilon_text,
    metric_head,
    metric_title,
    privacy_statement,
    promise_figures,
    score_text,
    significant,
    with_unit,
    worst_hospital,
)
from tff_hospitals.training.metrics import METRICS

_COLUMNS = (
    ("records", "test records"),
    *((name, metric_head(metric)) for name, metric in METRICS.items()),
    ("epsilon_rdp", "epsilon (RDP)"),
    ("epsilon_pld", "epsilon (PLD)"),
    ("bytes_up", "sent up"),
    ("bytes_down", "sent down"),
)


def run_page(
    run: RunFiles, pictures: Sequence[Picture], missing: Sequence[str] = (), audit: dict[str, Any] | None = None
) -> str:
    """The HTML text of one run's report; `audit` is what `audit_section` made of its audit, if there was one."""
    row = run.row
    facts = [f"seed {run.seed}", run.status, row.runtime, readable_time(str(run.record.get("started") or ""))]
    return render(
        "run.html",
        title=f"{row.name}: one run" + (f" on {run.dataset.name}" if run.dataset else ""),
        badges=badges(run.dataset, facts),
        tiles=_tiles(run),
        missing=[*missing, *run.missing],
        warnings=list(dict.fromkeys(row.warnings)),
        pictures=figures(pictures, files=True),
        audit=audit,
        hospital_table=_hospital_table(run),
        promise=_promise(row),
        accounting=accounting_words(row.conversion) if row.private else "",
        accounting_facts=accounting_facts([row]) if row.private else [],
        data=data_section(run.dataset) if run.dataset else None,
        run_facts=_facts(run),
        plan=json.dumps(run.plan, indent=2) if run.plan else "",
        versions=[*pairs(run.record.get("versions") or {}), *pairs(run.record.get("machine") or {})],
        files=[{"name": name, "href": link(name.rstrip("/"))} for name in run.files if name != "report.html"],
    )


def _promise(row: Row) -> str:
    words, found = privacy_statement(row), promise_figures(row)
    return f"{words} Here: {found}" if found and not row.guarantee else words


def _tiles(run: RunFiles) -> list[dict[str, str]]:
    row = run.row
    both = ((row.score.mean, "mean of the hospitals"), (row.score.pooled_mean, "all test records together"))
    tiles = [
        {"name": metric_title(row.metric), "value": with_unit(row.metric, score_text(row.metric, value)), "note": note}
        if value is not None or not row.untested
        else {"name": metric_title(row.metric), "value": NO_RECORDS, "note": ""}
        for value, note in both
        if value is not None or note.startswith("mean")
    ]
    if row.private:
        worst = f", worst hospital {worst_hospital(row)}" if worst_hospital(row) else ""
        note = f"{UNIT_SHORT[row.unit]}, delta {delta_text(row.delta)}{worst}"
        tiles.append({"name": "Epsilon", "value": epsilon_text(row.epsilon), "note": note})
    else:
        tiles.append({"name": "Epsilon", "value": "none", "note": "no formal guarantee"})
    sent = f"{bytes_text(row.bytes_up)} up, {bytes_text(row.bytes_down)} down"
    tiles.append({"name": "Sent", "value": bytes_text(row.bytes_total), "note": sent})
    seconds = f"{significant(row.seconds_per_round, 2)} s per round" if row.seconds_per_round is not None else ""
    tiles.append({"name": "Rounds", "value": str(row.rounds or 0), "note": seconds})
    tiles.append({"name": "Stopped", "value": row.stop_reason or "not recorded", "note": ""})
    return tiles


def _hospital_table(run: RunFiles) -> dict[str, Any]:
    """The last measured value of every column, by hospital; columns that nothing filled are left out."""
    scopes = [*run.hospital_ids, *(scope for scope in (POOLED, SERVER) if scope in run.metrics)]
    last = {
        (scope, column): (curve[-1][1] if (curve := run.curve(scope, column)) else None)
        for scope in scopes
        for column, _ in _COLUMNS
    }
    columns = [
        (column, title) for column, title in _COLUMNS if any(last[(scope, column)] is not None for scope in scopes)
    ]
    noise, own = run.row.noise_multiplier_per_hospital, own_models.per_hospital(run.row)
    lines = []
    for scope in scopes:
        name = {POOLED: "all hospitals together", SERVER: "records held by the server"}.get(scope, scope)
        cells = [_text(column, last[(scope, column)]) for column, _ in columns]
        if scope in run.row.untested:
            at = next((place for place, (column, _) in enumerate(columns) if column in METRICS), None)
            cells = cells if at is None else [*cells[:at], NO_RECORDS, *cells[at + 1 :]]
        further = [score_text(run.row.metric, own.get(scope))] if own else []
        lines.append([name, *cells, *further, *([significant(noise.get(scope))] if noise else [])])
    further = [f"own model, {metric_head(run.row.metric)}"] if own else []
    titles = ["hospital", *(title for _, title in columns), *further, *(["noise multiplier"] if noise else [])]
    return {"caption": "Last measured values", "columns": titles, "rows": lines}


def _text(column: str, value: float | None) -> str:
    if column == "records":
        return "-" if value is None else f"{value:.0f}"
    if column in METRICS:
        return score_text(METRICS[column], value)
    return bytes_text(value) if column.startswith("bytes") else significant(value)


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    row = run.row
    total = sum(run.seconds)
    facts = [
        ("Method", row.method),
        ("Seed", str(run.seed)),
        ("Status", run.status),
        ("Stopped because of", row.stop_reason),
        ("Runtime", row.runtime),
        ("Time in rounds", f"{significant(total)} s" if run.seconds else ""),
        ("Identity of plan and data", str(run.record.get("identity") or "")),
    ]
    return [(name, value) for name, value in facts if value]
