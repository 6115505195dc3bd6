"""Seconds per round of the cluster runtime beside the compiled one, on the same machine and cores.

    ./run benchmarks/cluster.py --json=FILE

MLP 784-200-10, 200 records per site, batch 20, one epoch; the cluster is started here, with one worker per processor.
The two programs are measured in turn. The cluster has nothing to win on one machine: the ratio is the price of handing
the work out, of the broadcast and of the way back.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import paired

ROWS = pathlib.Path(__file__).resolve().parent / "round_time_rows.py"
PROGRAMS = ("mlp_compiled", "mlp_cluster")


def measure(sites: int, turns: int) -> dict[str, Any]:
    """Medians of both programs for so many sites, and their ratio."""
    seconds = paired.in_turn({row: [sys.executable, str(ROWS), row, str(sites)] for row in PROGRAMS}, turns)
    figures: dict[str, Any] = {f"{row}_k{sites}_s": statistics.median(seconds[row]) for row in PROGRAMS}
    figures[f"mlp_k{sites}_cluster_over_compiled"] = paired.ratio(seconds, "mlp_cluster", "mlp_compiled")
    return figures


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--sites", default="10,100", help="comma-separated numbers of sites")
    parser.add_argument("--turns", type=int, default=15, help="measurements of either program")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    for sites in arguments.sites.split(","):
        figures.update(measure(int(sites), arguments.turns))
    print("| figure | value |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name} | {value:.4g} |")
    # The figure of the larger cohort under one fixed name, for whoever compares runs of this benchmark.
    figures["cluster_over_compiled"] = figures[f"mlp_k{arguments.sites.split(',')[-1]}_cluster_over_compiled"]
    paired.write_json(arguments.json, figures)


if __name__ == "__main__":
    main()
