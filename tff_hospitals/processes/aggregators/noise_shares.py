"""Distributed differential privacy: whole-number noise in shares, added up under a secure sum.

Each hospital clips its update, rotates it by random signs and a Walsh-Hadamard transform, scales and rounds it, adds
its share of discrete noise and sends the result modulo 2**modulus_bits. The server learns the sum alone, which holds
the noise of all shares; nobody is trusted with a sum that is not noised. See `discretisation` for the numbers.

TFF's `ddp_secure_aggregator` and TensorFlow Privacy's queries are the reference of the arithmetic. They are not used:
their Skellam noise is seeded from the clock in microseconds and so can be guessed, and none of it can be reproduced.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.plan.discretisation import Grid, discretise, padded
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.processes.aggregators.base import FixedClip, Structure, clip_by_global_norm, with_changes
from tff_hospitals.processes.noise import Tensors, fold, parameter_count, unflatten


class Distributed(FixedClip):
    """Distributed discrete Gaussian or Skellam noise, drawn outside XLA (which draws other floats of the same key).

    Args:
      specs: specs of the trainable weights.
      privacy: clip norm, bits of the modulus, kind of noise.
      shares: hospitals in a round.
    """

    draws_together = False

    def __init__(self, specs: Sequence[tf.TensorSpec], privacy: PrivacyPlan, shares: int):
        super().__init__(specs, privacy, None)
        self.shares = shares
        self.bits = self.modulus_bits = privacy.modulus_bits
        self.dimension = padded(parameter_count(specs))
        self._sample = {"discrete_gaussian": self.source.discrete_gaussian, "skellam": self.source.skellam}[
            privacy.mechanism
        ]

    def grid(self, noise_multiplier: float) -> Grid:
        """The whole numbers in use.

        Raises:
          InvalidInput: when the modulus is too small for sum and noise.
        """
        found = discretise(
            clip_norm=self.privacy.clip_norm,
            noise_multiplier=float(noise_multiplier),
            modulus_bits=self.privacy.modulus_bits,
            shares=self.shares,
            parameters=parameter_count(self.specs),
        )
        if found is None:
            bound = f"overflows with {self.shares} hospitals and {parameter_count(self.specs)} parameters"
            raise InvalidInput([Problem("modulus_bits", self.privacy.modulus_bits, bound, "take more bits")])
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
        shape = [self.dimension]
        return collections.OrderedDict(
            share=self._sample(fold(key, 2), shape, parameters["local_stddev"]),
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

    def prepare(
        self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure | None = None
    ) -> Structure:
        """The hospital's whole numbers modulo 2**modulus_bits: without its noise nothing leaves."""
        noise = self.no_hospital_noise() if noise is None else noise
        rounded = self.rounded(parameters, delta, noise)
        packed = tf.bitwise.bitwise_and(rounded + noise["share"], tf.constant(2**self.bits - 1, tf.int32))
        return collections.OrderedDict(packed=packed, count=tf.constant(1, tf.int32))

    def rounded(self, parameters: Structure, delta: Tensors, noise: Structure) -> tf.Tensor:
        """The clipped, rotated, scaled update in whole numbers, of L2 norm at most `norm_bound`."""
        clipped, _ = clip_by_global_norm(delta, parameters["clip_norm"])
        flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in clipped], axis=0)
        flat = tf.pad(flat, [[0, self.dimension - parameter_count(self.specs)]])
        scaled = walsh_hadamard(flat * noise["signs"]) * parameters["scale"]
        below = tf.floor(scaled)
        rounded = below + tf.cast(tf.less(noise["rounding"], scaled - below), tf.float32)
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
        flat = walsh_hadamard(whole / state["scale"]) * noise["signs"]
        count = tf.cast(tf.maximum(total["count"], 1), tf.float32)
        flat = flat[: parameter_count(self.specs)] / count
        update = unflatten(flat, self.specs)
        shares = tf.cast(total["count"], tf.float32)
        deviation = tf.cast(state["local_stddev"], tf.float32) * tf.sqrt(shares) / state["scale"] / count
        measured = self.measured(update, deviation, state["clip_norm"])
        return update, with_changes(state, round=state["round"] + 1), measured


def centred(whole: tf.Tensor, bits: int) -> tf.Tensor:
    """The number of least size that equals `whole` modulo 2**bits.

    >>> centred(tf.constant([1, 15, 8, 23], tf.int32), 4).numpy().tolist()
    [1, -1, -8, 7]
    """
    low = tf.bitwise.bitwise_and(whole, tf.constant(2**bits - 1, tf.int32))
    return tf.where(tf.greater_equal(low, 2 ** (bits - 1)), low - 2 ** (bits - 1) - 2 ** (bits - 1), low)


def walsh_hadamard(flat: tf.Tensor) -> tf.Tensor:
    """The orthonormal Walsh-Hadamard transform of a vector whose length is a power of two; it is its own inverse.

    >>> walsh_hadamard(tf.constant([1.0, 0.0, 0.0, 0.0])).numpy().tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    size = flat.shape[0]
    half = 1
    while half < size:
        pairs = tf.reshape(flat, [size // (2 * half), 2, half])
        flat = tf.reshape(tf.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1), [size])
        half *= 2
    return flat / float(np.sqrt(size))
