"""Chunks of the cohort, each scanned by one XLA program, several chunks at once.

Within a chunk one hospital follows the other, so that matrix products run at one core's full speed; chunks run on as
many cores as there are. Contributions are added within the chunk and then chunk by chunk, in the cohort's order: the
result does not depend on the number of cores. Memory holds the noise and schedules of a few chunks, whatever the
cohort's size.
"""

from __future__ import annotations

import collections
import concurrent.futures
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_hospitals.learning_process import Composition, ServerState
from tff_hospitals.runtimes import base, fused, resident

_FEW = 16  # below this many hospitals a round is cut in two, above it in eight or more
_LARGEST_CHUNK = 64


class ScannedProgram(fused.FusedProgram):
    """Compiled pieces for all plans with the composition's signature."""

    def __init__(self, composition: Composition, threads: int | None = None):
        super().__init__(composition)
        self._threads = threads or max(1, len(os.sched_getaffinity(0)))
        self._scan = tf.function(self._scan_chunk, jit_compile=True, autograph=False)
        self._chunk = tf.function(self._draw_and_scan, autograph=False)
        self._add = tf.function(lambda total, one: tf.nest.map_structure(tf.add, total, one), autograph=False)
        self._finish = tf.function(self._finish_round, autograph=False)
        self._zero = composition.zero_contribution()
        # Chunks of very different numbers of steps are padded to different sizes.
        self._classes: dict[int, dict[str, int]] = collections.defaultdict(lambda: dict.fromkeys(self._sizes, 1))
        self._pool = concurrent.futures.ThreadPoolExecutor(self._threads, thread_name_prefix="chunk")

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
        metrics: dict[str, Any] = {}
        total = self._zero
        waiting: collections.deque = collections.deque()

        def collect() -> Any:
            chunk, future = waiting.popleft()
            contribution, found = future.result()
            for position, row in enumerate(found.numpy()[: len(chunk.cohort)]):
                metrics[chunk.cohort[position].hospital.hospital_id] = base.metrics_by_name(row)
            return self._add(total, contribution)

        chunks = list(self._chunks(one, data.record_bytes))
        self._grow(chunks)
        for chunk in chunks:
            local = data.of([hospital.hospital for hospital in chunk.cohort], padded=True)
            self._sizes = self._classes[resident.size_class(chunk.cohort)]
            inputs = self._stack([chunk], local)
            future = self._pool.submit(self._chunk, state, local.features, local.labels, frozen, inputs)
            waiting.append((chunk, future))
            if len(waiting) > self._threads:
                total = collect()
        while waiting:
            total = collect()
        state, measurements = self._finish(state, total)
        in_order = {hospital.hospital.hospital_id: metrics[hospital.hospital.hospital_id] for hospital in one.cohort}
        return state, base.RoundOutput(one.number, in_order, {name: float(v) for name, v in measurements.items()})

    def _grow(self, chunks: Sequence[base.RoundInput]) -> None:
        """Sizes that all chunks of a class fit into, before the first is compiled."""
        for chunk in chunks:
            sizes = self._classes[resident.size_class(chunk.cohort)]
            sizes["cohort"] = max(sizes["cohort"], len(chunk.cohort))
            for one in chunk.cohort:
                sizes["steps"] = max(sizes["steps"], one.schedule.steps)
                sizes["capacity"] = max(sizes["capacity"], one.schedule.capacity)

    def _chunks(self, one: base.RoundInput, record_bytes: int) -> Iterator[base.RoundInput]:
        """The cohort in pieces of a size that depends on the plan and the data alone, never on the machine."""
        cohort = one.cohort
        size = -(-len(cohort) // (2 if len(cohort) < _FEW else 8))
        scalars = sum(int(np.prod(draw.shape)) for draw in self._parts.aggregator.no_hospital_noise().values())
        if self._parts.client_work.record_level and cohort:
            work = self._parts.client_work
            scalars += self._blocks([one]) * work.block * work.noise_width
        size = max(1, min(size, _LARGEST_CHUNK, fused.NOISE_SCALARS // max(1, scalars)))
        for piece in resident.pieces(cohort, size, record_bytes):
            yield base.RoundInput(one.number, piece)

    def _draw_and_scan(
        self, state: ServerState, features: tf.Tensor, labels: tf.Tensor, frozen: tuple, inputs: Any
    ) -> tuple[Any, tf.Tensor]:
        """Draws the chunk's noise, then scans its hospitals."""
        shares = tf.nest.map_structure(lambda draws: draws[0], self._noise_shares(state, inputs))
        noise = self._hospital_noise(inputs)[0]
        return self._scan(state, features, labels, frozen, inputs, noise, shares)

    def _scan_chunk(
        self,
        state: ServerState,
        features: tf.Tensor,
        labels: tf.Tensor,
        frozen: tuple,
        inputs: Any,
        hospital_noise: tf.Tensor,
        noise_shares: Any,
    ) -> tuple[Any, tf.Tensor]:
        of_round = collections.OrderedDict((name, inputs[name][0]) for name in (*fused.PER_HOSPITAL, "cohort"))
        parameters = self._parts.aggregator.parameters(state.aggregator)
        return self.scan_hospitals(state, parameters, features, labels, frozen, of_round, hospital_noise, noise_shares)

    def _finish_round(self, state: ServerState, total: Any) -> tuple[ServerState, Any]:
        return self._parts.finish_round(state, total, self._parts.aggregator.server_noise(state.aggregator))
