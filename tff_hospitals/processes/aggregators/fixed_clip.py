"""Fixed clipping at the server, and what all that clips to a norm has in common."""

from __future__ import annotations

import collections

import numpy as np
import tensorflow as tf

from tff_hospitals.processes.aggregators.base import Aggregator, Setting, Structure, clip_by_global_norm, with_changes
from tff_hospitals.processes.aggregators.registry import register
from tff_hospitals.processes.noise import Tensors, global_norm, parameter_count, unflatten
from tff_hospitals.processes.noise_sources import source_of


@register("fixed_clip")
class FixedClip(Aggregator):
    """Clip every hospital's update to a fixed norm, add, noise, divide (McMahan et al. 2018, arXiv:1710.06963)."""

    def __init__(self, setting: Setting):
        super().__init__(setting)
        self.privacy = setting.privacy
        self.source = source_of(setting.privacy)

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """Key and round of the noise, clip norm and noise multiplier."""
        return collections.OrderedDict(
            clip_norm=np.float32(self.privacy.clip_norm),
            noise_multiplier=np.float32(noise_multiplier),
            key=np.asarray(key, np.int64),
            round=np.int32(0),
        )

    def parameters(self, state: Structure) -> Structure:
        """The clip norm."""
        return collections.OrderedDict(clip_norm=state["clip_norm"])

    def prepare(self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure) -> Structure:
        """The clipped update; weights play no part, so that one hospital moves the sum by at most the clip norm."""
        clipped, _ = clip_by_global_norm(delta, parameters["clip_norm"])
        return collections.OrderedDict(delta=clipped, count=tf.constant(1.0))

    def received(self, parameters: Structure, prepared: Structure, decoded: Tensors, weight: tf.Tensor) -> Structure:
        """Clipped again: whatever an encoder makes of it, one hospital moves the sum by at most the clip norm."""
        clipped, _ = clip_by_global_norm(decoded, parameters["clip_norm"])
        return with_changes(prepared, delta=clipped)

    def resolutions(self, parameters: Structure, steps: float) -> Structure:
        """No coordinate exceeds the clip norm."""
        return collections.OrderedDict(delta=parameters["clip_norm"] / steps, count=tf.constant(1.0))

    def server_noise(self, state: Structure) -> Structure:
        """One unit normal per parameter."""
        draws = self.source.normals(state["key"], [parameter_count(self.specs)], position=state["round"])
        return collections.OrderedDict(delta=draws)

    def noised_mean(self, total: Structure, scale: tf.Tensor, noise: Structure) -> Tensors:
        """(sum + scale * unit noise) / divisor."""
        divisor = self.setting.divisor(total["count"])
        draws = unflatten(noise["delta"], self.specs)
        return tuple((tensor + scale * draw) / divisor for tensor, draw in zip(total["delta"], draws))

    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """The noised mean; the share of clipped hospitals is *not* released, it is not covered by the guarantee."""
        scale = state["noise_multiplier"] * state["clip_norm"]
        update = self.noised_mean(total, scale, noise)
        measured = self.measured(update, scale / self.setting.divisor(total["count"]), state["clip_norm"])
        return update, with_changes(state, round=state["round"] + 1), measured

    def measured(self, update: Tensors, noise_stddev: tf.Tensor, clip_norm: tf.Tensor) -> Structure:
        """What may be shown of a round: the norm of the *noised* update beside that of its noise alone (expected).

        Both follow from what is released anyway, so that they cost no privacy.
        """
        noise_norm = noise_stddev * float(np.sqrt(parameter_count(self.specs)))
        return collections.OrderedDict(clip_norm=clip_norm, update_norm=global_norm(update), noise_norm=noise_norm)
