"""Trains a grid of settings, every point with every seed: one table, where each failure shows.

    tff-hospitals sweep --grid='local_steps:20|100' --grid='client_learning_rate:0.01|0.1' --run_dir=runs/sweep

A row is a method at a point of the grid; all else is as in compare: intervals, baselines, joint epsilon of all runs,
report, and the same command goes on after a kill. `--runtime=cluster` spreads the runs over machines.
"""

from __future__ import annotations

from absl import flags

from tff_hospitals.experiments import command, compare_command

FLAGS = flags.FLAGS


def define_flags() -> None:
    """The grid, and the flags of a comparison."""
    flags.DEFINE_multi_string("grid", [], "FLAG:one|other, a field of the plan and its values; several are combined")
    compare_command.define_flags()
    FLAGS["aggregators"].help = "methods to train at every point; default: weighted_mean"


def run() -> None:
    """Trains every point of the grid."""
    command.need_run_dir()
    from tff_hospitals.experiments.grid import parse_grid

    compare_command.compare(("weighted_mean",), parse_grid(FLAGS.grid))
