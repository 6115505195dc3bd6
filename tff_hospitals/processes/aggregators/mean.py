"""The plain mean: no noise, no bound, no promise."""

from __future__ import annotations

import collections

import numpy as np
import tensorflow as tf

from tff_hospitals.processes.aggregators.base import Aggregator, Structure
from tff_hospitals.processes.aggregators.registry import register
from tff_hospitals.processes.noise import Tensors, all_finite, global_norm


@register("none", "fednova")
class Mean(Aggregator):
    """Mean of the updates, weighted by each hospital's weight (McMahan et al. 2017, arXiv:1602.05629).

    An empty cohort gives a zero update.
    """

    bounded = False

    def resolutions(self, parameters: Structure, steps: float) -> Structure:
        """Weights are whole numbers already; updates have the plan's bound."""
        bound = self.setting.privacy.secure_sum_bound * max(1.0, self.setting.largest_weight)
        return collections.OrderedDict(delta=tf.constant(bound / steps), weight=tf.constant(1.0))

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """No state."""
        return collections.OrderedDict()

    def prepare(self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure) -> Structure:
        """Weighted update and weight; an update that is not finite is left out, with its weight."""
        finite = all_finite(tuple(weight * tensor for tensor in delta))
        kept = tuple(weight * tf.where(finite, tensor, tf.zeros_like(tensor)) for tensor in delta)
        return collections.OrderedDict(delta=kept, weight=tf.where(finite, weight, 0.0))

    def received(self, parameters: Structure, prepared: Structure, decoded: Tensors, weight: tf.Tensor) -> Structure:
        """As for an update that was not encoded; what was left out then had weight 0."""
        return self.prepare(parameters, decoded, weight * prepared["weight"], self.no_hospital_noise())

    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """The quotient of the sums."""
        mean = tuple(tf.math.divide_no_nan(tensor, total["weight"]) for tensor in total["delta"])
        return mean, state, collections.OrderedDict(update_norm=global_norm(mean))
