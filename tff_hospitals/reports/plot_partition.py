"""How records were divided: the size of every site, and its mix of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tff_hospitals.reports.plot_style import (
    INK,
    MARGIN,
    MUTED,
    NEUTRAL,
    SERIES,
    SMALL_SIZE,
    TEXT_SIZE,
    WIDTH,
    Picture,
    Sheet,
    drawing,
)
from tff_hospitals.reports.wording import shorten

_MOST_COLOURS = 6
_OTHERS = "others"


def partition_picture(name: str, words: str, sites: Mapping[str, Mapping[str, int]]) -> Picture:
    """Sizes at the left, shares of labels at the right, one line for each site.

    Args:
      name: of the data.
      words: of the partition.
      sites: by site id, how many records have each label; one label "" where there is none.
    """
    with drawing():
        return _draw(name, words, sites)


def _draw(name: str, words: str, sites: Mapping[str, Mapping[str, int]]) -> Picture:
    totals: dict[str, int] = {}
    for counts in sites.values():
        for label, count in counts.items():
            totals[label] = totals.get(label, 0) + count
    frequent = sorted(totals, key=lambda label: (-totals[label], label))[:_MOST_COLOURS]
    shown = sorted(frequent) + [_OTHERS] * (len(totals) > len(frequent))
    step = 0.22 if len(sites) <= 40 else 9.0 / len(sites)
    title = f"{sum(totals.values())} records of {name} at {len(sites)} sites"
    sheet = Sheet(title, "Left: records of each site. Right: its mix of labels.", words, step * len(sites) + 0.85)
    names = [shorten(one, 24) for one in sites]
    left = MARGIN + max(sheet.text_width(one, SMALL_SIZE) for one in names) + 0.15
    middle = left + (WIDTH - MARGIN - left) * 0.42
    bottom, top = 0.45, sheet.height - 0.35
    places = range(len(sites))
    sizes = [sum(counts.values()) for counts in sites.values()]
    first = sheet.axes(left, middle - 0.15, bottom, top)
    first.barh(places, sizes, color=NEUTRAL[0], height=0.7)
    first.set_xlabel("records", size=TEXT_SIZE)
    second = sheet.axes(middle + 0.15, WIDTH - MARGIN, bottom, top)
    start = [0.0] * len(sites)
    for number, label in enumerate(shown):
        shares = [_share(counts, label, frequent) for counts in sites.values()]
        colour = MUTED if label == _OTHERS else (SERIES * _MOST_COLOURS)[number]
        second.barh(places, shares, left=start, color=colour, height=0.7, label=shorten(label, 16))
        start = [before + share for before, share in zip(start, shares)]
    second.set_xlim(0.0, 1.0)
    second.set_xlabel("share of the site's records", size=TEXT_SIZE)
    if shown != [""]:
        second.legend(
            loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(shown), fontsize=SMALL_SIZE, frameon=False,
            handlelength=1.0, columnspacing=1.0, labelcolor=INK, borderaxespad=0.2,
        )  # fmt: skip
    for axes, texts in ((first, names), (second, [])):
        axes.set_ylim(len(sites) - 0.4, -0.6)
        axes.set_yticks(places if len(sites) <= 40 and texts else [], texts if len(sites) <= 40 else [])
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    alt = f"{title}, {min(sizes)} to {max(sizes)} records each. {words}."
    return sheet.finish("partition", title, "How unequal the sites are in size and in labels.", alt)


def _share(counts: Mapping[str, int], label: str, frequent: Sequence[str]) -> float:
    total = max(1, sum(counts.values()))
    if label == _OTHERS and label not in frequent:
        return sum(count for one, count in counts.items() if one not in frequent) / total
    return counts.get(label, 0) / total
