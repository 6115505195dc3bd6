"""Searches for settings of one method on records held out of training, and writes a flag file for train.

    tff-hospitals tune --dataset=heart_disease --aggregator=dp_sgd --target_epsilon=3 --trials=40 --run_dir=runs/search
    tff-hospitals train --flagfile=runs/search/best.flags --target_epsilon=3 --run_dir=runs/tuned

Test records are never looked at. Every flag of train fixes a setting; --search names those that are searched. The same
command goes on after a kill.
"""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags

from tff_hospitals.experiments import command, flag_groups, train_command
from tff_hospitals.plan import review

if TYPE_CHECKING:
    from tff_hospitals.experiments.tuning import Search
    from tff_hospitals.hospitals import HospitalDataset

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Flags of a search, and those of the plan that it starts from."""
    flags.DEFINE_integer("trials", None, "settings to try; drawn instead where --selected_from pays for the choice")
    flags.DEFINE_multi_string(
        "search", [], "FLAG:LOW:HIGH, FLAG:LOW:HIGH:log or FLAG:one|other; default: rates, local work, clip norm"
    )
    flags.DEFINE_list(
        "objective", ["headline"], "headline, worst (hospital), bytes, seconds, epsilon; several give a Pareto front"
    )
    flags.DEFINE_integer("seeds_per_trial", 1, "seeds of each trial; its value is their mean")
    flags.DEFINE_float("validation", 0.25, "share of each hospital's training records that judges")
    flags.DEFINE_string("pruner", "median", "ends trials early that promise little: median, hyperband or none")
    flags.DEFINE_string("tuning_dataset", None, "public data set to search on, instead of the private one")
    flags.DEFINE_integer("search_seed", 0, "seed of the proposals")
    flags.DEFINE_integer("workers", 1, "processes that try settings at once")
    flags.DEFINE_bool("helper", False, "try settings for a search that another process began")
    train_command.define_flags()


def search_from_flags() -> tuple[Search, HospitalDataset]:
    """The search that the flags describe, and the records that it may look at.

    Raises:
      InvalidInput: unknown names, axes that nobody can read, a plan with problems.
    """
    from tff_hospitals.experiments import baselines, presets
    from tff_hospitals.experiments.search_space import parse_axes
    from tff_hospitals.experiments.tuning import Search

    plan = train_command.plan_from_flags()
    dataset = baselines.load(plan.data)
    if FLAGS.tuning_dataset is not None:
        dataset = baselines.load(presets.preset(FLAGS.tuning_dataset).data)
    search = Search(
        plan,
        parse_axes(FLAGS.search, plan),
        FLAGS.trials,
        tuple(FLAGS.objective),
        FLAGS.seeds_per_trial,
        FLAGS.validation,
        FLAGS.pruner,
        FLAGS.search_seed,
        public=FLAGS.tuning_dataset is not None,
        fixed=_fixed(),
    )
    return search, dataset


def _fixed() -> tuple[str, ...]:
    """The flags of the plan that were given, as lines of a flag file."""
    given = flag_groups.given_options(also=train_command.OWN)
    lines = [f"--{name}={value}" for name, value in given.items() if name != "dataset"]
    for name in ("data_option", "model_option", "trainable", "pretrained", "lora_rank", "schema", "scaling", "robust"):
        values = FLAGS[name].value if FLAGS[name].present else None
        if isinstance(values, list) and name != "trainable":
            lines += [f"--{name}={value}" for value in values]
        elif values is not None:
            lines.append(f"--{name}={','.join(values) if isinstance(values, list) else values}")
    return tuple(lines)


def run() -> None:
    """Searches as the flags say."""
    from tff_hospitals.foundations.validation import raise_if, whole_number

    command.need_run_dir()
    raise_if([whole_number("workers", FLAGS.workers, low=1, high=64, remedy="give 1 or as many as there are cores")])
    from tff_hospitals.experiments import tuning
    from tff_hospitals.reports import progress
    from tff_hospitals.training.results import TrainingError

    search, dataset = search_from_flags()
    raise_if([*search.problems(), *review.problems(search.plan, dataset)])  # before a bar is drawn
    folder = pathlib.Path(FLAGS.run_dir)
    if FLAGS.helper:
        tuning.run(search, dataset, folder, runtime=FLAGS.runtime, helps=True)
        return
    helpers: list[subprocess.Popen] = []

    def start_helpers() -> None:
        for _ in range(FLAGS.workers - 1):
            helpers.append(
                subprocess.Popen([*_own_command(), "--helper", "--progress=false"], stdout=subprocess.DEVNULL)
            )

    with progress.trial_progress(shown=FLAGS.progress) as display, _ended(helpers):
        found = tuning.run(
            search, dataset, folder, runtime=FLAGS.runtime, on_trial=display.update, beside=start_helpers
        )
    from tff_hospitals.reports import search_page

    search_page.write(folder, found)
    print(search_page.text(found))
    print(f"results: {folder} (trials.csv, best.flags, summary.json, search.html)")
    if found["failed"]:
        raise TrainingError(f"{found['failed']} of {found['trials']} trials failed: their reasons are in trials.csv.")


def _own_command() -> list[str]:
    return [sys.executable, "-m", "tff_hospitals", "tune", *(one for one in sys.argv[1:] if one != "tune")]


@contextlib.contextmanager
def _ended(helpers: list[subprocess.Popen]) -> Iterator[None]:
    """Waits for the helpers at the end; ends them when anything fails."""
    try:
        yield
        for one in helpers:
            one.wait()
    finally:
        for one in helpers:
            if one.poll() is None:
                one.kill()
