"""Aggregators: what turns the hospitals' updates into one, as pure functions.

All of them are *linear*: every hospital prepares a contribution, contributions are added, the server finishes the
sum. So the same aggregator runs over one machine, in chunks, as a tree over many machines, or under a secure sum.

    parameters(state)                  server -> hospitals, beside the model
    hospital_noise(parameters, key)    noise that the hospital adds itself, from its own key
    prepare(parameters, delta, weight, noise)
                                       at the hospital; a structure of tensors to be added up
    server_noise(state)                unit normals for this round
    finish(state, total, noise)        at the server: the update, the next state, measurements

Why not TFF's `gaussian_fixed`, `gaussian_adaptive` and TensorFlow Privacy's queries themselves: their noise cannot be
seeded, so a run could be neither reproduced nor resumed bit-equal. The arithmetic is theirs, and tests hold the two
equal.
"""

from __future__ import annotations

import abc
import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_hospitals.plan.parts import DISTRIBUTED, CohortPlan, PrivacyPlan
from tff_hospitals.processes.noise import Tensors, global_norm, parameter_count, unflatten
from tff_hospitals.processes.noise_sources import source_of

Structure = collections.OrderedDict


class Aggregator(abc.ABC):
    """The contract of an aggregator; `specs` are the specs of the trainable weights.

    Attributes:
      draws_together: noise of many keys, or of many rounds of one state, comes from one call with a leading axis.
      modulus_bits: contributions are whole numbers, added up modulo 2**modulus_bits under a secure sum; None: real
        numbers in the clear.
    """

    modulus_bits: int | None = None
    draws_together = True
    bounded = True  # whether every contribution lies within `resolutions` by itself

    def __init__(self, specs: Sequence[tf.TensorSpec]):
        self.specs = tuple(specs)

    @abc.abstractmethod
    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """State before the first round: numpy values in a flat ordered dict (`key` is int64 [2])."""

    def parameters(self, state: Structure) -> Structure:
        """What hospitals need to prepare their contribution."""
        return collections.OrderedDict()

    def hospital_noise(self, parameters: Structure, key: tf.Tensor) -> Structure:
        """Noise that a hospital adds before anything leaves it; empty where it adds none."""
        return collections.OrderedDict()

    def no_hospital_noise(self) -> Structure:
        """Zeros in the structure of `hospital_noise`."""
        return collections.OrderedDict()

    @property
    def draws_at_hospital(self) -> bool:
        """Whether hospitals add noise themselves."""
        return bool(self.no_hospital_noise())

    @abc.abstractmethod
    def prepare(
        self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure | None = None
    ) -> Structure:
        """One hospital's contribution."""

    def received(self, parameters: Structure, prepared: Structure, decoded: Tensors, weight: tf.Tensor) -> Structure:
        """The contribution of a hospital whose upload was encoded.

        Args:
          parameters: those that it was prepared with.
          prepared: what `prepare` gave for weight 1; its `delta` is what the hospital encoded.
          decoded: what the server decoded.
          weight: the hospital's weight.
        """
        return with_changes(prepared, delta=decoded)

    def resolutions(self, parameters: Structure, steps: float) -> Structure:
        """The grid on which a secure sum takes each part of a contribution: at most `steps` units to either side."""
        raise TypeError(f"{type(self).__name__} has no public bounds for a secure sum")

    def server_noise(self, state: Structure) -> Structure:
        """Unit noise that `finish` scales; empty without noise at the server."""
        return collections.OrderedDict()

    @abc.abstractmethod
    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """The aggregated update, the next state and server-side measurements (float32 scalars by name)."""


class Mean(Aggregator):
    """Mean of the updates, weighted by each hospital's weight (McMahan et al. 2017, arXiv:1602.05629).

    An empty cohort gives a zero update.

    Args:
      specs: specs of the trainable weights.
      bound: most that a coordinate of an update may have under a secure sum.
      largest_weight: of any hospital.
    """

    bounded = False

    def __init__(self, specs: Sequence[tf.TensorSpec], bound: float = 8.0, largest_weight: float = 1.0):
        super().__init__(specs)
        self.bound = bound
        self.largest_weight = max(1.0, largest_weight)

    def resolutions(self, parameters: Structure, steps: float) -> Structure:
        """Weights are whole numbers already; updates have the plan's bound."""
        return collections.OrderedDict(
            delta=tf.constant(self.bound * self.largest_weight / steps), weight=tf.constant(1.0)
        )

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """No state."""
        return collections.OrderedDict()

    def prepare(
        self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure | None = None
    ) -> Structure:
        """Weighted update and weight."""
        return collections.OrderedDict(delta=tuple(weight * tensor for tensor in delta), weight=weight)

    def received(self, parameters: Structure, prepared: Structure, decoded: Tensors, weight: tf.Tensor) -> Structure:
        """As for an update that was not encoded."""
        return self.prepare(parameters, decoded, weight)

    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """The quotient of the sums."""
        mean = tuple(tf.math.divide_no_nan(tensor, total["weight"]) for tensor in total["delta"])
        return mean, state, collections.OrderedDict(update_norm=global_norm(mean))


