"""A worker of the cluster: hospitals' halves of a round, in a process of its own with programs of its own.

It composes the learning process from the plan and a description of the data set, and reads the records where it runs.
What reaches it are ids, schedules, keys and the broadcast; what leaves it is the sum of its hospitals' contributions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tff_hospitals.runtimes import base
from tff_hospitals.runtimes.tree_sum import Leaves


class HospitalFailed(RuntimeError):
    """A hospital could not do its part; the message names it and the cause."""


@dataclasses.dataclass(frozen=True)
class Broadcast:
    """What all hospitals receive in a round: weights, number (0-based), the aggregator's parameters, all as numpy."""

    weights: tuple
    round_number: int
    parameters: Any


@dataclasses.dataclass(frozen=True)
class Order:
    """One hospital's part of a round: its id, and a `HospitalRound` without the hospital.

    `residual`: what its last upload left out.
    """

    hospital_id: str
    part: base.HospitalRound
    residual: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """What is known of one hospital's part: its metrics, and of an encoded upload its bytes, norm and residual."""

    hospital_id: str
    metrics: np.ndarray
    encoded: bool = False
    payload_bytes: int | None = None
    norm: float = 0.0
    residual: np.ndarray | None = None


class Worker:
    """The body of an actor.

    Args:
      plan_json: the plan.
      description: see `stand_in.describe`.
      frozen: weights that do not travel from round to round.
      signature: of the driver's composition; another one here means other code or other data.
    """

    def __init__(self, plan_json: Mapping[str, Any], description: Any, frozen: Sequence[np.ndarray], signature: str):
        from tff_hospitals import quiet

        quiet.be_quiet()
        import tensorflow as tf

        from tff_hospitals import learning_process, models
        from tff_hospitals.plan import Plan
        from tff_hospitals.runtimes import resident, stand_in

        _one_core(tf)
        plan = Plan.from_json(plan_json)
        self._dataset = stand_in.rebuild(description, plan.data)
        model = models.build_model(plan.model.name, self._dataset, **dict(plan.model.options))
        self._parts = learning_process.compose(plan, self._dataset, model)
        if self._parts.signature != signature:
            raise RuntimeError(
                f"a worker composed process {self._parts.signature}, the driver {signature}. Remedy: install the same "
                "version of tff_hospitals on every machine of the cluster."
            )
        self._data = resident.StreamedData(self._dataset)
        self._frozen = tuple(tf.constant(weight) for weight in frozen)
        self._whole = tf.function(self._parts.hospital_round, autograph=False, reduce_retracing=True)
        self._prepare = tf.function(self._parts.prepared_upload, autograph=False, reduce_retracing=True)
        self._receive = tf.function(self._parts.aggregator.received, autograph=False, reduce_retracing=True)
        self._add = tf.function(lambda total, one: tf.nest.map_structure(tf.add, total, one), autograph=False)
        self._tf = tf

    def ready(self) -> bool:
        """Answers once the worker is built."""
        return True

    def work(self, broadcast: Broadcast, orders: Sequence[Order]) -> tuple[Leaves, list[Report]]:
        """The sum of the hospitals' contributions, added in order, and a report of each.

        Raises:
          HospitalFailed: names the hospital that could not do its part.
        """
        from tff_hospitals.learning_process import ServerState

        tf = self._tf
        empty: Any = {}
        weights = tuple(tf.constant(weight) for weight in broadcast.weights)
        state = ServerState(weights, tf.constant(broadcast.round_number, tf.int32), empty, empty)
        parameters = tf.nest.map_structure(tf.constant, broadcast.parameters)
        total, reports = None, []
        for order in orders:
            try:
                contribution, report = self._hospital(state, parameters, order)
            except Exception as error:
                raise HospitalFailed(f"{order.hospital_id}: {type(error).__name__}: {error}") from error
            total = contribution if total is None else self._add(total, contribution)
            reports.append(report)
        return [leaf.numpy() for leaf in tf.nest.flatten(total)], reports

    def _hospital(self, state: Any, parameters: Any, order: Order) -> tuple[Any, Report]:
        from tff_hospitals.runtimes import resident

        hospital = self._dataset.hospital(order.hospital_id)
        element = resident.element(dataclasses.replace(order.part, hospital=hospital), self._data, self._frozen)
        exchange = self._parts.exchange
        if exchange is None or not exchange.encodes_upload:
            contribution, metrics = self._whole(state, parameters, element)
            return contribution, Report(order.hospital_id, metrics.numpy())
        from tff_hospitals.processes.exchange import norm_of

        prepared, metrics = self._prepare(state, parameters, element)
        upload = exchange.send_upload(
            [part.numpy() for part in prepared["delta"]], order.part.upload_key, order.residual
        )
        decoded = tuple(self._tf.constant(part) for part in upload.update)
        contribution = self._receive(parameters, prepared, decoded, element["weight"])
        norm = norm_of(upload.update)
        return contribution, Report(
            order.hospital_id, metrics.numpy(), True, upload.payload_bytes, norm, upload.residual
        )


def _one_core(tf: Any) -> None:
    """A worker is counted as one processor; set before TensorFlow's first operation, later it stays as it is."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        return
