"""DP-SGD as TensorFlow Privacy computes it: its Keras optimiser, or its fast gradient clipping.

Both take the batch that the hospital drew. Padding counts as records of gradient zero: it adds nothing to the sum, and
TensorFlow Privacy's division by the number of records is turned into ours by the expected one. The noise is drawn by
TensorFlow Privacy itself, which cannot be seeded; other steps, rounds and hospitals get other noise.
"""

from __future__ import annotations

import abc
from typing import Any

import tensorflow as tf

from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.models import FunctionalModel
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.processes.noise import Tensors
from tff_hospitals.processes.record_level.base import Batch, StepRule
from tff_hospitals.processes.record_level.registry import register


class TfpSteps(StepRule):
    """What both ways have in common: losses of single records, zero for padding."""

    def noise_block(self, key: tf.Tensor, block: tf.Tensor | int) -> tf.Tensor:
        """Nothing: TensorFlow Privacy draws its own noise."""
        return tf.zeros([self.block, 0])

    def losses(self, batch: Batch, outputs: tf.Tensor) -> tf.Tensor:
        """Of each record, float32 [records]."""
        labels = tf.where(batch.mask > 0, batch.labels, tf.zeros([], batch.labels.dtype))
        return self.model.per_record_loss(outputs, labels) * batch.mask

    def gradients(
        self, weights: Tensors, batch: Batch, noise: tf.Tensor, clip_norm: tf.Tensor
    ) -> tuple[Tensors, tf.Tensor, tf.Tensor]:
        """The noised sum over the expected batch size."""
        mean = self.noised_mean(weights, batch)
        scale = tf.cast(tf.size(batch.mask), tf.float32) / batch.expected
        return tuple(tf.convert_to_tensor(one) * scale for one in mean), tf.zeros([]), clip_norm

    @abc.abstractmethod
    def noised_mean(self, weights: Tensors, batch: Batch) -> Any:
        """TensorFlow Privacy's noised mean over all records of the batch, padding included."""


@register("tfp_dp_sgd")
class KerasOptimizer(TfpSteps):
    """The gradients of `tensorflow_privacy.DPKerasSGDOptimizer`, one microbatch for each record."""

    def noised_mean(self, weights: Tensors, batch: Batch) -> Any:
        """By the optimiser's own `_compute_gradients`."""
        import tensorflow_privacy as tfp

        optimizer = tfp.DPKerasSGDOptimizer(
            l2_norm_clip=self.privacy.clip_norm, noise_multiplier=batch.noise_multiplier, learning_rate=1.0
        )
        variables = [tf.convert_to_tensor(weight) for weight in weights]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(variables)
            outputs = self.model.predict(variables, batch.frozen, batch.features, training=True, key=batch.key)
            losses = self.losses(batch, outputs)
        return [one for one, _ in optimizer._compute_gradients(losses, variables, tape=tape)]


@register("tfp_dp_sgd_fast")
class FastClipping(TfpSteps):
    """TensorFlow Privacy's norms of record gradients without the gradients, for the layers in its registry.

    Raises:
      InvalidInput: a layer that its registry does not know; TensorFlow Privacy would clip slowly without a word.
    """

    def __init__(self, model: FunctionalModel, privacy: PrivacyPlan, max_local_steps: int):
        super().__init__(model, privacy, max_local_steps)
        from tensorflow_privacy.privacy.fast_gradient_clipping import gradient_clipping_utils, layer_registry

        self._registry = layer_registry.make_default_layer_registry()
        keras = getattr(model, "keras", None)
        if not isinstance(keras, tf.keras.Model) or not gradient_clipping_utils.all_trainable_layers_are_registered(
            keras, self._registry
        ):
            bound = "has layers that TensorFlow Privacy's registry does not know: it holds Dense and Embedding"
            remedy = "take tfp_dp_sgd or dp_sgd, or a model of these layers"
            raise InvalidInput([Problem("model", model.name, bound, remedy)])

    def noised_mean(self, weights: Tensors, batch: Batch) -> Any:
        """Norms, clip weights and noise are TensorFlow Privacy's; the gradient is that of the weighted losses."""
        from tensorflow_privacy.privacy.fast_gradient_clipping import clip_grads, gradient_clipping_utils

        clip_norm = self.privacy.clip_norm
        variables = [tf.convert_to_tensor(weight) for weight in weights]
        with self.model.computing(variables, batch.frozen, batch.key):
            norms = clip_grads.compute_gradient_norms(
                self.model.keras,
                self._registry,
                batch.features,
                batch.labels,
                per_example_loss_fn=lambda labels, outputs, _: self.losses(batch, self._logits(outputs)),
            )
        factors = clip_grads.compute_clip_weights(clip_norm, norms)
        with tf.GradientTape() as tape:
            tape.watch(variables)
            outputs = self.model.predict(variables, batch.frozen, batch.features, training=True, key=batch.key)
            mean = tf.reduce_mean(self.losses(batch, outputs) * factors)
        clipped = tape.gradient(mean, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return gradient_clipping_utils.add_aggregate_noise(
            clipped,
            tf.cast(tf.size(batch.mask), tf.float32),
            clip_norm,
            batch.noise_multiplier,
            loss_reduction="mean",
        )

    def _logits(self, outputs: Any) -> tf.Tensor:
        from tff_hospitals.models.logits import as_logits

        return as_logits(outputs, self.model.task)
