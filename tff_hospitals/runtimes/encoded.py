"""Rounds whose payloads are really encoded: the codec stands between a hospital's half and the server's.

The halves are compiled as everywhere. Between them, each hospital's update becomes bytes and the bytes become the
update that the server adds up, so that what is counted is what was sent. Hospitals run in threads, as many at once as
there are cores; contributions are added in the cohort's order.
"""

from __future__ import annotations

import collections
import concurrent.futures
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tff_hospitals.learning_process import Composition, ServerState
from tff_hospitals.processes.exchange import Exchange, Traffic, Upload, norm_of
from tff_hospitals.runtimes import base, resident

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset


class EncodedProgram:
    """Compiled pieces for all plans with the composition's signature, with its exchange between them.

    Args:
      composition: a composed plan that has an exchange.
      threads: hospitals at once; as many as there are cores by default.
    """

    def __init__(self, composition: Composition, threads: int | None = None):
        if composition.exchange is None:
            raise ValueError("this plan encodes nothing: run it with one of the dense programs")
        self._parts, self._exchange = composition, composition.exchange
        self._threads = threads or max(1, len(os.sched_getaffinity(0)))
        self._dense = tf.function(composition.hospital_round, autograph=False, reduce_retracing=True)
        self._prepare = tf.function(composition.prepared_upload, autograph=False, reduce_retracing=True)
        self._receive = tf.function(composition.aggregator.received, autograph=False, reduce_retracing=True)
        self._add = tf.function(lambda total, one: tf.nest.map_structure(tf.add, total, one), autograph=False)
        self._finish = tf.function(self._finish_round, autograph=False)
        self._pool = concurrent.futures.ThreadPoolExecutor(self._threads, thread_name_prefix="hospital")
        self._zero: Any = None

    @property
    def exchange(self) -> Exchange:
        """The encoders in use."""
        return self._exchange

    def load(self, dataset: HospitalDataset) -> resident.Data:
        """Makes the hospitals' records resident."""
        return resident.load(dataset)

    def run(
        self, state: ServerState, rounds: Sequence[base.RoundInput], data: resident.Data, frozen: tuple
    ) -> tuple[ServerState, list[base.RoundOutput]]:
        """Runs the rounds one after the other."""
        outputs = []
        for one in rounds:
            state, output = self._round(state, one, data, frozen)
            outputs.append(output)
        return state, outputs

    def _round(
        self, state: ServerState, one: base.RoundInput, data: resident.Data, frozen: tuple
    ) -> tuple[ServerState, base.RoundOutput]:
        if self._zero is None:
            self._zero = self._parts.zero_contribution()
        held = state.distributor.get("held", ())
        sent = self._exchange.send_broadcast(state.weights, held, int(state.round_number) == 0, one.broadcast_key)
        # What hospitals keep stays out of the graph: only this hospital's part is looked at, and on the host.
        residuals, kept = state.hospitals, dict(state.hospitals)
        at_server = tf.nest.map_structure(tf.convert_to_tensor, _without_memory(state))
        at_hospital = at_server._replace(weights=tuple(tf.constant(weight) for weight in sent.weights))
        parameters = self._parts.aggregator.parameters(at_server.aggregator)

        def work(hospital: base.HospitalRound) -> tuple[Any, tf.Tensor, Upload | None]:
            element = resident.element(hospital, data, frozen)
            if not self._exchange.encodes_upload:
                return (*self._dense(at_hospital, parameters, element), None)
            prepared, metrics = self._prepare(at_hospital, parameters, element)
            name = hospital.hospital.hospital_id
            update = [part.numpy() for part in prepared["delta"]]
            upload = self._exchange.send_upload(update, hospital.upload_key, residuals.get(name))
            decoded = tuple(tf.constant(part) for part in upload.update)
            return self._receive(parameters, prepared, decoded, element["weight"]), metrics, upload

        total, metrics, payloads, norms = self._zero, {}, {}, {}
        for hospital, (contribution, values, upload) in self._in_order(work, one.cohort):
            name = hospital.hospital.hospital_id
            total = self._add(total, contribution)
            metrics[name] = base.metrics_by_name(values.numpy())
            if upload is not None:
                payloads[name], norms[name] = upload.payload_bytes, norm_of(upload.update)
                if upload.residual is not None:
                    kept[name] = upload.residual
        after, measurements = self._finish(at_server, total)
        distributor = collections.OrderedDict(held=sent.held) if held else state.distributor
        hospitals = collections.OrderedDict((name, kept[name]) for name in residuals)
        after = after._replace(distributor=distributor, hospitals=hospitals)
        server = {name: float(value) for name, value in measurements.items()}
        traffic = Traffic(sent.payload_bytes, payloads, norms)
        return tf.nest.map_structure(np.asarray, after), base.RoundOutput(one.number, metrics, server, traffic)

    def _in_order(self, work: Any, cohort: Sequence[base.HospitalRound]) -> Any:
        """Results in the cohort's order; a few more than the threads are in flight, which bounds the memory."""
        waiting: collections.deque = collections.deque()
        for hospital in cohort:
            waiting.append((hospital, self._pool.submit(work, hospital)))
            if len(waiting) > 2 * self._threads:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()

    def _finish_round(self, state: ServerState, total: Any) -> tuple[ServerState, Any]:
        noise = self._parts.aggregator.server_noise(state.aggregator)
        return self._parts.finish_round(state, total, noise)


def _without_memory(state: ServerState) -> ServerState:
    return state._replace(distributor=collections.OrderedDict(), hospitals=collections.OrderedDict())
