"""One compiled function per hospital, as many hospitals at once as there are cores.

A compiled TensorFlow function releases the interpreter lock while it runs, so plain threads keep all cores busy; each
hospital's products then run at one core's full speed, which beats batching products over hospitals.
"""

from __future__ import annotations

import collections
import concurrent.futures
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tff_hospitals.learning_process import Composition, ServerState
from tff_hospitals.runtimes import base, resident

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset


class SideBySideProgram:
    """Compiled pieces for all plans with the composition's signature."""

    def __init__(self, composition: Composition, threads: int | None = None):
        self._parts = composition
        self._threads = threads or max(1, len(os.sched_getaffinity(0)))
        self._hospital = tf.function(self._one_hospital, autograph=False, reduce_retracing=True)
        self._add = tf.function(lambda total, one: tf.nest.map_structure(tf.add, total, one), autograph=False)
        self._finish = tf.function(self._finish_round, autograph=False)
        self._pool = concurrent.futures.ThreadPoolExecutor(self._threads, thread_name_prefix="hospital")
        self._zero: Any = None

    def load(self, dataset: HospitalDataset) -> resident.Data:
        """Makes the hospitals' records resident."""
        return resident.load(dataset)

    def run(
        self, state: ServerState, rounds: Sequence[base.RoundInput], data: resident.Data, frozen: tuple
    ) -> tuple[ServerState, list[base.RoundOutput]]:
        """Runs the rounds one after the other."""
        outputs = []
        state = tf.nest.map_structure(tf.convert_to_tensor, state)
        for one in rounds:
            state, output = self._round(state, one, data, frozen)
            outputs.append(output)
        return state, outputs

    def _round(
        self, state: ServerState, one: base.RoundInput, data: resident.Data, frozen: tuple
    ) -> tuple[ServerState, base.RoundOutput]:
        if self._zero is None:
            self._zero = self._parts.zero_contribution()
        parameters = self._parts.aggregator.parameters(state.aggregator)
        metrics: dict[str, Any] = {}
        total = self._zero

        def work(hospital: base.HospitalRound) -> Any:
            return self._hospital(state, parameters, resident.element(hospital, data, frozen))

        # A few more than the threads are in flight, so that memory is bounded by the chunk and not by the cohort;
        # results are added in the cohort's order, whatever the order in which they arrive.
        waiting: collections.deque = collections.deque()
        queue = iter(one.cohort)
        for hospital in queue:
            waiting.append((hospital, self._pool.submit(work, hospital)))
            if len(waiting) > 2 * self._threads:
                total = self._collect(waiting, total, metrics)
        while waiting:
            total = self._collect(waiting, total, metrics)
        state, measurements = self._finish(state, total)
        server = {name: float(value) for name, value in measurements.items()}
        return state, base.RoundOutput(one.number, metrics, server)

    def _collect(self, waiting: collections.deque, total: Any, metrics: dict) -> Any:
        hospital, future = waiting.popleft()
        contribution, values = future.result()
        metrics[hospital.hospital.hospital_id] = base.metrics_by_name(values.numpy())
        return self._add(total, contribution)

    def _one_hospital(self, state: ServerState, parameters: Any, element: Any) -> tuple[Any, tf.Tensor]:
        return self._parts.hospital_round(state, parameters, element)

    def _finish_round(self, state: ServerState, total: Any) -> tuple[ServerState, Any]:
        noise = self._parts.aggregator.server_noise(state.aggregator)
        return self._parts.finish_round(state, total, noise)
