"""All figures of a comparison: drawn from its summary, saved as PNG, returned for the HTML page."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

from tff_hospitals.foundations import files
from tff_hospitals.reports.plot_attacks import attacks_against_epsilon
from tff_hospitals.reports.plot_bands import error_against_bands
from tff_hospitals.reports.plot_bytes import bytes_against_accuracy
from tff_hospitals.reports.plot_clip import clip_norm_by_round
from tff_hospitals.reports.plot_hospitals import accuracy_per_hospital, gain_per_hospital
from tff_hospitals.reports.plot_privacy import accuracy_against_epsilon
from tff_hospitals.reports.plot_rounds import accuracy_by_round
from tff_hospitals.reports.plot_style import Picture, drawing
from tff_hospitals.reports.summary import Summary, read_summary

DRAWN: dict[str, Callable[[Summary], Picture | None]] = {
    draw.__name__: draw
    for draw in (
        accuracy_against_epsilon,
        accuracy_per_hospital,
        bytes_against_accuracy,
        accuracy_by_round,
        gain_per_hospital,
        clip_norm_by_round,
        error_against_bands,
        attacks_against_epsilon,
    )
}
"""What draws a figure, or says None where the data do not allow it, in the order of the page."""
_REASONS = {
    "accuracy_against_epsilon": ("accuracy against epsilon", "no method has both a guarantee and an accuracy"),
    "accuracy_per_hospital": ("accuracy per hospital", "no method has an accuracy per hospital"),
    "bytes_against_accuracy": ("accuracy against bytes", "fewer than two methods have both bytes and an accuracy"),
    "accuracy_by_round": ("accuracy by round", "no method was evaluated in two rounds or more"),
}  # the others are of some comparisons only; their absence needs no word
ELSEWHERE = ("accuracy_per_hospital", "bytes_against_accuracy", "gain_per_hospital", "error_against_bands")
"""The figures that a second process draws where there is one: half of the time."""


def draw_all(
    summary: Summary, answer: Callable[[], Mapping[str, Picture | None]] | None = None
) -> tuple[list[Picture], list[str]]:
    """The figures that the data allow, and one sentence for each that they do not.

    Args:
      summary: of the comparison.
      answer: waits for those of `ELSEWHERE`, which somebody else draws meanwhile; they are drawn here where it fails,
        as without it.
    """
    found: dict[str, Picture | None] = {}
    with drawing():
        found.update((name, draw(summary)) for name, draw in DRAWN.items() if answer is None or name not in ELSEWHERE)
        with contextlib.suppress(Exception):  # whatever it was: the next line meets it again, or does without
            found.update({} if answer is None else answer())
        found.update((name, draw(summary)) for name, draw in DRAWN.items() if name not in found)
    pictures = [picture for picture in map(found.__getitem__, DRAWN) if picture is not None]
    missing = [
        f"The figure of {words} is left out: {why}." for name, (words, why) in _REASONS.items() if found[name] is None
    ]
    return pictures, missing


def get_ready() -> None:
    """Loads the drawing library while nobody waits."""
    from matplotlib.backends import backend_agg, backend_svg  # noqa: F401


def draw_elsewhere(folder: pathlib.Path) -> dict[str, Picture | None]:
    """The figures of `ELSEWHERE`, of the comparison in a folder: what a second process does."""
    summary = read_summary(folder)
    with drawing():
        return {name: DRAWN[name](summary) for name in ELSEWHERE}


def write_plots(directory: os.PathLike[str] | str, pictures: Sequence[Picture]) -> list[pathlib.Path]:
    """Writes `plots/<name>.png` for every picture; returns the paths."""
    folder = pathlib.Path(directory) / "plots"
    paths = []
    for picture in pictures:
        paths.append(folder / f"{picture.name}.png")
        files.write_bytes(paths[-1], picture.png)
    return paths
