"""One compiled function per hospital, as many hospitals at once as there are cores.

A compiled TensorFlow function releases the interpreter lock while it runs, so plain threads keep all cores busy; each
hospital's products then run at one core's full speed, which beats batching products over hospitals.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Callable

import numpy as np
import tensorflow as tf

from tff_hospitals.processes.aggregators.base import Structure
from tff_hospitals.processes.composition import Composition
from tff_hospitals.processes.local_training import Element
from tff_hospitals.processes.rounds import HospitalRound
from tff_hospitals.runtimes.compiled import chunked, device_data
from tff_hospitals.runtimes.compiled.server_half import Broadcast, Report


class SideBySideProgram(chunked.ChunkedProgram):
    """Compiled pieces for all plans with the composition's signature."""

    def __init__(self, composition: Composition, threads: int | None = None):
        super().__init__(composition, threads)
        self._few_sizes = needs_known_sizes(composition)
        self._whole = tf.function(self._one_hospital, autograph=False, reduce_retracing=not self._few_sizes)

    def units(
        self,
        broadcast: Broadcast,
        chunk: chunked.Chunk,
        data: device_data.Data,
        frozen: tuple,
        kept: Mapping[str, np.ndarray],
    ) -> Iterator[Callable[[], chunked.Found]]:
        """One hospital after the other."""
        for one in chunk.cohort:
            yield functools.partial(self.hospital, broadcast, one, data, frozen, kept)

    def hospital(
        self,
        broadcast: Broadcast,
        one: HospitalRound,
        data: device_data.Data,
        frozen: tuple,
        kept: Mapping[str, np.ndarray],
    ) -> chunked.Found:
        """One hospital's contribution and report; runs in any thread."""
        name, element = one.hospital.hospital_id, self._element(one, data, frozen)
        if name in kept:
            element["kept"] = tf.constant(kept[name])
        contribution, metrics, left = self._whole(broadcast, element)
        return contribution, [Report(name, metrics.numpy(), kept=None if left is None else left.numpy())]

    def _element(self, one: HospitalRound, data: device_data.Data, frozen: tuple) -> Element:
        return device_data.element(one, data, frozen, few_sizes=self._few_sizes)

    @property
    def _in_flight(self) -> int:
        return 2 * self._threads

    def _one_hospital(self, broadcast: Broadcast, element: Element) -> tuple[Structure, tf.Tensor, tf.Tensor | None]:
        return self._parts.hospital_round(broadcast.state, broadcast.parameters, element)


def needs_known_sizes(composition: Composition) -> bool:
    """Whether the program without XLA must be traced for every number of steps and of records in a step.

    Traced for any number, which TensorFlow does at a second one, the clipped gradients of attention (kernels of three
    axes) corrupt the memory of the process in TensorFlow 2.14.
    """
    kernels = composition.model.trainable_specs
    return composition.client_work.record_level and any(len(spec.shape) == 3 for spec in kernels)
