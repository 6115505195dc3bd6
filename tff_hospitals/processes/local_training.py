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
from tff_hospitals.processes.noise import Tensors, fold, global_norm, parameter_count
from tff_hospitals.processes.record_level.base import Batch
from tff_hospitals.processes.record_level.building import build_step_rule
from tff_hospitals.processes.rounds import DRAWN

Settings = collections.OrderedDict  # numbers by name, see `LocalTraining.settings`
Element = collections.OrderedDict  # what one hospital brings to one round; see `LocalTraining.element_spec`


@dataclasses.dataclass(frozen=True)
class ClientOutput:
    """What a hospital uploads: `delta` (initial - final weights), its weight in the mean, and float32 metrics
    [len(rounds.METRICS)].
    """

    delta: Tensors
    weight: tf.Tensor
    metrics: tf.Tensor


class LocalTraining:
    """The local update of a plan as a pure function.

    Args:
      model: the functional Keras model.
      client: optimiser, learning rate, proximal term.
      privacy: settings of a record-level mechanism; hospital-level ones leave the client work alone.
      max_local_steps: the most optimiser steps that any hospital takes in a round (sizes the blocks of noise).
      compile_steps: compile the loop over steps with XLA; the result is the same to float32 rounding.
      with_factor: whether elements say what their update is multiplied by.
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
    ):
        self.model = model
        self.client = client
        self.privacy = privacy
        self.drawn = (*DRAWN, "factor") if with_factor else DRAWN
        self.penalties = getattr(model, "penalties", None)  # TFF's models keep theirs to themselves
        self.rule = build_step_rule(model, privacy, max_local_steps)
        self.record_level, self.block, self.noise_width = self.rule.protects, self.rule.block, self.rule.noise_width
        self.noise_block = self.rule.noise_block
        self._protects = any(mechanism.private for mechanism, _ in mechanisms.layers(privacy))
        self._tells_loss = mechanisms.hospital_level(privacy).tells == "loss"
        self._hides_update = mechanisms.hospital_level(privacy).noise_by in ("hospital", "shares")
        self.scalars = parameter_count(model.trainable_specs)
        self._run_steps: Callable = self.steps
        if compile_steps:
            self._run_steps = tf.function(self.steps, jit_compile=True, autograph=False)

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
        """Trains from `weights` on the hospital's own records.

        Args:
          weights: the broadcast trainable weights.
          round_number: int32 scalar, 0-based.
          element: see `element_spec`.
          settings: as `settings()`; default the plan's.
        """
        settings = settings or self.settings()
        noise_for = self.noise_block if self.record_level else None
        rate = self.rate(round_number, settings)
        final, loss_sum, records = self.run(weights, rate, element, noise_for, settings)
        return self.output(weights, final, loss_sum, records, element)

    def output(
        self, weights: Tensors, final: Tensors, loss_sum: tf.Tensor, records: tf.Tensor, element: Element
    ) -> ClientOutput:
        """The upload that belongs to a finished local training."""
        delta = tuple(start - end for start, end in zip(weights, final))
        if "factor" in self.drawn:
            delta = tuple(element["factor"] * one for one in delta)
        norm = global_norm(delta)
        if self._protects:  # no guarantee covers exact sums over training records
            loss_sum, records = tf.zeros_like(loss_sum), tf.zeros_like(records)
        if self._hides_update:  # nor, where the server is not trusted, what the update was before clipping and noise
            norm = tf.zeros_like(norm)
        metrics = tf.stack([loss_sum, records, tf.cast(element["steps"], tf.float32), norm])
        weight = self.start_loss(weights, element) if self._tells_loss else element["weight"]
        return ClientOutput(delta, weight, metrics)

    def start_loss(self, weights: Tensors, element: Element) -> tf.Tensor:
        """Mean loss of the broadcast model over the records of the round's batches: of all records, in whole epochs."""

        def body(step: tf.Tensor, total: tf.Tensor, count: tf.Tensor) -> tuple:
            chosen, mask = element["indices"][step], element["mask"][step]
            outputs = self.model.predict(
                weights, element["frozen"], tf.gather(element["features"], chosen), training=False
            )
            losses = self.model.per_record_loss(outputs, tf.gather(element["labels"], chosen))
            return step + 1, total + tf.reduce_sum(losses * mask), count + tf.reduce_sum(mask)

        start = (tf.constant(0), tf.constant(0.0), tf.constant(0.0))
        _, total, count = tf.while_loop(lambda step, *_: step < element["steps"], body, start, parallel_iterations=1)
        return tf.math.divide_no_nan(total, count)

    def rate(self, round_number: tf.Tensor, settings: Settings) -> tf.Tensor:
        """Float32 learning rate of a round (0-based)."""
        return client_optimizers.learning_rate_at(self.client, round_number, settings["learning_rate"])

    def run(
        self, weights: Tensors, rate: tf.Tensor, element: Element, noise_for: Callable | None, settings: Settings
    ) -> tuple[Tensors, tf.Tensor, tf.Tensor]:
        """All steps of a round, block of noise by block of noise: final weights, sum of losses, records seen.

        Args:
          weights: the broadcast trainable weights.
          rate: float32 scalar, the learning rate of the round.
          element: see `element_spec`.
          noise_for: (key, block) to the unit noise of a block of steps; None without record-level privacy.
          settings: see `settings()`.
        """
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
        slots = client_optimizers.client_optimizer(self.client, settings).initial_slots(weights)
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
        optimizer = client_optimizers.client_optimizer(self.client, settings)
        proximal_mu, start_norm = (
            tf.cast(settings.get(name, 0.0), tf.float32) for name in ("proximal_mu", "clip_norm")
        )

        def body(step: tf.Tensor, carry: tuple) -> tuple:
            weights, slots, loss_sum, records, clip_norm = carry
            mask = element["mask"][step]
            chosen = element["indices"][step]
            batch = Batch(
                features=tf.gather(element["features"], chosen),
                labels=tf.gather(element["labels"], chosen),
                mask=mask,
                frozen=element["frozen"],
                key=fold(element["key"], 1, step) if self.model.draws_random_numbers else None,
                expected=element["expected_batch"],
                noise_multiplier=element["noise_multiplier"],
                start_norm=start_norm,
            )
            row = noise[step - start] if self.record_level else noise
            gradients, losses, clip_norm = self.rule.gradients(weights, batch, row, clip_norm)
            if self.penalties:  # of the weights alone: no record's gradient is clipped for it, no noise hides it
                gradients = tuple(one + more for one, more in zip(gradients, self.penalties.gradients(weights)))
            if self.client.proximal_mu:
                gradients = tuple(
                    gradient + proximal_mu * (weight - origin)
                    for gradient, weight, origin in zip(gradients, weights, start_weights)
                )
            weights, slots = optimizer.step(weights, slots, gradients, rate)
            return step + 1, (weights, slots, loss_sum + losses, records + tf.reduce_sum(mask), clip_norm)

        _, carry = tf.while_loop(lambda step, _: step < end, body, (start, carry), parallel_iterations=1)
        return carry
