"""DP-FTRL inside a hospital (Kairouz et al. 2021, arXiv:2103.00039): steps of DP-SGD with the residual noise of a tree.

Each round begins a new tree, because a hospital keeps nothing between rounds.
"""

from __future__ import annotations

import tensorflow as tf

from tff_hospitals.accounting import tree_noise
from tff_hospitals.models import FunctionalModel
from tff_hospitals.plan.clip_styles import CLIP_STYLES
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.processes.record_level.base import ClippedSteps
from tff_hospitals.processes.record_level.registry import register


@register("dp_ftrl_local")
class TreeSteps(ClippedSteps):
    """Noise of a binary tree over the steps of a round: they depend on each other, and so are drawn in one block."""

    def __init__(self, model: FunctionalModel, privacy: PrivacyPlan, max_local_steps: int):
        super().__init__(model, privacy, max_local_steps)
        self.style = CLIP_STYLES[privacy.clip_style].in_model
        self._tree = tree_noise.residual_matrix(max_local_steps)

    def noise_block(self, key: tf.Tensor, block: tf.Tensor | int) -> tf.Tensor:
        """What each step adds to the noise of the prefix before it."""
        nodes = self.source.normals(key, [self._tree.shape[1], self.noise_width], position=block)
        shape = [self.block, self.noise_width]
        tree = tf.constant(self._tree)
        # One product for each tree: a batched product adds up in another order, and noise must not depend on that.
        trees = tf.map_fn(lambda one: tf.linalg.matmul(tree, one), tf.reshape(nodes, [-1, *nodes.shape[-2:]]))
        return tf.reshape(trees, [*nodes.shape[:-2], *shape])
