"""DP-SGD (Abadi et al. 2016, arXiv:1607.00133): the gradient of each record is clipped, unit noise is scaled by
noise_multiplier * clip_norm and added to the sum in every step, and the sum is divided by the *expected* batch size.

Adaptive clipping of records (Andrew et al. 2021, arXiv:1905.03871) begins every round at the plan's clip norm and
follows a noised quantile of the record norms from step to step, each hospital for itself. The norm does not outlive the
round, and so what a hospital does in a round depends on nothing that a checkpoint would have to carry for it.
"""

from __future__ import annotations

import math

import tensorflow as tf

from tff_hospitals.models import FunctionalModel
from tff_hospitals.plan.clip_styles import CLIP_STYLES
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.processes.noise import Tensors
from tff_hospitals.processes.record_level.base import Batch, ClippedSteps, StepRule
from tff_hospitals.processes.record_level.registry import register

_CLIP_RANGE = 100.0  # an adaptive norm stays within this factor of the plan's


class DpSgdSteps(ClippedSteps):
    """Independent noise in every step, drawn in blocks of steps."""

    def __init__(self, model: FunctionalModel, privacy: PrivacyPlan, max_local_steps: int):
        super().__init__(model, privacy, max_local_steps)
        self.style = CLIP_STYLES[privacy.clip_style].in_model
        self.block = self.blocks_of(max_local_steps)


class AdaptiveSteps(DpSgdSteps):
    """DP-SGD whose norm follows a noised count of unclipped records; the last number of a step's noise is for it."""

    def __init__(self, model: FunctionalModel, privacy: PrivacyPlan, max_local_steps: int):
        super().__init__(model, privacy, max_local_steps)
        self.noise_width = self.scalars + 1
        self.block = self.blocks_of(max_local_steps)

    def gradients(
        self, weights: Tensors, batch: Batch, noise: tf.Tensor, clip_norm: tf.Tensor
    ) -> tuple[Tensors, tf.Tensor, tf.Tensor]:
        """The noised mean, and the norm that follows from the noised count."""
        total, norms, loss_sum = self.clipped_sum(weights, batch, clip_norm)
        multiplier, count_stddev = self._split(batch.noise_multiplier)
        below = tf.reduce_sum(batch.mask * (tf.cast(tf.less_equal(norms, clip_norm), tf.float32) - 0.5))
        share = (below + count_stddev * noise[-1]) / batch.expected + 0.5
        moved = clip_norm * tf.exp(-self.privacy.clip_learning_rate * (share - self.privacy.clip_quantile))
        first = batch.start_norm
        next_norm = tf.clip_by_value(moved, first / _CLIP_RANGE, first * _CLIP_RANGE)
        scale = multiplier * clip_norm  # the norm that clipped, not the next one
        return self.noised(total, batch, noise, scale), tf.zeros_like(loss_sum), next_norm

    def _split(self, multiplier: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Noise on the gradients and on the count of unclipped records; both together cost one `multiplier`."""
        fixed = self.privacy.clipped_count_stddev
        if fixed is None:
            count_stddev = multiplier * self.privacy.record_count_stddev(1.0)
            return multiplier / math.sqrt(0.9), count_stddev
        count_stddev = tf.where(tf.greater(multiplier, 0.0), fixed, 0.0)
        return multiplier / tf.sqrt(1.0 - tf.square(multiplier / (2.0 * fixed))), count_stddev


@register("dp_sgd")
def build(model: FunctionalModel, privacy: PrivacyPlan, max_local_steps: int) -> StepRule:
    """The rule of the plan's clip style."""
    kind = AdaptiveSteps if CLIP_STYLES[privacy.clip_style].follows else DpSgdSteps
    return kind(model, privacy, max_local_steps)
