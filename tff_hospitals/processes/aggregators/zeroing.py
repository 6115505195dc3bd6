"""Zeroing: an update with a coordinate beyond a bound (or not a number) counts as zero, before it is clipped.

The bound is public (`fixed`) or follows a *noised* quantile of the largest coordinates (`quantile`). TFF's
`zeroing_factory` and `dp_aggregator(zeroing=True)` follow a quantile without noise, which no guarantee covers.
"""

from __future__ import annotations

import collections

import numpy as np
import tensorflow as tf

from tff_hospitals.accounting import split_adaptive_noise
from tff_hospitals.plan.zeroing import ZEROING
from tff_hospitals.processes.aggregators.base import Aggregator, Structure, with_changes
from tff_hospitals.processes.noise import Tensors, all_finite
from tff_hospitals.processes.noise_sources import source_of

# As in TFF: the bound is twice the 98 % quantile plus one, and the quantile moves by a factor of up to ten per round.
QUANTILE, MULTIPLIER, INCREMENT, LEARNING_RATE = 0.98, 2.0, 1.0, float(np.log(10.0))


class Zeroing(Aggregator):
    """Another aggregator behind a zeroing bound.

    Args:
      inner: fixed or adaptive clipping.
    """

    def __init__(self, inner: Aggregator):
        super().__init__(inner.setting)
        self.inner = inner
        self.follows = ZEROING[inner.setting.privacy.zeroing].follows
        self.told = (*inner.told, "zeroing_bound", "zeroing_norm") if self.follows else inner.told
        self.source = source_of(inner.setting.privacy)

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """The inner aggregator's, whose noise is what the zeroing count leaves of the whole."""
        count_stddev = 0.0
        if self.follows and noise_multiplier > 0:
            noise_multiplier = split_adaptive_noise(noise_multiplier, bit_noise_stddev=self.setting.count_stddev)
            count_stddev = self.setting.count_stddev
        state = self.inner.initial_state(key, noise_multiplier)
        state["zeroing_norm"] = np.float32(self.setting.privacy.zeroing_norm)
        state["zeroing_count_stddev"] = np.float32(count_stddev)
        return state

    def bound(self, state: Structure) -> tf.Tensor:
        """Largest coordinate that an update may have."""
        return MULTIPLIER * state["zeroing_norm"] + INCREMENT if self.follows else state["zeroing_norm"]

    def parameters(self, state: Structure) -> Structure:
        """Those of the inner aggregator, the bound and the quantile."""
        return collections.OrderedDict(
            self.inner.parameters(state), zeroing_bound=self.bound(state), zeroing_norm=state["zeroing_norm"]
        )

    def prepare(self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure) -> Structure:
        """The inner aggregator's contribution of the update or of zero, and whether it was below the quantile."""
        largest = tf.reduce_max(tf.stack([tf.reduce_max(tf.abs(tensor)) for tensor in delta]))
        finite = all_finite(delta)
        keep = tf.logical_and(finite, tf.less_equal(largest, parameters["zeroing_bound"]))
        delta = tuple(tf.where(keep, tensor, tf.zeros_like(tensor)) for tensor in delta)
        contribution = self.inner.prepare(parameters, delta, weight, noise)
        if self.follows:
            below = tf.logical_and(finite, tf.less_equal(largest, parameters["zeroing_norm"]))
            contribution["below_zeroing"] = tf.cast(below, tf.float32) - 0.5
        return contribution

    def received(self, parameters: Structure, prepared: Structure, decoded: Tensors, weight: tf.Tensor) -> Structure:
        """As the inner aggregator does."""
        return self.inner.received(parameters, prepared, decoded, weight)

    def resolutions(self, parameters: Structure, steps: float) -> Structure:
        """Those of the inner aggregator; the bit is -1/2 or +1/2."""
        units = self.inner.resolutions(parameters, steps)
        return collections.OrderedDict(units, below_zeroing=tf.constant(0.5)) if self.follows else units

    def server_noise(self, state: Structure) -> Structure:
        """The inner aggregator's, and one unit normal for the count."""
        noise = self.inner.server_noise(state)
        if self.follows:
            noise["below_zeroing"] = self.source.normals(state["key"], [], stream=2, position=state["round"])
        return noise

    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """The inner aggregator's update; then the next quantile."""
        update, after, measured = self.inner.finish(state, total, noise)
        if self.follows:
            count = self.setting.divisor(total["count"])
            noised = total["below_zeroing"] + state["zeroing_count_stddev"] * noise["below_zeroing"]
            below = tf.clip_by_value(noised / count + 0.5, 0.0, 1.0)
            moved = state["zeroing_norm"] * tf.exp(-LEARNING_RATE * (below - QUANTILE))
            after = with_changes(after, zeroing_norm=tf.clip_by_value(moved, 1e-3, 1e6))
        measured["zeroing_bound"] = self.bound(state)
        return update, after, measured
