"""The page of a comparison: one self-contained HTML file with the answer, the table, the figures and the promises."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from tff_hospitals.reports.findings import findings
from tff_hospitals.reports.pages import badges, data_section, figures, link, pairs, readable_time, render
from tff_hospitals.reports.plot_style import Picture
from tff_hospitals.reports.rows import GROUP_TITLES, Row, by_loss, common_warnings, ordered
from tff_hospitals.reports.seeds import accuracy_interval
from tff_hospitals.reports.summary import Summary
from tff_hospitals.reports.table_columns import quantile
from tff_hospitals.reports.wording import (
    MISSING,
    accounting_words,
    adjacency_sentence,
    asked_text,
    byte_scale,
    delta_sentence,
    delta_text,
    epsilon_text,
    percent,
    privacy_statement,
    promise_figures,
    row_title,
    scaled_bytes,
    seconds_text,
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
    common = common_warnings(rows)
    warnings = list(dict.fromkeys(text for row in rows for text in row.warnings if text not in common))
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
        common=list(common),
        pictures=figures(pictures, files=True),
        promises=_promises(rows),
        accounting=accounting_words(summary.conversion, rows),
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
            "tighter, and just as valid."
        )
    facts.append(
        "A record-level and a hospital-level epsilon promise different things and must not be compared as numbers."
    )
    return facts


@dataclasses.dataclass(frozen=True)
class _Column:
    """A column of the big table: its head, and how a row fills it (text, value to sort by)."""

    text: str
    fill: Callable[[Row], tuple[str, float | str | None]]
    words: bool = False


def _table(summary: Summary, rows: Sequence[Row], warnings: Sequence[str]) -> dict[str, Any]:
    losses = by_loss(rows)
    left, hospitals, right = _left_columns(rows, losses), _hospital_columns(summary, losses), _right_columns(rows)
    columns = [*left, *hospitals, *right]
    over = []
    if hospitals:
        many = len(summary.hospital_ids) > _MOST_HOSPITAL_COLUMNS
        over = [
            {"text": "", "span": len(left) + 1},
            {"text": f"accuracy {'of the hospitals' if many else 'at each hospital'}, %", "span": len(hospitals)},
            {"text": "", "span": len(right)},
        ]
    lines = []
    for before, row in zip([None, *rows], rows):
        cells = [{"words": column.words, **_cell(*column.fill(row))} for column in columns]
        group = GROUP_TITLES[row.group] if before is None or before.group != row.group else ""
        notes = sorted({list(warnings).index(text) + 1 for text in row.warnings if text in warnings})
        lines.append({"group": group, "name": row.name, "notes": notes, "cells": cells})
    heads = [{"text": "method", "words": True}, *({"text": one.text, "words": one.words} for one in columns)]
    return {"columns": heads, "over": over, "rows": lines, "caption": _caption(rows, losses)}


def _left_columns(rows: Sequence[Row], losses: bool) -> list[_Column]:
    columns = [_Column("unit", lambda row: (row.unit, row.unit), words=True)]
    columns.append(_Column("epsilon", lambda row: _epsilon(row, row.epsilon)))
    if any(row.epsilon_pld is not None for row in rows):
        columns.append(_Column("epsilon (PLD)", lambda row: _epsilon(row, row.epsilon_pld)))
    if _several_deltas(rows):  # one delta for all stands in the caption
        columns.append(
            _Column("delta", lambda row: (delta_text(row.delta), row.delta) if row.private else (MISSING, None))
        )
    if losses:
        return [*columns, _Column("loss", lambda row: (significant(row.loss_mean, 4), row.loss_mean))]
    return [*columns, _Column("accuracy, %", _accuracy), _Column("95 % interval", _interval)]


def _hospital_columns(summary: Summary, losses: bool) -> list[_Column]:
    if losses:
        return []
    if len(summary.hospital_ids) <= _MOST_HOSPITAL_COLUMNS:
        return [_Column(key, functools.partial(_at_hospital, key)) for key in summary.hospital_ids]
    shares = (("lowest", 0.0), ("median", 0.5), ("highest", 1.0))
    return [_Column(name, functools.partial(_at_share, share)) for name, share in shares]


def _right_columns(rows: Sequence[Row]) -> list[_Column]:
    divisor, size = byte_scale(rows)
    columns = [
        _Column(f"{size} up", lambda row: (scaled_bytes(row.bytes_up, divisor), row.bytes_up)),
        _Column(f"{size} down", lambda row: (scaled_bytes(row.bytes_down, divisor), row.bytes_down)),
        _Column("s per round", lambda row: (seconds_text(row.seconds_per_round), row.seconds_per_round)),
    ]
    attacks = [(name, title) for name, title in _ATTACK_COLUMNS if any(getattr(row, name) is not None for row in rows)]
    return [*columns, *(_Column(title, functools.partial(_attack, name)) for name, title in attacks)]


def _several_deltas(rows: Sequence[Row]) -> bool:
    return len({row.delta for row in rows if row.private}) > 1


def _caption(rows: Sequence[Row], losses: bool) -> str:
    seeds = max((row.seeds_measured for row in rows), default=0)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed, so no spread is known"
    at = "" if _several_deltas(rows) or not any(row.private for row in rows) else f" at delta {delta_sentence(rows)}"
    return (
        f"{'Loss' if losses else 'Accuracy'} is the mean over the hospitals' own test sets ({spread}). "
        f"Epsilon is the worst hospital's{at}; none means no guarantee. Bytes: whole run, all hospitals."
    )


def _epsilon(row: Row, value: float | None) -> tuple[str, float | None]:
    if not row.measured:
        return asked_text(row), row.target_epsilon
    return epsilon_text(value if row.private else None), value if row.private else None


def _accuracy(row: Row) -> tuple[str, float | None]:
    text = percent(row.accuracy_mean) if row.measured else "not run"
    return text + (f" ± {percent(row.accuracy_sd)}" if row.accuracy_sd is not None else ""), row.accuracy_mean


def _interval(row: Row) -> tuple[str, float | None]:
    interval = accuracy_interval(row)
    return (
        (MISSING, None) if interval is None else (f"{percent(interval.low)} to {percent(interval.high)}", interval.low)
    )


def _at_hospital(hospital_id: str, row: Row) -> tuple[str, float | None]:
    value = row.accuracy_per_hospital.get(hospital_id)
    return percent(value), value


def _at_share(share: float, row: Row) -> tuple[str, float | None]:
    value = quantile(row, share)
    return percent(value), value


def _attack(name: str, row: Row) -> tuple[str, float | None]:
    value = getattr(row, name)
    return significant(value), value


def _cell(text: str, value: float | str | None) -> dict[str, Any]:
    return {"text": text, "value": "" if value is None else value if isinstance(value, str) else repr(float(value))}


def _promises(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry for each promise in words, with the methods that make it and their figures."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(privacy_statement(row), []).append(row)
    found = []
    for words, members in grouped.items():
        own = not members[0].guarantee  # recorded words hold the figures already
        private = [f"{row_title(row)}: {promise_figures(row)}" for row in members if row.private and own]
        names = list(
            dict.fromkeys(row_title(row) if row.group in ("record", "hospital") else row.name for row in members)
        )
        heading = PROMISE_TITLES[members[0].unit] if private and len(members) > 1 else " · ".join(names)
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
