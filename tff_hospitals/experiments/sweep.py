"""Where the runs of a comparison happen: here, or spread over a cluster as independent tasks.

Here the seeds of a method train together where that is faster, else one run follows the other.

On a cluster every run is handed out at once; each trains in a process of its own with the compiled runtime, reads its
data where it runs, and writes its run directory, which must therefore lie on a file system that all machines share. The
runs of a lost machine are started again by Ray, and go on from their last checkpoints.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tff_hospitals.foundations import extensions

if TYPE_CHECKING:
    from tff_hospitals.experiments.runner import MethodRunner, RunResult

_RETRIES = 3


class Here:
    """Runs in this process."""

    def rows(self, runner: MethodRunner, seeds: Sequence[int], on_start: Callable[[int], None]) -> list[RunResult]:
        """A method's runs; `on_start` is told each seed when its training starts."""
        return runner.run_seeds(seeds, on_start)

    def close(self) -> None:
        """Nothing was started."""


class Spread:
    """Runs as tasks of a Ray cluster.

    Args:
      jobs: runners and seeds, all of them handed out at once.
      options: of the connection: `address`, `time_limit_seconds`.

    Raises:
      ClusterError: the cluster does not answer in time.
      InvalidInput: ray is missing.
    """

    def __init__(self, jobs: Iterable[tuple[MethodRunner, int]], options: Mapping[str, Any]):
        from tff_hospitals.runtimes.cluster.connection import Connection

        self._connection = Connection(**options)
        task = self._connection.ray.remote(run_job).options(
            num_cpus=1, max_retries=_RETRIES, scheduling_strategy="SPREAD"
        )
        self._rows = {(id(runner), seed): task.remote(job_of(runner, seed)) for runner, seed in jobs}

    def rows(self, runner: MethodRunner, seeds: Sequence[int], on_start: Callable[[int], None]) -> list[RunResult]:
        """Waits for a method's runs, one after the other; `on_start` is told each seed.

        Raises:
          ClusterError: the run failed, or was lost more often than it is repeated; the message names it.
        """
        rows = []
        for seed in seeds:
            on_start(seed)
            rows.append(self._row(runner, seed))
        return rows

    def _row(self, runner: MethodRunner, seed: int) -> RunResult:
        from tff_hospitals.runtimes.cluster.connection import ClusterError

        name = runner.name(seed)
        try:
            row, problem = self._connection.ray.get(self._rows[id(runner), seed])
        except self._connection.errors as error:
            raise ClusterError(f"run {name} was lost: {error}. Remedy: start the same command again.") from error
        if problem is not None:
            raise ClusterError(f"run {name}: {problem}")
        return row

    def close(self) -> None:
        """Leaves the cluster."""
        self._connection.close()


def start(runtime: str, jobs: Iterable[tuple[MethodRunner, int]], options: Mapping[str, Any] | None = None) -> Any:
    """`Spread` for the cluster, else `Here`."""
    return Spread(jobs, options or {}) if runtime == "cluster" else Here()


@dataclasses.dataclass(frozen=True)
class Job:
    """One run in words: what travels to a machine of the cluster."""

    method: str
    label: str
    plan_json: Mapping[str, Any]
    folder: str
    baseline_epochs: int | None
    seed: int
    store_updates: int | None = None
    max_total_epsilon: float | None = None
    finetune_epochs: int | None = None
    extensions: tuple[str, ...] = ()


def job_of(runner: MethodRunner, seed: int) -> Job:
    """The words for a run."""
    folder, plan = str(pathlib.Path(runner.folder).absolute()), runner.plan.to_json()
    name, epochs, names = runner.method.name, runner.baseline_epochs, extensions.loaded()
    limit, own = runner.max_total_epsilon, runner.finetune_epochs
    return Job(name, runner.method.label, plan, folder, epochs, seed, runner.store_updates, limit, own, names)


def run_job(job: Job) -> tuple[RunResult | None, str | None]:
    """Trains a run where it was sent to: its result, or what went wrong in words."""
    from tff_hospitals.foundations import quiet

    quiet.be_quiet()
    quiet.one_thread_per_operation()  # a task counts as one processor; the scripts do the same here
    from tff_hospitals.experiments import baselines
    from tff_hospitals.experiments.grid import method_at
    from tff_hospitals.experiments.runner import MethodRunner
    from tff_hospitals.foundations.files import RecordError
    from tff_hospitals.foundations.validation import InvalidInput
    from tff_hospitals.plan.plan import Plan
    from tff_hospitals.training.loop import TrainingError

    extensions.load(job.extensions)
    method = method_at(job.method, job.label)
    plan = Plan.from_json(job.plan_json)
    try:
        runner = MethodRunner(
            method,
            plan,
            baselines.load(plan.data),
            "compiled",
            pathlib.Path(job.folder),
            job.baseline_epochs,
            store_updates=job.store_updates,
            max_total_epsilon=job.max_total_epsilon,
            finetune_epochs=job.finetune_epochs,
        )
        return runner.run(job.seed), None
    except (InvalidInput, RecordError, TrainingError) as error:
        return None, str(error)
