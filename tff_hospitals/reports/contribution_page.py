"""The page of contributions and heterogeneity: what each hospital adds, and how unlike hospitals are."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from tff_hospitals.foundations.files import read_json, write_bytes
from tff_hospitals.foundations.validation import counted
from tff_hospitals.hospitals.shift import LARGE
from tff_hospitals.reports import plot_contribution
from tff_hospitals.reports.gains import gain_text, gain_words, interval_text
from tff_hospitals.reports.pages import badges, data_section, figures, readable_time, render
from tff_hospitals.reports.plot_contribution import without_tests
from tff_hospitals.reports.plot_partition import partition_picture
from tff_hospitals.reports.plot_style import Picture, drawing
from tff_hospitals.reports.plots import write_plots
from tff_hospitals.reports.spread import Interval
from tff_hospitals.reports.summary import dataset_from_json
from tff_hospitals.reports.wording import MISSING, NO_RECORDS, joint_sentences, score_text, some
from tff_hospitals.training.metrics import METRICS
from tff_hospitals.training.published_fields import INSIDE

RESULT, PAGE = "contribution.json", "contribution.html"


def holds(folder: pathlib.Path) -> bool:
    """Whether the directory holds what each hospital adds; of a private plan it lies inside."""
    return (_place(folder) / RESULT).is_file()


def read(folder: pathlib.Path) -> dict[str, Any]:
    """What contribution.json holds.

    Raises:
      RecordError: it is missing, or cannot be read.
    """
    return dict(read_json(_place(folder) / RESULT))


def _place(folder: pathlib.Path) -> pathlib.Path:
    inside = folder / INSIDE
    return inside if (inside / RESULT).is_file() else folder


def write(folder: pathlib.Path, found: Mapping[str, Any]) -> pathlib.Path:
    """Writes contribution.html and its plots, beside contribution.json.

    Args:
      folder: the run directory.
      found: what its contribution.json holds.
    """
    folder, pictures = _place(folder), _pictures(found)
    write_plots(folder, pictures)
    data = dataset_from_json(found["dataset"], "contribution.json", [])
    facts = [found["method"], counted(len(found["seeds"]), "seed"), readable_time(found["created"])]
    hidden = [found[part]["not_shown"] for part in ("drift", "shift")]
    page = render(
        "contribution.html",
        title=f"What each hospital adds, and how unlike they are: {data.name}",
        badges=badges(data, facts),
        sentences=sentences(found),
        figures=figures(pictures, files=True),
        tables=[table for table in (_effects(found), _labels(found)) if table["rows"]],
        hidden=[
            f"{part}, {why}."
            for part, why in zip(("Updates of single hospitals", "Shifts of labels and columns"), hidden)
            if why
        ],
        joint=_joint(found),
        warnings=found["warnings"],
        data=data_section(data),
        command=found["command"],
    )
    write_bytes(folder / PAGE, page.encode())
    return folder / PAGE


def _pictures(found: Mapping[str, Any]) -> list[Picture]:
    draw = (plot_contribution.contribution, plot_contribution.effect_at, plot_contribution.drift)
    with drawing():
        pictures = [one(found) for one in draw]
        counts = found["shift"]["counts"]
        if counts:
            mixes = {one: {str(number): round(count) for number, count in enumerate(of)} for one, of in counts.items()}
            noised = "" if found["shift"]["noise_multiplier"] is None else "Noised counts. "
            name, words = found["dataset"]["name"], found["dataset"]["partition"]
            pictures.append(partition_picture(name, f"{noised}Training records; {words}", mixes))
        pictures.append(plot_contribution.feature_shift(found))
    return [one for one in pictures if one is not None]


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Whom the others would miss, and who gains from taking part, in words; what intervals cannot tell is counted."""
    metric, rows = METRICS[found["headline"]], found["hospitals"]
    asked = (
        ("contribution", "low", "high", f"to the mean {metric.label} of all hospitals"),
        ("own", "own_low", "own_high", f"to its own {metric.label}"),
    )
    said = []
    for field, low, high, where in asked:
        helps, harms = (_names([row["hospital"] for row in rows if _side(row, low, high) == sign]) for sign in (1, -1))
        untested = [row["hospital"] for row in rows if field == "own" and row["hospital"] in without_tests(found)]
        unknown = sum(_side(row, low, high) == 0 for row in rows) - len(untested)
        rest = f"; for {unknown} of {len(rows)} hospitals the test records cannot tell" if unknown else ""
        rest += f"; {NO_RECORDS}: {some(untested)}" if untested else ""
        said.append(f"Taking part adds {where}: {helps}; takes from it: {harms}{rest}.")
    return said


