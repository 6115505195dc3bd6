"""Labels that do not overlap: spread along one side, or placed around points in the plane.

>>> [round(float(y), 3) for y in spread([0.50, 0.51, 0.90], 0.1, 0.0, 1.0)]
[0.455, 0.555, 0.9]
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from tff_hospitals.reports.plot_style import CARD, INK, MUTED, SMALL_SIZE

Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, in their order, at least `gap` apart and within `low` and `high`.

    Neighbours that are too close form a block around their mean (pool adjacent violators); when all do not fit, the gap
    shrinks.
    """
    count = len(wanted)
    if count == 0:
        return []
    if (count - 1) * gap > high - low:
        gap = (high - low) / (count - 1)
    order = sorted(range(count), key=lambda index: wanted[index])
    blocks: list[list[float]] = []  # [mean of wanted - rank * gap, size]
    for rank, index in enumerate(order):
        blocks.append([min(max(wanted[index], low), high) - rank * gap, 1.0])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (mean_b, size_b), (mean_a, size_a) = blocks.pop(), blocks.pop()
            blocks.append([(mean_a * size_a + mean_b * size_b) / (size_a + size_b), size_a + size_b])
    flat = [mean for mean, size in blocks for _ in range(int(size))]
    flat = [min(max(value, low), high - (count - 1) * gap) for value in flat]
    result = [0.0] * count
    for rank, index in enumerate(order):
        result[index] = flat[rank] + rank * gap
    return result


@dataclasses.dataclass(frozen=True)
class SideLabel:
    """A label in the margin: what it points at (data y), its words and the look of the line that leads to it."""

    y: float
    text: str
    colour: str = INK
    dashes: Any = "-"
    marker: str = ""
    filled: bool = True


def side_labels(axes: Any, labels: Sequence[SideLabel], *, size: float = SMALL_SIZE, start: float = 4.0) -> None:
    """Writes labels right of `axes`, spread so that none overlaps, each with a line from its level.

    Args:
      axes: axes whose limits are final.
      labels: what to write.
      size: points.
      start: points between the axes and the lines.
    """
    scale = axes.figure.dpi / 72.0
    frame = axes.get_window_extent()
    levels = [axes.transData.transform((axes.get_xlim()[1], label.y))[1] for label in labels]
    levels = [min(max(level, frame.y0), frame.y1) for level in levels]
    places = spread(levels, size * 1.32 * scale, frame.y0 + 2, frame.y1 - 2)
    to_axes = axes.transAxes.inverted()
    for label, level, place in zip(labels, levels, places):
        xs = [frame.x1 + offset * scale for offset in (start, start + 5, start + 13, start + 25)]
        points = [to_axes.transform(pair) for pair in zip(xs, (level, level, place, place))]
        look = {"transform": axes.transAxes, "clip_on": False, "color": label.colour}
        axes.plot([p[0] for p in points], [p[1] for p in points], lw=1.4, linestyle=label.dashes, **look)
        if label.marker:
            face = label.colour if label.filled else CARD
            axes.plot(*points[-1], marker=label.marker, ms=5, mfc=face, mec=label.colour, mew=1.2, **look)
        x, y = to_axes.transform((xs[-1] + 5 * scale, place))
        axes.text(
            x, y, label.text, transform=axes.transAxes, size=size, color=INK, va="center", ha="left", parse_math=False
        )


def column_labels(axes: Any, points: Sequence[tuple[float, float]], labels: Sequence[SideLabel], zone: float) -> None:
    """Writes labels in one column inside `axes`, right of all marks, each joined to its own point.

    Args:
      axes: axes whose limits are final.
      points: data coordinates of the labelled points.
      labels: their words and looks, in the same order.
      zone: where the column begins, as a share of the width of the axes.
    """
    scale = axes.figure.dpi / 72.0
    frame = axes.get_window_extent()
    to_axes = axes.transAxes.inverted()
    ends = [axes.transData.transform(point) for point in points]
    levels = [min(max(end[1], frame.y0), frame.y1) for end in ends]
    places = spread(levels, SMALL_SIZE * 1.5 * scale, frame.y0 + 7 * scale, frame.y1 - 7 * scale)
    column = frame.x0 + zone * frame.width
    for label, end, place in zip(labels, ends, places):
        corners = [to_axes.transform(pair) for pair in (end, (column - 12 * scale, place), (column - 3 * scale, place))]
        xs, ys = [corner[0] for corner in corners], [corner[1] for corner in corners]
        axes.plot(xs, ys, transform=axes.transAxes, color=label.colour, lw=0.9, zorder=4.5)
        x, y = to_axes.transform((column, place))
        behind = {"facecolor": CARD, "edgecolor": "none", "pad": 1.2, "alpha": 0.9}
        look = {"size": SMALL_SIZE, "color": INK, "ha": "left", "va": "center", "zorder": 6, "bbox": behind}
        axes.text(x, y, label.text, transform=axes.transAxes, parse_math=False, **look)


