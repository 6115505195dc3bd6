"""Steps of DP-SGD whose noise is correlated within a round, by a matrix over the steps: DP-FTRL and banded strategies.

Each round begins anew, because a hospital keeps nothing between rounds.
"""

from __future__ import annotations

import abc

import numpy as np
import tensorflow as tf

from tff_hospitals.models import FunctionalModel
from tff_hospitals.plan.clip_styles import CLIP_STYLES
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.processes.record_level.base import ClippedSteps


class CorrelatedSteps(ClippedSteps):
    """The steps of a round depend on each other, and so their noise is drawn in one block: a matrix times normals."""

    def __init__(self, model: FunctionalModel, privacy: PrivacyPlan, max_local_steps: int):
        super().__init__(model, privacy, max_local_steps)
        self.style = CLIP_STYLES[privacy.clip_style].in_model
        self._matrix = self.matrix(privacy, max_local_steps)

    @abc.abstractmethod
    def matrix(self, privacy: PrivacyPlan, steps: int) -> np.ndarray:
        """What each step adds of each unit normal, float32 [steps, normals]."""

    def noise_block(self, key: tf.Tensor, block: tf.Tensor | int) -> tf.Tensor:
        """What each step adds to the noise of the prefix before it."""
        normals = self.source.normals(key, [self._matrix.shape[1], self.noise_width], position=block)
        shape = [self.block, self.noise_width]
        matrix = tf.constant(self._matrix)
        # One product for each hospital: a batched product adds up in another order, and noise must not depend on that.
        made = tf.map_fn(lambda one: tf.linalg.matmul(matrix, one), tf.reshape(normals, [-1, *normals.shape[-2:]]))
        return tf.reshape(made, [*normals.shape[:-2], *shape])
