"""The pure parts as TFF processes: the only file that knows how TFF wants to be spoken to.

A hospital's data set in TFF is a sequence with one element, which holds its records and the round's batch schedule;
so one while loop runs the whole local training and TFF's per-batch data pipeline, most of its round time, is not used.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_hospitals.processes import tff_encoded_transfer
from tff_hospitals.processes.aggregators.base import Aggregator
from tff_hospitals.processes.aggregators.from_tff import FromTff
from tff_hospitals.processes.encoded_transfer import EncodedTransfer
from tff_hospitals.processes.finalizers import Finalizer
from tff_hospitals.processes.local_training import LocalTraining

if TYPE_CHECKING:
    from tff_hospitals.models import FunctionalModel


def tff_type(structure: Any) -> Any:
    """The TFF type of a structure of numpy values or tensor specs."""
    return tff.types.tensorflow_to_type(
        tf.nest.map_structure(
            lambda leaf: leaf if isinstance(leaf, tf.TensorSpec) else tf.TensorSpec(np.shape(leaf), leaf.dtype),
            structure,
        )
    )


def element_type(client_work: LocalTraining, hospitals_per_round: int, upload: Any = None) -> Any:
    """The TFF sequence type of what one hospital brings to a round, with its place in the round's metrics."""
    spec = client_work.element_spec()
    spec["place"] = tf.TensorSpec([hospitals_per_round], tf.float32)
    if upload is not None:
        spec["upload"] = upload
    return tff.SequenceType(tff_type(spec))


def build_distributor(weights_type: Any) -> tff.learning.templates.DistributionProcess:
    """A dense broadcast of the trainable weights."""
    return tff.learning.templates.build_broadcast_process(weights_type)


def build_client_work(
    client_work: LocalTraining,
    weights_type: Any,
    hospitals_per_round: int,
    *,
    with_key: bool = False,
    upload: Any = None,
) -> tff.learning.templates.ClientWorkProcess:
    """Local training as a `ClientWorkProcess`; the state is the round number.

    With `with_key` the update carries the hospital's own noise key to the aggregator's half at the same hospital, which
    adds the noise before anything leaves it; with `upload` (specs) also what the hospital's encoder needs.

    Measurements are float32 [hospitals_per_round, len(METRICS)]: each hospital adds its metrics in its own row. Where
    hospitals keep something from round to round, that is reported beside them in the same way, since TFF's clients have
    no memory: a simulation's instrument.
    """
    data_type = element_type(client_work, hospitals_per_round, upload)

    @tff.tensorflow.computation
    def initial_round() -> Any:
        return tf.constant(0, tf.int32)

    @tff.tensorflow.computation(weights_type, np.int32, data_type)
    def train(weights: Any, round_number: Any, data: Any) -> Any:
        element = data.reduce(empty_value(data.element_spec), lambda _, one: one)
        place = element.pop("place")
        element["frozen"] = tuple(element["frozen"])
        output = client_work(tuple(weights.trainable), round_number, element)
        update: Any = tuple(output.delta)
        if with_key or upload is not None:
            update = collections.OrderedDict(delta=update, key=element["key"])
        if upload is not None:
            update["upload"] = element["upload"]
        result = tff.learning.templates.ClientResult(update=update, update_weight=output.weight)
        own = place[:, tf.newaxis] > 0  # chosen, not multiplied: a product would write NaN into everybody's row
        metrics = tf.where(own, output.metrics[tf.newaxis, :], 0.0)
        if output.kept is None:
            return result, metrics
        kept = tf.where(own, output.kept[tf.newaxis, :], 0.0)
        return result, collections.OrderedDict(metrics=metrics, kept=kept)

    @tff.tensorflow.computation(np.int32)
    def next_round(round_number: Any) -> Any:
        return round_number + 1

    @tff.federated_computation
    def init_fn() -> Any:
        return tff.federated_eval(initial_round, tff.SERVER)

    @tff.federated_computation(
        tff.FederatedType(np.int32, tff.SERVER),
        tff.FederatedType(weights_type, tff.CLIENTS),
        tff.FederatedType(data_type, tff.CLIENTS),
    )
    def next_fn(state: Any, weights: Any, data: Any) -> Any:
        round_at_hospitals = tff.federated_broadcast(state)
        result, metrics = tff.federated_map(train, (weights, round_at_hospitals, data))
        return tff.templates.MeasuredProcessOutput(
            tff.federated_map(next_round, state), result, tff.federated_sum(metrics)
        )

    return tff.learning.templates.ClientWorkProcess(init_fn, next_fn)


