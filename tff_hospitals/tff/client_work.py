"""Client work over ordinary data sets: the same local training as everywhere, fed by TFF.

Without record-level privacy a client takes the batches of its data set as they come, once, as all of TFF does. With it,
a client takes single records and draws its batches itself (`sampling`).
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes.local_training import LocalTraining, Settings
from tff_hospitals.processes.noise import Tensors, all_finite
from tff_hospitals.processes.tff_adapters import empty_value, tff_type
from tff_hospitals.tff import sampling
from tff_hospitals.tff.data_spec import DataSpec, parts_of

if TYPE_CHECKING:
    from tff_hospitals.plan.noise import NoisePlan
    from tff_hospitals.tff.model_kinds import TffModel


@dataclasses.dataclass(frozen=True)
class Multipliers:
    """The noise of a client by its number of records, which is all that tells clients apart in TFF.

    Attributes:
      records: ascending.
      multipliers: of each.
    """

    records: tuple[int, ...]
    multipliers: tuple[float, ...]

    @classmethod
    def of(cls, noise: NoisePlan, sizes: dict[str, int]) -> Multipliers:
        """Of clients of one size, the largest one."""
        largest: dict[int, float] = {}
        for client, records in sizes.items():
            largest[records] = max(largest.get(records, 0.0), noise.multipliers[client])
        ascending = sorted(largest)
        return cls(tuple(ascending), tuple(largest[records] for records in ascending))

    def __call__(self, records: tf.Tensor) -> tf.Tensor:
        """Float32 multiplier; a client of another size has no noise that was accounted for, and fails."""
        known = tf.constant(self.records, tf.int32)
        place = tf.minimum(tf.searchsorted(known, records[tf.newaxis])[0], len(self.records) - 1)
        words = "a client has a number of records that is not among clients=: its noise was not accounted for. It has"
        with tf.control_dependencies([tf.debugging.Assert(tf.equal(known[place], records), [words, records])]):
            return tf.constant(self.multipliers, tf.float32)[place]


def is_private(plan: Plan) -> bool:
    """Whether anything in a plan adds noise that is accounted for."""
    return any(mechanism.private for mechanism, _ in mechanisms.layers(plan.privacy))


def build(
    plan: Plan, work: LocalTraining, weights_type: Any, data: DataSpec, multipliers: Multipliers | None
) -> tff.learning.templates.ClientWorkProcess:
    """Local training as a `ClientWorkProcess`.

    The state holds the round's number and the settings of local training, which are its hyperparameters. Measurements
    are exact sums of what training saw, and empty for a plan with privacy: no noise covers them.

    Args:
      plan: of the process.
      work: its local training.
      weights_type: of the broadcast `ModelWeights`.
      data: what the clients' data sets look like.
      multipliers: of record-level noise; None without record-level privacy.
    """
    data_type = tff.SequenceType(tff.types.tensorflow_to_type(data.element))
    private = is_private(plan)
    initial = collections.OrderedDict(round=np.int32(0), **work.settings())
    state_type = tff_type(initial)
    train_on = _over_batches(work) if multipliers is None else _over_records(plan, work, multipliers)

    @tff.tensorflow.computation
    def initial_state() -> Any:
        return tf.nest.map_structure(tf.constant, initial)

    @tff.tensorflow.computation(weights_type, state_type, data_type)
    def train(weights: Any, state: Any, dataset: Any) -> Any:
        start, frozen = tuple(weights.trainable), tuple(weights.non_trainable)
        settings = settings_in(state)
        rate = work.rate(state["round"], settings)
        final, loss_sum, records, steps = train_on(start, frozen, rate, settings, dataset)
        delta = tuple(before - after for before, after in zip(start, final))
        weight, is_finite = (records if plan.weighting == "records" else tf.ones([])), all_finite(delta)
        seen = collections.OrderedDict(loss_sum=loss_sum, num_examples=records, num_batches=steps)
        metrics = collections.OrderedDict((name, tf.where(is_finite, one, 0.0)) for name, one in seen.items())
        result = tff.learning.templates.ClientResult(update=delta, update_weight=weight)
        return result, (collections.OrderedDict() if private else metrics)

    @tff.tensorflow.computation(state_type)
    def next_state(state: Any) -> Any:
        return collections.OrderedDict(round=state["round"] + 1, **settings_in(state))

    @tff.tensorflow.computation(train.type_signature.result[1])
    def finalised(sums: Any) -> Any:
        if private:
            return collections.OrderedDict(train=collections.OrderedDict())
        examples = sums["num_examples"]
        return collections.OrderedDict(
            train=collections.OrderedDict(
                loss=tf.math.divide_no_nan(sums["loss_sum"], examples),
                num_examples=tf.cast(examples, tf.int64),
                num_batches=tf.cast(sums["num_batches"], tf.int64),
            )
        )

    @tff.tensorflow.computation(state_type)
    def get_hparams(state: Any) -> Any:
        return settings_in(state)

    @tff.tensorflow.computation(state_type, get_hparams.type_signature.result)
    def set_hparams(state: Any, hparams: Any) -> Any:
        return collections.OrderedDict(round=state["round"], **hparams)

    @tff.federated_computation
    def init_fn() -> Any:
        return tff.federated_eval(initial_state, tff.SERVER)

    @tff.federated_computation(
        tff.FederatedType(state_type, tff.SERVER),
        tff.FederatedType(weights_type, tff.CLIENTS),
        tff.FederatedType(data_type, tff.CLIENTS),
    )
    def next_fn(state: Any, weights: Any, dataset: Any) -> Any:
        at_clients = tff.federated_broadcast(state)
        result, sums = tff.federated_map(train, (weights, at_clients, dataset))
        measurements = tff.federated_map(finalised, tff.federated_sum(sums))
        return tff.templates.MeasuredProcessOutput(tff.federated_map(next_state, state), result, measurements)

    return tff.learning.templates.ClientWorkProcess(
        init_fn, next_fn, get_hparams_fn=get_hparams, set_hparams_fn=set_hparams
    )


def settings_in(state: Any) -> Settings:
    """The hyperparameters in a state."""
    return collections.OrderedDict((name, value) for name, value in state.items() if name != "round")


def _over_batches(work: LocalTraining) -> Callable:
    """One optimiser step for each batch of the data set, in its order."""

    def train_on(start: Tensors, frozen: Tensors, rate: tf.Tensor, settings: Settings, dataset: Any) -> tuple:
        key = sampling.system_key() if work.model.draws_random_numbers else tf.zeros([2], tf.int64)

        def step(carry: tuple, batch: Any) -> tuple:
            done, inner = carry
            features, labels = as_records(work, batch)
            size = tf.shape(labels)[0]
            element = collections.OrderedDict(
                features=features,
                labels=labels,
                indices=tf.range(size)[tf.newaxis],
                mask=tf.ones([1, size]),
                expected_batch=tf.cast(size, tf.float32),
                noise_multiplier=tf.zeros([]),
                key=tf.random.experimental.stateless_fold_in(key, tf.cast(done, tf.int64)),
                frozen=frozen,
            )
            return done + 1, work.steps(
                start, rate, element, tf.constant(0), tf.constant(1), tf.zeros([0, 0]), inner, settings
            )

        done, (final, _, loss_sum, records, _) = dataset.reduce((tf.constant(0), work.carry(start, settings)), step)
        return final, loss_sum, records, tf.cast(done, tf.float32)

    return train_on


def _over_records(plan: Plan, work: LocalTraining, multipliers: Multipliers) -> Callable:
    """The plan's steps on batches that the client draws from all of its records."""
    client, mechanism = plan.client, mechanisms.record_level(plan.privacy)
    batches = "" if mechanism is None else mechanism.batches_of(plan.privacy)
    groups = int(work.privacy.noise_bands or 1) if batches == "cyclic_poisson" else 1
    if batches not in ("poisson", "cyclic_poisson", "same_order"):
        bound = "has no batches that a client of TFF can draw"
        raise InvalidInput([Problem("mechanism", plan.privacy.mechanism, bound, "add its batches to tff.sampling")])

    def train_on(start: Tensors, frozen: Tensors, rate: tf.Tensor, settings: Settings, dataset: Any) -> tuple:
        whole = dataset.batch(np.iinfo(np.int32).max)
        batch = whole.reduce(empty_value(whole.element_spec), lambda _, one: one)
        features, labels = as_records(work, batch)
        records = tf.shape(labels)[0]
        per_epoch = sampling.batches_in_an_epoch(records, client.batch_size)
        steps = tf.constant(client.local_steps) if client.local_steps else int(client.local_epochs or 1) * per_epoch
        key = sampling.system_key()
        chance = 1.0 / tf.cast(per_epoch, tf.float64)
        draw_key = tf.random.experimental.stateless_fold_in(key, tf.constant(2**32, tf.int64))
        if batches == "same_order":
            schedule = sampling.same_order(draw_key, records, client.batch_size, steps)
        else:
            schedule = sampling.poisson(draw_key, records, tf.minimum(groups * chance, 1.0), steps, groups)
        element = collections.OrderedDict(
            features=features,
            labels=labels,
            **schedule,
            steps=steps,
            expected_batch=tf.cast(tf.cast(records, tf.float64) * chance, tf.float32),
            noise_multiplier=multipliers(records),
            key=key,
            weight=tf.ones([]),
            frozen=frozen,
        )
        final, loss_sum, _ = work.run(start, rate, element, work.noise_block, settings)
        return final, tf.zeros_like(loss_sum), tf.cast(records, tf.float32), tf.cast(steps, tf.float32)

    return train_on


