"""Any linear aggregator under a secure sum: contributions become whole numbers, added up modulo 2**30.

A secure sum shows the server the total and nothing of its parts. In this package it is *simulated*: the sum is an
ordinary one (TFF's own secure sums have no cryptography behind them in any runtime of its last release either), and
every table says so. What is real is the arithmetic: a hospital sends what a cryptographic secure sum would take.

Values are rounded towards zero, so that no norm grows and the sensitivity of what is inside stays what it was.
"""

from __future__ import annotations

import collections
import math
from typing import Any

import numpy as np
import tensorflow as tf

from tff_hospitals.processes.aggregators.base import Aggregator, Structure
from tff_hospitals.processes.modular import centred
from tff_hospitals.processes.noise import Tensors

BITS = 30


def steps_per_side(hospitals: int) -> float:
    """Units to either side of zero that a hospital may send, so that no sum of all of them overflows.

    >>> steps_per_side(4) * 4 < 2 ** (BITS - 1)
    True
    """
    return 2.0 ** (BITS - 2 - math.ceil(math.log2(max(1, hospitals))))


class SecureSum(Aggregator):
    """Another aggregator, its contributions on a public grid.

    Args:
      inner: what is summed.
    """

    modulus_bits = BITS

    def __init__(self, inner: Aggregator):
        super().__init__(inner.setting)
        self.inner, self.told = inner, inner.told
        self.steps = steps_per_side(inner.setting.hospitals)

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """That of the inner aggregator."""
        return self.inner.initial_state(key, noise_multiplier)

    def parameters(self, state: Structure) -> Structure:
        """Those of the inner aggregator."""
        return self.inner.parameters(state)

    def hospital_noise(self, parameters: Structure, key: tf.Tensor) -> Structure:
        """That of the inner aggregator."""
        return self.inner.hospital_noise(parameters, key)

    def no_hospital_noise(self) -> Structure:
        """That of the inner aggregator."""
        return self.inner.no_hospital_noise()

    def prepare(self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure) -> Structure:
        """The contribution in whole numbers modulo 2**30."""
        units = self.inner.resolutions(parameters, self.steps)

        def encode(value: tf.Tensor, unit: tf.Tensor) -> tf.Tensor:
            bounded = tf.clip_by_value(value / unit, -self.steps, self.steps)
            whole = tf.cast(tf.sign(bounded) * tf.floor(tf.abs(bounded)), tf.int32)
            return tf.bitwise.bitwise_and(whole, tf.constant(2**BITS - 1, tf.int32))

        prepared = self.inner.prepare(parameters, delta, weight, noise)
        sent = _each(encode, prepared, units)
        if not self.inner.bounded:  # what is cut off must not go unnoticed
            largest = tf.reduce_max(tf.stack([tf.reduce_max(tf.abs(tensor)) for tensor in prepared["delta"]]))
            beyond = tf.logical_not(tf.less_equal(largest, units["delta"] * self.steps))
            sent["cut_off"] = tf.cast(beyond, tf.int32)
        return sent

    def server_noise(self, state: Structure) -> Structure:
        """That of the inner aggregator."""
        return self.inner.server_noise(state)

    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """The inner aggregator's, on the decoded sum."""
        units = self.inner.resolutions(self.inner.parameters(state), self.steps)

        def decode(whole: tf.Tensor, unit: tf.Tensor) -> tf.Tensor:
            return tf.cast(centred(whole, BITS), tf.float32) * unit

        total = collections.OrderedDict(total)
        cut_off = total.pop("cut_off", None)
        update, state, measured = self.inner.finish(state, _each(decode, total, units), noise)
        if cut_off is not None:
            measured["cut_off"] = tf.cast(cut_off, tf.float32)
        return update, state, measured


def _each(function: Any, parts: Structure, units: Structure) -> Structure:
    """Applies a function to every tensor of every named part and the part's unit."""
    return collections.OrderedDict(
        (
            name,
            tuple(function(tensor, units[name]) for tensor in part)
            if isinstance(part, tuple)
            else function(part, units[name]),
        )
        for name, part in parts.items()
    )