def clip_by_global_norm(delta: Tensors, clip_norm: tf.Tensor) -> tuple[Tensors, tf.Tensor]:
    """`delta` scaled down to L2 norm `clip_norm` where it exceeds it, and its norm before."""
    norm = global_norm(delta)
    scale = tf.minimum(1.0, clip_norm / tf.maximum(norm, 1e-12))
    return tuple(tensor * scale for tensor in delta), norm


class FixedClip(Aggregator):
    """Clip every hospital's update to a fixed norm, add, noise, divide (McMahan et al. 2018, arXiv:1710.06963).

    Args:
      specs: specs of the trainable weights.
      privacy: clip norm.
      expected_cohort: divisor under Poisson sampling of hospitals (a random divisor would cost privacy); None divides
        by the number that took part, which is public when all or a fixed number do.
    """

    def __init__(self, specs: Sequence[tf.TensorSpec], privacy: PrivacyPlan, expected_cohort: float | None):
        super().__init__(specs)
        self.privacy = privacy
        self.expected_cohort = expected_cohort
        self.source = source_of(privacy)

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

    def prepare(
        self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure | None = None
    ) -> Structure:
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

    def divisor(self, count: tf.Tensor) -> tf.Tensor:
        """What the noised sum is divided by."""
        if self.expected_cohort is not None:
            return tf.constant(self.expected_cohort, tf.float32)
        return tf.maximum(count, 1.0)

    def noised_mean(self, total: Structure, scale: tf.Tensor, noise: Structure) -> Tensors:
        """(sum + scale * unit noise) / divisor."""
        divisor = self.divisor(total["count"])
        draws = unflatten(noise["delta"], self.specs)
        return tuple((tensor + scale * draw) / divisor for tensor, draw in zip(total["delta"], draws))

    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """The noised mean; the share of clipped hospitals is *not* released, it is not covered by the guarantee."""
        scale = state["noise_multiplier"] * state["clip_norm"]
        update = self.noised_mean(total, scale, noise)
        measured = self.measured(update, scale / self.divisor(total["count"]), state["clip_norm"])
        return update, with_changes(state, round=state["round"] + 1), measured

    def measured(self, update: Tensors, noise_stddev: tf.Tensor, clip_norm: tf.Tensor) -> Structure:
        """What may be shown of a round: the norm of the *noised* update beside that of its noise alone (expected).

        Both follow from what is released anyway, so that they cost no privacy.
        """
        noise_norm = noise_stddev * float(np.sqrt(parameter_count(self.specs)))
        return collections.OrderedDict(clip_norm=clip_norm, update_norm=global_norm(update), noise_norm=noise_norm)


def with_changes(state: Structure, **changes: Any) -> Structure:
    """A copy of a state with some entries changed, order kept."""
    return collections.OrderedDict((name, changes.get(name, value)) for name, value in state.items())


def build_aggregator(
    specs: Sequence[tf.TensorSpec],
    privacy: PrivacyPlan,
    cohort: CohortPlan,
    hospitals: int,
    *,
    rounds: int = 1,
    largest_weight: float = 1.0,
) -> Aggregator:
    """The aggregator that a plan's hospital-level mechanism asks for; hospital weights arrive with the updates.

    Args:
      specs: specs of the trainable weights.
      privacy: the plan's privacy.
      cohort: who takes part in a round, out of `hospitals`.
      hospitals: how many there are.
      rounds: of the whole run (sizes the tree).
      largest_weight: of any hospital in the mean.
    """
    from tff_hospitals.processes.aggregators import noise_shares, secure_sum, tree, zeroing
    from tff_hospitals.processes.aggregators.adaptive_clip import AdaptiveClip
    from tff_hospitals.processes.aggregators.local_dp import LocalNoise

    privacy = privacy.hospital_level()
    expected = cohort.expected_size(hospitals)
    divisor = expected if cohort.kind == "poisson" else None
    made: Aggregator = Mean(specs, privacy.secure_sum_bound, largest_weight)
    if privacy.mechanism == "fixed_clip":
        made = FixedClip(specs, privacy, divisor)
    elif privacy.mechanism == "adaptive_clip":
        made = AdaptiveClip(specs, privacy, divisor, privacy.count_stddev(expected))
    elif privacy.mechanism == "tree":
        made = tree.TreeAggregation(specs, privacy, divisor, rounds)
    elif privacy.mechanism == "local_dp":
        made = LocalNoise(specs, privacy, divisor)
    elif privacy.mechanism in DISTRIBUTED:
        return noise_shares.Distributed(specs, privacy, round(expected))
    if privacy.zeroing != "none":
        made = zeroing.Zeroing(made, privacy, divisor, privacy.count_stddev(expected))
    return secure_sum.SecureSum(made, hospitals) if privacy.secure_sum else made
