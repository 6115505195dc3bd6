"""Client work: local training of one hospital in one round, a model delta out.

Batches arrive as a schedule of record positions that the hospital drew from its own random stream
(`hospitals.batches`), so the same function serves shuffled epochs and truly Poisson batches, and the number of steps
in the ledger is the number of rows that the loop really ran.

DP-SGD (Abadi et al. 2016, arXiv:1607.00133): the gradient of each record is clipped, unit noise is scaled by
noise_multiplier * clip_norm and added to the sum in every step, and the sum is divided by the *expected* batch size.
Noise is drawn in blocks of steps before the compiled loop.

DP-FTRL (Kairouz et al. 2021, arXiv:2103.00039) takes the same steps with the residual noise of a binary tree over the
steps of the round, and needs no random batches: a record comes back after a fixed number of steps. Each round begins a
new tree, because a hospital keeps nothing between rounds.

Adaptive clipping of records (Andrew et al. 2021, arXiv:1905.03871) begins every round at the plan's clip norm and
follows a noised quantile of the record norms from step to step, each hospital for itself. The norm does not outlive the
round for the same reason, and so what a hospital does in a round depends on nothing that a checkpoint would have to
carry for it.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tff_hospitals.accounting import tree_noise
from tff_hospitals.models import FunctionalModel
from tff_hospitals.plan.parts import ClientPlan, PrivacyPlan
from tff_hospitals.processes import client_optimizers
from tff_hospitals.processes.noise import Tensors, fold, global_norm, parameter_count, unflatten
from tff_hospitals.processes.noise_sources import source_of

_NOISE_BLOCK_SCALARS = 2**22  # 16 MiB of float32 noise at a time
_CLIP_RANGE = 100.0  # an adaptive norm stays within this factor of the plan's

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
    """

    def __init__(
        self,
        model: FunctionalModel,
        client: ClientPlan,
        privacy: PrivacyPlan,
        *,
        max_local_steps: int,
        compile_steps: bool = False,
    ):
        self.model = model
        self.client = client
        self.privacy = privacy
        self.record_level = privacy.unit == "record"
        self.adaptive = self.record_level and privacy.clip_style == "adaptive"
        self.optimizer = client_optimizers.client_optimizer(client)
        self.source = source_of(privacy)
        self.scalars = parameter_count(model.trainable_specs)
        self.noise_width = self.scalars + int(self.adaptive)  # the last one is for the count of unclipped records
        self.block = max(1, min(max_local_steps, _NOISE_BLOCK_SCALARS // max(1, self.noise_width)))
        self._tree: np.ndarray | None = None
        if privacy.mechanism == "dp_ftrl_local":  # steps of one tree depend on each other: all in one block
            self.block = max_local_steps
            self._tree = tree_noise.residual_matrix(max_local_steps)
        self._run_steps: Callable = self._steps
        if compile_steps:
            self._run_steps = tf.function(self._steps, jit_compile=True, autograph=False)

    def element_spec(self) -> Element:
        """The structure of one hospital's input to a round; leading sizes differ per hospital."""
        model = self.model
        label_dtype = tf.float32 if model.task == "regression" else tf.int64
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
            frozen=tuple(model.frozen_specs),
        )

    def __call__(self, weights: Tensors, round_number: tf.Tensor, element: Element) -> ClientOutput:
        """Trains from `weights` on the hospital's own records.

        Args:
          weights: the broadcast trainable weights.
          round_number: int32 scalar, 0-based.
          element: see `element_spec`.
        """
        noise_for = self.noise_block if self.record_level else None
        final, loss_sum, records = self.run(weights, round_number, element, noise_for)
        return self.output(weights, final, loss_sum, records, element)

    def output(
        self, weights: Tensors, final: Tensors, loss_sum: tf.Tensor, records: tf.Tensor, element: Element
    ) -> ClientOutput:
        """The upload that belongs to a finished local training."""
        delta = tuple(start - end for start, end in zip(weights, final))
        if self.record_level:  # the exact loss of the training records is not covered by the guarantee
            loss_sum, records = tf.zeros_like(loss_sum), tf.zeros_like(records)
        metrics = tf.stack([loss_sum, records, tf.cast(element["steps"], tf.float32), global_norm(delta)])
        return ClientOutput(delta, element["weight"], metrics)

    def noise_block(self, key: tf.Tensor, block: tf.Tensor | int) -> tf.Tensor:
        """Unit noise of one block of steps, float32 [..., self.block, self.noise_width].

        Args:
          key: int64 [..., 2] of a hospital in a round.
          block: whole numbers [...], which block.
        """
        if self._tree is None:
            return self.source.normals(key, [self.block, self.noise_width], position=block)
        nodes = self.source.normals(key, [self._tree.shape[1], self.noise_width], position=block)
        shape = [self.block, self.noise_width]
        tree = tf.constant(self._tree)
        # One product for each tree: a batched product adds up in another order, and noise must not depend on that.
        trees = tf.map_fn(lambda one: tf.linalg.matmul(tree, one), tf.reshape(nodes, [-1, *nodes.shape[-2:]]))
        return tf.reshape(trees, [*nodes.shape[:-2], *shape])

    def run(
        self, weights: Tensors, round_number: tf.Tensor, element: Element, noise_for: Callable | None
    ) -> tuple[Tensors, tf.Tensor, tf.Tensor]:
        """All steps of a round, block of noise by block of noise: final weights, sum of losses, records seen."""
        rate = client_optimizers.learning_rate_at(self.client, round_number)
        clip_norm = tf.constant(self.privacy.clip_norm, tf.float32)
        carry = (weights, self.optimizer.initial_slots(weights), tf.constant(0.0), tf.constant(0.0), clip_norm)
        steps = element["steps"]
        if noise_for is None:
            carry = self._run_steps(weights, rate, element, tf.constant(0), steps, tf.zeros([0, 0]), carry)
        else:

            def body(start: tf.Tensor, carry: Any) -> tuple:
                noise = noise_for(element["key"], start // self.block)
                end = tf.minimum(start + self.block, steps)
                return end, self._run_steps(weights, rate, element, start, end, noise, carry)

            _, carry = tf.while_loop(
                lambda start, _: start < steps, body, (tf.constant(0), carry), parallel_iterations=1
            )
        final, _, loss_sum, records, _ = carry
        return final, loss_sum, records

    def _steps(
        self,
        start_weights: Tensors,
        rate: tf.Tensor,
        element: Element,
        start: tf.Tensor,
        end: tf.Tensor,
        noise: tf.Tensor,
        carry: tuple,
    ) -> tuple:
        """Optimiser steps `start` to `end` - 1; everything in here may be compiled."""

        def body(step: tf.Tensor, carry: tuple) -> tuple:
            weights, slots, loss_sum, records, clip_norm = carry
            mask = element["mask"][step]
            chosen = element["indices"][step]
            features = tf.gather(element["features"], chosen)
            labels = tf.gather(element["labels"], chosen)
            key = fold(element["key"], 1, step) if self.model.draws_random_numbers else None
            row = noise[step - start] if self.record_level else noise
            gradients, losses, clip_norm = self._gradients(
                weights, element, features, labels, mask, key, row, clip_norm
            )
            if self.client.proximal_mu:
                gradients = tuple(
                    gradient + self.client.proximal_mu * (weight - origin)
                    for gradient, weight, origin in zip(gradients, weights, start_weights)
                )
            weights, slots = self.optimizer.step(weights, slots, gradients, rate)
            return step + 1, (weights, slots, loss_sum + losses, records + tf.reduce_sum(mask), clip_norm)

        _, carry = tf.while_loop(lambda step, _: step < end, body, (start, carry), parallel_iterations=1)
        return carry

    def _gradients(
        self,
        weights: Tensors,
        element: Element,
        features: tf.Tensor,
        labels: tf.Tensor,
        mask: tf.Tensor,
        key: tf.Tensor | None,
        noise: tf.Tensor,
        clip_norm: tf.Tensor,
    ) -> tuple[Tensors, tf.Tensor, tf.Tensor]:
        """Gradients of one step, the sum of the batch's losses, and the clip norm of the next step."""
        model, frozen = self.model, element["frozen"]
        if not self.record_level:
            with tf.GradientTape() as tape:
                tape.watch(weights)
                outputs = model.predict(weights, frozen, features, training=True, key=key)
                loss_sum = tf.reduce_sum(model.per_record_loss(outputs, labels) * mask)
                loss = loss_sum / tf.maximum(tf.reduce_sum(mask), 1.0)
            gradients = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return tuple(gradients), loss_sum, clip_norm

        from tff_hospitals.models import per_record

        style = "flat" if self.adaptive else self.privacy.clip_style
        total, norms, loss_sum = per_record.clipped_gradient_sum(
            model, weights, frozen, features, labels, mask, clip_norm, key=key, style=style
        )
        multiplier = element["noise_multiplier"]
        next_norm = clip_norm
        if self.adaptive:
            multiplier, count_stddev = self._split(multiplier)
            below = tf.reduce_sum(mask * (tf.cast(tf.less_equal(norms, clip_norm), tf.float32) - 0.5))
            share = (below + count_stddev * noise[-1]) / element["expected_batch"] + 0.5
            moved = clip_norm * tf.exp(-self.privacy.clip_learning_rate * (share - self.privacy.clip_quantile))
            first = self.privacy.clip_norm
            next_norm = tf.clip_by_value(moved, first / _CLIP_RANGE, first * _CLIP_RANGE)
        scale = multiplier * clip_norm  # the norm that clipped, not the next one
        noises = unflatten(noise[: self.scalars], model.trainable_specs)
        gradients = tuple((one + scale * draw) / element["expected_batch"] for one, draw in zip(total, noises))
        return gradients, tf.zeros_like(loss_sum), next_norm

    def _split(self, multiplier: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Noise on the gradients and on the count of unclipped records; both together cost one `multiplier`."""
        fixed = self.privacy.clipped_count_stddev
        if fixed is None:
            count_stddev = multiplier * self.privacy.record_count_stddev(1.0)
            return multiplier / math.sqrt(0.9), count_stddev
        count_stddev = tf.where(tf.greater(multiplier, 0.0), fixed, 0.0)
        return multiplier / tf.sqrt(1.0 - tf.square(multiplier / (2.0 * fixed))), count_stddev
