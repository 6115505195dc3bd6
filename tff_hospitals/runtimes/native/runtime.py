"""The native runtime: TFF's own executor, the reference that the others are held to."""

from __future__ import annotations

import collections
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tff_hospitals.processes.aggregators import from_tff as foreign
from tff_hospitals.processes.composition import Composition, ServerState
from tff_hospitals.processes.rounds import RoundInput, RoundOutput, metrics_by_name, own_element
from tff_hospitals.runtimes import base
from tff_hospitals.runtimes.native import encoded_transfer

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.processes.encoded_transfer import EncodedTransfer
    from tff_hospitals.runtimes.native.context import NativeContext


class NativeRuntime(base.Runtime):
    """Runs rounds through `tff.learning.templates.LearningProcess.next` in TFF's native context.

    Args:
      composition: the composed plan.
      dataset: its hospitals.
      frozen: weights that do not travel, held by every hospital.

    The context is shared by the process and ends with it, so that `close` has nothing to free.
    """

    def __init__(self, composition: Composition, dataset: HospitalDataset, frozen: tuple):
        super().__init__(frozen)
        # TFF simulates a secure sum by an ordinary one, and only when asked to.
        aggregator = composition.aggregator
        self._context = shared_context("plain" if aggregator.sums_securely else "refuse")
        self._foreign = aggregator if isinstance(aggregator, foreign.FromTff) else None
        self._composition = composition
        self._hospitals = len(dataset.hospitals)
        self._process = composition.tff_process(self._hospitals)
        self._of_encoders = {} if composition.transfer is None else {composition.transfer.at(0): self._process}

    @property
    def process(self) -> Any:
        """The `tff.learning.templates.LearningProcess` in use; that of the first round where bits change by round."""
        return self._process

    def run_rounds(self, state: ServerState, rounds: Sequence[RoundInput]) -> base.Result:
        """One `next` per round; a round without hospitals is finished at the server alone."""
        return base.one_after_the_other(self._round, state, rounds)

    def _round(self, state: ServerState, one: RoundInput) -> tuple[ServerState, RoundOutput]:
        transfer, data = self._composition.transfer, []
        process = self._process
        if transfer is not None:
            transfer = transfer.at(state.round_number)
            process = self._with_encoders(transfer, int(state.round_number))
        for position, hospital in enumerate(one.cohort):
            element = own_element(hospital, self._composition.model.task, self.frozen)
            element.update(self._composition.remembered(state, hospital.hospital.hospital_id))
            place = np.eye(self._hospitals, dtype=np.float32)[position]
            element["place"] = place
            if transfer is not None and transfer.encodes_upload:
                kept = state.hospitals.get(hospital.hospital.hospital_id)
                element["upload"] = encoded_transfer.given_to_encoder(transfer, hospital, place, kept)
            data.append(tf.data.Dataset.from_tensors(element))
        import tensorflow_federated as tff

        with tff.framework.get_context_stack().install(self._context.context):
            before = to_tff(state, transfer, one, self._aggregator_state(state))
            result = process.next(before, data)
        metrics, left = result.metrics["client_work"], None
        if isinstance(metrics, Mapping):
            metrics, left = metrics["metrics"], np.asarray(metrics["kept"])
        metrics = np.asarray(metrics)
        by_hospital = {
            hospital.hospital.hospital_id: metrics_by_name(metrics[position])
            for position, hospital in enumerate(one.cohort)
        }
        if self._foreign is not None:
            self._foreign.check_event(result.state.aggregator)
            server = foreign.scalars_of(result.metrics["aggregator"])
            clip_norm = self._foreign.clip_norm_of(before.aggregator)
            if clip_norm is not None:
                server["clip_norm"] = clip_norm
            after = from_tff(result.state, state, foreign.packed(result.state.aggregator))
            return after, RoundOutput(one.number, by_hospital, server, None, self.wire_bytes)
        measured, report = collections.OrderedDict(result.metrics["aggregator"]), None
        if transfer is not None and transfer.encodes_upload:
            measured, report = collections.OrderedDict(measured["server"]), measured["report"]
        server = {name: float(value) for name, value in measured.items()}
        after, bytes_sent = from_tff(result.state, state), None
        if left is not None:
            kept = {hospital.hospital.hospital_id: left[at] for at, hospital in enumerate(one.cohort)}
            after = after._replace(hospitals=collections.OrderedDict(state.hospitals, **kept))
        fetched = self._composition.fetched(state.weights, after.weights, one)
        after = after._replace(hospitals=collections.OrderedDict(after.hospitals, **fetched))
        if transfer is not None:
            held = tuple(result.state.distributor["held"]) if transfer.encodes_broadcast else None
            after, bytes_sent = encoded_transfer.settle(transfer, state, after, one, held, report)
        return after, RoundOutput(one.number, by_hospital, server, bytes_sent, self.wire_bytes)

    def _with_encoders(self, transfer: EncodedTransfer, round_number: int) -> Any:
        """The process with a round's encoders: the number of bits is in the graph, so each has a process of its own."""
        if transfer not in self._of_encoders:
            self._of_encoders[transfer] = self._composition.tff_process(self._hospitals, round_number)
        return self._of_encoders[transfer]

    def _aggregator_state(self, state: ServerState) -> Any:
        """The aggregator's state as TFF's process takes it; the first one of a run is made by TFF, from the run's key.

        Called while the context is installed.
        """
        if self._foreign is None:
            return state.aggregator
        if state.aggregator["held"].size == 0:
            return self._foreign.process(state.aggregator["key"]).initialize()
        return foreign.unpacked(state.aggregator["held"], self._blank_state)

    @functools.cached_property
    def _blank_state(self) -> Any:
        return self._process.initialize().aggregator

    @functools.cached_property
    def wire_bytes(self) -> tuple[int, int]:
        """Bytes of what TFF sends to and takes from its worker for one hospital: serialized, never encoded."""
        from tensorflow_federated.python.core.impl.executors import value_serialization

        from tff_hospitals.processes.tff_adapters import tff_type

        def size(structure: Any) -> int:
            values = tf.nest.map_structure(np.asarray, structure)
            message, _ = value_serialization.serialize_value(values, tff_type(values))
            return int(message.ByteSize())

        parts = self._composition
        specs = parts.model.trainable_specs
        weights = tuple(np.zeros(spec.shape.as_list(), np.float32) for spec in specs)
        parameters = parts.blank_parameters()
        return size((weights, parameters, np.int32(0))), size(parts.zero_contribution())


