"""The cluster runtime: chunks of the cohort on the machines of a Ray cluster.

The driver draws the rounds, hands out chunks, and finishes each round at the server. Every worker is a process of its
own that reads its hospitals' records itself (see `cluster_worker`). Contributions of a chunk are added in the cohort's
order and the chunks' sums as a tree in a fixed order; chunks depend on the cohort alone. So the result has the same
bits on any number of machines. A worker or machine that is lost is replaced by Ray, and what it worked on is done
again. A hospital that cannot do its part stops the run with its id and the round: a sum without it would be another
mechanism than the one that was accounted.

Ray is an optional package, and this module imports it nowhere at the top.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tff_hospitals.processes.exchange import Traffic
from tff_hospitals.runtimes import base, cluster_worker, stand_in
from tff_hospitals.runtimes.cluster_connection import TIME_LIMIT_SECONDS, ClusterError, Connection
from tff_hospitals.runtimes.tree_sum import add_leaves, tree_sum

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.learning_process import Composition, ServerState
    from tff_hospitals.plan import Plan

_CHUNKS = 16  # of a small cohort; a larger one has more, see _LARGEST_CHUNK
_LARGEST_CHUNK = 64
_RETRIES = 3
_LOOK_EVERY_SECONDS = 10.0
_ADD_HERE_BYTES = 2**20  # smaller sums are added at the driver: a task would take longer than the addition


class ClusterRuntime:
    """Runs rounds on a cluster.

    Args:
      composition: the composed plan.
      dataset: its hospitals; workers read their records by the plan's own words.
      frozen: weights that do not travel.
      plan: from which the workers compose the same process.
      address: `host:port`; None starts workers on this machine.
      time_limit_seconds: for the cluster to answer, and for its first worker to be ready.
      hospitals_per_chunk: default: a sixteenth of the cohort, at most 64.
      workers: default: one per processor of the cluster, and no more than chunks.

    Raises:
      ClusterError: the cluster does not answer in time.
      InvalidInput: ray is missing.
    """

    name = "cluster"

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
    ):
        self._parts, self._exchange = composition, composition.exchange
        self._per_chunk, self._limit = hospitals_per_chunk, time_limit_seconds
        self._zero = composition.zero_contribution()
        self._finish = tf.function(self._finish_round, autograph=False)
        self._connection = Connection(address, time_limit_seconds)
        self._ray = self._connection.ray
        arguments = (
            plan.to_json(),
            stand_in.describe(dataset),
            [np.asarray(weight) for weight in frozen],
            composition.signature,
        )
        chunks = len(self._chunks(range(len(dataset.hospitals))))
        count = min(workers or max(1, self._connection.processors), chunks)
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

    def _chunks(self, cohort: Sequence[Any]) -> list[Sequence[Any]]:
        """The cohort in pieces whose size depends on the cohort alone."""
        size = self._per_chunk or max(1, min(_LARGEST_CHUNK, -(-len(cohort) // _CHUNKS)))
        return [cohort[start : start + size] for start in range(0, len(cohort), size)]

    def run_rounds(
        self, state: ServerState, rounds: Sequence[base.RoundInput]
    ) -> tuple[ServerState, list[base.RoundOutput]]:
        """Runs the rounds one after the other and returns numpy state."""
        outputs = []
        for one in rounds:
            state, output = self._round(state, one)
            outputs.append(output)
        return state, outputs

    def _round(self, state: ServerState, one: base.RoundInput) -> tuple[ServerState, base.RoundOutput]:
        bare = state._replace(distributor=collections.OrderedDict(), hospitals=collections.OrderedDict())
        at_server = tf.nest.map_structure(tf.convert_to_tensor, bare)
        parameters = tf.nest.map_structure(np.asarray, self._parts.aggregator.parameters(at_server.aggregator))
        weights, distributor, sent_bytes = state.weights, state.distributor, None
        if self._exchange is not None:
            held = distributor.get("held", ())
            sent = self._exchange.send_broadcast(weights, held, int(state.round_number) == 0, one.broadcast_key)
            weights, sent_bytes = sent.weights, sent.payload_bytes
            distributor = collections.OrderedDict(held=sent.held) if held else distributor
        broadcast = cluster_worker.Broadcast(
            tuple(np.asarray(weight) for weight in weights), int(state.round_number), parameters
        )
        leaves, reports = self._hand_out(self._ray.put(broadcast), one, state.hospitals)
        total = self._zero
        if leaves is not None:
            total = tf.nest.pack_sequence_as(self._zero, [tf.constant(leaf) for leaf in leaves])
        after, measurements = self._finish(at_server, total)
        kept = {**state.hospitals, **{r.hospital_id: r.residual for r in reports if r.residual is not None}}
        after = after._replace(
            distributor=distributor,
            hospitals=collections.OrderedDict((name, kept[name]) for name in state.hospitals),
        )
        encoded = [report for report in reports if report.encoded]
        traffic = None
        if self._exchange is not None:
            payloads = {report.hospital_id: report.payload_bytes for report in encoded}
            traffic = Traffic(sent_bytes, payloads, {report.hospital_id: report.norm for report in encoded})
        metrics = {report.hospital_id: base.metrics_by_name(report.metrics) for report in reports}
        server = {name: float(value) for name, value in measurements.items()}
        return tf.nest.map_structure(np.asarray, after), base.RoundOutput(one.number, metrics, server, traffic)

    def _hand_out(self, broadcast: Any, one: base.RoundInput, residuals: Any) -> tuple[list | None, list]:
        """Runs all chunks; the sum of the contributions, or None without hospitals, and reports in order."""
        sums, reports, chunks = [], [], self._chunks(one.cohort)
        for number, chunk in enumerate(chunks):
            orders = [
                cluster_worker.Order(
                    part.hospital.hospital_id,
                    dataclasses.replace(part, hospital=None),
                    residuals.get(part.hospital.hospital_id),
                )
                for part in chunk
            ]
            worker = self._workers[number % len(self._workers)]
            total, report = worker.work.options(num_returns=2).remote(broadcast, orders)
            sums.append(total)
            reports.append(report)
        found = [
            report
            for chunk, refs in zip(chunks, reports)
            for report in self._get(refs, f"round {one.number + 1}", [part.hospital.hospital_id for part in chunk])
        ]
        if not sums:
            return None, found
        everyone = [part.hospital.hospital_id for part in one.cohort]
        if 4 * self._parts.client_work.scalars <= _ADD_HERE_BYTES:
            return tree_sum([self._get(ref, f"round {one.number + 1}", everyone) for ref in sums], add_leaves), found
        return self._get(tree_sum(sums, self._adder.remote), f"round {one.number + 1}", everyone), found

    def _get(self, reference: Any, when: str, hospitals: Sequence[str]) -> Any:
        try:
            self._wait(reference, when)
            return self._ray.get(reference)
        except self._connection.errors as error:
            shown = ", ".join(hospitals[:5]) + (f" and {len(hospitals) - 5} more" if len(hospitals) > 5 else "")
            raise ClusterError(
                f"{when}: the cluster lost the work of {shown}: {_cause(error)} Nothing of this round was used. "
                "Remedy: mend the cause or take the hospital out; the same command goes on from the last checkpoint."
            ) from error

    def _wait(self, reference: Any, when: str) -> None:
        """Work takes as long as it takes, but a cluster that has no processor left is not waited for."""
        idle_since = None
        while not self._ray.wait([reference], num_returns=1, timeout=min(self._limit, _LOOK_EVERY_SECONDS))[0]:
            if self._connection.processors:
                idle_since = None
                continue
            idle_since = idle_since or time.monotonic()
            if time.monotonic() - idle_since > self._limit:
                raise ClusterError(
                    f"{when}: the cluster has had no processor for {self._limit:g} s. Remedy: start its machines; "
                    "the same command goes on from the last checkpoint."
                )

    def _finish_round(self, state: ServerState, total: Any) -> tuple[ServerState, Any]:
        return self._parts.finish_round(state, total, self._parts.aggregator.server_noise(state.aggregator))

    def close(self) -> None:
        """Ends the workers, and the cluster if it was started here."""
        if self._ray.is_initialized():
            for worker in self._workers:
                self._ray.kill(worker)
        self._workers = []
        self._connection.close()


def _cause(error: BaseException) -> str:
    """The last line that says what happened: Ray wraps a worker's error into its whole traceback."""
    inner = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return lines[-1][:400] if lines else type(inner).__name__
