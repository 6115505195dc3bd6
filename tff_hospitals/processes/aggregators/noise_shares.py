"""Distributed differential privacy: whole-number noise in shares, added up under a secure sum.

Each hospital clips its update, rotates it by random signs and a Walsh-Hadamard transform, scales and rounds it, adds
its share of discrete noise and sends the result modulo 2**modulus_bits. The server learns the sum alone, which holds
the noise of all shares; nobody is trusted with a sum that is not noised. See `discretisation` for the numbers.

TFF's `ddp_secure_aggregator` and TensorFlow Privacy's queries are the reference of the arithmetic. They are not used:
their Skellam noise is seeded from the clock in microseconds and so can be guessed, and none of it can be reproduced.
"""

from __future__ import annotations

import abc
import collections
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan.discretisation import Grid, padded
from tff_hospitals.plan.mechanisms.base import HospitalSetting
from tff_hospitals.plan.mechanisms.shares import grid_of, overflow_problem
from tff_hospitals.processes.aggregators.base import Setting, Structure, clip_by_global_norm, drawn, with_changes
from tff_hospitals.processes.aggregators.fixed_clip import FixedClip
from tff_hospitals.processes.aggregators.registry import register
from tff_hospitals.processes.modular import centred, walsh_hadamard
from tff_hospitals.processes.noise import Tensors, fold, parameter_count, unflatten


