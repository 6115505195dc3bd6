"""The page of a comparison: one self-contained HTML file with the answer, the table, the figures and the promises."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from tff_hospitals.foundations.validation import counted
from tff_hospitals.reports.attacked import promised_and_attacked
from tff_hospitals.reports.columns import COLUMNS, Column, Shown, row_from_json
from tff_hospitals.reports.findings import cautions, findings, headline
from tff_hospitals.reports.gains import gain_table
from tff_hospitals.reports.metric_tables import metric_tables
from tff_hospitals.reports.pages import badges, data_section, figures, link, pairs, readable_time, render
from tff_hospitals.reports.plot_style import Picture
from tff_hospitals.reports.rows import GROUP_TITLES, Row, common_warnings, ordered
from tff_hospitals.reports.spread import quantile
from tff_hospitals.reports.summary import Summary
from tff_hospitals.reports.table_columns import SHARES
from tff_hospitals.reports.wording import (
    NO_RECORDS,
    accounting_words,
    adjacency_sentence,
    delta_sentence,
    delta_text,
    interval_words,
    joint_sentences,
    privacy_statement,
    promise_figures,
    row_title,
    score_text,
    significant,
    with_unit,
)

PROMISE_TITLES = {"record": "Record level", "hospital": "Hospital level", "none": "No guarantee"}
_MOST_HOSPITAL_COLUMNS = 8


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
    rows, common, warnings = _rows_and_warnings(summary)
    ids = summary.hospital_ids
    seeds = len(summary.seeds)
    facts = [
        counted(len(ids), "hospital"),
        counted(seeds, "seed") if seeds else "",
        f"{summary.splits} splits" if summary.splits > 1 else "",
        readable_time(summary.created),
    ]
    return render(
        "comparison.html",
        title=summary.title or f"Ways of training together on {summary.dataset.name}",
        badges=badges(summary.dataset, facts),
        headline=headline(summary),
        findings=[*findings(summary), *cautions(summary)],
        missing=list(missing),
        table=_methods(summary, rows, warnings),
        warnings=warnings,
        common=list(common),
        pictures=figures(pictures, files=True),
        promises=_promises(rows),
        attacked=promised_and_attacked(rows, summary.joint_epsilon, summary.splits),
        accounting=accounting_words(summary.conversion, rows),
        accounting_facts=[*joint_sentences(summary.joint_epsilon, summary.splits), *accounting_facts(rows)],
        interval_words=interval_words(summary.splits) if any(row.score.low is not None for row in rows) else "",
        privacy_table=_privacy_table(rows, ids),
        metric_tables=[*gain_table(rows, ids), *metric_tables(summary, rows)],
        data=data_section(summary.dataset),
        command=summary.command,
        run_facts=_run_facts(summary),
        versions=[*pairs(summary.versions), *pairs(summary.machine)],
        runs=[] if directory is None else run_links(pathlib.Path(directory)),
    )


def table_html(summary: Summary) -> str:
    """The table of a comparison by itself, for a notebook: no script, no style, every name escaped."""
    rows, common, warnings = _rows_and_warnings(summary)
    return render(
        "table.html",
        title=summary.title or f"Comparison on {summary.dataset.name}",
        table=_methods(summary, rows, warnings),
        joint=joint_sentences(summary.joint_epsilon, summary.splits),
        warnings=warnings,
        common=list(common),
    )


def _rows_and_warnings(summary: Summary) -> tuple[Sequence[Row], Sequence[str], list[str]]:
    """The rows in their order, the warnings of all of them, and those of some."""
    rows = ordered(summary.rows)
    common = common_warnings(rows)
    return rows, common, list(dict.fromkeys(text for row in rows for text in row.warnings if text not in common))


def _methods(summary: Summary, rows: Sequence[Row], warnings: Sequence[str]) -> dict[str, Any]:
    """The table of methods as templates take it."""
    shown = Shown(rows, html=True, delta=summary.delta, splits=summary.splits)
    return _table(shown, summary.hospital_ids, warnings)


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


def _table(shown: Shown, ids: Sequence[str], warnings: Sequence[str]) -> dict[str, Any]:
    left, right = (
        [c for c in COLUMNS.values() if c.before_hospitals == side and c.in_table(shown)] for side in (True, False)
    )
    hospitals = _hospital_cells(shown.rows, ids)
    over = []
    if hospitals:
        title = shown.hospital_title(collapsed=len(ids) > _MOST_HOSPITAL_COLUMNS)
        spans = ((len(left) + 1, ""), (len(hospitals), title), (len(right), ""))
        over = [{"text": text, "span": span} for span, text in spans]
    lines = []
    for before, row in zip([None, *shown.rows], shown.rows):
        cells = [
            *(_cell(column, row, shown) for column in left),
            *(_plain_cell(score_text(row.metric, of(row)), of(row)) for _, of in hospitals),
            *(_cell(column, row, shown) for column in right),
        ]
        group = GROUP_TITLES[row.group] if before is None or before.group != row.group else ""
        notes = sorted({list(warnings).index(text) + 1 for text in row.warnings if text in warnings})
        asked = (row.target_epsilon if row.target_epsilon is not None else row.epsilon) if row.private else None
        line = {"group": group, "name": row.name, "notes": notes, "cells": cells, "unit": row.unit}
        lines.append({**line, "epsilon": significant(asked) or "none"})
    heads = [{"text": "method", "words": True}, *(_head(column, shown) for column in left)]
    heads += [*({"text": name, "words": False} for name, _ in hospitals), *(_head(column, shown) for column in right)]
    filters = {name: list(dict.fromkeys(line[name] for line in lines)) for name in ("unit", "epsilon")}
    filters = {name: values for name, values in filters.items() if len(values) > 1}
    return {"columns": heads, "over": over, "rows": lines, "caption": _caption(shown), "filters": filters}


def _head(column: Column, shown: Shown) -> dict[str, Any]:
    return {"text": " ".join(column.heads(shown)).strip(), "words": column.words}


def _cell(column: Column, row: Row, shown: Shown) -> dict[str, Any]:
    return {**_plain_cell(column.text_of(row, shown), column.sort_value(row)), "words": column.words}


def _plain_cell(text: str, value: float | str | None) -> dict[str, Any]:
    sorted_by = "" if value is None else value if isinstance(value, str) else repr(float(value))
    return {"words": False, "text": text, "value": sorted_by}


def _hospital_cells(rows: Sequence[Row], ids: Sequence[str]) -> list[tuple[str, Callable[[Row], float | None]]]:
    """Heads and values of the columns of hospitals, of their lowest, median and highest where they are many."""
    if not any(row.score.per_hospital for row in rows):
        return []
    if len(ids) <= _MOST_HOSPITAL_COLUMNS:
        return [(key, lambda row, key=key: row.score.per_hospital.get(key)) for key in ids]  # type: ignore[misc]
    return [
        (name, lambda row, share=share: quantile(row.score.per_hospital.values(), share))  # type: ignore[misc]
        for name, share in SHARES
    ]


def _caption(shown: Shown) -> str:
    at = f" at delta {delta_text(shown.deltas[0])}" if len(shown.deltas) == 1 and shown.deltas[0] else ""
    return (
        f"{shown.score_sentence} Epsilon is the worst hospital's{at}; none means no guarantee. "
        "Bytes: whole run, all hospitals."
    )


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


def _run_facts(summary: Summary) -> list[tuple[str, str]]:
    rounds = sorted({row.rounds for row in summary.rows if row.rounds})
    # A row of each hospital alone has several reasons, which other rows may share.
    reasons = dict.fromkeys(one for row in summary.rows for one in row.stop_reason.split("; ") if one)
    facts = [
        ("Seeds", ", ".join(map(str, summary.seeds))),
        ("Splits", str(summary.splits)),
        ("Rounds asked for", str(summary.rounds or "")),
    ]
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
            row = row_from_json(json.loads((path / "summary.json").read_text(encoding="utf-8")), path.name)
            figure = NO_RECORDS if row.untested else ""  # that of a private run lies inside
            if row.score.mean is not None:
                figure = with_unit(row.metric, score_text(row.metric, row.score.mean))
            words = ", ".join(filter(None, (figure, counted(row.rounds or 0, "round"), row.stop_reason)))
        except (OSError, ValueError, AttributeError, TypeError):
            words = "not finished or not readable"
        page = ("report.html",) if (path / "report.html").is_file() else ("",)
        found.append({"name": path.name, "href": link("runs", path.name, *page), "words": words})
    return found