def as_records(work: LocalTraining, batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Features and labels as local training takes them; labels may have an axis of length one."""
    features, labels = parts_of(batch)
    kind = tf.float32 if work.model.task == "regression" else tf.int64
    return tf.cast(features, tf.float32), tf.cast(tf.reshape(labels, [-1]), kind)


def of_tff(plan: Plan, model: TffModel) -> tff.learning.templates.ClientWorkProcess:
    """TFF's own client work for TFF's own models, with the plan's optimiser."""
    client = plan.client
    optimizer = (
        tff.learning.optimizers.build_adam(client.learning_rate, epsilon=1e-7)
        if client.optimizer == "adam"
        else tff.learning.optimizers.build_sgdm(client.learning_rate, client.momentum or None)
    )
    by_records = plan.weighting == "records"
    weighting = tff.learning.ClientWeighting.NUM_EXAMPLES if by_records else tff.learning.ClientWeighting.UNIFORM
    aggregated = None
    if is_private(plan):  # exact sums of the clients' metrics: no noise covers them

        def aggregated(finalizers: Any) -> Callable[[Any], Any]:
            return lambda local: tff.federated_value(collections.OrderedDict(), tff.SERVER)

    if model.functional:
        return tff.learning.templates.build_functional_model_delta_client_work(
            model=model.source, optimizer=optimizer, client_weighting=weighting, metrics_aggregator=aggregated
        )
    return tff.learning.templates.build_model_delta_client_work(model.source, optimizer, weighting, aggregated)
