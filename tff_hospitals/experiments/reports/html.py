"""The page of a comparison: one self-contained HTML file with the answer, the table, the figures and the promises."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from tff_hospitals.experiments.reports.findings import findings
from tff_hospitals.experiments.reports.pages import badges, data_section, figures, link, pairs, readable_time, render
from tff_hospitals.experiments.reports.plot_style import Picture
from tff_hospitals.experiments.reports.rows import GROUP_TITLES, Row, ordered
from tff_hospitals.experiments.reports.seeds import accuracy_interval
from tff_hospitals.experiments.reports.summary import Summary
from tff_hospitals.experiments.reports.table import quantile
from tff_hospitals.experiments.reports.wording import (
    MISSING,
    accounting_words,
    adjacency_sentence,
    byte_scale,
    delta_sentence,
    delta_text,
    epsilon_text,
    percent,
    privacy_statement,
    promise_figures,
    row_title,
    scaled_bytes,
    significant,
)

PROMISE_TITLES = {"record": "Record level", "hospital": "Hospital level", "none": "No guarantee"}
_MOST_HOSPITAL_COLUMNS = 8
_ATTACK_COLUMNS = (
    ("membership_auc", "membership AUC"),
    ("membership_tpr", "membership TPR"),
    ("reconstruction_error", "reconstruction error"),
    ("epsilon_lower_bound", "epsilon proved by attack"),
)


def comparison_page(
    summary: Summary,
    pictures: Sequence[Picture],
    missing: Sequence[str] = (),
    directory: os.PathLike[str] | str | None = None,
) -> str:
    """The HTML text of a comparison's report.

    Args:
      summary: the comparison.
      pictures: figures drawn from it.
      missing: sentences about figures that could not be drawn.
      directory: the comparison directory, for links to its runs.
    """
    rows = ordered(summary.rows)
    warnings = list(dict.fromkeys(text for row in rows for text in row.warnings))
    ids = summary.hospital_ids
    seeds = len(summary.seeds)
    facts = [
        f"{len(ids)} hospitals",
        f"{seeds} seed{'s' * (seeds != 1)}" if seeds else "",
        readable_time(summary.created),
    ]
    return render(
        "comparison.html",
        title=summary.title or f"Ways of training together on {summary.dataset.name}",
        badges=badges(summary.dataset, facts),
        findings=findings(summary),
        missing=list(missing),
        table=_table(summary, rows, warnings),
        warnings=warnings,
        pictures=figures(pictures, files=True),
        promises=_promises(rows),
        accounting=accounting_words(summary.conversion),
        accounting_facts=accounting_facts(rows),
        privacy_table=_privacy_table(rows, ids),
        hospital_table=_hospital_table(rows, ids) if len(ids) > _MOST_HOSPITAL_COLUMNS else None,
        data=data_section(summary.dataset),
        command=summary.command,
        run_facts=_run_facts(summary),
        versions=[*pairs(summary.versions), *pairs(summary.machine)],
        runs=[] if directory is None else run_links(pathlib.Path(directory)),
    )


def accounting_facts(rows: Sequence[Row]) -> list[str]:
    """What an epsilon on the page is to be read with; empty without a guarantee."""
    if not any(row.private for row in rows):
        return ["No method here gives a guarantee, so there is no epsilon."]
    facts = [f"Delta: {delta_sentence(rows)}."]
    adjacency = adjacency_sentence(rows)
    facts += [f"Neighbouring data sets, {adjacency}."] if adjacency else []
    facts.append("The epsilon of a row is that of its worst hospital, and the largest over the seeds.")
    if any(row.epsilon_pld is not None for row in rows):
        facts.append(
            "Where a PLD figure stands beside it, it is the same ledger composed by privacy loss distributions: "
            "tighter, "
            "and just as valid."
        )
    facts.append(
        "A record-level and a hospital-level epsilon promise different things and must not be compared as numbers."
    )
    return facts


def _table(summary: Summary, rows: Sequence[Row], warnings: Sequence[str]) -> dict[str, Any]:
    ids = list(summary.hospital_ids)
    collapsed = len(ids) > _MOST_HOSPITAL_COLUMNS
    divisor, size = byte_scale(rows)
    attacks = [(name, title) for name, title in _ATTACK_COLUMNS if any(getattr(row, name) is not None for row in rows)]
    pld = any(row.epsilon_pld is not None for row in rows)
    columns = [{"text": "method", "words": True}, {"text": "unit", "words": True}, {"text": "epsilon", "words": False}]
    columns += [{"text": "epsilon (PLD)", "words": False}] if pld else []
    deltas = len({row.delta for row in rows if row.private}) > 1  # one delta for all stands in the caption
    columns += [{"text": "delta", "words": False}] if deltas else []
    columns += [{"text": text, "words": False} for text in ("accuracy, %", "95 % interval")]
    before = len(columns)
    names = ["lowest", "median", "highest"] if collapsed else ids
    columns += [{"text": name, "words": False} for name in names]
    columns += [{"text": f"{size} up", "words": False}, {"text": f"{size} down", "words": False}]
    columns += [{"text": "s per round", "words": False}]
    columns += [{"text": title, "words": False} for _, title in attacks]
    over = []
    if names:
        over = [
            {"text": "", "span": before},
            {
                "text": "accuracy of the hospitals, %" if collapsed else "accuracy at each hospital, %",
                "span": len(names),
            },
            {"text": "", "span": len(columns) - before - len(names)},
        ]
    lines = []
    for before_row, row in zip([None, *rows], rows):
        new_group = before_row is None or before_row.group != row.group
        cells = [_words_cell(row.unit), _epsilon_cell(row, row.epsilon)]
        cells += [_epsilon_cell(row, row.epsilon_pld)] if pld else []
        interval = accuracy_interval(row)
        accuracy = percent(row.accuracy_mean) if row.measured else "not run"
        if row.accuracy_sd is not None:
            accuracy += f" ± {percent(row.accuracy_sd)}"
        if deltas:
            cells.append(_cell(delta_text(row.delta) if row.private else MISSING, row.delta if row.private else None))
        cells.append(_cell(accuracy, row.accuracy_mean))
        between = MISSING if interval is None else f"{percent(interval.low)} to {percent(interval.high)}"
        cells.append(_cell(between, None if interval is None else interval.low))
        for name, share in zip(names, (0.0, 0.5, 1.0)) if collapsed else ((name, -1.0) for name in names):
            value = quantile(row, share) if collapsed else row.accuracy_per_hospital.get(name)
            cells.append(_cell(percent(value), value))
        cells += [_cell(scaled_bytes(value, divisor), value) for value in (row.bytes_up, row.bytes_down)]
        cells.append(_cell(significant(row.seconds_per_round, 2), row.seconds_per_round))
        cells += [_cell(significant(getattr(row, name)), getattr(row, name)) for name, _ in attacks]
        notes = sorted({list(warnings).index(text) + 1 for text in row.warnings})
        lines.append(
            {"group": GROUP_TITLES[row.group] if new_group else "", "name": row.name, "notes": notes, "cells": cells}
        )
    seeds = max((row.seeds_measured for row in rows), default=0)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed, so no spread is known"
    at = "" if deltas or not any(row.private for row in rows) else f" at delta {delta_sentence(rows)}"
    caption = (
        f"Accuracy is the mean over the hospitals' own test sets ({spread}). Epsilon is the worst hospital's{at}; "
        "none means no guarantee. Bytes: whole run, all hospitals."
    )
    return {"columns": columns, "over": over, "rows": lines, "caption": caption}


def _cell(text: str, value: float | None) -> dict[str, Any]:
    return {"text": text, "value": "" if value is None else repr(float(value)), "words": False}


def _words_cell(text: str) -> dict[str, Any]:
    return {"text": text, "value": text, "words": True}


def _epsilon_cell(row: Row, value: float | None) -> dict[str, Any]:
    if not row.measured:
        return _cell(MISSING, None)
    return _cell(epsilon_text(value if row.private else None), value if row.private else None)


def _promises(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry for each promise in words, with the methods that make it and their figures."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(privacy_statement(row), []).append(row)
    found = []
    for words, members in grouped.items():
        private = [f"{row_title(row)}: {promise_figures(row)}" for row in members if row.private]
        names = list(
            dict.fromkeys(row_title(row) if row.group in ("record", "hospital") else row.name for row in members)
        )
        heading = PROMISE_TITLES[members[0].unit] if private and len(members) > 1 else ", ".join(names)
        found.append({"title": heading, "words": words, "facts": private})
    return found


def _privacy_table(rows: Sequence[Row], ids: Sequence[str]) -> dict[str, Any] | None:
    private = [row for row in rows if row.private and (row.epsilon_per_hospital or row.noise_multiplier_per_hospital)]
    if not private:
        return None
    keys = [key for key in ids if any(key in row.epsilon_per_hospital for row in private)] or list(ids)
    lines = []
    for row in private:
        cells = []
        for key in keys:
            noise = row.noise_multiplier_per_hospital.get(key)
            text = significant(row.epsilon_per_hospital.get(key))
            cells.append(text + (f" (noise {significant(noise)})" if noise is not None else ""))
        lines.append([row_title(row), *cells])
    caption = "Epsilon spent by each hospital, in brackets the noise multiplier (noise divided by the clipping bound)"
    return {"caption": caption, "columns": ["method", *keys], "rows": lines}


def _hospital_table(rows: Sequence[Row], ids: Sequence[str]) -> dict[str, Any]:
    lines = [[key, *(percent(row.accuracy_per_hospital.get(key)) for row in rows)] for key in ids]
    return {"caption": "Accuracy, % (mean over seeds)", "columns": ["hospital", *map(row_title, rows)], "rows": lines}


def _run_facts(summary: Summary) -> list[tuple[str, str]]:
    rounds = sorted({row.rounds for row in summary.rows if row.rounds})
    reasons = dict.fromkeys(row.stop_reason for row in summary.rows if row.stop_reason)
    facts = [("Seeds", ", ".join(map(str, summary.seeds))), ("Rounds asked for", str(summary.rounds or ""))]
    facts.append(("Rounds run", f"{rounds[0]} to {rounds[-1]}" if len(rounds) > 1 else "".join(map(str, rounds))))
    facts.append(("Stopped because of", "; ".join(reasons)))
    facts.append(("Runtime", ", ".join(dict.fromkeys(row.runtime for row in summary.rows if row.runtime))))
    facts.append(("Written", readable_time(summary.created)))
    return [(name, value) for name, value in facts if value]


def run_links(directory: pathlib.Path) -> list[dict[str, str]]:
    """Links to the run directories below `runs/`, with how each of them ended."""
    found = []
    folder = directory / "runs"
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.is_dir() or path.name.startswith("."):
            continue
        try:
            summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
            accuracy, rounds = percent(summary.get("accuracy_mean")), summary.get("rounds")
            words = f"{accuracy} %, {rounds} round{'s' * (rounds != 1)}, {summary.get('stop_reason')}"
        except (OSError, ValueError, AttributeError, TypeError):
            words = "not finished or not readable"
        page = ("report.html",) if (path / "report.html").is_file() else ("",)
        found.append({"name": path.name, "href": link("runs", path.name, *page), "words": words})
    return found
