"""Seconds per round: this package beside TFF as its tutorial writes it and beside the bare limit of the machine.

    ./run benchmarks/round_time.py --json=FILE

Prints a Markdown table and writes, among the medians, the ratios that matter: `mlp_k10_over_jax`, `mlp_k100_over_jax`,
`cnn_k10_over_tf`, `mlp_k10_tutorial_over_compiled`, `heart_native_over_compiled`, `mlp_k100_adaptive_over_plain`,
`wide_k4_blt_over_fixed_clip` (a million parameters, noise at the server).
"""

from __future__ import annotations

import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import paired
from absl import flags

from tff_hospitals.experiments import command
from tff_hospitals.foundations.validation import one_of, raise_if

FLAGS = flags.FLAGS

ROWS = pathlib.Path(__file__).resolve().parent / "round_time_rows.py"
# Programs measured in turn, and the ratios taken from them.
GROUPS: dict[str, tuple[tuple[str, ...], int, int, dict[str, tuple[str, str]]]] = {
    "mlp_k10": (
        ("mlp_compiled", "mlp_jax", "mlp_native", "mlp_tutorial"),
        10,
        15,
        {
            "mlp_k10_over_jax": ("mlp_compiled", "mlp_jax"),
            "mlp_k10_tutorial_over_compiled": ("mlp_tutorial", "mlp_compiled"),
        },
    ),
    "mlp_k100": (
        ("mlp_compiled", "mlp_jax", "mlp_adaptive"),
        100,
        15,
        {
            "mlp_k100_over_jax": ("mlp_compiled", "mlp_jax"),
            "mlp_k100_adaptive_over_plain": ("mlp_adaptive", "mlp_compiled"),
        },
    ),
    "wide_k4": (
        ("wide_fixed_clip", "wide_blt"),
        4,
        11,
        {"wide_k4_blt_over_fixed_clip": ("wide_blt", "wide_fixed_clip")},
    ),
    "strategies_k10": (("mlp_fused_compiled", "mlp_scanned_compiled", "mlp_side_by_side_compiled"), 10, 9, {}),
    "strategies_k100": (("mlp_fused_compiled", "mlp_scanned_compiled", "mlp_side_by_side_compiled"), 100, 5, {}),
    "cnn_k10": (("cnn_compiled", "cnn_tf"), 10, 7, {"cnn_k10_over_tf": ("cnn_compiled", "cnn_tf")}),
    "heart": (
        ("heart_compiled", "heart_native"),
        4,
        25,
        {"heart_native_over_compiled": ("heart_native", "heart_compiled")},
    ),
}


def measure(groups: list[str], turns: int | None) -> dict[str, Any]:
    """All medians and ratios of the named groups."""
    figures: dict[str, Any] = {}
    for group in groups:
        rows, sites, usual, ratios = GROUPS[group]
        commands: dict[str, Sequence[str]] = {row: [sys.executable, str(ROWS), row, str(sites)] for row in rows}
        seconds = paired.in_turn(commands, turns or usual)
        for row in rows:
            figures[f"{row}_k{sites}_s"] = statistics.median(seconds[row])
        for name, (over, under) in ratios.items():
            figures[name] = paired.ratio(seconds, over, under)
    return figures


def define_flags() -> None:
    """Flags of the measurement."""
    flags.DEFINE_string("json", None, "file for the figures")
    flags.DEFINE_list("groups", list(GROUPS), "what to measure")
    flags.DEFINE_integer("turns", None, "measurements of every program", lower_bound=1)


def run() -> None:
    """Measures, prints and writes the figures."""
    raise_if([one_of("--groups", group, GROUPS) for group in FLAGS.groups])
    figures = measure(FLAGS.groups, FLAGS.turns)
    print("| figure | value |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name} | {value:.5g} |")
    paired.write_json(FLAGS.json, figures)


if __name__ == "__main__":
    command.main()
