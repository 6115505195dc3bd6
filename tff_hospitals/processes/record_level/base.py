"""The contract of a record-level mechanism's half that computes: from a batch to the gradients of one step.

    noise_block(key, block)      unit noise of a block of steps, drawn outside of compiled code
    gradients(...)               clipped and noised sum of a batch, and the clip norm of the next step

`LocalTraining` runs the steps and asks a rule for their gradients; it knows no mechanism.
"""

from __future__ import annotations

import abc
from typing import NamedTuple

import tensorflow as tf

from tff_hospitals.models import FunctionalModel
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.processes.noise import Tensors, parameter_count, unflatten
from tff_hospitals.processes.noise_sources import source_of

_NOISE_BLOCK_SCALARS = 2**22  # 16 MiB of float32 noise at a time


class Batch(NamedTuple):
    """The records of one step.

    Attributes:
      features, labels: of the chosen records, padding included.
      mask: float32 [records], 0 where there is padding.
      frozen: weights of the model that are not trained.
      key: int64 [2] of the step's random layers; None without any.
      expected: expected number of records.
      noise_multiplier: of the hospital.
      start_norm: clip norm of the round's first step.
    """

    features: tf.Tensor
    labels: tf.Tensor
    mask: tf.Tensor
    frozen: Tensors
    key: tf.Tensor | None
    expected: tf.Tensor
    noise_multiplier: tf.Tensor
    start_norm: tf.Tensor


class StepRule(abc.ABC):
    """How the gradients of a step come about.

    Attributes:
      protects: whether single records are protected, so that no exact sum over them may leave.
      block: steps whose noise is drawn at once.
      noise_width: numbers of noise in a step.
      takes_clip_norm: whether it clips with the norm that `gradients` is given, and never reads the plan's.

    Args:
      model: the functional Keras model.
      privacy: the plan's privacy.
      max_local_steps: the most steps that any hospital takes in a round.
    """

    protects = True
    noise_width = 0
    takes_clip_norm = False

    def __init__(self, model: FunctionalModel, privacy: PrivacyPlan, max_local_steps: int):
        self.model, self.privacy = model, privacy
        self.scalars = parameter_count(model.trainable_specs)
        self.block = max_local_steps

    def noise_block(self, key: tf.Tensor, block: tf.Tensor | int) -> tf.Tensor:
        """Unit noise of one block of steps, float32 [..., block, noise_width].

        Args:
          key: int64 [..., 2] of a hospital in a round.
          block: whole numbers [...], which block.
        """
        raise TypeError(f"{type(self).__name__} draws no noise")

    @abc.abstractmethod
    def gradients(
        self, weights: Tensors, batch: Batch, noise: tf.Tensor, clip_norm: tf.Tensor
    ) -> tuple[Tensors, tf.Tensor, tf.Tensor]:
        """Gradients of one step, the sum of the batch's losses that may leave, and the clip norm of the next step.

        Args:
          weights: trainable weights before the step.
          batch: its records.
          noise: float32 [noise_width], the step's row of `noise_block`.
          clip_norm: float32 scalar that this step clips with; the plan's in the first step of a round.
        """


class ClippedSteps(StepRule):
    """Per-record clipping and Gaussian noise in every step: the base of DP-SGD and DP-FTRL."""

    takes_clip_norm = True
    style = "flat"
    """How `models.per_record` clips."""

    def __init__(self, model: FunctionalModel, privacy: PrivacyPlan, max_local_steps: int):
        super().__init__(model, privacy, max_local_steps)
        self.source = source_of(privacy)
        self.noise_width = self.scalars

    def blocks_of(self, max_local_steps: int) -> int:
        """Steps of one block, such that its noise stays small."""
        return max(1, min(max_local_steps, _NOISE_BLOCK_SCALARS // max(1, self.noise_width)))

    def noise_block(self, key: tf.Tensor, block: tf.Tensor | int) -> tf.Tensor:
        """Independent normals for every step."""
        return self.source.normals(key, [self.block, self.noise_width], position=block)

    def clipped_sum(self, weights: Tensors, batch: Batch, clip_norm: tf.Tensor) -> tuple[Tensors, tf.Tensor, tf.Tensor]:
        """Sum of the clipped gradients, norms of the records' gradients, sum of the losses."""
        from tff_hospitals.models import per_record

        return per_record.clipped_gradient_sum(
            self.model,
            weights,
            batch.frozen,
            batch.features,
            batch.labels,
            batch.mask,
            clip_norm,
            key=batch.key,
            style=self.style,
        )

    def noised(self, total: Tensors, batch: Batch, noise: tf.Tensor, scale: tf.Tensor) -> Tensors:
        """(sum + scale * unit noise) / expected batch size."""
        draws = unflatten(noise[: self.scalars], self.model.trainable_specs)
        return tuple((one + scale * draw) / batch.expected for one, draw in zip(total, draws))

    def gradients(
        self, weights: Tensors, batch: Batch, noise: tf.Tensor, clip_norm: tf.Tensor
    ) -> tuple[Tensors, tf.Tensor, tf.Tensor]:
        """The noised mean; the exact loss of the training records is not covered by the guarantee."""
        total, _, loss_sum = self.clipped_sum(weights, batch, clip_norm)
        gradients = self.noised(total, batch, noise, batch.noise_multiplier * clip_norm)
        return gradients, tf.zeros_like(loss_sum), clip_norm
