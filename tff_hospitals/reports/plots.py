"""All figures of a comparison: drawn from its summary, saved as PNG, returned for the HTML page."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from tff_hospitals.foundations import files
from tff_hospitals.reports.plot_attacks import attacks_against_epsilon
from tff_hospitals.reports.plot_bands import error_against_bands
from tff_hospitals.reports.plot_bytes import bytes_against_accuracy
from tff_hospitals.reports.plot_clip import clip_norm_by_round
from tff_hospitals.reports.plot_hospitals import accuracy_per_hospital, gain_per_hospital
from tff_hospitals.reports.plot_privacy import accuracy_against_epsilon
from tff_hospitals.reports.plot_rounds import accuracy_by_round
from tff_hospitals.reports.plot_style import Picture, drawing
from tff_hospitals.reports.summary import Summary

FIGURES = (
    (accuracy_against_epsilon, "accuracy against epsilon", "no method has both a guarantee and an accuracy"),
    (accuracy_per_hospital, "accuracy per hospital", "no method has an accuracy per hospital"),
    (bytes_against_accuracy, "accuracy against bytes", "fewer than two methods have both bytes and an accuracy"),
    (accuracy_by_round, "accuracy by round", "no method was evaluated in two rounds or more"),
)


def draw_all(summary: Summary) -> tuple[list[Picture], list[str]]:
    """The figures that the data allow, and one sentence for each that they do not."""
    pictures, missing = [], []
    with drawing():
        for draw, name, reason in FIGURES:
            picture = draw(summary)
            if picture is None:
                missing.append(f"The figure of {name} is left out: {reason}.")
            else:
                pictures.append(picture)
        for draw in (
            gain_per_hospital,
            clip_norm_by_round,
            error_against_bands,
            attacks_against_epsilon,
        ):  # of some comparisons; absence needs no word
            picture = draw(summary)
            if picture is not None:
                pictures.append(picture)
    return pictures, missing


def write_plots(directory: os.PathLike[str] | str, pictures: Sequence[Picture]) -> list[pathlib.Path]:
    """Writes `plots/<name>.png` for every picture; returns the paths."""
    folder = pathlib.Path(directory) / "plots"
    paths = []
    for picture in pictures:
        paths.append(folder / f"{picture.name}.png")
        files.write_bytes(paths[-1], picture.png)
    return paths
