"""Whole rounds as one XLA program: a scan over rounds, hospitals and steps."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from tff_hospitals.processes.aggregators.base import Structure
from tff_hospitals.processes.composition import Composition, ServerState
from tff_hospitals.processes.rounds import METRICS, RoundInput, RoundOutput, drawn_values, metrics_by_name
from tff_hospitals.runtimes import base
from tff_hospitals.runtimes.compiled import device_data

if TYPE_CHECKING:
    pass

NOISE_SCALARS = 2**25  # 128 MiB of noise in one call at most; longer runs of rounds are cut


class FusedProgram:
    """One compiled function for all rounds of plans with the composition's signature."""

    def __init__(self, composition: Composition):
        self._parts = composition
        self._rounds = tf.function(self._run_rounds, jit_compile=True, autograph=False, reduce_retracing=False)
        self._call = tf.function(self._draw_and_run, autograph=False)
        self._sizes = {"rounds": 1, "cohort": 1, "steps": 1, "capacity": 1}

    def run(
        self, state: ServerState, rounds: Sequence[RoundInput], data: device_data.Data, frozen: tuple
    ) -> base.Result:
        """Runs the rounds, as many per call as their noise fits in memory.

        Raises:
          TypeError: streamed data.
        """
        data = device_data.all_resident(data)
        outputs: list[RoundOutput] = []
        per_call = self._rounds_per_call(rounds) or len(rounds)
        for start in range(0, len(rounds), per_call):
            chunk = rounds[start : start + per_call]
            inputs = self._stack(chunk, data)
            state, metrics, server = self._call(
                tf.nest.map_structure(tf.convert_to_tensor, state), data.features, data.labels, frozen, inputs
            )
            outputs.extend(outputs_of(chunk, metrics.numpy(), {name: value.numpy() for name, value in server.items()}))
        return state, outputs

    def _rounds_per_call(self, rounds: Sequence[RoundInput]) -> int | None:
        """Of how many rounds the noise fits in memory; None: there is none."""
        scalars = self._noise_scalars(rounds)
        cohort = max(1, max(len(one.cohort) for one in rounds))
        return max(1, NOISE_SCALARS // (cohort * scalars)) if scalars else None

    def _noise_scalars(self, rounds: Sequence[RoundInput]) -> int:
        """Numbers that one hospital draws in one of these rounds, at most."""
        work = self._parts.client_work
        scalars = sum(int(np.prod(draw.shape)) for draw in self._parts.aggregator.no_hospital_noise().values())
        return scalars + (self._blocks(rounds) * work.block * work.noise_width if work.record_level else 0)

    def _blocks(self, rounds: Sequence[RoundInput]) -> int:
        steps = max((h.schedule.indices.shape[0] for one in rounds for h in one.cohort), default=1)
        return -(-max(1, steps) // self._parts.client_work.block)

    def _make_room(self, rounds: Sequence[RoundInput]) -> dict[str, int]:
        """Sizes of the arrays; they only grow, so that a program is rarely compiled twice."""
        everyone = [hospital for one in rounds for hospital in one.cohort]
        sizes = self._sizes
        sizes["rounds"] = max(sizes["rounds"], len(rounds))
        sizes["cohort"] = max(sizes["cohort"], max(len(one.cohort) for one in rounds))
        sizes["steps"] = max([sizes["steps"], *(h.schedule.indices.shape[0] for h in everyone)])
        sizes["capacity"] = max([sizes["capacity"], *(h.schedule.indices.shape[1] for h in everyone)])
        return sizes

    def _stack(self, rounds: Sequence[RoundInput], data: device_data.ResidentData) -> collections.OrderedDict:
        """Pads the rounds' schedules into arrays."""
        sizes = self._make_room(rounds)
        r, c, s, b = sizes["rounds"], sizes["cohort"], sizes["steps"], sizes["capacity"]
        arrays: collections.OrderedDict[str, np.ndarray] = collections.OrderedDict(
            indices=np.zeros([r, c, s, b], np.int32),
            mask=np.zeros([r, c, s, b], np.float32),
            steps=np.zeros([r, c], np.int32),
            expected_batch=np.ones([r, c], np.float32),
            noise_multiplier=np.zeros([r, c], np.float32),
            key=np.zeros([r, c, 2], np.int64),
            weight=np.zeros([r, c], np.float32),
            cohort=np.zeros([r], np.int32),
            rounds=np.asarray(len(rounds), np.int32),
        )
        if "factor" in self._parts.client_work.drawn:
            arrays["factor"] = np.ones([r, c], np.float32)
        for i, one in enumerate(rounds):
            arrays["cohort"][i] = len(one.cohort)
            for j, hospital in enumerate(one.cohort):
                first = data.first_row[hospital.hospital.hospital_id]
                for name, value in drawn_values(hospital, first).items():
                    arrays[name][(i, j, *map(slice, value.shape))] = value
        return arrays

    def _draw_and_run(
        self, state: ServerState, features: tf.Tensor, labels: tf.Tensor, frozen: tuple, inputs: Structure
    ) -> tuple:
        """Draws all noise at once, with the same bits as any other runtime, then runs the compiled rounds."""
        return self._rounds(state, features, labels, frozen, inputs, *self._noise(state, inputs))

    def _noise(self, state: ServerState, inputs: Structure) -> tuple[tf.Tensor, Structure, Structure]:
        """All noise of the rounds: of DP-SGD, of the hospitals' contributions, of the server."""
        shares = self._noise_shares(self._parts.aggregator.parameters(state.aggregator), inputs)
        return self._hospital_noise(inputs), shares, self._server_noise(state, inputs)

    def _hospital_noise(self, inputs: Structure) -> tf.Tensor:
        """Unit noise [rounds, cohort, blocks, block, parameters] of DP-SGD; empty otherwise."""
        work = self._parts.client_work
        r, c, s, _ = inputs["indices"].shape
        if not work.record_level:
            return tf.zeros([r, c, 0, 0, 0])
        blocks = -(-s // work.block)
        keys = tf.repeat(tf.reshape(inputs["key"], [r * c, 2]), blocks, axis=0)
        numbers = tf.tile(tf.range(blocks), [r * c])
        return tf.reshape(work.noise_block(keys, numbers), [r, c, blocks, work.block, work.noise_width])

    def _noise_shares(self, parameters: Structure, inputs: Structure) -> Structure:
        """What hospitals add to their contributions, stacked [rounds, cohort, ...]; empty where they add nothing."""
        aggregator = self._parts.aggregator
        like = tf.nest.map_structure(lambda draw: draw.dtype, aggregator.no_hospital_noise())
        if not like:
            return collections.OrderedDict()
        r, c, _ = inputs["key"].shape
        keys = tf.reshape(inputs["key"], [r * c, 2])
        if aggregator.draws_together:
            draws = aggregator.hospital_noise(parameters, keys)
        else:
            draws = tf.map_fn(lambda key: aggregator.hospital_noise(parameters, key), keys, fn_output_signature=like)
        return tf.nest.map_structure(lambda draw: tf.reshape(draw, [r, c, *draw.shape[1:]]), draws)

    def _server_noise(self, state: ServerState, inputs: Structure) -> Structure:
        """Unit noise of the aggregator, stacked over rounds."""
        aggregator = self._parts.aggregator
        if "round" not in state.aggregator:
            return collections.OrderedDict()
        first = state.aggregator["round"]
        rounds = tf.range(inputs["indices"].shape[0])
        if aggregator.draws_together:
            return aggregator.server_noise(collections.OrderedDict(state.aggregator, round=first + rounds))
        like = tf.nest.map_structure(lambda draw: tf.float32, aggregator.server_noise(state.aggregator))

        def draw(offset: tf.Tensor) -> Structure:
            at = collections.OrderedDict(state.aggregator, round=first + offset)
            return aggregator.server_noise(at)

        return tf.map_fn(draw, rounds, fn_output_signature=like)

    def scan_hospitals(
        self,
        state: ServerState,
        parameters: Structure,
        features: tf.Tensor,
        labels: tf.Tensor,
        frozen: tuple,
        inputs: Structure,
        hospital_noise: tf.Tensor,
        noise_shares: Structure,
    ) -> tuple[Structure, tf.Tensor, tuple[tf.Tensor, ...]]:
        """One hospital after the other: the sum of their contributions, their metrics [cohort, len(METRICS)], and what
        they keep ([cohort, numbers], or no tensor).
        """
        parts, work = self._parts, self._parts.client_work
        settings = work.settings_at(state.round_number, state.client)
        rate = work.rate(state.round_number, settings)

        def one_hospital(c: tf.Tensor, total: Structure, metrics: tf.Tensor, kept: tuple) -> tuple:
            element = collections.OrderedDict(features=features, labels=labels, frozen=frozen, **parts.told(parameters))
            for name in (*work.drawn, *work.kept_names):
                element[name] = inputs[name][c]
            noise_for = (lambda _, block: hospital_noise[c, block]) if work.record_level else None
            weights = work.start(state.weights, element)
            final, loss_sum, records = work.run(weights, rate, element, noise_for, settings)
            output = work.output(weights, final, loss_sum, records, element, rate)
            share = tf.nest.map_structure(lambda draws: draws[c], noise_shares)
            contribution = parts.aggregator.prepare(parameters, output.delta, output.weight, share)
            total = tf.nest.map_structure(tf.add, total, contribution)
            kept = tuple(rows.write(c, output.kept) for rows in kept)
            return c + 1, total, metrics.write(c, output.metrics), kept

        cohort = inputs["indices"].shape[0]
        kept = tuple(rows_of(cohort, [work.kept_size]) for _ in work.left_names)
        start = (tf.constant(0), parts.zero_contribution(), rows_of(cohort, [len(METRICS)]), kept)
        _, total, metrics, kept = tf.while_loop(lambda c, *_: c < inputs["cohort"], one_hospital, start)
        return total, metrics.stack(), tuple(rows.stack() for rows in kept)

    def _run_rounds(
        self,
        state: ServerState,
        features: tf.Tensor,
        labels: tf.Tensor,
        frozen: tuple,
        inputs: Structure,
        hospital_noise: tf.Tensor,
        noise_shares: Structure,
        server_noise: Structure,
    ) -> tuple:
        parts = self._parts
        rounds, cohort = inputs["indices"].shape[:2]

        def one_round(r: tf.Tensor, state: ServerState, metrics: tf.Tensor, server: Structure) -> tuple:
            parameters = parts.aggregator.parameters(state.aggregator)

            of_round = collections.OrderedDict(
                (name, inputs[name][r]) for name in (*self._parts.client_work.drawn, "cohort")
            )
            shares = tf.nest.map_structure(lambda draws: draws[r], noise_shares)
            total, found, _ = self.scan_hospitals(
                state, parameters, features, labels, frozen, of_round, hospital_noise[r], shares
            )
            metrics = metrics.write(r, found)
            noise = tf.nest.map_structure(lambda draws: draws[r], server_noise)
            state, measurements = parts.finish_round(state, total, noise)
            server = collections.OrderedDict(
                (name, server[name].write(r, value)) for name, value in measurements.items()
            )
            return r + 1, state, metrics, server

        names = parts.server_measurements()
        start = (
            tf.constant(0),
            state,
            rows_of(rounds, [cohort, len(METRICS)]),
            collections.OrderedDict((name, rows_of(rounds, [])) for name in names),
        )
        _, state, metrics, server = tf.while_loop(lambda r, *_: r < inputs["rounds"], one_round, start)
        return state, metrics.stack(), collections.OrderedDict((name, row.stack()) for name, row in server.items())


def rows_of(rows: int, shape: Sequence[int], dtype: tf.DType = tf.float32) -> tf.TensorArray:
    """Rows that a compiled loop writes one after the other; zero where it does not come to. Quicker to compile than a
    scatter, which XLA turns into a loop of its own.
    """
    return tf.TensorArray(dtype, rows, element_shape=shape)


def outputs_of(rounds: Sequence[RoundInput], metrics: np.ndarray, server: dict) -> list[RoundOutput]:
    """A run's rounds by name, from metrics [rounds, cohort, len(METRICS)] and measurements [rounds]."""
    return [
        RoundOutput(
            one.number,
            {h.hospital.hospital_id: metrics_by_name(metrics[i, j]) for j, h in enumerate(one.cohort)},
            {name: float(values[i]) for name, values in server.items()},
        )
        for i, one in enumerate(rounds)
    ]
