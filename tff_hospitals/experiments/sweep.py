"""Where the runs of a comparison happen: here, in two processes, or spread over a cluster as independent tasks.

Here the seeds of a method train together where that is faster, else one run follows the other. Two processes share the
methods of a table: small models leave the second core idle. What a run gives does not depend on the process that
trains it.

On a cluster every run is handed out at once; each trains in a process of its own with the compiled runtime, reads its
data where it runs, and writes its run directory, which must therefore lie on a file system that all machines share. The
runs of a lost machine are started again by Ray, and go on from their last checkpoints.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import pathlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tff_hospitals.foundations import extensions
from tff_hospitals.foundations.files import fingerprint
from tff_hospitals.foundations.second_process import Lost, SecondProcess

if TYPE_CHECKING:
    from tff_hospitals.experiments.runner import MethodRunner, RunResult
    from tff_hospitals.hospitals import HospitalDataset

_RETRIES = 3
_HERE, _THERE = "here", "there"
_LONG = 5.0  # seconds; about what it takes to compile the program of a method


class Here:
    """Runs in this process."""

    def rows(self, runner: MethodRunner, seeds: Sequence[int], on_start: Callable[[int], None]) -> list[RunResult]:
        """A method's runs; `on_start` is told each seed when its training starts."""
        return runner.run_seeds(seeds, on_start)

    def leave_out(self, runners: Sequence[MethodRunner]) -> None:
        """These are not asked for any more, and nothing of them trains when this returns."""

    def close(self, *, wait: bool = True) -> None:
        """Nothing was started."""


class InTwoProcesses(Here):
    """Runs in this process and in a second one.

    This one goes through the table from its beginning, the other one takes record-level methods first, whose programs
    are the largest, and then goes on from the end. The runs of one method share compiled programs: each side keeps to
    its own method, and takes the other one's only where that is busy for long. Who has to wait trains what is open.

    Args:
      jobs: runners with their seeds, in the order in which they are asked for.
      second: the other process.
    """

    def __init__(self, jobs: Sequence[tuple[MethodRunner, Sequence[int]]], second: SecondProcess):
        self._second, self._changed = second, threading.Condition()
        self._open = list(jobs)
        self._travelling = {id(runner) for runner, _ in jobs if _travels(runner)}
        self._found: dict[int, concurrent.futures.Future[list[RunResult]]] = {}
        self._at = {_HERE: (jobs[0][0].method.name, time.monotonic())} if jobs else {}  # it is asked for at once
        self._hands_out = threading.Thread(target=self._hand_out, daemon=True)
        self._hands_out.start()

    def rows(self, runner: MethodRunner, seeds: Sequence[int], on_start: Callable[[int], None]) -> list[RunResult]:
        """A method's runs, trained here or waited for; `on_start` is told each seed."""
        while True:
            with self._changed:
                found = self._found.get(id(runner))
                if found is not None and found.done():
                    break
                known = found is not None or any(job[0] is runner for job in self._open)
                job = self._take(_HERE, runner) if known else (runner, seeds)
                if job is None:
                    self._changed.wait(_LONG)
                    continue
            if job[0] is runner:
                return super().rows(runner, seeds, on_start)
            self._keep(job, functools.partial(super().rows, *job, on_start=lambda seed: None))
        try:
            rows = found.result()
        except Lost:  # its runs go on from their last checkpoints, as after a kill
            return super().rows(runner, seeds, on_start)
        for seed in seeds:
            on_start(seed)
        return rows

    def _hand_out(self) -> None:
        """Hands one method after the other to the second process, until none is open."""
        while True:
            with self._changed:
                if not any(id(runner) in self._travelling for runner, _ in self._open):
                    self._at.pop(_THERE, None)
                    self._changed.notify_all()
                    return
                job = self._take(_THERE)
                if job is None:
                    self._changed.wait(_LONG)
                    continue
            self._keep(job, functools.partial(self._ask, *job))

    def _ask(self, runner: MethodRunner, seeds: Sequence[int]) -> list[RunResult]:
        if not self._second.ask(train_job, job_of(runner, *seeds)):
            raise Lost("there is no second process")
        rows: list[RunResult] = self._second.answer()
        return rows

    def _take(self, side: str, asked: MethodRunner | None = None) -> tuple[MethodRunner, Sequence[int]] | None:
        """What a side trains next; None where it waits for the other one. The lock is held.

        Args:
          side: `_HERE` or `_THERE`.
          asked: the runner that somebody waits for: the first choice where it is open.
        """
        mine = self._at.get(side, ("", 0.0))[0]
        theirs, since = self._at.get(_THERE if side == _HERE else _HERE, ("", 0.0))
        busy_for_long = time.monotonic() - since > _LONG
        order = self._open
        if side == _THERE:
            travelling = [job for job in reversed(order) if id(job[0]) in self._travelling]
            order = sorted(travelling, key=lambda job: job[0].unit != "record")
        order = [job for job in order if busy_for_long or job[0].method.name != theirs]
        if not order:
            return None
        job = min(order, key=lambda job: 0 if job[0] is asked else 1 if job[0].method.name == mine else 2)
        self._open.remove(job)
        self._at[side] = (job[0].method.name, time.monotonic())
        self._changed.notify_all()
        if job[0] is not asked:
            self._found[id(job[0])] = concurrent.futures.Future()
        return job

    def _keep(self, job: tuple[MethodRunner, Sequence[int]], training: Callable[[], list[RunResult]]) -> None:
        """Keeps what a training gave, or why it failed, for the one who asks for it."""
        found = self._found[id(job[0])]
        try:
            found.set_result(training())
        except Exception as problem:
            found.set_exception(problem)
        with self._changed:
            self._changed.notify_all()

    def leave_out(self, runners: Sequence[MethodRunner]) -> None:
        """These are not asked for any more; waits for what of them trains in the other process."""
        left = {id(runner) for runner in runners}
        with self._changed:
            self._open = [job for job in self._open if id(job[0]) not in left]
            trained = [found for one, found in self._found.items() if one in left]
        concurrent.futures.wait(trained)

    def close(self, *, wait: bool = True) -> None:
        """Nothing more is handed out; with `wait` nobody but the caller talks to the other process afterwards."""
        with self._changed:
            self._open = []
            self._changed.notify_all()
        if wait:
            self._hands_out.join()


def _travels(runner: MethodRunner) -> bool:
    """As `can_travel`, which builds the model: what fails there fails again, and is told, where the runner trains."""
    try:
        return can_travel(runner)
    except Exception:
        return False


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

    def leave_out(self, runners: Sequence[MethodRunner]) -> None:
        """Its runs are on their way already; what they charge is in the odometer."""

    def close(self, *, wait: bool = True) -> None:
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
    quiet.load_faster()
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