def place_labels(
    axes: Any,
    anchors: Sequence[tuple[float, float]],
    texts: Sequence[str],
    *,
    obstacles: Sequence[tuple[float, float]] = (),
    size: float = SMALL_SIZE,
) -> bool:
    """Writes one label near each point, away from other labels, points and lines.

    Every label tries places around its point, near ones first; the most crowded points choose first. A thin line joins
    a label to its point when it stands further off.

    Args:
      axes: axes whose limits are final.
      anchors: data coordinates of the labelled points.
      texts: their labels.
      obstacles: data coordinates of other marks that should stay visible.
      size: points.

    Returns:
      False when some label could not be kept clear of the others: nothing is written then.
    """
    scale = axes.figure.dpi / 72.0
    frame = axes.get_window_extent()
    limits = (frame.x0 + 2, frame.y0 + 2, frame.x1 - 2, frame.y1 - 1)
    renderer = axes.figure.canvas.get_renderer()
    points = [tuple(axes.transData.transform(anchor)) for anchor in anchors]
    marks = [*points, *(tuple(axes.transData.transform(point)) for point in obstacles)]
    sizes = []
    for text in texts:
        probe = axes.text(0, 0, text, size=size, parse_math=False)
        box = probe.get_window_extent(renderer)
        probe.remove()
        sizes.append((box.width + 3 * scale, box.height + 1.5 * scale))
    crowd = [sum(math.dist(point, other) < 70 * scale for other in points) for point in points]
    placed: dict[int, tuple[float, float, Box]] = {}
    for index in sorted(range(len(points)), key=lambda k: (-crowd[k], -sizes[k][0])):
        best, best_cost = None, math.inf
        for distance, centre in _candidates(points[index], sizes[index], scale):
            width, height = sizes[index]
            box = (centre[0] - width / 2, centre[1] - height / 2, centre[0] + width / 2, centre[1] + height / 2)
            cost = distance / scale
            cost += 1e6 * (box[0] < limits[0] or box[1] < limits[1] or box[2] > limits[2] or box[3] > limits[3])
            cost += 1e6 * any(_meet(box, other) for _, _, other in placed.values())
            cost += sum(200.0 for mark in marks if _inside(mark, box, 4.0 * scale))
            cost += sum(25.0 for k, (x, y, _) in placed.items() if _crosses(points[index], centre, points[k], (x, y)))
            if cost < best_cost:
                best, best_cost = (centre[0], centre[1], box), cost
        if best is None or best_cost >= 1e6:
            return False
        placed[index] = best
    inverse = axes.transData.inverted()
    for index, (x, y, box) in placed.items():
        near = (min(max(points[index][0], box[0]), box[2]), min(max(points[index][1], box[1]), box[3]))
        if math.dist(near, points[index]) > 7.5 * scale:
            ends = [inverse.transform(near), inverse.transform(points[index])]
            axes.plot([end[0] for end in ends], [end[1] for end in ends], color=MUTED, lw=0.7, zorder=2.5)
        behind = {"facecolor": CARD, "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
        look = {"size": size, "color": INK, "ha": "center", "va": "center", "zorder": 4.2, "bbox": behind}
        axes.text(*inverse.transform((x, y)), texts[index], parse_math=False, **look)
    return True


def _candidates(
    point: tuple[float, ...], size: tuple[float, float], scale: float
) -> list[tuple[float, tuple[float, float]]]:
    """Centres around a point with their cost in pixels: right first, then above and below, then left."""
    result = []
    for ring, reach in enumerate((7.0, 15.0, 26.0, 40.0, 58.0, 80.0)):
        for turn in range(16):
            angle = 2 * math.pi * turn / 16
            x = point[0] + (size[0] / 2 + reach * scale) * math.cos(angle)
            y = point[1] + (size[1] / 2 + reach * scale) * math.sin(angle)
            taste = 3.0 * (1.0 - math.cos(angle)) + (6.0 if math.cos(angle) < -0.5 else 0.0)
            result.append((scale * (reach + taste + 4.0 * ring), (x, y)))
    return result


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _inside(point: Sequence[float], box: Box, slack: float) -> bool:
    return box[0] - slack < point[0] < box[2] + slack and box[1] - slack < point[1] < box[3] + slack


def _crosses(a: Sequence[float], b: Sequence[float], c: Sequence[float], d: Sequence[float]) -> bool:
    """Whether the segments ab and cd cross."""

    def side(p: Sequence[float], q: Sequence[float], r: Sequence[float]) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
