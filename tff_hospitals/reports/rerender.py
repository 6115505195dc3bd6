"""Draws everything again from the files of a directory, be it a comparison, a single run, or what hospitals add."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from tff_hospitals.foundations import files
from tff_hospitals.foundations.second_process import SecondProcess
from tff_hospitals.reports import contribution_page
from tff_hospitals.reports.audit_section import audit_pictures, audit_section, read_audit
from tff_hospitals.reports.html import comparison_page
from tff_hospitals.reports.html_run import run_page
from tff_hospitals.reports.pages import figures
from tff_hospitals.reports.plot_cross_site import cross_site
from tff_hospitals.reports.plot_run import run_by_round
from tff_hospitals.reports.plot_style import drawing
from tff_hospitals.reports.plots import draw_all, draw_elsewhere, write_plots
from tff_hospitals.reports.run_files import read_run
from tff_hospitals.reports.summary import read_summary, summary_table


def write_report(directory: os.PathLike[str] | str, second: SecondProcess | None = None) -> list[pathlib.Path]:
    """Writes `plots/` and `report.html`, and `summary.csv` for a comparison; no other file is touched.

    Args:
      directory: where compare_aggregators or train wrote `summary.json`, or contribution its contribution.json.
      second: a process that draws a part of a comparison's figures meanwhile.

    Returns:
      the paths written, the page last.

    Raises:
      records.RecordError: summary.json is missing, corrupt or of another program, or a file cannot be written.
    """
    folder = pathlib.Path(directory)
    if holds_contributions(folder):
        return [contribution_page.write(folder, contribution_page.read(folder))]
    return _write_comparison(folder, second) if is_comparison(folder) else _write_run(folder)


def holds_contributions(folder: pathlib.Path) -> bool:
    """Whether the directory holds what each hospital adds."""
    return contribution_page.holds(folder)


def is_comparison(directory: os.PathLike[str] | str) -> bool:
    """Whether the directory holds a comparison (True) or a single run (False).

    Raises:
      records.RecordError: it holds neither.
    """
    folder = pathlib.Path(directory)
    if not folder.is_dir():
        raise files.RecordError(f"{folder} is not a folder. Remedy: name the --run_dir of a comparison or of a run.")
    if not (folder / "summary.json").is_file() and (folder / "plan.json").is_file():
        raise files.RecordError(
            f"{folder} holds a run that has not finished: there is no summary.json yet. Remedy: start the same command "
            "again; the run goes on from its last checkpoint."
        )
    summary: Any = files.read_json(folder / "summary.json")
    if isinstance(summary, dict) and "rows" in summary:
        return True
    if isinstance(summary, dict) and "method" in summary:
        return False
    raise files.RecordError(
        f"{folder / 'summary.json'} holds neither a comparison (no rows) nor a run (no method): it was not written by "
        "tff_hospitals. Remedy: name a folder that compare_aggregators or train wrote."
    )


def _write_comparison(folder: pathlib.Path, second: SecondProcess | None) -> list[pathlib.Path]:
    on_the_way = second is not None and second.ask(draw_elsewhere, folder.absolute())
    summary = read_summary(folder)
    columns, rows = summary_table(summary)
    files.write_csv(folder / "summary.csv", columns, rows)
    pictures, missing = draw_all(summary, second.answer if second is not None and on_the_way else None)
    paths = [folder / "summary.csv", *write_plots(folder, pictures), folder / "report.html"]
    files.write_text(paths[-1], comparison_page(summary, pictures, missing, folder))
    return paths


def _write_run(folder: pathlib.Path) -> list[pathlib.Path]:
    run = read_run(folder)
    with drawing():
        picture, across = run_by_round(run), cross_site(run)
    missing = [] if picture else ["The figure by round is left out: metrics.csv holds no measured values."]
    pictures = [one for one in (picture, across) if one is not None]
    audit = read_audit(folder)
    drawn = [] if audit is None else audit_pictures(audit)
    paths = [*write_plots(folder, [*pictures, *drawn]), folder / "report.html"]
    section = None if audit is None else {**audit_section(audit), "pictures": figures(drawn, files=True)}
    files.write_text(paths[-1], run_page(run, pictures, missing, section))
    return paths
