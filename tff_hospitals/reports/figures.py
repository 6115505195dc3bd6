"""The figures as functions that return a `matplotlib.figure.Figure`, for notebooks and pages of one's own.

Each takes what was compared or trained: the result of `tff_hospitals.compare` or `tff_hospitals.train`, or its folder.
Figures are made without pyplot; they show themselves in a notebook, and `figure.savefig(path)` keeps one.

>>> accuracy_by_round("no folder")
Traceback (most recent call last):
...
tff_hospitals.foundations.files.RecordError: ... does not exist. Remedy: name a folder that a finished run wrote.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tff_hospitals.foundations.validation import Problem, raise_if
from tff_hospitals.reports import (
    plot_bytes,
    plot_clip,
    plot_cross_site,
    plot_hospitals,
    plot_privacy,
    plot_rounds,
    plot_run,
)
from tff_hospitals.reports.audit_section import audit_pictures
from tff_hospitals.reports.columns import row_from_json
from tff_hospitals.reports.plot_style import Picture, drawing
from tff_hospitals.reports.run_files import RunFiles, by_scope, read_run
from tff_hospitals.reports.summary import Summary, read_summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def accuracy_against_epsilon(compared: Any) -> Figure:
    """What every method's accuracy costs in epsilon.

    Args:
      compared: a comparison or its folder.

    Raises:
      validation.InvalidInput: nothing in it can be drawn so; says what is missing. All functions here do.
    """
    return _of_comparison(compared, plot_privacy.accuracy_against_epsilon, "a row with a guarantee and an accuracy")


def accuracy_per_hospital(compared: Any) -> Figure:
    """Every method's accuracy at every hospital."""
    return _of_comparison(compared, plot_hospitals.accuracy_per_hospital, "an accuracy for each hospital")


def gain_per_hospital(compared: Any) -> Figure:
    """What every hospital gains over training alone, with its interval."""
    return _of_comparison(compared, plot_hospitals.gain_per_hospital, 'the method "local" beside a federated one')


def accuracy_against_bytes(compared: Any) -> Figure:
    """What every method's accuracy costs in bytes."""
    return _of_comparison(compared, plot_bytes.bytes_against_accuracy, "two methods with bytes and an accuracy")


def accuracy_by_round(compared: Any) -> Figure:
    """Accuracy on all test records by round."""
    return _of_comparison(compared, plot_rounds.accuracy_by_round, "a method that was evaluated in two rounds or more")


def clip_norm_by_round(compared: Any) -> Figure:
    """How clip norms that adapt moved."""
    return _of_comparison(compared, plot_clip.clip_norm_by_round, "a method whose clip norm adapts")


def run_by_round(run: Any) -> Figure:
    """Accuracy, loss, epsilon and bytes of one run by round, for every hospital.

    Args:
      run: a `Run`, or the folder of one.
    """
    found = read_run(run) if isinstance(run, (str, os.PathLike)) else _in_memory(run)
    with drawing():
        picture = plot_run.run_by_round(found)
    return _drawn(picture, "a round with measured values")


def cross_site(folder: str | os.PathLike[str]) -> Figure:
    """Every hospital's own model on every hospital's test records.

    Args:
      folder: of a run with `local_layers` or `personalisation`.
    """
    with drawing():
        picture = plot_cross_site.cross_site(read_run(folder))
    return _drawn(picture, "a run whose hospitals have models of their own")


def of_audit(audit: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures that an audit allows, by name.

    Args:
      audit: the content of its `audit.json`.
    """
    return {picture.name: picture.figure for picture in audit_pictures(audit)}


def _of_comparison(compared: Any, draw: Callable[[Summary], Picture | None], needed: str) -> Figure:
    compared = getattr(compared, "summary", compared)
    summary = compared if isinstance(compared, Summary) else read_summary(pathlib.Path(compared))
    with drawing():
        picture = draw(summary)
    return _drawn(picture, needed)


def _drawn(picture: Picture | None, needed: str) -> Figure:
    if picture is None:
        raise_if([Problem("figure", None, f"needs {needed}", "compare or train with it")])
    figure: Figure = picture.figure  # type: ignore[union-attr]
    return figure


def _in_memory(run: Any) -> RunFiles:
    """A run that was just trained, as if it had been read from its folder."""
    return RunFiles(
        row=row_from_json(dict(run.summary), "run"),
        seed=run.plan.seed,
        status=str(run.summary.get("status", "")),
        dataset=None,
        record={},
        plan=run.plan.to_json(),
        metrics=by_scope(run.metrics),
        seconds=(),
        files=(),
        missing=(),
    )