def _joint(found: Mapping[str, Any]) -> list[str]:
    """What everything that was released costs together: runs, noised counts, or both."""
    counts = "the noised counts" if found["shift"].get("noise_multiplier") is not None else ""
    runs = "every seed, with all hospitals and without one" if found["private"] else ""
    return joint_sentences(found["joint_epsilon"], releases=" and ".join(part for part in (runs, counts) if part))


def _side(row: Mapping[str, Any], low: str, high: str) -> int:
    if row[low] is None:
        return 0
    return 1 if row[low] > 0 else -1 if row[high] < 0 else 0


def _names(names: list[str]) -> str:
    if not names:
        return "no hospital"
    return some(names)


def _effects(found: Mapping[str, Any]) -> dict[str, Any]:
    metric = METRICS[found["headline"]]

    def with_ends(row: Mapping[str, Any], field: str, low: str, high: str) -> str:
        if field == "own" and row["hospital"] in without_tests(found):
            return NO_RECORDS
        ends = None if row[low] is None else Interval(row[low], row[high])
        return gain_text(metric, row[field]) + interval_text(metric, ends)

    rows = [
        [
            row["hospital"],
            str(row["train_records"]),
            score_text(metric, row["with_all"]),
            score_text(metric, row["without"]),
            with_ends(row, "contribution", "low", "high"),
            gain_text(metric, row["others"]),
            with_ends(row, "own", "own_low", "own_high"),
        ]
        for row in found["hospitals"]
    ]
    caption = f"Training with all and without each hospital ({gain_words(metric)}; in brackets the 95 % interval)"
    heads = ["hospital", "training records", "with all", "without it", "it adds", "to the others", "to itself"]
    return {"caption": caption, "columns": heads, "rows": rows}


def _labels(found: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for one in found["shift"]["labels"]:
        columns = [row for row in found["shift"]["columns"] if row["hospital"] == one["hospital"]]
        furthest = max(columns, key=lambda row: row["stability_index"], default=None)
        large = sum(row["stability_index"] > LARGE for row in columns)
        rows.append(
            [
                one["hospital"],
                *(
                    MISSING if one[name] is None else f"{one[name]:.3f}"
                    for name in ("total_variation", "jensen_shannon")
                ),
                MISSING if furthest is None else f"{furthest['column']} ({furthest['stability_index']:.2f})",
                f"{large} of {len(columns)}",
            ]
        )
    heads = [
        "hospital",
        "labels: total variation",
        "labels: Jensen-Shannon, bits",
        "column furthest off (PSI)",
        f"columns above PSI {LARGE:g}",
    ]
    return {"caption": "Records of each hospital against all others together", "columns": heads, "rows": rows}


def text(found: Mapping[str, Any]) -> str:
    """The result for a terminal."""
    table = _effects(found)
    lines = [table["columns"], *table["rows"]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    hidden = [
        f"{name}: {found[part]['not_shown']}"
        for name, part in (("updates of single hospitals", "drift"), ("shifts of labels and columns", "shift"))
        if found[part]["not_shown"]
    ]
    return "\n".join([table["caption"], *shown, *sentences(found), *hidden, *_joint(found)])
