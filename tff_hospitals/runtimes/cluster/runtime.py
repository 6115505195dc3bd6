"""The cluster runtime: chunks of the cohort on the machines of a Ray cluster.

The driver says who takes part, hands out chunks, and finishes each round at the server. Every worker is a process of
its own that draws its hospitals' batches, reads their records and runs the compiled runtime's program over them (see
`cluster_worker`).
Chunks, and the order in which they are added, are those of the compiled runtime (`chunked`): the result has the same
bits on any number of machines, and those of one machine where that runs in chunks, too.

A worker or machine that is lost is replaced by Ray, and what it worked on is done again. A hospital that cannot do its
part stops the run with its id and the round: a sum without it would be another mechanism than the one that was
accounted.

Ray is an optional package, and this module imports it nowhere at the top.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tff_hospitals.foundations import extensions
from tff_hospitals.foundations.validation import raise_if
from tff_hospitals.processes.rounds import RoundInput, RoundOutput
from tff_hospitals.runtimes import base
from tff_hospitals.runtimes.cluster import dataset_description
from tff_hospitals.runtimes.cluster import worker as cluster_worker
from tff_hospitals.runtimes.cluster.connection import TIME_LIMIT_SECONDS, ClusterError, Connection
from tff_hospitals.runtimes.compiled import choice, chunked, device_data
from tff_hospitals.runtimes.compiled import runtime as compiled
from tff_hospitals.runtimes.compiled.parallel_calls import ordered
from tff_hospitals.runtimes.compiled.tree_sum import TreeSum, add_leaves

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.plan.plan import Plan
    from tff_hospitals.processes.composition import Composition, ServerState
    from tff_hospitals.runtimes.compiled.server_half import Report

_CHUNKS_PER_WORKER = 4  # handed out beforehand; more would only fill memory
_RETRIES = 3
_LOOK_EVERY_SECONDS = 10.0
_ADD_HERE_BYTES = 2**20  # smaller sums are added at the driver: a task would take longer than the addition


class ClusterRuntime(base.Runtime):
    """Runs rounds on a cluster.

    Args:
      composition: the composed plan.
      dataset: its hospitals; workers read their records by the plan's own words.
      frozen: weights that do not travel.
      plan: from which the workers compose the same process.
      address: `host:port`; None starts workers on this machine.
      time_limit_seconds: for the cluster to answer, and for its first worker to be ready.
      hospitals_per_chunk: default: as in the compiled runtime, half of a small cohort, an eighth of a larger one, at
        most 64. Fewer keep more processors busy, and change the order of the sum.
      workers: default: one per processor of the cluster, and about as many as chunks at most.
      strategy: as in the compiled runtime, for all workers; None: as the environment asks (`compiled.choice`), else by
        the rule. Nothing is tried: the driver's processor says nothing of the workers'.

    Raises:
      ClusterError: the cluster does not answer in time.
      InvalidInput: ray is missing.
    """

    def __init__(
        self,
        composition: Composition,
        dataset: HospitalDataset,
        frozen: tuple,
        *,
        plan: Plan,
        address: str | None = None,
        time_limit_seconds: float = TIME_LIMIT_SECONDS,
        hospitals_per_chunk: int | None = None,
        workers: int | None = None,
        strategy: str | None = None,
    ):
        super().__init__(frozen)
        raise_if(choice.problems())
        strategy = strategy or choice.asked()
        self._choice = choice.Choice(
            compiled.in_chunks(composition, strategy), choice.RULE if strategy is None else "asked"
        )
        self._parts = composition
        self._per_chunk, self._limit = hospitals_per_chunk, time_limit_seconds
        self._program = compiled.chunk_by_chunk(compiled.program(composition, self._choice.strategy))
        self._record_bytes = device_data.record_bytes(dataset)
        self._connection = Connection(address, time_limit_seconds)
        self._ray = self._connection.ray
        arguments = (
            plan.to_json(),
            dataset_description.describe(dataset),
            list(self.frozen),
            composition.signature,
            extensions.loaded(),
            self._choice.strategy,
        )
        count = min(workers or max(1, self._connection.processors), self._most_chunks(dataset))
        # No processor is reserved (Ray needs one to place an actor, none to run it): when a machine is lost, its
        # workers are started again on those that are left. Work is repeated for as long as its worker is.
        kind = self._ray.remote(cluster_worker.Worker).options(
            max_restarts=_RETRIES, max_task_retries=-1, scheduling_strategy="SPREAD"
        )
        self._adder = self._ray.remote(add_leaves).options(num_cpus=0, max_retries=_RETRIES)
        # By value: a worker that is restarted needs its arguments once more.
        self._workers = [kind.remote(*arguments) for _ in range(count)]
        self._wait_for_a_worker()

    def _wait_for_a_worker(self) -> None:
        """Nothing may wait for ever on a cluster without a free processor."""
        waiting = {worker.ready.remote(): worker for worker in self._workers}
        deadline = time.monotonic() + self._limit
        done, rest = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=self._limit)
        if not done:
            free = self._ray.available_resources().get("CPU", 0)
            self.close()
            raise ClusterError(
                f"no worker of the cluster was ready within {self._limit:g} s ({free:g} processors are free). Remedy: "
                "free or add processors, or raise --cluster_time_limit_seconds."
            )
        for one in done:
            try:
                self._ray.get(one, timeout=max(1.0, deadline - time.monotonic()))
            except self._connection.errors as error:
                self.close()
                raise ClusterError(f"a worker could not start: {_cause(error)}") from error
        # Those that have no processor yet would hold back the chunks that are handed to them.
        for one in rest:
            self._ray.kill(waiting[one])
        self._workers = [waiting[one] for one in done]

    def _most_chunks(self, dataset: HospitalDataset) -> int:
        """How many chunks a cohort of all hospitals has, about."""
        hospitals, records = len(dataset.hospitals), sum(dataset.records().values())
        by_number = -(-hospitals // (self._per_chunk or chunked.usual_size(hospitals)))
        return min(hospitals, max(by_number, -(-records * self._record_bytes // device_data.CHUNK_BYTES)))

    def settle(self, state: ServerState, rounds: Sequence[RoundInput]) -> Mapping[str, Any]:
        """What the driver chose for all workers."""
        return self._choice.record()

    def run_rounds(self, state: ServerState, rounds: Sequence[RoundInput]) -> base.Result:
        """Runs the rounds one after the other and returns numpy state."""
        return base.one_after_the_other(self._round, state, rounds)

    def _round(self, state: ServerState, one: RoundInput) -> tuple[ServerState, RoundOutput]:
        server, when = self._program.server, f"round {one.number + 1}"
        opened = server.begin(state, one)
        broadcast = tf.nest.map_structure(np.asarray, opened.broadcast)
        beginning = self._ray.put(cluster_worker.Beginning(broadcast, one.streams))
        chunks = self._program.chunks(one, self._record_bytes, self._per_chunk)
        add_here = 4 * self._parts.client_work.scalars <= _ADD_HERE_BYTES
        total: TreeSum[Any] = TreeSum(add_leaves if add_here else self._adder.remote)
        reports: list[Report] = []
        for chunk, leaves, done in self._handed_out(beginning, chunks, opened.kept, drawn=one.streams is None):
            # What is large stays where it is until it has been added up.
            known, *here = self._get([done, leaves] if add_here else [done], when, chunk.ids)
            reports.extend(known.reports)
            for sentence in known.notes:
                self.note(sentence)
            total.append(here[0] if add_here else leaves)
        found = total.result()
        if found is not None:
            everyone = [part.hospital.hospital_id for part in one.cohort]
            (leaves,) = [found] if add_here else self._get([found], when, everyone)
            found = tf.nest.pack_sequence_as(server.zero, [tf.constant(leaf) for leaf in leaves])
        after, output = server.finish(opened, one, found, reports)
        return tf.nest.map_structure(np.asarray, after), output

    def _handed_out(
        self, beginning: Any, chunks: Sequence[chunked.Chunk], kept: Mapping[str, np.ndarray], *, drawn: bool
    ) -> Iterator[tuple[chunked.Chunk, Any, Any]]:
        """Every chunk with the references of its sum and its reports, while later chunks are worked on already.

        A chunk goes to the worker with its number, which so finds the records of the round before.
        """

        def call(number: int, chunk: chunked.Chunk) -> Any:
            worker = self._workers[number % len(self._workers)]
            order = cluster_worker.order_for(chunk, kept, drawn=drawn)
            return (chunk, *worker.work.options(num_returns=2).remote(beginning, order))

        calls = (lambda pair=pair: call(*pair) for pair in enumerate(chunks))
        yield from ordered(_AtOnce(), calls, _CHUNKS_PER_WORKER * len(self._workers))

    def _get(self, references: list[Any], when: str, hospitals: Sequence[str]) -> list[Any]:
        try:
            self._wait(references, when)
            return self._ray.get(references)
        except self._connection.errors as error:
            who = cluster_worker.named(hospitals)
            raise ClusterError(
                f"{when}: the cluster lost the work of {who}: {_cause(error)} Nothing of this round was used. "
                "Remedy: mend the cause or take the hospital out; the same command goes on from the last checkpoint."
            ) from error

    def _wait(self, references: list[Any], when: str) -> None:
        """Work takes as long as it takes, but a cluster that has no processor left is not waited for."""
        idle_since = None
        while self._ray.wait(references, num_returns=len(references), timeout=min(self._limit, _LOOK_EVERY_SECONDS))[1]:
            if self._connection.processors:
                idle_since = None
                continue
            idle_since = idle_since or time.monotonic()
            if time.monotonic() - idle_since > self._limit:
                raise ClusterError(
                    f"{when}: the cluster has had no processor for {self._limit:g} s. Remedy: start its machines; "
                    "the same command goes on from the last checkpoint."
                )

    def close(self) -> None:
        """Ends the workers, and the cluster if it was started here."""
        if self._ray.is_initialized():
            for worker in self._workers:
                self._ray.kill(worker)
        self._workers = []
        self._connection.close()


class _AtOnce(concurrent.futures.Executor):
    """Calls that hand work out and come back at once need no threads."""

    def submit(self, call: Callable, /, *arguments: Any, **named: Any) -> concurrent.futures.Future:
        """The call's result, ready."""
        future: concurrent.futures.Future = concurrent.futures.Future()
        future.set_result(call(*arguments, **named))
        return future


def _cause(error: BaseException) -> str:
    """The last line that says what happened: Ray wraps a worker's error into its whole traceback."""
    inner = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return lines[-1][:400] if lines else type(inner).__name__
