"""Searches for settings of one method on records held out of training, and writes a flag file for train.

    tff-hospitals tune --dataset=heart_disease --aggregator=dp_sgd --target_epsilon=3 --trials=40 --run_dir=runs/search
    tff-hospitals train --flagfile=runs/search/best.flags --target_epsilon=3 --run_dir=runs/tuned

Test records are never looked at. Every flag of train fixes a setting; --search names those that are searched. The same
command goes on after a kill. With --runtime=cluster trials are tasks of a Ray cluster, whose machines share --run_dir.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
    flags.DEFINE_integer(
        "workers", None, "processes that try settings at once; default: 1, on a cluster as many as it has processors"
    )
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
    from tff_hospitals.experiments.method_plans import OWN

    given = flag_groups.given_options(also=OWN)
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
    spread = FLAGS.runtime == "cluster"
    many, remedy = (4096, "as there are processors") if spread else (64, "as there are cores")
    if FLAGS.workers is not None:
        raise_if([whole_number("workers", FLAGS.workers, low=1, high=many, remedy=f"give 1 or as many {remedy}")])
    from tff_hospitals.experiments import tuning
    from tff_hospitals.reports import progress
    from tff_hospitals.training.results import TrainingError

    search, dataset = search_from_flags()
    raise_if([*search.problems(), *review.problems(search.plan, dataset)])  # before a bar is drawn
    folder = pathlib.Path(FLAGS.run_dir)
    runtime = "compiled" if spread else FLAGS.runtime  # a trial is a task, and its rounds run where it was sent to
    if FLAGS.helper:
        tuning.run(search, dataset, folder, runtime=runtime, helps=True)
        return
    options = flag_groups.runtime_options()
    beside = _tasks(FLAGS.workers, options) if spread else _helpers((FLAGS.workers or 1) - 1)
    with progress.trial_progress(shown=FLAGS.progress) as display:
        found = tuning.run(search, dataset, folder, runtime=runtime, on_trial=display.update, beside=beside)
    from tff_hospitals.reports import search_page

    search_page.write(folder, found)
    print(search_page.text(found))
    print(f"results: {folder} (trials.csv, best.flags, summary.json, search.html)")
    if found["failed"]:
        raise TrainingError(f"{found['failed']} of {found['trials']} trials failed: their reasons are in trials.csv.")


def _own_words() -> list[str]:
    return [*(one for one in sys.argv[1:] if one != "tune"), "--helper", "--progress=false"]


@contextlib.contextmanager
def _helpers(count: int) -> Iterator[None]:
    """Processes that try settings beside this one: waited for at the end, ended when anything fails, and by the kernel
    when this process is killed.

    Raises:
      Failure: one of them failed.
    """
    from tff_hospitals.foundations.validation import Failure
    from tff_hospitals.runtimes.native.worker_keeper import die_with_parent

    words = [sys.executable, "-m", "tff_hospitals", "tune", *_own_words()]
    helpers = [subprocess.Popen(words, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent) for _ in range(count)]
    try:
        yield
        codes = [one.wait() for one in helpers]
    finally:
        for one in helpers:
            if one.poll() is None:
                one.kill()
    if any(codes):
        failed = f"{sum(map(bool, codes))} of {count} helpers ended with an error"
        raise Failure(f"{failed}. Remedy: see above what they said, then start the same command again: it goes on.")


@contextlib.contextmanager
def _tasks(workers: int | None, options: Mapping[str, Any]) -> Iterator[None]:
    """Tasks of a Ray cluster that try settings beside this process; Ray ends them with it.

    Args:
      workers: processes that try settings at once, this one included; None: as many as the cluster has processors.
      options: of the connection.

    Raises:
      ClusterError: no cluster, or a task was lost or failed.
    """
    from tff_hospitals.runtimes.cluster.connection import ClusterError, Connection

    connection = Connection(**options)
    try:
        count = max(0, (connection.processors if workers is None else workers) - 1)
        task = connection.ray.remote(try_settings).options(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")
        running = [task.remote(_own_words(), os.getcwd()) for _ in range(count)]
        yield
        again = "start the same command again: it goes on"
        try:
            ended = connection.ray.get(running)
        except connection.errors as error:
            raise ClusterError(f"a task that tried settings was lost: {error}. Remedy: {again}.") from error
        said = [text for code, text in ended if code]
        if said:
            raise ClusterError(f"{len(said)} of {count} tasks ended with an error ({said[0]}). Remedy: {again}.")
    finally:
        connection.close()


def try_settings(words: Sequence[str], folder: str) -> tuple[int, str]:
    """Tries settings where it was sent to: the exit code, and what was said of an error.

    Args:
      words: the command line of a helper.
      folder: that its paths start from; all machines share it.
    """
    before, said = os.getcwd(), io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = command.run(sys.modules[__name__], ["tune", *words])
    finally:
        os.chdir(before)
    return code, said.getvalue().strip()
