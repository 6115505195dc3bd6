"""DP-FTRL at the server: the noise of a round comes from a binary tree over the rounds, restarted when asked for.

No sampling of hospitals is assumed. The weights after t rounds carry the noise of few nodes instead of t draws; with a
server that takes plain gradient steps this is DP-FTRL (Kairouz et al. 2021, arXiv:2103.00039).

TensorFlow Privacy's `TreeResidualSumQuery` does the same arithmetic; it is not used because its noise comes from a
generator of its own that the other runtimes could not draw again. The state holds the estimates of the nodes that wait
for their sibling, so that a checkpoint keeps the tree.
"""

from __future__ import annotations

import collections

import numpy as np
import tensorflow as tf

from tff_hospitals.accounting import tree_noise
from tff_hospitals.processes.aggregators.base import Setting, Structure, with_changes
from tff_hospitals.processes.aggregators.fixed_clip import FixedClip
from tff_hospitals.processes.aggregators.registry import register
from tff_hospitals.processes.noise import Tensors, parameter_count


@register("tree")
class TreeAggregation(FixedClip):
    """Fixed clipping with tree noise; a tree spans `restart_every` rounds, or all."""

    def __init__(self, setting: Setting):
        super().__init__(setting)
        self.rounds_per_tree = min(setting.rounds, setting.privacy.restart_every or setting.rounds)
        self.levels = tree_noise.levels_of(self.rounds_per_tree)
        variances = np.square(tree_noise.residual_matrix(self.rounds_per_tree)).sum(axis=1)
        self._residual_stddevs = np.sqrt(variances).astype(np.float32)

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """As fixed clipping, with the open nodes: estimates of their noise, one row per level."""
        state = super().initial_state(key, noise_multiplier)
        state["open_nodes"] = np.zeros([self.levels, parameter_count(self.specs)], np.float32)
        return state

    def server_noise(self, state: Structure) -> Structure:
        """Unit normals for the nodes that this round may complete, one row per level."""
        shape = [self.levels, parameter_count(self.specs)]
        draws = self.source.normals(state["key"], shape, position=state["round"])
        return collections.OrderedDict(nodes=draws)

    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """The mean with the residual noise of this round, and the tree after it."""
        position = tf.math.floormod(state["round"], self.rounds_per_tree)
        residual, open_nodes = self._grow(state["open_nodes"], noise["nodes"], position)
        scale = state["noise_multiplier"] * state["clip_norm"]
        update = self.noised_mean(total, scale, collections.OrderedDict(delta=residual))
        deviation = tf.gather(tf.constant(self._residual_stddevs), position)
        measured = self.measured(update, scale * deviation / self.setting.divisor(total["count"]), state["clip_norm"])
        return update, with_changes(state, round=state["round"] + 1, open_nodes=open_nodes), measured

    def _grow(self, open_nodes: tf.Tensor, nodes: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The residual of step `position` + 1 of a tree, and its open nodes afterwards."""
        open_nodes = tf.where(tf.equal(position, 0), tf.zeros_like(open_nodes), open_nodes)  # a new tree
        step = position + 1
        estimate = nodes[0]
        placed = tf.equal(tf.math.floormod(step, 2), 1)
        rows = [tf.where(placed, estimate, tf.zeros_like(estimate))]
        for level in range(1, self.levels):
            weight = tree_noise.own_weight(level)
            merged = weight * nodes[level] + (1.0 - weight) * (open_nodes[level - 1] + estimate)
            completes = tf.equal(tf.math.floormod(step, 2**level), 0)
            estimate = tf.where(completes, merged, estimate)
            here = tf.logical_and(completes, tf.equal(tf.math.floormod(step, 2 ** (level + 1)), 2**level))
            kept = tf.where(completes, tf.zeros_like(estimate), open_nodes[level])
            rows.append(tf.where(here, estimate, kept))
        after = tf.stack(rows)
        return tf.reduce_sum(after, axis=0) - tf.reduce_sum(open_nodes, axis=0), after