def empty_value(spec: Any) -> Any:
    """A value that a reduction over a one-element sequence starts from."""
    return tf.nest.map_structure(
        lambda leaf: tf.zeros([0 if size is None else size for size in leaf.shape], leaf.dtype), spec
    )


class LinearAggregationFactory(tff.aggregators.WeightedAggregationFactory):
    """Any `aggregators.Aggregator` as a TFF aggregation factory: map, sum (securely, if it asks for that), map.

    With a transfer whose uploads are encoded, the first map encodes and decodes; measurements then are the server's
    and the reports of `tff_encoded_transfer.transcode_upload`.
    """

    def __init__(self, aggregator: Aggregator, transfer: EncodedTransfer | None = None):
        self._aggregator = aggregator
        self._transfer = transfer if transfer is not None and transfer.encodes_upload else None

    def create(self, value_type: Any, weight_type: Any) -> tff.templates.AggregationProcess:
        """The aggregation process for updates of `value_type`."""
        aggregator, transfer = self._aggregator, self._transfer
        initial = aggregator.initial_state(np.zeros([2], np.int64), 0.0)
        state_type = tff_type(initial)

        @tff.tensorflow.computation
        def initial_state() -> Any:
            return tf.nest.map_structure(tf.constant, initial)

        @tff.tensorflow.computation(state_type)
        def parameters(state: Any) -> Any:
            return aggregator.parameters(state)

        @tff.tensorflow.computation(parameters.type_signature.result, value_type, weight_type)
        def prepare(at_hospital: Any, delta: Any, weight: Any) -> Any:
            at_hospital, noise, given = collections.OrderedDict(at_hospital), aggregator.no_hospital_noise(), delta
            if aggregator.draws_at_hospital:
                noise = aggregator.hospital_noise(at_hospital, given["key"])
            if aggregator.draws_at_hospital or transfer is not None:
                delta = given["delta"]
            if transfer is None:
                return aggregator.prepare(at_hospital, tuple(delta), weight, noise)
            prepared = aggregator.prepare(at_hospital, tuple(delta), tf.constant(1.0), noise)
            decoded, report = tff_encoded_transfer.transcode_upload(transfer, prepared["delta"], given["upload"])
            contribution = aggregator.received(at_hospital, prepared, decoded, weight)
            return collections.OrderedDict(contribution=contribution, report=report)

        @tff.tensorflow.computation(state_type, prepare.type_signature.result)
        def finish(state: Any, total: Any) -> Any:
            report = None
            if transfer is not None:
                total, report = total["contribution"], total["report"]
            total = collections.OrderedDict(total)
            if "delta" in total:
                total["delta"] = tuple(total["delta"])
            update, state, measurements = aggregator.finish(state, total, aggregator.server_noise(state))
            if report is not None:
                measurements = collections.OrderedDict(server=measurements, report=report)
            return update, state, measurements

        @tff.federated_computation
        def init_fn() -> Any:
            return tff.federated_eval(initial_state, tff.SERVER)

        @tff.federated_computation(
            tff.FederatedType(state_type, tff.SERVER),
            tff.FederatedType(value_type, tff.CLIENTS),
            tff.FederatedType(weight_type, tff.CLIENTS),
        )
        def next_fn(state: Any, value: Any, weight: Any) -> Any:
            at_hospitals = tff.federated_broadcast(tff.federated_map(parameters, state))
            prepared = tff.federated_map(prepare, (at_hospitals, value, weight))
            if aggregator.modulus_bits is None:
                total = tff.federated_sum(prepared)
            else:
                modulus = 2**aggregator.modulus_bits
                total = tff.backends.mapreduce.federated_secure_modular_sum(prepared, modulus)
            update, new_state, measurements = tff.federated_map(finish, (state, total))
            return tff.templates.MeasuredProcessOutput(new_state, update, measurements)

        return tff.templates.AggregationProcess(init_fn, next_fn)


