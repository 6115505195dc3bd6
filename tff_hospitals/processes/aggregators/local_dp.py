"""Local differential privacy: every hospital clips its update and noises it by itself, before it leaves.

The server and the network need no trust at all, and the price is high: the noise of n hospitals adds up, so that the
mean is sqrt(n) times as noisy as with the same guarantee from a trusted server.
"""

from __future__ import annotations

import collections

import numpy as np
import tensorflow as tf

from tff_hospitals.processes.aggregators.base import Structure, clip_by_global_norm, drawn, with_changes
from tff_hospitals.processes.aggregators.fixed_clip import FixedClip
from tff_hospitals.processes.aggregators.registry import register
from tff_hospitals.processes.noise import Tensors, parameter_count, unflatten


@register("local_dp")
class LocalNoise(FixedClip):
    """The mean of updates that were noised where they were made."""

    def parameters(self, state: Structure) -> Structure:
        """Clip norm and noise multiplier, both public."""
        return collections.OrderedDict(clip_norm=state["clip_norm"], noise_multiplier=state["noise_multiplier"])

    def hospital_noise(self, parameters: Structure, key: tf.Tensor) -> Structure:
        """One unit normal per parameter, from the hospital's own key."""
        return collections.OrderedDict(delta=self.source.normals(key, [parameter_count(self.specs)], stream=2))

    def no_hospital_noise(self) -> Structure:
        """Zeros in its structure."""
        return collections.OrderedDict(delta=tf.zeros([parameter_count(self.specs)]))

    def prepare(self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure) -> Structure:
        """The clipped update with the hospital's own noise."""
        clipped, _ = clip_by_global_norm(delta, parameters["clip_norm"])
        scale = parameters["noise_multiplier"] * parameters["clip_norm"]
        draws = unflatten(drawn(noise, "delta", self), self.specs)
        noised = tuple(tensor + scale * draw for tensor, draw in zip(clipped, draws))
        return collections.OrderedDict(delta=noised, count=tf.constant(1.0))

    def received(self, parameters: Structure, prepared: Structure, decoded: Tensors, weight: tf.Tensor) -> Structure:
        """As it was decoded: the noise is in it already, and what is done to it afterwards costs no privacy."""
        return with_changes(prepared, delta=decoded)

    def resolutions(self, parameters: Structure, steps: float) -> Structure:
        """Clip norm and eight deviations of the noise."""
        reach = parameters["clip_norm"] * (1.0 + 8.0 * parameters["noise_multiplier"])
        return collections.OrderedDict(delta=reach / steps, count=tf.constant(1.0))

    def server_noise(self, state: Structure) -> Structure:
        """None: all noise is there already."""
        return collections.OrderedDict()

    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """The mean; its noise is that of all hospitals that took part."""
        divisor = self.setting.divisor(total["count"])
        update = tuple(tensor / divisor for tensor in total["delta"])
        deviation = state["noise_multiplier"] * state["clip_norm"] * tf.sqrt(total["count"]) / divisor
        measured = self.measured(update, deviation, state["clip_norm"])
        return update, with_changes(state, round=np.int32(1) + state["round"]), measured
