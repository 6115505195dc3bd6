"""Seconds per round of the cluster runtime beside the compiled one, on the same machine and cores.

    ./run benchmarks/cluster.py --json=FILE

MLP 784-200-10, 200 records per site, batch 20, one epoch; the cluster is started here, with one worker per processor.
The two programs are measured in turn. The cluster has nothing to win on one machine: the ratio is the price of handing
the work out, of the broadcast and of the way back.
"""

from __future__ import annotations

import pathlib
import statistics
import sys
from typing import Any

import paired
from absl import flags

from tff_hospitals.experiments import command

FLAGS = flags.FLAGS

ROWS = pathlib.Path(__file__).resolve().parent / "round_time_rows.py"
PROGRAMS = ("mlp_compiled", "mlp_cluster")


def measure(sites: int, turns: int) -> dict[str, Any]:
    """Medians of both programs for so many sites, and their ratio."""
    seconds = paired.in_turn({row: [sys.executable, str(ROWS), row, str(sites)] for row in PROGRAMS}, turns)
    figures: dict[str, Any] = {f"{row}_k{sites}_s": statistics.median(seconds[row]) for row in PROGRAMS}
    figures[f"mlp_k{sites}_cluster_over_compiled"] = paired.ratio(seconds, "mlp_cluster", "mlp_compiled")
    return figures


def define_flags() -> None:
    """Flags of the measurement."""
    flags.DEFINE_string("json", None, "file for the figures")
    flags.DEFINE_list("sites", ["10", "100"], "numbers of sites")
    flags.DEFINE_integer("turns", 15, "measurements of either program", lower_bound=1)


def run() -> None:
    """Measures, prints and writes the figures."""
    figures: dict[str, Any] = {}
    sites = command.numbers("sites", FLAGS.sites, int)
    for count in sites:
        figures.update(measure(count, FLAGS.turns))
    print("| figure | value |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name} | {value:.4g} |")
    # The figure of the larger cohort under one fixed name, for whoever compares runs of this benchmark.
    figures["cluster_over_compiled"] = figures[f"mlp_k{sites[-1]}_cluster_over_compiled"]
    paired.write_json(FLAGS.json, figures)


if __name__ == "__main__":
    command.main()
