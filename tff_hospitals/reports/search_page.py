"""The page of a search for settings: what was best, what mattered, what was given up for what."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tff_hospitals.foundations.files import write_bytes
from tff_hospitals.reports.pages import figures, render
from tff_hospitals.reports.plot_style import (
    INK,
    MARGIN,
    MUTED,
    SERIES,
    SMALL_SIZE,
    TEXT_SIZE,
    WIDTH,
    Picture,
    Sheet,
    drawing,
)
from tff_hospitals.reports.plots import write_plots
from tff_hospitals.reports.wording import significant

PAGE = "search.html"
_STATES = {"complete": "to its end", "pruned": "ended early"}


def write(folder: pathlib.Path, found: Mapping[str, Any]) -> pathlib.Path:
    """Writes search.html and the plots of a search.

    Args:
      folder: the search's run directory.
      found: what its summary.json holds.
    """
    with drawing():
        pictures = [one for one in (_history(found), _importance(found), _front(found)) if one is not None]
    write_plots(folder, pictures)
    names = [one["name"] for one in found["objectives"]]
    settings = list(found["best"]["settings"])
    rows = [
        [
            str(row["trial"]),
            _STATES.get(row["state"], row["state"]),
            *(_number(row[name]) for name in (*names, *settings)),
            row["reason"],
        ]
        for row in found["rows"]
    ]
    page = render(
        "search.html",
        title=f"Settings of {found['method']} on {found['dataset']}",
        badges=[{"text": f"{found['complete']} of {found['trials']} trials complete", "caution": False}],
        lines=text(found).splitlines(),
        privacy=found["privacy"],
        figures=figures(pictures, files=True),
        columns=["trial", "state", *(one["words"] for one in found["objectives"]), *settings, "reason"],
        rows=rows,
    )
    path = folder / PAGE
    write_bytes(path, page.encode())
    return path


def text(found: Mapping[str, Any]) -> str:
    """A search for a terminal."""
    best, aims = found["best"], found["objectives"]
    settings = ", ".join(f"{name}={_number(value)}" for name, value in best["settings"].items())
    values = ", ".join(f"{aim['words']} {_number(value)}" for aim, value in zip(aims, best["values"]))
    lines = [
        f"{found['complete']} trials of {found['trials']} to their end, {found['pruned']} ended early, "
        f"{found['failed']} failed",
        f"best: trial {best['trial']}: {values} on records held out of training",
        f"      {settings}",
    ]
    if found["importance"]:
        ranked = sorted(found["importance"].items(), key=lambda one: -one[1])
        lines.append("what mattered: " + ", ".join(f"{name} {share:.0%}" for name, share in ranked))
    if len(aims) > 1:
        front = ", ".join(map(str, found["pareto_front"]))
        lines.append(f"Pareto front, where nothing is gained without a loss elsewhere: trials {front}")
    return "\n".join([*lines, found["privacy"]])


def _number(value: Any) -> str:
    return significant(value, 4) if isinstance(value, float) else str(value)


def _complete(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in found["rows"] if row["state"] == "complete"]


def _footer(found: Mapping[str, Any]) -> str:
    return f"{found['method']} on {found['dataset']}; judged on records held out of training, never on test records."


def _history(found: Mapping[str, Any]) -> Picture | None:
    aim, rows = found["objectives"][0], _complete(found)
    if len(rows) < 2:
        return None
    title = f"{aim['words']} by trial"
    sheet = Sheet(title, "Dots: trials; line: the best so far.", _footer(found), 3.2)
    axes = sheet.axes(0.8, WIDTH - MARGIN, 0.45, sheet.height - 0.1)
    numbers = [row["trial"] for row in rows]
    values = [row[aim["name"]] for row in rows]
    best: list[float] = []
    for value in values:
        best.append(value if not best else (max if aim["higher_is_better"] else min)(best[-1], value))
    axes.plot(numbers, values, "o", color=SERIES[0], markersize=5)
    axes.step(numbers, best, where="post", color=INK, linewidth=1.4)
    axes.set_xlabel("trial", size=TEXT_SIZE)
    axes.set_ylabel(aim["words"], size=TEXT_SIZE)
    axes.xaxis.get_major_locator().set_params(integer=True)
    alt = f"{len(rows)} trials; the best has {significant(best[-1], 4)}."
    return sheet.finish(
        "search_history",
        title,
        "Each dot is a trial. Where the line has been flat for many of them, more trials gain little.",
        alt,
    )


def _importance(found: Mapping[str, Any]) -> Picture | None:
    shares = sorted(found["importance"].items(), key=lambda one: one[1])
    if not shares:
        return None
    title = "What mattered"
    subtitle = "Share of the objective's variance over the trials that each setting explains (fANOVA)."
    sheet = Sheet(title, subtitle, _footer(found), 0.7 + 0.34 * len(shares))
    margin = max(sheet.text_width(name, SMALL_SIZE) for name, _ in shares)
    axes = sheet.axes(margin + 0.3, WIDTH - MARGIN - 0.6, 0.45, sheet.height - 0.1)
    axes.barh([name for name, _ in shares], [share for _, share in shares], color=SERIES[0], height=0.6)
    for place, (_, share) in enumerate(shares):
        axes.text(share + 0.01, place, f"{share:.0%}", va="center", size=SMALL_SIZE, color=MUTED)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share", size=TEXT_SIZE)
    alt = ", ".join(f"{name} {share:.0%}" for name, share in reversed(shares))
    return sheet.finish("search_importance", title, "Settings with small shares may stay as they are.", alt)


def _front(found: Mapping[str, Any]) -> Picture | None:
    aims, rows = found["objectives"], _complete(found)
    if len(aims) < 2 or len(rows) < 2:
        return None
    across, up = aims[1], aims[0]
    title = f"{up['words']} against {across['words']}"
    sheet = Sheet(title, "Filled: nothing is gained there without a loss elsewhere.", _footer(found), 3.6)
    axes = sheet.axes(0.8, WIDTH - MARGIN, 0.45, sheet.height - 0.1)
    front = [row for row in rows if row["trial"] in found["pareto_front"]]
    axes.plot(_of(rows, across), _of(rows, up), "o", color=SERIES[0], fillstyle="none")
    axes.plot(_of(front, across), _of(front, up), "o", color=SERIES[0])
    for row in front:
        place = (row[across["name"]], row[up["name"]])
        axes.annotate(str(row["trial"]), place, xytext=(5, 4), textcoords="offset points", size=SMALL_SIZE)
    axes.set_xlabel(across["words"], size=TEXT_SIZE)
    axes.set_ylabel(up["words"], size=TEXT_SIZE)
    alt = f"{len(front)} of {len(rows)} trials lie on the Pareto front."
    return sheet.finish("search_front", title, "Numbers name the trials of the front.", alt)


def _of(rows: Sequence[Mapping[str, Any]], aim: Mapping[str, Any]) -> list[float]:
    return [row[aim["name"]] for row in rows]
