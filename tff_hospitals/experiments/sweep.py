"""Where the runs of a comparison happen: here, in two processes, or spread over a cluster as independent tasks.

Here the seeds of a method train together where that is faster, else one run follows the other. Two processes take
one method after the other, from both ends of the table: small models leave the second core idle. What a run gives does
not depend on the process that trains it.

On a cluster every run is handed out at once; each trains in a process of its own with the compiled runtime, reads its
data where it runs, and writes its run directory, which must therefore lie on a file system that all machines share. The
runs of a lost machine are started again by Ray, and go on from their last checkpoints.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tff_hospitals.foundations import extensions
from tff_hospitals.foundations.files import fingerprint
from tff_hospitals.foundations.second_process import Lost, SecondProcess

if TYPE_CHECKING:
    from tff_hospitals.experiments.runner import MethodRunner, RunResult
    from tff_hospitals.hospitals import HospitalDataset

_RETRIES = 3


class Here:
    """Runs in this process."""

    def rows(self, runner: MethodRunner, seeds: Sequence[int], on_start: Callable[[int], None]) -> list[RunResult]:
        """A method's runs; `on_start` is told each seed when its training starts."""
        return runner.run_seeds(seeds, on_start)

    def close(self) -> None:
        """Nothing was started."""


class InTwoProcesses(Here):
    """Runs in this process and in a second one: it begins with the last method, and this one with the first.

    Args:
      jobs: runners with their seeds, in the order in which they are asked for.
      second: the other process.
    """

    def __init__(self, jobs: Sequence[tuple[MethodRunner, Sequence[int]]], second: SecondProcess):
        self._second, self._lock = second, threading.Lock()
        self._open = [job for job in jobs[1:] if can_travel(job[0])]  # the first one is asked for at once
        self._elsewhere: dict[int, concurrent.futures.Future[list[RunResult]]] = {}
        threading.Thread(target=self._hand_out, daemon=True).start()

    def rows(self, runner: MethodRunner, seeds: Sequence[int], on_start: Callable[[int], None]) -> list[RunResult]:
        """A method's runs, trained here or waited for; `on_start` is told each seed."""
        with self._lock:
            self._open = [job for job in self._open if job[0] is not runner]
            elsewhere = self._elsewhere.get(id(runner))
        if elsewhere is None:
            return super().rows(runner, seeds, on_start)
        try:
            rows = elsewhere.result()
        except Lost:  # its runs go on from their last checkpoints, as after a kill
            return super().rows(runner, seeds, on_start)
        for seed in seeds:
            on_start(seed)
        return rows

    def _hand_out(self) -> None:
        """Hands one method after the other to the second process, until none is open."""
        while True:
            with self._lock:
                if not self._open:
                    return
                runner, seeds = self._open.pop()
                found = self._elsewhere[id(runner)] = concurrent.futures.Future()
            try:
                if not self._second.ask(train_job, job_of(runner, *seeds)):
                    raise Lost("there is no second process")
                found.set_result(self._second.answer())
            except Exception as problem:
                found.set_exception(problem)

    def close(self) -> None:
        """Nothing more is handed out."""
        with self._lock:
            self._open = []


def can_travel(runner: MethodRunner) -> bool:
    """Whether another process of this machine gains by training a runner's methods: one core is enough for a run.

    Larger models use all cores already.
    """
    return runner.runtime == "compiled" and runner.is_small


