"""Plain steps: the gradient of the mean loss, for plans that protect no single record."""

from __future__ import annotations

import tensorflow as tf

from tff_hospitals.processes.noise import Tensors
from tff_hospitals.processes.record_level.base import Batch, StepRule


class PlainSteps(StepRule):
    """Nothing is clipped and nothing is drawn."""

    protects = False

    def gradients(
        self, weights: Tensors, batch: Batch, noise: tf.Tensor, clip_norm: tf.Tensor
    ) -> tuple[Tensors, tf.Tensor, tf.Tensor]:
        """Gradients of the mean loss, and the sum of the losses."""
        model = self.model
        with tf.GradientTape() as tape:
            tape.watch(weights)
            outputs = model.predict(weights, batch.frozen, batch.features, training=True, key=batch.key)
            loss_sum = tf.reduce_sum(model.per_record_loss(outputs, batch.labels) * batch.mask)
            loss = loss_sum / tf.maximum(tf.reduce_sum(batch.mask), 1.0)
        gradients = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return tuple(gradients), loss_sum, clip_norm
