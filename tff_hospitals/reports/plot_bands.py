"""The planner's table of a banded strategy inside hospitals: expected error against the number of bands."""

from __future__ import annotations

from tff_hospitals.reports.plot_clip import lines_panel
from tff_hospitals.reports.plot_labels import SideLabel, side_labels
from tff_hospitals.reports.plot_style import DASHES, SERIES, TEXT_SIZE, Picture, log_axis
from tff_hospitals.reports.rows import Row, ordered
from tff_hospitals.reports.summary import Summary
from tff_hospitals.reports.wording import row_title, significant


def error_against_bands(summary: Summary) -> Picture | None:
    """The picture, or None when no row had a choice of two numbers of bands."""
    rows = [row for row in ordered(summary.rows) if len(_table(row)) > 1]
    if not rows:
        return None
    sheet, axes, names = lines_panel(
        summary,
        rows,
        "Expected error by number of bands",
        "Noise on the models of the run over that of one band (DP-SGD), at the same epsilon; the mark is what was "
        "taken. More bands take more noise back, fewer are amplified more by sampling.",
    )
    values = [value for row in rows for _, value in _table(row)]
    bands = sorted({number for row in rows for number, _ in _table(row)})
    low, high = min(values) / 1.05, max(values) * 1.05
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    log_axis(axes.yaxis, low, high)
    axes.set_xticks(bands, [str(number) for number in bands])
    axes.set_xticks([], minor=True)
    axes.set_ylabel("error over DP-SGD's", size=TEXT_SIZE)
    axes.set_xlabel("bands", size=TEXT_SIZE)
    labels = []
    for place, row in enumerate(rows):
        colour, dashes = SERIES[place % len(SERIES)], DASHES[place // len(SERIES) % len(DASHES)]
        points = _table(row)
        axes.plot(*zip(*points), color=colour, lw=1.6, linestyle=dashes, zorder=3)
        taken = [(number, value) for number, value in points if number == _chosen(row)]
        axes.plot(*zip(*taken), color=colour, marker="o", ms=6, linestyle="", zorder=4) if taken else None
        labels.append(SideLabel(points[-1][1], names[id(row)], colour, dashes))
    side_labels(axes, labels)
    told = "; ".join(
        f"{row_title(row)}: {_chosen(row)} bands, "
        + ", ".join(f"{significant(value)} at {number}" for number, value in _table(row))
        for row in rows
    )
    return sheet.finish(
        "error_against_bands",
        "Expected error against bands",
        "Each line is a target of a banded strategy inside the hospitals, over all of them. One band is DP-SGD; the "
        "planner takes the number of least error unless the plan names one.",
        f"Expected error over that of one band, by the number of bands. {told}.",
    )


def _table(row: Row) -> list[tuple[int, float]]:
    """(bands, error over that of one band), fewest bands first."""
    table = {int(name): value for name, value in (row.get("error_by_bands") or {}).items() if name.isdigit()}
    first = table.get(1)
    if not first:
        return []
    return sorted((number, value / first) for number, value in table.items() if value)


def _chosen(row: Row) -> int:
    return int((row.get("error_by_bands") or {}).get("chosen") or 0)
