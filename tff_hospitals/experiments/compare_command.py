"""Compares ways of training together at the same privacy: one table, plots and a report.

    tff-hospitals compare --run_dir=runs/first

Every method is run with every seed, private ones at every target; what a flag below changes is changed for all.
"""

from __future__ import annotations

import math
import pathlib
import sys
from typing import TYPE_CHECKING

from absl import flags

from tff_hospitals.experiments import command, flag_groups, presets, sweep
from tff_hospitals.foundations import extensions
from tff_hospitals.foundations.second_process import SecondProcess
from tff_hospitals.foundations.validation import Problem, raise_if

if TYPE_CHECKING:
    from tff_hospitals.experiments.grid import Grid

FLAGS = flags.FLAGS

_RUNS_THAT_PAY = 20  # for a second process to load TensorFlow as well, which takes as long as some ten short runs


def define_flags() -> None:
    """Flags of a comparison."""
    flags.DEFINE_list("aggregators", None, "methods to compare; default: " + ",".join(_default_names()))
    flags.DEFINE_string("aggregator", None, "one method alone, so that best.flags of tune are understood")
    flags.DEFINE_list("robust", [], "rules against bad hospitals as further rows, such as trimmed_mean,multi_krum")
    flags.DEFINE_list("target_epsilon", ["1", "5"], "privacy targets; every private method is run at each")
    flags.DEFINE_list("seeds", list(map(str, presets.SEEDS)), "seeds; results are means and intervals over them")
    flags.DEFINE_integer(
        "splits", 1, "divide the records this many times into training and testing; every method runs on each split"
    )
    flags.DEFINE_integer("baseline_epochs", None, "epochs of the pooled and local baselines; default: to their end")
    flags.DEFINE_integer(
        "finetune_epochs", None, "further rows: each hospital trains the finished model on, on its own records"
    )
    flags.DEFINE_bool("audit", False, "attack each method's run of the first seed; adds columns and a figure")
    flags.DEFINE_string(
        "headline", None, "metric that methods are ranked by; default: accuracy, AUC where classes are unequal, RMSE"
    )
    flag_groups.define_run_flags()
    flag_groups.define_plan_flags()


def _default_names() -> tuple[str, ...]:
    from tff_hospitals.experiments.methods import default_methods

    return default_methods()


def run() -> None:
    """Compares what the flags describe."""
    compare(_default_names())


def _two_lists() -> list[Problem]:
    if FLAGS.aggregator is None or FLAGS.aggregators is None:
        return []
    bound = "is one method alone, and --aggregators names its own"
    return [Problem("--aggregator", FLAGS.aggregator, bound, "drop --aggregators to train this one")]


def compare(default: tuple[str, ...], grid: Grid = ()) -> None:
    """Compares what the flags describe.

    Args:
      default: methods where none is named.
      grid: points at which each of them is trained.
    """
    command.need_run_dir()
    given = flag_groups.given_options()
    options = flag_groups.runtime_options()
    dataset = given.get("dataset", "heart_disease")
    raise_if([*flag_groups.tuning_problems(dataset), *_two_lists()])
    alone = default if FLAGS.aggregator is None else (FLAGS.aggregator,)
    chosen = alone if FLAGS.aggregators is None else tuple(FLAGS.aggregators)
    methods = tuple(dict.fromkeys((*chosen, *FLAGS.robust)))
    runs = len(methods) * len(FLAGS.seeds) * FLAGS.splits * math.prod(len(values) for _, values in grid)
    trains = runs >= _RUNS_THAT_PAY and FLAGS.runtime == "compiled"
    with SecondProcess(cores=1 if extensions.loaded() else None) as second:
        if trains:
            second.tell(sweep.get_ready)
        from tff_hospitals import reports
        from tff_hospitals.experiments import comparison as comparisons
        from tff_hospitals.reports import plots, progress
        from tff_hospitals.training.results import TrainingError

        second.tell(plots.get_ready)
        comparison = comparisons.Comparison(
            methods=methods,
            target_epsilons=command.numbers("target_epsilon", FLAGS.target_epsilon, float),
            seeds=command.numbers("seeds", FLAGS.seeds, int),
            dataset=dataset,
            given=given,
            data_options=flag_groups.data_options(),
            model_options=flag_groups.model_options(),
            runtime=FLAGS.runtime,
            baseline_epochs=FLAGS.baseline_epochs,
            command=command.command_line(),
            audit=FLAGS.audit,
            store_updates=FLAGS.store_updates,
            max_total_epsilon=FLAGS.max_total_epsilon,
            headline=FLAGS.headline,
            splits=FLAGS.splits,
            finetune_epochs=FLAGS.finetune_epochs,
            grid=grid,
        )
        folder = pathlib.Path(FLAGS.run_dir)
        with progress.job_progress(shown=FLAGS.progress) as display:
            found = comparisons.run(
                comparison,
                folder,
                on_run=display.update,
                runtime_options=options,
                second=second if trains else None,
            )
        reports.write_report(folder, second)
    reports.print_table(reports.read_summary(folder), sys.stdout)
    print(f"results: {folder} (summary.json, summary.csv, plots, report.html)")
    if failed := comparisons.failures(found):
        raise TrainingError("\n".join(failed))
