"""q-FedAvg: updates counted by a power of the loss that the broadcast model has at each hospital."""

from __future__ import annotations

import collections

import tensorflow as tf

from tff_hospitals.processes.aggregators.base import Structure
from tff_hospitals.processes.aggregators.mean import Mean
from tff_hospitals.processes.aggregators.registry import register
from tff_hospitals.processes.noise import Tensors, all_finite, global_norm

_LEAST_LOSS = 1e-10
"""Added to the loss, as the authors do: a hospital without loss has no negative powers of it."""


@register("q_fedavg")
class QFedAvg(Mean):
    """Li et al. 2020, arXiv:1905.10497, algorithm 2: the sum of F^q delta over that of F^q + q F^(q-1) L |delta|^2.

    F is a hospital's loss, which arrives as its weight, and L is one over the learning rate of the first round. With q
    of 0 this is the mean with equal weights.
    """

    def prepare(self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure) -> Structure:
        """The update by its power of the loss, and what it counts; weight 0 is a hospital that is not there."""
        power = tf.constant(self.setting.privacy.fairness, tf.float32)
        lipschitz = tf.constant(1.0 / self.setting.client.learning_rate, tf.float32)
        loss = tf.maximum(weight, 0.0) + _LEAST_LOSS
        share = tf.pow(loss, power)
        size = share + power * tf.pow(loss, power - 1.0) * lipschitz * tf.square(global_norm(delta))
        kept = tf.logical_and(all_finite(delta), tf.math.is_finite(size))
        scaled = tuple(tf.where(kept, share * tensor, tf.zeros_like(tensor)) for tensor in delta)
        return collections.OrderedDict(delta=scaled, weight=tf.where(kept, size, 0.0))
