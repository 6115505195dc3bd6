"""Trains one plan, with a progress bar and a final summary, and writes a run directory.

    tff-hospitals train --aggregator=dp_sgd --target_epsilon=2 --run_dir=runs/private

A plan starts from the preset of its data set; the method (--aggregator) changes it, and so does every flag below.
"""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING

from absl import flags

from tff_hospitals.experiments import command, flag_groups
from tff_hospitals.plan import review
from tff_hospitals.plan.plan import Plan

if TYPE_CHECKING:
    from tff_hospitals.experiments.methods import Method

FLAGS = flags.FLAGS


def define_method_flags() -> None:
    """What is trained: the method, and what it changes in the preset plan."""
    flags.DEFINE_string(
        "aggregator", "weighted_mean", "the method: a name that a comparison knows, or package.module:factory"
    )
    flags.DEFINE_string("robust", None, "rule against bad hospitals, such as trimmed_mean or multi_krum")
    from tff_hospitals.experiments.method_plans import OWN

    flag_groups.define_plan_flags(also=OWN)


def define_flags() -> None:
    """Flags of a single run."""
    flag_groups.define_run_flags()
    flag_groups.define_chunk_flag()
    define_method_flags()


def method_of_flags() -> Method:
    """The method that --aggregator names.

    Raises:
      validation.InvalidInput: an unknown name.
    """
    from tff_hospitals.experiments.methods import find_methods

    (method,) = find_methods((FLAGS.aggregator,))
    return method


def plan_from_flags() -> Plan:
    """The plan that the flags describe: preset of the data set, changed by the method, changed by what was given.

    Raises:
      validation.InvalidInput: unknown names, options that nothing uses.
    """
    from tff_hospitals.experiments import method_plans
    from tff_hospitals.foundations.validation import raise_if

    given = flag_groups.given_options(also=method_plans.OWN)
    plan = method_plans.federated_plan(
        FLAGS.aggregator, given, flag_groups.data_options(), flag_groups.model_options(), FLAGS.robust
    )
    raise_if(flag_groups.tuning_problems(plan.data.name))
    return plan


def run() -> None:
    """Trains what the flags describe."""
    from tff_hospitals.foundations.validation import raise_if

    command.need_run_dir()
    plan = plan_from_flags()
    options = flag_groups.runtime_options()
    raise_if(review.problems(plan))
    from tff_hospitals.experiments import baselines
    from tff_hospitals.experiments.outcome import over_patients
    from tff_hospitals.reports import progress

    dataset = baselines.load(plan.data)
    raise_if(review.problems(plan, dataset))
    for text in review.warnings(plan, dataset):
        print(f"warning: {text}", file=sys.stderr)
    from tff_hospitals.training.loop import train
    from tff_hospitals.training.results import TrainingError
    from tff_hospitals.training.stopping import DIVERGED

    folder = pathlib.Path(FLAGS.run_dir)
    with progress.run_progress(plan.rounds, shown=FLAGS.progress) as display:
        result = train(
            plan,
            dataset,
            run_dir=folder,
            runtime=method_of_flags().runs_on or FLAGS.runtime,
            on_round=display.update,
            runtime_options=options,
            store_updates=FLAGS.store_updates,
            max_total_epsilon=FLAGS.max_total_epsilon,
            on_note=lambda text: print(f"note: {text}", file=sys.stderr),
        )
    if result.already_finished:
        print(f"{folder} holds this run, finished: nothing was trained. Its result:")
    print(progress.run_summary({**result.summary, **over_patients(result, dataset)}))
    print(f"results: {folder}")
    diverged = [text for text in result.summary["warnings"] if text.startswith(DIVERGED)]
    if diverged:
        raise TrainingError(diverged[0])
