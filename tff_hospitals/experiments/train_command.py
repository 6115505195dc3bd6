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
OWN = ("target_epsilon", "seed")  # a comparison has several of them


def define_method_flags() -> None:
    """What is trained: the method, and what it changes in the preset plan."""
    flags.DEFINE_string(
        "aggregator", "weighted_mean", "the method: a name that a comparison knows, or package.module:factory"
    )
    flags.DEFINE_string("tuned_on", None, "data set that the settings were searched on (as in best.flags of tune)")
    flags.DEFINE_string("robust", None, "rule against bad hospitals, such as trimmed_mean or multi_krum")
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
    from tff_hospitals.experiments import presets
    from tff_hospitals.experiments.methods import METHODS, robust_plan
    from tff_hospitals.foundations.validation import Problem, raise_if
    from tff_hospitals.plan import options
    from tff_hospitals.plan.checks import options as option_checks

    method = method_of_flags()
    given = flag_groups.given_options(also=OWN)
    base = presets.preset(given.get("dataset", "heart_disease"))
    base_options = {} if "partition" in given else dict(base.data.options)
    base = base.replace(
        data={"options": {**base_options, **flag_groups.data_options()}},
        model={"options": flag_groups.model_options()},
    )
    plan = robust_plan(method.plan(base, given.get("target_epsilon")), FLAGS.robust)
    plan = options.apply(plan, given)
    found = option_checks.unused([plan], given)
    if method.kind != "federated":
        federated = ", ".join(name for name, one in METHODS.items() if one.kind == "federated")
        found.append(
            Problem(
                "--aggregator",
                method.name,
                "is a baseline of comparisons, not a federated method",
                f"take one of {federated}",
            )
        )
    if FLAGS.tuned_on is not None and FLAGS.tuned_on != plan.data.name:
        bound = f"is not the data set of this run, {plan.data.name}: what suits one does not suit another"
        remedy = "search again with tune, or drop --tuned_on if it is meant so"
        found.append(Problem("--tuned_on", FLAGS.tuned_on, bound, remedy))
    raise_if(found)
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
