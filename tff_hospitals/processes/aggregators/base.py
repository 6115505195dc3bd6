"""The contract of aggregators: what turns the hospitals' updates into one, as pure functions.

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
import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from tff_hospitals.plan.parts import ClientPlan, CohortPlan, PrivacyPlan
from tff_hospitals.processes.noise import Tensors, global_norm

Structure = collections.OrderedDict


@dataclasses.dataclass(frozen=True)
class Setting:
    """What an aggregator is built for.

    Attributes:
      specs: specs of the trainable weights.
      privacy: settings of the hospital-level mechanism.
      cohort: who takes part in a round, out of `hospitals`.
      rounds: of the whole run.
      largest_weight: of any hospital in the mean.
      noise_multiplier: of what is built with it (TFF's own aggregators); ours are given it with their state.
      client: local training of the plan.
    """

    specs: tuple[tf.TensorSpec, ...]
    privacy: PrivacyPlan
    cohort: CohortPlan
    hospitals: int
    rounds: int = 1
    largest_weight: float = 1.0
    noise_multiplier: float = 0.0
    client: ClientPlan = dataclasses.field(default_factory=ClientPlan)

    @property
    def expected(self) -> float:
        """Mean number of hospitals in a round."""
        return self.cohort.expected_size(self.hospitals)

    @property
    def count_stddev(self) -> float:
        """Deviation of the noise on a count of hospitals."""
        return self.privacy.count_stddev(self.expected)

    def divisor(self, count: tf.Tensor) -> tf.Tensor:
        """What a noised sum is divided by.

        Under Poisson sampling of hospitals the expected number, since a random divisor would cost privacy; else the
        number that took part, which is public when all or a fixed number do.
        """
        if self.cohort.kind == "poisson":
            return tf.constant(self.expected, tf.float32)
        return tf.maximum(count, 1.0)


class Aggregator(abc.ABC):
    """The contract of an aggregator.

    Attributes:
      specs: specs of the trainable weights.
      draws_together: noise of many keys, or of many rounds of one state, comes from one call with a leading axis.
      modulus_bits: contributions are whole numbers, added up modulo 2**modulus_bits under a secure sum; None: real
        numbers in the clear.
      told: names in `parameters` that only the server can know: they follow from the rounds before, or from a key of
        its own. All others follow from the plan, and a hospital takes them from there: noise that a server could turn
        off protects from nobody.
    """

    modulus_bits: int | None = None
    told: tuple[str, ...] = ()
    draws_together = True
    bounded = True  # whether every contribution lies within `resolutions` by itself

    def __init__(self, setting: Setting):
        self.setting, self.specs = setting, setting.specs

    def check(self) -> None:
        """Refuses what cannot be built, where that shows only when it is tried.

        Raises:
          InvalidInput: what is wrong.
        """
        return

    @property
    def sums_securely(self) -> bool:
        """Whether contributions are added up by a secure sum."""
        return self.modulus_bits is not None

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
    def prepare(self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure) -> Structure:
        """One hospital's contribution, finite whatever its update is: what is not counts as zero or is left out.

        Args:
          parameters: those of the round.
          delta: the hospital's update, initial minus final weights.
          weight: float32 scalar, the hospital's weight in a mean.
          noise: what `hospital_noise` drew for this hospital and round; never left out.
        """

    def received(self, parameters: Structure, prepared: Structure, decoded: Tensors, weight: tf.Tensor) -> Structure:
        """The contribution of a hospital whose upload was encoded.

        Args:
          parameters: those that it was prepared with.
          prepared: what `prepare` gave for weight 1; its `delta` is what the hospital encoded.
          decoded: what the server decoded.
          weight: the hospital's weight.
        """
        return with_changes(prepared, delta=decoded)

    def sent(self, contribution: Structure) -> Structure:
        """What of a contribution crosses the wire."""
        return contribution

    def resolutions(self, parameters: Structure, steps: float) -> Structure:
        """The grid on which a secure sum takes each part of a contribution: at most `steps` units to either side."""
        raise TypeError(f"{type(self).__name__} has no public bounds for a secure sum")

    def server_noise(self, state: Structure) -> Structure:
        """Unit noise that `finish` scales; empty without noise at the server."""
        return collections.OrderedDict()

    @abc.abstractmethod
    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """The aggregated update, the next state and server-side measurements (float32 scalars by name)."""


def clip_by_global_norm(delta: Tensors, clip_norm: tf.Tensor) -> tuple[Tensors, tf.Tensor]:
    """`delta` scaled down to L2 norm `clip_norm` where it exceeds it, and its norm before.

    What has no finite norm counts as zero: NaN, infinite values, and values whose squares overflow.

    >>> clipped, norm = clip_by_global_norm((tf.constant([3.0, float("nan")]), tf.constant(4.0)), tf.constant(1.0))
    >>> [tensor.numpy().tolist() for tensor in clipped], bool(tf.math.is_finite(norm))
    ([[0.0, 0.0], 0.0], False)
    """
    norm = global_norm(delta)
    finite = tf.math.is_finite(norm)
    scale = tf.where(finite, tf.minimum(1.0, clip_norm / tf.maximum(norm, 1e-12)), 0.0)
    return tuple(tf.where(finite, tensor, tf.zeros_like(tensor)) * scale for tensor in delta), norm


def with_changes(state: Structure, **changes: Any) -> Structure:
    """A copy of a state with some entries changed, order kept."""
    return collections.OrderedDict((name, changes.get(name, value)) for name, value in state.items())


def drawn(noise: Structure, name: str, aggregator: Aggregator) -> tf.Tensor:
    """Noise that a hospital must have drawn.

    Raises:
      ValueError: when it is missing: without it the update would leave unprotected.
    """
    if name not in noise:
        raise ValueError(f"{type(aggregator).__name__} needs the hospital's noise {name!r}: draw it by hospital_noise")
    return noise[name]
