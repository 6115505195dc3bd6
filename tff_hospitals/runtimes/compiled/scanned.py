"""Chunks of the cohort, each scanned by one XLA program, several chunks at once.

Within a chunk one hospital follows the other, so that matrix products run at one core's full speed; chunks run on as
many cores as there are. Memory holds the noise and schedules of a few chunks, whatever the cohort's size.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Callable

import numpy as np
import tensorflow as tf

from tff_hospitals.processes.aggregators.base import Structure
from tff_hospitals.processes.composition import Composition
from tff_hospitals.processes.rounds import HospitalRound, RoundInput
from tff_hospitals.runtimes.compiled import chunked, device_data, fused
from tff_hospitals.runtimes.compiled.server_half import Broadcast, Report


class ScannedProgram(chunked.ChunkedProgram, fused.FusedProgram):
    """Compiled pieces for all plans with the composition's signature."""

    def __init__(self, composition: Composition, threads: int | None = None):
        fused.FusedProgram.__init__(self, composition)
        chunked.ChunkedProgram.__init__(self, composition, threads)
        self._scan = tf.function(self._scan_chunk, jit_compile=True, autograph=False)
        self._chunk = tf.function(self._draw_and_scan, autograph=False)
        # Chunks of very different numbers of steps, or of records in a step, are padded to different sizes.
        self._classes: dict[tuple[int, int], dict[str, int]] = collections.defaultdict(
            lambda: dict.fromkeys(self._sizes, 1)
        )

    def units(
        self,
        broadcast: Broadcast,
        chunk: chunked.Chunk,
        data: device_data.Data,
        frozen: tuple,
        kept: Mapping[str, np.ndarray],
    ) -> Iterator[Callable[[], chunked.Found]]:
        """The whole chunk."""
        local = data.of([one.hospital for one in chunk.cohort], padded=True)
        self._sizes = dict(chunk.sizes)
        inputs = self._stack([RoundInput(chunk.number, chunk.cohort)], local)
        for name in self._parts.client_work.kept_names:
            inputs[name] = np.zeros([1, chunk.sizes["cohort"], self._parts.client_work.kept_size], np.float32)
            for place, hospital in enumerate(chunk.ids):
                inputs[name][0, place] = kept[hospital]

        def whole() -> chunked.Found:
            contribution, metrics, left = self._chunk(broadcast, local.features, local.labels, frozen, inputs)
            own = left[0].numpy() if left else [None] * len(chunk.ids)
            found = zip(chunk.ids, metrics.numpy(), own)
            return contribution, [Report(name, row, kept=after) for name, row, after in found]

        yield whole

    def chunks(self, one: RoundInput, record_bytes: int, most: int | None = None) -> list[chunked.Chunk]:
        """With sizes that all chunks of a class fit into, before the first of them is compiled."""
        found = super().chunks(one, record_bytes, most)
        for chunk in found:
            self._grow(chunk.cohort)
        return [
            chunked.Chunk(chunk.number, chunk.cohort, dict(self._classes[device_data.size_class(chunk.cohort)]))
            for chunk in found
        ]

    def _grow(self, cohort: Sequence[HospitalRound]) -> None:
        sizes = self._classes[device_data.size_class(cohort)]
        sizes["cohort"] = max(sizes["cohort"], len(cohort))
        for one in cohort:
            sizes["steps"] = max(sizes["steps"], one.schedule.steps)
            sizes["capacity"] = max(sizes["capacity"], one.schedule.capacity)

    def _largest(self, one: RoundInput) -> int:
        """As many as their noise may be drawn in one call."""
        return min(super()._largest(one), fused.NOISE_SCALARS // max(1, self._noise_scalars([one])))

    def _draw_and_scan(
        self, broadcast: Broadcast, features: tf.Tensor, labels: tf.Tensor, frozen: tuple, inputs: Structure
    ) -> tuple[Structure, tf.Tensor, tuple[tf.Tensor, ...]]:
        """Draws the chunk's noise, then scans its hospitals."""
        shares = tf.nest.map_structure(lambda draws: draws[0], self._noise_shares(broadcast.parameters, inputs))
        noise = self._hospital_noise(inputs)[0]
        return self._scan(broadcast, features, labels, frozen, inputs, noise, shares)

    def _scan_chunk(
        self,
        broadcast: Broadcast,
        features: tf.Tensor,
        labels: tf.Tensor,
        frozen: tuple,
        inputs: Structure,
        hospital_noise: tf.Tensor,
        noise_shares: Structure,
    ) -> tuple[Structure, tf.Tensor, tuple[tf.Tensor, ...]]:
        of_round = collections.OrderedDict(
            (name, inputs[name][0])
            for name in (*self._parts.client_work.drawn, *self._parts.client_work.kept_names, "cohort")
        )
        state, parameters = broadcast.state, broadcast.parameters
        return self.scan_hospitals(state, parameters, features, labels, frozen, of_round, hospital_noise, noise_shares)