@functools.lru_cache(maxsize=2)
def shared_context(secure_sum: str = "refuse") -> NativeContext:
    """One worker for all native runtimes of this process that treat a secure sum alike; it ends with the process."""
    from tff_hospitals.runtimes.native.context import native_context

    return native_context(secure_sum=secure_sum)


def to_tff(state: ServerState, transfer: EncodedTransfer | None, one: RoundInput, aggregator: Any) -> Any:
    """A `LearningAlgorithmState` with the same values, and what the encoders of this round are given."""
    import tensorflow_federated as tff

    distributor: Any = ()
    if transfer is not None and transfer.encodes_broadcast:
        distributor = encoded_transfer.distributor_state(transfer, state, one)
    return tff.learning.templates.LearningAlgorithmState(
        tff.learning.models.ModelWeights(state.weights, ()),
        distributor,
        state.round_number,
        aggregator,
        state.finalizer,
    )


def from_tff(value: Any, like: ServerState, held: np.ndarray | None = None) -> ServerState:
    """The `ServerState` with TFF's values, in the structure of `like`.

    Args:
      value: TFF's state.
      like: the state before the round.
      held: the aggregator's state as bytes, where it is TFF's own.
    """

    def pack(structure: Any, values: Any) -> Any:
        leaves = [np.asarray(leaf) for leaf in tf.nest.flatten(values)]
        return tf.nest.pack_sequence_as(structure, leaves)

    return ServerState(
        pack(like.weights, list(value.global_model_weights.trainable)),
        np.int32(value.client_work),
        pack(like.aggregator, value.aggregator)
        if held is None
        else collections.OrderedDict(like.aggregator, held=held),
        pack(like.finalizer, value.finalizer),
        like.distributor,
        like.hospitals,
        like.client,
    )
