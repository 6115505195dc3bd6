"""Adaptive clipping at the server: the norm of a round follows from a noised count of the rounds before."""

from __future__ import annotations

import collections

import numpy as np
import tensorflow as tf

from tff_hospitals.accounting import split_adaptive_noise
from tff_hospitals.processes.aggregators.base import Structure, clip_by_global_norm, with_changes
from tff_hospitals.processes.aggregators.fixed_clip import FixedClip
from tff_hospitals.processes.aggregators.registry import register
from tff_hospitals.processes.noise import Tensors


@register("adaptive_clip")
class AdaptiveClip(FixedClip):
    """Fixed clipping whose norm follows a noised quantile of the update norms (Andrew et al. 2021, arXiv:1905.03871).

    The total noise multiplier z is split between the sum and the count of hospitals below the norm:
    z_delta = (z**-2 - (2 * clipped_count_stddev)**-2) ** -0.5, and the pair costs as much as one Gaussian of z.
    """

    told = ("clip_norm",)

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """As fixed clipping, with the noise split in two."""
        state = super().initial_state(key, noise_multiplier)
        count_stddev = self.setting.count_stddev
        delta_multiplier = 0.0
        if noise_multiplier > 0:
            delta_multiplier = split_adaptive_noise(noise_multiplier, bit_noise_stddev=count_stddev)
        state["noise_multiplier"] = np.float32(delta_multiplier)
        state["clipped_count_stddev"] = np.float32(count_stddev if noise_multiplier > 0 else 0.0)
        return state

    def prepare(self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure) -> Structure:
        """The clipped update, and whether its norm was below the bound, as -1/2 or +1/2 (sensitivity 1/2)."""
        clipped, norm = clip_by_global_norm(delta, parameters["clip_norm"])
        below = tf.cast(norm <= parameters["clip_norm"], tf.float32) - 0.5
        return collections.OrderedDict(delta=clipped, count=tf.constant(1.0), below=below)

    def resolutions(self, parameters: Structure, steps: float) -> Structure:
        """As fixed clipping; the bit is -1/2 or +1/2."""
        return collections.OrderedDict(super().resolutions(parameters, steps), below=tf.constant(0.5))

    def server_noise(self, state: Structure) -> Structure:
        """Unit normals for the sum and one for the count."""
        noise = super().server_noise(state)
        noise["below"] = self.source.normals(state["key"], [], stream=1, position=state["round"])
        return noise

    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """The mean noised by the norm that clipped it, and then the next norm."""
        clip_norm = state["clip_norm"]
        scale = state["noise_multiplier"] * clip_norm
        update = self.noised_mean(total, scale, noise)
        measured = self.measured(update, scale / self.setting.divisor(total["count"]), clip_norm)
        noised = total["below"] + state["clipped_count_stddev"] * noise["below"]
        below = noised / self.setting.divisor(total["count"]) + 0.5
        rate = self.privacy.clip_learning_rate
        next_norm = clip_norm * tf.exp(-rate * (below - self.privacy.clip_quantile))
        state = with_changes(state, clip_norm=next_norm, round=state["round"] + 1)
        return update, state, measured
