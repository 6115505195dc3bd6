"""Client work: local training of one hospital in one round, a model delta out.

Batches arrive as a schedule of record positions that the hospital drew from its own random stream
(`hospitals.batches`), so the same function serves shuffled epochs and truly Poisson batches, and the number of steps
in the ledger is the number of rows that the loop really ran.

How a batch becomes gradients is the business of the plan's step rule (`record_level`): plain, DP-SGD, DP-FTRL. Noise is
drawn in blocks of steps before the compiled loop.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tff_hospitals.models import FunctionalModel
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.parts import ClientPlan, PrivacyPlan
from tff_hospitals.processes import client_optimizers
from tff_hospitals.processes.corrections import LocalRound, build_correction
from tff_hospitals.processes.local_layers import LocalLayers
from tff_hospitals.processes.noise import Tensors, fold, global_norm, parameter_count, unflatten
from tff_hospitals.processes.record_level.base import Batch
from tff_hospitals.processes.record_level.building import build_step_rule
from tff_hospitals.processes.rounds import DRAWN
from tff_hospitals.processes.settings_by_round import Factors, at_round

Settings = collections.OrderedDict  # numbers by name, see `LocalTraining.settings`
Element = collections.OrderedDict  # what one hospital brings to one round; see `LocalTraining.element_spec`


@dataclasses.dataclass(frozen=True)
class ClientOutput:
    """What a round leaves.

    Attributes:
      delta: initial - final weights, and behind them what a correction sends beside them, in one vector.
      weight: in the mean.
      metrics: float32 [len(rounds.METRICS)].
      kept: float32 [numbers], what the hospital keeps for its next round; None without a correction that keeps, or
        layers that it keeps.
    """

    delta: Tensors
    weight: tf.Tensor
    metrics: tf.Tensor
    kept: tf.Tensor | None = None


class LocalTraining:
    """The local update of a plan as a pure function.

    Args:
      model: the functional Keras model.
      client: optimiser, learning rate, proximal term.
      privacy: settings of a record-level mechanism; hospital-level ones leave the client work alone.
      max_local_steps: the most optimiser steps that any hospital takes in a round (sizes the blocks of noise).
      compile_steps: compile the loop over steps with XLA; the result is the same to float32 rounding.
      with_factor: whether elements say what their update is multiplied by.
      starts_apart: whether every hospital trains on a model of its own, which its element holds as `kept`.
      by_round: factors of its settings in every round, by their names in `settings`, where they change.
    """

    def __init__(
        self,
        model: FunctionalModel,
        client: ClientPlan,
        privacy: PrivacyPlan,
        *,
        max_local_steps: int,
        compile_steps: bool = False,
        with_factor: bool = False,
        starts_apart: bool = False,
        by_round: Factors | None = None,
    ):
        self.model = model
        self.client = client
        self.privacy = privacy
        self.by_round = dict(by_round or {})
        self.drawn = (*DRAWN, "factor") if with_factor else DRAWN
        self.starts_apart = starts_apart
        self.local = LocalLayers.of(model)
        trained = model if self.local is None else model.whole
        self.penalties = getattr(trained, "penalties", None)  # TFF's models keep theirs to themselves
        self.rule = build_step_rule(trained, privacy, max_local_steps)
        self.record_level, self.block, self.noise_width = self.rule.protects, self.rule.block, self.rule.noise_width
        self.noise_block = self.rule.noise_block
        self._protects = any(mechanism.private for mechanism, _ in mechanisms.layers(privacy))
        self._tells_loss = mechanisms.hospital_level(privacy).tells == "loss"
        self._hides_update = mechanisms.hospital_level(privacy).noise_by in ("hospital", "shares")
        self.scalars = parameter_count(model.trainable_specs)
        self.correction = build_correction(model.trainable_specs, privacy)
        self._owned = () if self.correction is None else self.correction.owns
        self._run_steps: Callable = self.steps
        if compile_steps:
            self._run_steps = tf.function(self.steps, jit_compile=True, autograph=False)

    @property
    def sent_specs(self) -> tuple[tf.TensorSpec, ...]:
        """Specs of a `ClientOutput.delta`."""
        more = 0 if self.correction is None else self.correction.sent
        return (*self.model.trainable_specs, *([tf.TensorSpec([more], tf.float32)] if more else []))

    @property
    def kept_size(self) -> int:
        """Numbers that a hospital keeps from round to round: the model that it trains on, where that is its own."""
        if self.starts_apart:
            return self.scalars
        of_correction = 0 if self.correction is None else self.correction.kept
        return of_correction if self.local is None else self.local.size

    @property
    def kept_names(self) -> tuple[str, ...]:
        """What of an element a hospital has from an earlier round: `kept`, or nothing."""
        return ("kept",) if self.kept_size else ()

    @property
    def left_names(self) -> tuple[str, ...]:
        """What of an element a hospital makes anew for its next round: `kept`, or nothing."""
        return () if self.starts_apart else self.kept_names

    def element_spec(self) -> Element:
        """The structure of one hospital's input to a round; leading sizes differ per hospital."""
        model = self.model
        label_dtype = tf.float32 if model.task == "regression" else tf.int64
        factor = {"factor": tf.TensorSpec([], tf.float32)} if "factor" in self.drawn else {}
        return collections.OrderedDict(
            features=tf.TensorSpec([None, *model.feature_shape], tf.float32),
            labels=tf.TensorSpec([None], label_dtype),
            indices=tf.TensorSpec([None, None], tf.int32),
            mask=tf.TensorSpec([None, None], tf.float32),
            steps=tf.TensorSpec([], tf.int32),
            expected_batch=tf.TensorSpec([], tf.float32),
            noise_multiplier=tf.TensorSpec([], tf.float32),
            key=tf.TensorSpec([2], tf.int64),
            weight=tf.TensorSpec([], tf.float32),
            **factor,
            frozen=tuple(model.frozen_specs),
            **({} if self.correction is None else self.correction.element_spec()),
            **({} if self.local is None else {"kept": tf.TensorSpec([self.local.size], tf.float32)}),
            **({"kept": tf.TensorSpec([self.scalars], tf.float32)} if self.starts_apart else {}),
        )

    def settings(self) -> Settings:
        """The plan's numbers that a program takes as inputs, so that one program serves them all: numpy float64."""
        found = client_optimizers.settings_of(self.client)
        if self.record_level:
            found["clip_norm"] = self.privacy.clip_norm
        return collections.OrderedDict((name, np.float64(value)) for name, value in found.items())

    def __call__(
        self, weights: Tensors, round_number: tf.Tensor, element: Element, settings: Settings | None = None
    ) -> ClientOutput:
        """Trains from `weights` on the hospital's own records, or from the model that the hospital fetched earlier.

        Args:
          weights: the broadcast trainable weights.
          round_number: int32 scalar, 0-based.
          element: see `element_spec`.
          settings: as `settings()`; default the plan's.
        """
        weights = self.start(weights, element)
        settings = self.settings_at(round_number, settings or self.settings())
        noise_for = self.noise_block if self.record_level else None
        rate = self.rate(round_number, settings)
        final, loss_sum, records = self.run(weights, rate, element, noise_for, settings)
        return self.output(weights, final, loss_sum, records, element, rate)

    def start(self, weights: Tensors, element: Element) -> Tensors:
        """The weights that a hospital's round starts from: the broadcast ones, or those that it has of its own."""
        return unflatten(element["kept"], self.model.trainable_specs) if self.starts_apart else weights

    def output(
        self,
        weights: Tensors,
        final: Tensors,
        loss_sum: tf.Tensor,
        records: tf.Tensor,
        element: Element,
        rate: tf.Tensor,
    ) -> ClientOutput:
        """The upload that belongs to a finished local training, and what stays."""
        beside: Tensors = ()
        kept = None
        if self.local is not None:
            kept = self.local.kept(final, element["frozen"], element["kept"])
            final = self.local.travelling(final)
        delta = tuple(start - end for start, end in zip(weights, final))
        if self.correction is not None:
            ended = LocalRound(
                delta,
                element,
                rate,
                lambda: self.start_loss(weights, element),
                lambda: self.start_gradient(weights, element),
            )
            sent, kept = self.correction.beside(ended), self.correction.kept_after(ended)
            beside = () if sent is None else (sent,)
        if "factor" in self.drawn:
            delta, beside = (tuple(element["factor"] * one for one in part) for part in (delta, beside))
        norm = global_norm(delta)
        if self._protects:  # no guarantee covers exact sums over training records
            loss_sum, records = tf.zeros_like(loss_sum), tf.zeros_like(records)
        if self._hides_update:  # nor, where the server is not trusted, what the update was before clipping and noise
            norm = tf.zeros_like(norm)
        metrics = tf.stack([loss_sum, records, tf.cast(element["steps"], tf.float32), norm])
        weight = self.start_loss(weights, element) if self._tells_loss else element["weight"]
        return ClientOutput((*delta, *beside), weight, metrics, kept)

    def start_loss(self, weights: Tensors, element: Element) -> tf.Tensor:
        """Mean loss of the broadcast model over the records of the round's batches: of all records, in whole epochs."""
        frozen = self._own_frozen(element)

        def body(step: tf.Tensor, total: tf.Tensor, count: tf.Tensor) -> tuple:
            chosen, mask = element["indices"][step], element["mask"][step]
            outputs = self.model.predict(weights, frozen, tf.gather(element["features"], chosen), training=False)
            losses = self.model.per_record_loss(outputs, tf.gather(element["labels"], chosen))
            return step + 1, total + tf.reduce_sum(losses * mask), count + tf.reduce_sum(mask)

        start = (tf.constant(0), tf.constant(0.0), tf.constant(0.0))
        _, total, count = tf.while_loop(lambda step, *_: step < element["steps"], body, start, parallel_iterations=1)
        return tf.math.divide_no_nan(total, count)

    def _own_frozen(self, element: Element) -> tuple:
        """The frozen weights of the model that travels, as they are at the hospital."""
        if self.local is None:
            return tuple(element["frozen"])
        return self.local.own_frozen(element["frozen"], element["kept"])

    def start_gradient(self, weights: Tensors, element: Element) -> Tensors:
        """Mean gradient of the broadcast model over the records of the round's batches, with the penalties'."""

        def body(step: tf.Tensor, total: Tensors, count: tf.Tensor) -> tuple:
            batch = self.batch(element, step, tf.constant(0.0))
            gradients, _, _ = self.rule.gradients(weights, batch, tf.zeros([0]), tf.constant(0.0))
            records = tf.reduce_sum(batch.mask)
            return step + 1, tuple(one + records * more for one, more in zip(total, gradients)), count + records

        start = (tf.constant(0), tuple(tf.zeros_like(weight) for weight in weights), tf.constant(0.0))
        _, total, count = tf.while_loop(lambda step, *_: step < element["steps"], body, start, parallel_iterations=1)
        return self._penalised(tuple(tf.math.divide_no_nan(one, count) for one in total), weights)

    def batch(self, element: Element, step: tf.Tensor, start_norm: tf.Tensor) -> Batch:
        """The records of a step; `start_norm` is the clip norm of the round's first."""
        chosen = element["indices"][step]
        return Batch(
            features=tf.gather(element["features"], chosen),
            labels=tf.gather(element["labels"], chosen),
            mask=element["mask"][step],
            frozen=element["frozen"],
            key=fold(element["key"], 1, step) if self.model.draws_random_numbers else None,
            expected=element["expected_batch"],
            noise_multiplier=element["noise_multiplier"],
            start_norm=start_norm,
        )

    def _penalised(self, gradients: Tensors, weights: Tensors) -> Tensors:
        """Penalties are of the weights alone: no record's gradient is clipped for them, and no noise hides them."""
        if not self.penalties:
            return gradients
        return tuple(one + more for one, more in zip(gradients, self.penalties.gradients(weights)))

    def _optimizer(self, settings: Settings) -> client_optimizers.ClientOptimizer:
        left = {name: value for name, value in settings.items() if name not in self._owned}
        return client_optimizers.client_optimizer(self.client, left)

    def settings_at(self, round_number: tf.Tensor, settings: Settings) -> Settings:
        """The settings of a round (0-based), where some change by round."""
        if not self.by_round:
            return settings
        factors = {name: at_round(by, round_number) for name, by in self.by_round.items()}
        return collections.OrderedDict((name, value * factors.get(name, 1.0)) for name, value in settings.items())

    def rate(self, round_number: tf.Tensor, settings: Settings) -> tf.Tensor:
        """Float32 learning rate of a round (0-based)."""
        return client_optimizers.learning_rate_at(self.client, round_number, settings["learning_rate"])

    def run(
        self, weights: Tensors, rate: tf.Tensor, element: Element, noise_for: Callable | None, settings: Settings
    ) -> tuple[Tensors, tf.Tensor, tf.Tensor]:
        """All steps of a round, block of noise by block of noise: final weights, sum of losses, records seen.

        Final weights are those of the model's `whole`: layers that the hospital keeps are among them.

        Args:
          weights: the broadcast trainable weights.
          rate: float32 scalar, the learning rate of the round.
          element: see `element_spec`.
          noise_for: (key, block) to the unit noise of a block of steps; None without record-level privacy.
          settings: see `settings()`.
        """
        if self.local is not None:
            weights, frozen = self.local.joined(weights, self._own_frozen(element))
            element = collections.OrderedDict(element, frozen=frozen)
        carry = self.carry(weights, settings)
        steps = element["steps"]
        if noise_for is None:
            carry = self._run_steps(weights, rate, element, tf.constant(0), steps, tf.zeros([0, 0]), carry, settings)
        else:

            def body(start: tf.Tensor, carry: Any) -> tuple:
                noise = noise_for(element["key"], start // self.block)
                end = tf.minimum(start + self.block, steps)
                return end, self._run_steps(weights, rate, element, start, end, noise, carry, settings)

            _, carry = tf.while_loop(
                lambda start, _: start < steps, body, (tf.constant(0), carry), parallel_iterations=1
            )
        final, _, loss_sum, records, _ = carry
        return final, loss_sum, records

    def carry(self, weights: Tensors, settings: Settings) -> tuple:
        """What goes from step to step, before the first one: weights, slots, sum of losses, records, clip norm."""
        slots = self._optimizer(settings).initial_slots(weights)
        clip_norm = tf.cast(settings.get("clip_norm", 0.0), tf.float32)
        return weights, slots, tf.constant(0.0), tf.constant(0.0), clip_norm

    def steps(
        self,
        start_weights: Tensors,
        rate: tf.Tensor,
        element: Element,
        start: tf.Tensor,
        end: tf.Tensor,
        noise: tf.Tensor,
        carry: tuple,
        settings: Settings,
    ) -> tuple:
        """Optimiser steps `start` to `end` - 1; everything in here may be compiled."""
        optimizer = self._optimizer(settings)
        travels = (True,) * len(start_weights) if self.local is None else self.local.travels
        head_steps = None
        if self.client.head_share is not None:
            head_steps = tf.cast(self.client.head_share * tf.cast(element["steps"], tf.float32) + 0.5, tf.int32)
        proximal_mu, start_norm = (
            tf.cast(settings.get(name, 0.0), tf.float32) for name in ("proximal_mu", "clip_norm")
        )

        def body(step: tf.Tensor, carry: tuple) -> tuple:
            weights, slots, loss_sum, records, clip_norm = carry
            batch = self.batch(element, step, start_norm)
            row = noise[step - start] if self.record_level else noise
            gradients, losses, clip_norm = self.rule.gradients(weights, batch, row, clip_norm)
            gradients = self._penalised(gradients, weights)
            if self.client.proximal_mu and "proximal_mu" not in self._owned:
                gradients = tuple(
                    gradient + proximal_mu * (weight - origin) if pulled else gradient
                    for gradient, weight, origin, pulled in zip(gradients, weights, start_weights, travels)
                )
            if self.correction is not None:
                away = tuple(weight - origin for weight, origin in zip(weights, start_weights))
                gradients = self.correction.corrected(gradients, away, element, settings)
            if head_steps is None:
                weights, slots = optimizer.step(weights, slots, gradients, rate)
            else:
                body = step >= head_steps
                slots = _where(step == head_steps, optimizer.initial_slots(weights), slots)
                moved, slots = optimizer.step(weights, slots, gradients, rate)
                weights = tuple(
                    tf.where(tf.equal(body, out), after, before) for after, before, out in zip(moved, weights, travels)
                )
            return step + 1, (weights, slots, loss_sum + losses, records + tf.reduce_sum(batch.mask), clip_norm)

        _, carry = tf.while_loop(lambda step, _: step < end, body, (start, carry), parallel_iterations=1)
        return carry


def _where(condition: tf.Tensor, one: Any, other: Any) -> Any:
    """One of two structures of tensors."""
    return tf.nest.map_structure(lambda first, second: tf.where(condition, first, second), one, other)
