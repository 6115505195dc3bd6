"""Figures of one run's audit: how well membership is told, and records beside what was rebuilt of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tff_hospitals.reports.plot_labels import SideLabel, side_labels
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
    score_axis,
)
from tff_hospitals.reports.wording import shorten, significant
from tff_hospitals.training.metrics import METRICS

_NAMES = {
    "loss_threshold": "loss",
    "calibrated": "calibrated",
    "lira": "likelihood ratio",
    "across_rounds": "across rounds",
}
_GROUPS = 12  # hospitals drawn beside all and outliers
_COLUMNS = 10  # columns of a table that are drawn


def membership_picture(audit: Mapping[str, Any]) -> Picture | None:
    """ROC curves of the membership attacks, and the area at each hospital; None without such an attack."""
    attacks = (audit.get("membership") or {}).get("attacks") or {}
    drawn = {name: one["groups"] for name, one in attacks.items() if "all" in one["groups"]}
    if not drawn:
        return None
    first = next(iter(drawn.values()))["all"]
    groups = list(dict.fromkeys(group for one in drawn.values() for group in one))[: _GROUPS + 2]
    height = max(3.4, 0.34 * len(groups) + 0.6)
    sheet = Sheet(
        "Can an attacker tell who was trained on?",
        f"{first['members']} training records against {first['non_members']} others of the same hospitals. The "
        "diagonal, and an area of one half, is guessing.",
        f"Data: {audit.get('dataset')} · shadow models: {audit['membership']['shadow_models']} · intervals: "
        f"{100 * audit['confidence']:g} %",
        height + 0.25,
    )
    top = sheet.height - 0.3
    axes = sheet.axes(0.72, 4.3, top - height + 0.6, top)
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1.0, linestyle=(0, (4, 2)))
    axes.set_title("ROC of all records", loc="left", size=TEXT_SIZE, weight="bold", color=INK, pad=6)
    labels = []
    for at, (name, one) in enumerate(drawn.items()):
        points = one["all"]["roc"]
        colour = SERIES[at % len(SERIES)]
        axes.plot([x for x, _ in points], [y for _, y in points], color=colour, lw=1.5)
        labels.append((name, colour, significant(one["all"]["auc"])))
    for line, (name, colour, area) in enumerate(reversed(labels)):
        text = f"{_NAMES.get(name, name)}: {area}"
        axes.text(0.97, 0.04 + 0.075 * line, text, color=colour, size=SMALL_SIZE, ha="right", transform=axes.transAxes)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("false positives, %", size=SMALL_SIZE)
    axes.set_ylabel("true positives, %", size=SMALL_SIZE)
    score_axis(axes.xaxis, METRICS["accuracy"])
    score_axis(axes.yaxis, METRICS["accuracy"])
    _areas(sheet, drawn, groups, top, height)
    words = "; ".join(f"{_NAMES.get(name, name)} {area}" for name, _, area in labels)
    return sheet.finish(
        "audit_membership",
        "Membership inference",
        "The further a curve bends to the upper left, the better the attack. At the right the area under the curve, "
        "with its interval, at each hospital and for the hardest records; an interval that reaches one half shows no "
        "leak.",
        f"Membership inference, area under the ROC of all records: {words}.",
    )


def _areas(sheet: Sheet, drawn: Mapping[str, Any], groups: list[str], top: float, height: float) -> None:
    names = [{"all": "all records", "outliers": "hardest tenth"}.get(group, shorten(group, 18)) for group in groups]
    left = 4.9 + max(sheet.text_width(name, SMALL_SIZE) for name in names)
    axes = sheet.axes(left, WIDTH - MARGIN - 0.1, top - height + 0.6, top)
    axes.set_title("Area under the ROC", loc="left", size=TEXT_SIZE, weight="bold", color=INK, pad=6)
    axes.axvline(0.5, color=MUTED, lw=1.0, linestyle=(0, (4, 2)))
    for row, group in enumerate(groups):
        for at, one in enumerate(drawn.values()):
            if group not in one:
                continue
            y = row + 0.16 * (at - (len(drawn) - 1) / 2)
            colour, interval = SERIES[at % len(SERIES)], one[group]["auc_interval"]
            axes.plot([interval["low"], interval["high"]], [y, y], color=colour, lw=1.3)
            axes.plot(one[group]["auc"], y, marker="o", ms=3.6, color=colour)
    axes.set_yticks(range(len(groups)), names, size=SMALL_SIZE)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlabel("area", size=SMALL_SIZE)


def rebuilt_picture(audit: Mapping[str, Any]) -> Picture | None:
    """Original and rebuilt records side by side; None without a reconstruction."""
    found = audit.get("reconstruction") or {}
    examples = found.get("examples") or []
    if not examples:
        return None
    images = isinstance(examples[0].get("record"), list)
    return _images(audit, found, examples) if images else _table(audit, found, examples)


def _footer(audit: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    return (
        f"Data: {audit.get('dataset')} · model: {audit.get('model')} · attack: {found['attack'].replace('_', ' ')} "
        f"by a curious server · {found['words']}"
    )


def _images(audit: Mapping[str, Any], found: Mapping[str, Any], examples: list[Mapping[str, Any]]) -> Picture:
    import numpy as np

    examples = examples[:6]
    cell = min(1.45, (WIDTH - 1.3) / len(examples) - 0.15)
    sheet = Sheet(
        "What a server rebuilds from one record's update",
        "Above the record that a hospital trained on, below what the attack made of the update that it sent.",
        _footer(audit, found),
        2 * cell + 0.75,
    )
    for at, one in enumerate(examples):
        left = 1.1 + at * (cell + 0.15)
        quality = "exact" if one["psnr"] is None or one["psnr"] > 99 else f"{one['psnr']:.1f} dB"
        for line, name in enumerate(("record", "rebuilt")):
            top = sheet.height - 0.05 - line * (cell + 0.12)
            axes = sheet.axes(left, left + cell, top - cell, top)
            pixels = np.asarray(one[name], float)
            pixels = pixels[..., 0] if pixels.ndim == 3 else pixels
            axes.pcolormesh(pixels[::-1], cmap="gray_r", vmin=0.0, vmax=max(1.0, float(np.max(one["record"]))))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_aspect("equal")
            if at == 0:
                axes.set_ylabel("original" if name == "record" else "rebuilt", size=TEXT_SIZE)
            if name == "rebuilt":
                axes.set_xlabel(f"{quality}\nSSIM {one['ssim']:.2f}", size=SMALL_SIZE)
    known = [one["psnr"] for one in examples if one["psnr"] is not None]
    words = ", ".join("exact" if value > 99 else f"{value:.0f} dB" for value in known)
    return sheet.finish(
        "audit_rebuilt",
        "Rebuilt records",
        "PSNR measures how far apart the pixels are (30 dB and more looks the same), SSIM how alike the structure is "
        "(1 is equal).",
        f"Rebuilt images beside the originals, PSNR {words}.",
    )


def _table(audit: Mapping[str, Any], found: Mapping[str, Any], examples: list[Mapping[str, Any]]) -> Picture:
    examples = examples[:4]
    names = list(examples[0]["original"])[:_COLUMNS]
    line = 0.27
    sheet = Sheet(
        "What a server rebuilds from one record's update",
        "Each training record in its own units, and below it what the attack made of the update that it sent. Cells in "
        "orange are off by more than 5 % or name another category.",
        _footer(audit, found),
        len(examples) * (2 * line + 0.14) + 0.45,
    )
    axes = sheet.axes(0.0, WIDTH - MARGIN, 0.0)
    axes.set_axis_off()
    axes.set_xlim(0, WIDTH - MARGIN)
    axes.set_ylim(-sheet.height, 0)
    first, step = 2.6, (WIDTH - MARGIN - 2.6) / len(names)
    style = {"va": "top", "ha": "right", "parse_math": False}
    for at, name in enumerate(names):
        axes.text(first + (at + 1) * step - 0.05, -0.02, shorten(name, 12), size=SMALL_SIZE, weight="bold", **style)
    y = -0.35
    for one in examples:
        axes.plot([0.05, WIDTH - MARGIN], [y + 0.06, y + 0.06], color=MUTED, lw=0.5)
        for kind in ("original", "rebuilt"):
            label = shorten(one["hospital_id"], 16) if kind == "original" else ""
            axes.text(0.05, y, label, size=SMALL_SIZE, va="top", parse_math=False)
            axes.text(1.55, y, kind, size=SMALL_SIZE, va="top", color=MUTED)
            for at, name in enumerate(names):
                value, truth = one[kind][name], one["original"][name]
                wrong = _off(truth, value) if kind == "rebuilt" else False
                text = significant(value) if isinstance(value, float) else str(value)
                colour = SERIES[1] if wrong else INK
                axes.text(first + (at + 1) * step - 0.05, y, text, size=SMALL_SIZE, color=colour, **style)
            y -= line
        y -= 0.14
    return sheet.finish(
        "audit_rebuilt",
        "Rebuilt records",
        "An attack that succeeds reads a patient's record out of the update. Under noise in the hospital the rebuilt "
        "cells have nothing to do with the record.",
        f"Rebuilt table rows beside the originals; median error {significant(found['error'])} standard deviations.",
    )


def _off(truth: Any, value: Any) -> bool:
    if isinstance(truth, float) and isinstance(value, float):
        return abs(truth - value) > 0.05 * max(abs(truth), 1.0)
    return bool(truth != value)


def rounds_picture(audit: Mapping[str, Any]) -> Picture | None:
    """Membership by the broadcast model of each stored round; None with fewer than two rounds."""
    points = (audit.get("membership") or {}).get("rounds") or []
    if len(points) < 2:
        return None
    sheet = Sheet(
        "Membership over the rounds",
        "Area under the ROC of another hospital that attacks the broadcast model of a round.",
        f"Data: {audit.get('dataset')} · calibrated loss",
        2.6,
    )
    axes = sheet.axes(0.72, WIDTH - 1.6, 0.55, sheet.height - 0.1)
    axes.axhline(0.5, color=MUTED, lw=1.0, linestyle=(0, (4, 2)))
    axes.plot(
        [one["round"] for one in points], [one["auc"] for one in points], color=SERIES[0], lw=1.5, marker="o", ms=4
    )
    areas = [0.5, *(one["auc"] for one in points)]
    axes.set_ylim(min(0.45, min(areas) - 0.02), max(0.55, max(areas) + 0.02))
    side_labels(axes, [SideLabel(points[-1]["auc"], "all records", SERIES[0])])
    axes.set_xlabel("round", size=SMALL_SIZE)
    axes.set_ylabel("area", size=SMALL_SIZE)
    axes.xaxis.get_major_locator().set_params(integer=True)
    return sheet.finish(
        "audit_rounds",
        "Membership over the rounds",
        "One half is guessing. The more often a record was trained on, the more the model may remember it.",
        f"Area under the ROC from {significant(points[0]['auc'])} in round {points[0]['round']} to "
        f"{significant(points[-1]['auc'])} in round {points[-1]['round']}.",
    )