class Spread:
    """Runs as tasks of a Ray cluster.

    Args:
      jobs: runners and seeds, all of them handed out at once.
      options: of the connection: `address`, `time_limit_seconds`.

    Raises:
      ClusterError: the cluster does not answer in time.
      InvalidInput: ray is missing.
    """

    def __init__(self, jobs: Iterable[tuple[MethodRunner, Sequence[int]]], options: Mapping[str, Any]):
        from tff_hospitals.runtimes.cluster.connection import Connection

        self._connection = Connection(**options)
        task = self._connection.ray.remote(run_job).options(
            num_cpus=1, max_retries=_RETRIES, scheduling_strategy="SPREAD"
        )
        self._rows = {(id(runner), seed): task.remote(job_of(runner, seed)) for runner, seeds in jobs for seed in seeds}

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
            rows, problem = self._connection.ray.get(self._rows[id(runner), seed])
        except self._connection.errors as error:
            raise ClusterError(f"run {name} was lost: {error}. Remedy: start the same command again.") from error
        if problem is not None:
            raise ClusterError(f"run {name}: {problem}")
        return rows[0]

    def close(self) -> None:
        """Leaves the cluster."""
        self._connection.close()


def start(
    runtime: str,
    jobs: Sequence[tuple[MethodRunner, Sequence[int]]],
    options: Mapping[str, Any] | None = None,
    second: SecondProcess | None = None,
) -> Any:
    """`Spread` for the cluster, `InTwoProcesses` where there is a second one, else `Here`."""
    if runtime == "cluster":
        return Spread(jobs, options or {})
    return Here() if second is None else InTwoProcesses(jobs, second)


@dataclasses.dataclass(frozen=True)
class Job:
    """The runs of a method in words: what travels to a machine of the cluster, or to a second process."""

    method: str
    label: str
    plan_json: Mapping[str, Any]
    folder: str
    baseline_epochs: int | None
    seeds: tuple[int, ...]
    store_updates: int | None = None
    max_total_epsilon: float | None = None
    left_out: str | None = None
    extensions: tuple[str, ...] = ()


def job_of(runner: MethodRunner, *seeds: int) -> Job:
    """The words for runs."""
    folder, plan = str(pathlib.Path(runner.folder).absolute()), runner.plan.to_json()
    name, epochs, names = runner.method.name, runner.baseline_epochs, extensions.loaded()
    limit, left_out = runner.max_total_epsilon, runner.left_out
    return Job(name, runner.method.label, plan, folder, epochs, seeds, runner.store_updates, limit, left_out, names)


def run_job(job: Job) -> tuple[list[RunResult] | None, str | None]:
    """Trains runs where they were sent to: their results, or what went wrong in words."""
    get_ready()
    from tff_hospitals.foundations.files import RecordError
    from tff_hospitals.foundations.validation import InvalidInput
    from tff_hospitals.training.results import TrainingError

    try:
        return train_job(job), None
    except (InvalidInput, RecordError, TrainingError) as error:
        return None, str(error)


def get_ready() -> None:
    """Loads what trains, with one core for a run; the scripts do the same in their own process."""
    from tff_hospitals.foundations import quiet

    quiet.be_quiet()
    quiet.one_thread_per_operation()
    import tff_hospitals.experiments.runner  # noqa: F401


_datasets: dict[str, HospitalDataset] = {}
_models: dict[str, dict[str, Any]] = {}
"""What the jobs of a process have in common, by the data that they name."""


def train_job(job: Job) -> list[RunResult]:
    """Trains runs in this process.

    Raises:
      InvalidInput, RecordError, TrainingError: as `MethodRunner.run_seeds`.
    """
    from tff_hospitals.experiments import baselines
    from tff_hospitals.experiments.grid import method_at
    from tff_hospitals.experiments.runner import MethodRunner
    from tff_hospitals.plan.plan import Plan

    extensions.load(job.extensions)
    plan = Plan.from_json(job.plan_json)
    data = fingerprint(dataclasses.asdict(plan.data))
    if data not in _datasets:
        _datasets[data] = baselines.load(plan.data)
    runner = MethodRunner(
        method_at(job.method, job.label),
        plan,
        _datasets[data],
        "compiled",
        pathlib.Path(job.folder),
        job.baseline_epochs,
        store_updates=job.store_updates,
        max_total_epsilon=job.max_total_epsilon,
        left_out=job.left_out,
        models=_models.setdefault(data, {}),
    )
    return runner.run_seeds(job.seeds)