class NoiseInShares(FixedClip):
    """Whole-number noise, drawn outside XLA (which draws other floats of the same key)."""

    draws_together = False
    told = ("key",)  # of the rotation, by which no norm grows

    def __init__(self, setting: Setting):
        super().__init__(setting)
        self.bits = self.modulus_bits = setting.privacy.modulus_bits
        self.dimension = padded(parameter_count(setting.specs))

    @abc.abstractmethod
    def sample(self, key: tf.Tensor, shape: Sequence[int], stddev: tf.Tensor) -> tf.Tensor:
        """int32 numbers of one hospital's share."""

    def grid(self, noise_multiplier: float) -> Grid:
        """The whole numbers in use.

        Raises:
          InvalidInput: when the modulus is too small for sum and noise.
        """
        one = self.setting
        planned = HospitalSetting(one.privacy, one.rounds, one.cohort, one.hospitals, parameter_count(self.specs))
        found = grid_of(planned, float(noise_multiplier))
        if found is None:
            raise InvalidInput([overflow_problem(planned, float(noise_multiplier))])
        return found

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """As fixed clipping, with the grid; the key only decides the rotation, which is public."""
        state = super().initial_state(key, noise_multiplier)
        grid = self.grid(noise_multiplier)
        state["scale"] = np.float32(grid.scale)
        state["norm_bound"] = np.float64(grid.l2_sensitivity)
        state["local_stddev"] = np.float64(grid.local_stddev)
        return state

    def parameters(self, state: Structure) -> Structure:
        """Clip norm, grid and the key of the rotation."""
        names = ("clip_norm", "scale", "norm_bound", "local_stddev", "key")
        return collections.OrderedDict((name, state[name]) for name in names)

    def hospital_noise(self, parameters: Structure, key: tf.Tensor) -> Structure:
        """The hospital's share of noise and its rounding, from its own key; the signs of the rotation."""
        return self._drawn(parameters, key, [self.dimension])

    def hospital_noises(self, parameters: Structure, key: tf.Tensor, count: int) -> Structure:
        """As `hospital_noise` for many hospitals from one key, with a leading axis: audits draw millions."""
        drawn = self._drawn(parameters, key, [count, self.dimension])
        return with_changes(drawn, signs=tf.tile(drawn["signs"][tf.newaxis], [count, 1]))

    def _drawn(self, parameters: Structure, key: tf.Tensor, shape: Sequence[int]) -> Structure:
        return collections.OrderedDict(
            share=self.sample(fold(key, 2), shape, parameters["local_stddev"]),
            rounding=self.source.uniforms(fold(key, 3), shape),
            signs=self._signs(parameters["key"]),
        )

    def no_hospital_noise(self) -> Structure:
        """Zeros in its structure."""
        zeros = tf.zeros([self.dimension])
        return collections.OrderedDict(share=tf.zeros([self.dimension], tf.int32), rounding=zeros, signs=zeros)

    def _signs(self, key: tf.Tensor) -> tf.Tensor:
        draws = tf.random.stateless_uniform([self.dimension], seed=fold(key, 4), alg="philox")
        return tf.where(tf.less(draws, 0.5), -1.0, 1.0)

    def prepare(self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure) -> Structure:
        """The hospital's whole numbers modulo 2**modulus_bits: without its noise nothing leaves."""
        share, rounded = drawn(noise, "share", self), self.rounded(parameters, delta, noise)
        packed = tf.bitwise.bitwise_and(rounded + share, tf.constant(2**self.bits - 1, tf.int32))
        return collections.OrderedDict(packed=packed, count=tf.constant(1, tf.int32))

    def rounded(self, parameters: Structure, delta: Tensors, noise: Structure) -> tf.Tensor:
        """The clipped, rotated, scaled update in whole numbers, of L2 norm at most `norm_bound`."""
        clipped, _ = clip_by_global_norm(delta, parameters["clip_norm"])
        flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in clipped], axis=0)
        flat = tf.pad(flat, [[0, self.dimension - parameter_count(self.specs)]])
        scaled = _rotated(flat * drawn(noise, "signs", self)) * parameters["scale"]
        below = tf.floor(scaled)
        rounded = below + tf.cast(tf.less(drawn(noise, "rounding", self), scaled - below), tf.float32)
        squared = tf.reduce_sum(tf.square(tf.cast(rounded, tf.float64)))
        # Towards zero no coordinate grows; taken in rare rounds only, and then the bound holds all the same.
        inside = tf.less_equal(squared, tf.square(parameters["norm_bound"]))
        towards_zero = tf.sign(scaled) * tf.floor(tf.abs(scaled))
        return tf.cast(tf.where(inside, rounded, towards_zero), tf.int32)

    def server_noise(self, state: Structure) -> Structure:
        """No noise: only the signs that undo the rotation."""
        return collections.OrderedDict(signs=self._signs(state["key"]))

    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """The mean of the decoded sum."""
        whole = tf.cast(centred(total["packed"], self.bits), tf.float32)
        flat = _rotated(whole / state["scale"]) * noise["signs"]
        count = tf.cast(tf.maximum(total["count"], 1), tf.float32)
        flat = flat[: parameter_count(self.specs)] / count
        update = unflatten(flat, self.specs)
        shares = tf.cast(total["count"], tf.float32)
        deviation = tf.cast(state["local_stddev"], tf.float32) * tf.sqrt(shares) / state["scale"] / count
        measured = self.measured(update, deviation, state["clip_norm"])
        return update, with_changes(state, round=state["round"] + 1), measured


@register("discrete_gaussian")
class DiscreteGaussian(NoiseInShares):
    """Shares of discrete Gaussian noise (Kairouz, Liu and Steinke 2021, arXiv:2102.06387)."""

    def sample(self, key: tf.Tensor, shape: Sequence[int], stddev: tf.Tensor) -> tf.Tensor:
        """Discrete Gaussian numbers."""
        return self.source.discrete_gaussian(key, shape, stddev)


@register("skellam")
class Skellam(NoiseInShares):
    """Shares of Skellam noise (Agarwal, Kairouz and Liu 2021, arXiv:2110.04995)."""

    def sample(self, key: tf.Tensor, shape: Sequence[int], stddev: tf.Tensor) -> tf.Tensor:
        """Skellam numbers."""
        return self.source.skellam(key, shape, stddev)


def _rotated(flat: tf.Tensor) -> tf.Tensor:
    """The orthonormal rotation of a vector; it is its own inverse."""
    return walsh_hadamard(flat[tf.newaxis])[0] / float(np.sqrt(flat.shape[0]))
