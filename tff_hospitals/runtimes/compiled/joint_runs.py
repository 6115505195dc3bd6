"""Several runs of one plan that differ in their seeds, in one call of one XLA program.

A round of a small model takes less time than the call that asks for it. So the program scans over runs as well: every
run does what it would do alone, from its own state, batches and noise keys, and all of them share the call. Runs are
scanned and not vectorised, because their arithmetic gains nothing from it: on a CPU XLA's batched products cost as much
as one product after the other.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import tensorflow as tf

from tff_hospitals.processes.aggregators.base import Structure
from tff_hospitals.processes.composition import Composition, ServerState
from tff_hospitals.processes.rounds import METRICS, RoundInput, RoundOutput
from tff_hospitals.runtimes import base
from tff_hospitals.runtimes.compiled import device_data, fused

Nested = TypeVar("Nested")  # tensors or arrays in tuples and dicts; the same structure comes back


class JointProgram(fused.FusedProgram):
    """One compiled function for the rounds of several runs of plans with the composition's signature."""

    def __init__(self, composition: Composition):
        super().__init__(composition)
        self._call = tf.function(self._draw_and_run_all, autograph=False)
        self._runs = tf.function(self._scan_runs, jit_compile=True, autograph=False, reduce_retracing=False)
        self._sizes["runs"] = 1

    def run_all(
        self,
        states: Sequence[ServerState],
        rounds_of_each: Sequence[Sequence[RoundInput]],
        data: device_data.Data,
        frozen_of_each: Sequence[tuple],
    ) -> list[base.Result]:
        """What `run` returns for each run, as many runs and rounds per call as their noise fits in memory.

        Args:
          states: of each run.
          rounds_of_each: the rounds of each run, as many for all of them.
          data: the records, shared by all.
          frozen_of_each: weights of each run that do not travel.
        """
        fitting = [self._rounds_per_call(rounds) for rounds in rounds_of_each]
        at_once = min((count for count in fitting if count is not None), default=len(states) * len(rounds_of_each[0]))
        results: list[base.Result] = []
        resident = device_data.all_resident(data)
        for start in range(0, len(states), at_once):
            some = slice(start, start + at_once)
            results += self._run_some(states[some], rounds_of_each[some], resident, frozen_of_each[some], at_once)
        return results

    def _run_some(
        self,
        states: Sequence[ServerState],
        rounds_of_each: Sequence[Sequence[RoundInput]],
        data: device_data.ResidentData,
        frozen_of_each: Sequence[tuple],
        at_once: int,
    ) -> list[base.Result]:
        """All rounds of runs that fit into one call, at most `at_once` rounds of all of them together at a time."""
        self._sizes["runs"] = max(self._sizes["runs"], len(states))
        per_call = max(1, at_once // self._sizes["runs"])  # empty places take as much memory
        now = list(states)
        outputs: list[list[RoundOutput]] = [[] for _ in states]
        for start in range(0, len(rounds_of_each[0]), per_call):
            chunks = [rounds[start : start + per_call] for rounds in rounds_of_each]
            inputs = self._stack_all(chunks, data)
            own = self._padded([*zip(now, frozen_of_each)])
            results = self._call(own, data.features, data.labels, inputs)
            results = tf.nest.map_structure(np.asarray, results)
            for run, chunk in enumerate(chunks):
                now[run], metrics, server = tf.nest.map_structure(
                    functools.partial(np.take, indices=run, axis=0), results
                )
                outputs[run] += fused.outputs_of(chunk, metrics, server)
        return [*zip(now, outputs)]

    def _stack_all(
        self, rounds_of_each: Sequence[Sequence[RoundInput]], data: device_data.ResidentData
    ) -> collections.OrderedDict:
        """The runs' inputs with an axis of runs in front, and how many of them are not padding."""
        for rounds in rounds_of_each:
            self._make_room(rounds)
        inputs = self._padded([self._stack(rounds, data) for rounds in rounds_of_each])
        inputs["runs"] = np.int32(len(rounds_of_each))
        return inputs

    def _padded(self, of_each: list[Nested]) -> Nested:
        """Stacks what belongs to each run; runs that have ended leave a place, so that nothing is compiled anew."""
        places = of_each + of_each[:1] * (self._sizes["runs"] - len(of_each))
        return tf.nest.map_structure(lambda *values: np.stack([np.asarray(value) for value in values]), *places)

    def _draw_and_run_all(self, own: tuple, features: tf.Tensor, labels: tf.Tensor, inputs: Structure) -> tuple:
        """Draws the noise of one run after the other outside XLA, then runs the compiled rounds of all."""
        return self._runs(own, features, labels, inputs, self._noise_of_all(own, inputs))

    def _noise_of_all(self, own: tuple, inputs: Structure) -> tuple[tf.Tensor, Structure, Structure]:
        """What every run draws for itself, stacked; nothing where nobody adds noise."""
        parts, (states, _) = self._parts, own
        at_hospitals = parts.aggregator.no_hospital_noise()
        at_server = parts.aggregator.server_noise(_of_run(states.aggregator, 0))
        runs, rounds, cohort = inputs["weight"].shape
        if not (parts.client_work.record_level or at_hospitals or at_server):
            return tf.zeros([runs, rounds, cohort, 0, 0, 0]), at_hospitals, at_server
        types = tf.nest.map_structure(lambda draw: draw.dtype, (tf.zeros([]), at_hospitals, at_server))
        arrays = collections.OrderedDict((name, inputs[name]) for name in ("indices", "key"))
        return tf.map_fn(
            lambda run: self._noise(_of_run(states, run), _of_run(arrays, run)),
            tf.range(runs),
            fn_output_signature=types,
        )

    def _scan_runs(self, own: tuple, features: tf.Tensor, labels: tf.Tensor, inputs: Structure, noise: tuple) -> tuple:
        """One run after the other: next states, metrics [runs, rounds, cohort, len(METRICS)], measurements [runs,
        rounds].
        """
        inputs = collections.OrderedDict(inputs)
        real = inputs.pop("runs")
        runs, rounds, cohort = inputs["weight"].shape
        names = self._parts.server_measurements()

        def one_run(run: tf.Tensor, results: tuple) -> tuple:
            state, frozen = _of_run(own, run)
            found = self._run_rounds(state, features, labels, frozen, _of_run(inputs, run), *_of_run(noise, run))
            return run + 1, tf.nest.map_structure(lambda rows, one: rows.write(run, one), results, found)

        results = (
            tf.nest.map_structure(lambda leaf: fused.rows_of(runs, leaf.shape[1:], leaf.dtype), own[0]),
            fused.rows_of(runs, [rounds, cohort, len(METRICS)]),
            collections.OrderedDict((name, fused.rows_of(runs, [rounds])) for name in names),
        )
        _, results = tf.while_loop(lambda run, _: run < real, one_run, (tf.constant(0), results))
        return tf.nest.map_structure(lambda rows: rows.stack(), results)


def _of_run(structure: Nested, run: tf.Tensor | int) -> Nested:
    return tf.nest.map_structure(lambda values: tf.gather(values, run), structure)