def build_finalizer(
    finalizer: Finalizer, specs: Sequence[tf.TensorSpec], weights_type: Any
) -> tff.learning.templates.FinalizerProcess:
    """A `finalizers.Finalizer` as TFF's."""
    initial = finalizer.initial_state(specs)
    state_type = tff_type(initial)

    @tff.tensorflow.computation
    def initial_state() -> Any:
        return tf.nest.map_structure(tf.constant, initial)

    @tff.tensorflow.computation(state_type, weights_type, weights_type.trainable)
    def apply(state: Any, weights: Any, update: Any) -> Any:
        state = collections.OrderedDict(
            (name, tuple(value) if isinstance(value, (list, tuple)) else value) for name, value in state.items()
        )
        new_weights, new_state = finalizer.apply(state, tuple(weights.trainable), tuple(update))
        return new_state, tff.learning.models.ModelWeights(new_weights, weights.non_trainable)

    @tff.federated_computation
    def init_fn() -> Any:
        return tff.federated_eval(initial_state, tff.SERVER)

    @tff.federated_computation(
        tff.FederatedType(state_type, tff.SERVER),
        tff.FederatedType(weights_type, tff.SERVER),
        tff.FederatedType(weights_type.trainable, tff.SERVER),
    )
    def next_fn(state: Any, weights: Any, update: Any) -> Any:
        new_state, new_weights = tff.federated_map(apply, (state, weights, update))
        return tff.templates.MeasuredProcessOutput(new_state, new_weights, tff.federated_value((), tff.SERVER))

    @tff.tensorflow.computation(state_type)
    def get_hparams(state: Any) -> Any:
        return collections.OrderedDict((name, state[name]) for name in finalizer.settings)

    @tff.tensorflow.computation(state_type, get_hparams.type_signature.result)
    def set_hparams(state: Any, hparams: Any) -> Any:
        return collections.OrderedDict((name, hparams.get(name, value)) for name, value in state.items())

    return tff.learning.templates.FinalizerProcess(
        init_fn, next_fn, get_hparams_fn=get_hparams, set_hparams_fn=set_hparams
    )


def build_learning_process(
    model: FunctionalModel,
    client_work: LocalTraining,
    aggregator: Aggregator,
    finalizer: Finalizer,
    hospitals_per_round: int,
    transfer: EncodedTransfer | None = None,
) -> tff.learning.templates.LearningProcess:
    """The learning process of four parts; `hospitals_per_round` sizes the metrics, `transfer` encodes what is sent."""
    zeros = tuple(np.zeros(spec.shape.as_list(), np.float32) for spec in model.trainable_specs)

    @tff.tensorflow.computation
    def initial_weights() -> Any:
        return tff.learning.models.ModelWeights(tuple(tf.constant(zero) for zero in zeros), ())

    weights_type = initial_weights.type_signature.result
    with_key = aggregator.draws_at_hospital
    upload = None
    if transfer is not None and transfer.encodes_upload:
        upload = tff_encoded_transfer.upload_spec(transfer, hospitals_per_round)
    work = build_client_work(client_work, weights_type, hospitals_per_round, with_key=with_key, upload=upload)
    if isinstance(aggregator, FromTff):
        process = aggregator.blank_process
    else:
        update_type = work.next.type_signature.result.result.member.update
        process = LinearAggregationFactory(aggregator, transfer).create(update_type, tff.TensorType(np.float32))
    distributor = build_distributor(weights_type)
    if transfer is not None and transfer.encodes_broadcast:
        distributor = tff_encoded_transfer.build_distributor(transfer, weights_type)
    return tff.learning.templates.compose_learning_process(
        initial_weights,
        distributor,
        work,
        process,
        build_finalizer(finalizer, model.trainable_specs, weights_type),
    )
