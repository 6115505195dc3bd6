"""Robust rules over the single updates of a round (see `plan.mechanisms.robust` for what each of them bears).

A round's contributions are still added up, so that every runtime serves them: each hospital adds its update to a row of
its own, and the sum is the table of all updates. Which row is the hospital's place in the round, which arrives as its
weight (1, 2, ...); a weight of 0 is a hospital that is not there.
"""

from __future__ import annotations

import abc
import collections

import numpy as np
import tensorflow as tf

from tff_hospitals.foundations.validation import Problem, raise_if
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.mechanisms.robust import RobustRule
from tff_hospitals.processes.aggregators.base import Aggregator, Setting, Structure, clip_by_global_norm, with_changes
from tff_hospitals.processes.aggregators.mean import Mean
from tff_hospitals.processes.aggregators.registry import register
from tff_hospitals.processes.noise import Tensors, all_finite, global_norm, parameter_count, unflatten

MOST_NUMBERS = 2**28
"""Numbers in the table of a round's updates: 1 GiB."""


class Gathering(Aggregator):
    """A rule over all updates of a round."""

    bounded = False

    def __init__(self, setting: Setting):
        super().__init__(setting)
        mechanism = mechanisms.named(setting.privacy.mechanism)
        if not isinstance(mechanism, RobustRule):
            raise TypeError(f"{mechanism.name} is no rule over single updates")
        self.least = mechanism.least
        at_most = setting.cohort.expected_size(setting.hospitals)
        self.places = setting.hospitals if setting.cohort.kind == "poisson" else int(at_most)
        self.scalars = parameter_count(self.specs)
        numbers = self.places * self.scalars
        if numbers > MOST_NUMBERS:
            bound = f"{numbers:,} numbers in a round's updates must be at most {MOST_NUMBERS:,}: all are kept at once"
            raise_if([Problem("parameters of the model", self.scalars, bound, "take norm_bound, or smaller cohorts")])

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """No state."""
        return collections.OrderedDict()

    def prepare(self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure) -> Structure:
        """The update in the row of the hospital's place; one that is not finite is left out."""
        finite = all_finite(delta)
        flat = tf.concat([tf.reshape(tf.where(finite, one, tf.zeros_like(one)), [-1]) for one in delta], axis=0)
        place = tf.one_hot(tf.cast(weight, tf.int32) - 1, self.places)
        taken = place * tf.cast(finite, tf.float32)
        return collections.OrderedDict(updates=taken[:, tf.newaxis] * flat[tf.newaxis], taken=taken)

    def received(self, parameters: Structure, prepared: Structure, decoded: Tensors, weight: tf.Tensor) -> Structure:
        """As for an update that was not encoded."""
        return self.prepare(parameters, decoded, weight, self.no_hospital_noise())

    def sent(self, contribution: Structure) -> Structure:
        """The hospital's own row; which one it is, the server knows."""
        return collections.OrderedDict((name, value[0]) for name, value in contribution.items())

    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """What the rule makes of the table; zero where nobody took part."""
        taken = total["taken"] > 0.5
        count = tf.reduce_sum(tf.cast(taken, tf.int32))
        made = self.rule(state, total["updates"], taken, count)
        made = tf.where(count > 0, made, tf.zeros_like(made))
        update = unflatten(made, self.specs)
        return update, self.next_state(state, made), collections.OrderedDict(update_norm=global_norm(update))

    def next_state(self, state: Structure, made: tf.Tensor) -> Structure:
        """The state after a round."""
        return state

    @abc.abstractmethod
    def rule(self, state: Structure, updates: tf.Tensor, taken: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """One update, float32 [parameters].

        Args:
          state: before the round.
          updates: float32 [places, parameters], zero where nobody is.
          taken: bool [places].
          count: int32, how many there are.
        """

    def bad(self, count: tf.Tensor) -> tf.Tensor:
        """Bad hospitals that the rule reckons with: the plan's number, or as many as the round bears."""
        factor, more = self.least
        most = tf.maximum((count - more) // factor, 0)
        given = self.setting.privacy.byzantine
        return most if given is None else tf.minimum(most, given)


def _sorted(updates: tf.Tensor, taken: tf.Tensor) -> tf.Tensor:
    """Every coordinate's values in order, what is not there behind them."""
    behind = tf.where(taken[:, tf.newaxis], updates, np.float32(np.inf))
    return tf.sort(behind, axis=0)


@register("coordinate_median")
class CoordinateMedian(Gathering):
    """The middle value of every coordinate, or the mean of the two in the middle."""

    def rule(self, state: Structure, updates: tf.Tensor, taken: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """See the class."""
        ordered = _sorted(updates, taken)
        last = tf.maximum(count - 1, 0)
        return (tf.gather(ordered, last // 2) + tf.gather(ordered, (last + 1) // 2)) / 2.0


@register("trimmed_mean")
class TrimmedMean(Gathering):
    """The mean of every coordinate without its `byzantine` largest and smallest values."""

    def rule(self, state: Structure, updates: tf.Tensor, taken: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """See the class."""
        bad, rank = self.bad(count), tf.range(self.places)
        kept = tf.logical_and(rank >= bad, rank < count - bad)
        values = tf.where(kept[:, tf.newaxis], _sorted(updates, taken), 0.0)
        return tf.reduce_sum(values, axis=0) / tf.cast(tf.maximum(count - 2 * bad, 1), tf.float32)


@register("krum")
class Krum(Gathering):
    """Updates are ranked by the sum of squared distances to their nearest count - byzantine - 2 others."""

    def best(self, count: tf.Tensor, bad: tf.Tensor) -> tf.Tensor:
        """How many of the ranking are taken."""
        return tf.ones_like(count)

    def rule(self, state: Structure, updates: tf.Tensor, taken: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """The mean of the first ones of the ranking."""
        bad = self.bad(count)
        near = tf.maximum(count - bad - 2, 1)
        far = np.float32(np.inf)
        both = tf.logical_and(taken[:, tf.newaxis], taken[tf.newaxis])
        both = tf.logical_and(both, tf.logical_not(tf.eye(self.places, dtype=tf.bool)))
        distances = tf.map_fn(lambda one: tf.reduce_sum(tf.square(updates - one[tf.newaxis]), axis=1), updates)
        ordered = tf.sort(tf.where(both, distances, far), axis=1)
        score = tf.reduce_sum(tf.where(tf.range(self.places)[tf.newaxis] < near, ordered, 0.0), axis=1)
        score = tf.where(taken, score, far)
        ranks = tf.argsort(tf.argsort(score, stable=True), stable=True)
        chosen = tf.cast(tf.logical_and(ranks < self.best(count, bad), taken), tf.float32)
        return tf.linalg.matvec(updates, chosen, transpose_a=True) / tf.maximum(tf.reduce_sum(chosen), 1.0)


@register("multi_krum")
class MultiKrum(Krum):
    """The mean of the first count - byzantine."""

    def best(self, count: tf.Tensor, bad: tf.Tensor) -> tf.Tensor:
        """All but as many as may be bad."""
        return count - bad


@register("geometric_median")
class GeometricMedian(Gathering):
    """Smoothed Weiszfeld steps from the mean."""

    steps, smallest = 32, 1e-6

    def rule(self, state: Structure, updates: tf.Tensor, taken: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """See the class."""
        there = tf.cast(taken, tf.float32)
        point = _weighted(updates, there)
        for _ in range(self.steps):
            distances = tf.norm(updates - point[tf.newaxis], axis=1)
            point = _weighted(updates, there / tf.maximum(distances, self.smallest))
        return point


@register("centred_clip")
class CentredClip(Gathering):
    """From the last round's update, steps by the mean of the clipped differences."""

    steps = 5

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """The centre, at first zero."""
        return collections.OrderedDict(centre=np.zeros([self.scalars], np.float32))

    def next_state(self, state: Structure, made: tf.Tensor) -> Structure:
        """The centre of the next round."""
        return with_changes(state, centre=made)

    def rule(self, state: Structure, updates: tf.Tensor, taken: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """See the class."""
        there, centre = tf.cast(taken, tf.float32), state["centre"]
        for _ in range(self.steps):
            away = updates - centre[tf.newaxis]
            scale = tf.minimum(1.0, self.setting.privacy.clip_norm / tf.maximum(tf.norm(away, axis=1), 1e-12))
            centre = centre + _weighted(away, there, scale)
        return centre


def _weighted(values: tf.Tensor, weights: tf.Tensor, scale: tf.Tensor | float = 1.0) -> tf.Tensor:
    """The mean of scaled rows with these weights."""
    return tf.math.divide_no_nan(tf.linalg.matvec(values, weights * scale, transpose_a=True), tf.reduce_sum(weights))


@register("norm_bound")
class NormBound(Mean):
    """The mean of clipped updates."""

    bounded = True

    def prepare(self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure) -> Structure:
        """What is not finite is left out, with its weight."""
        clipped, norm = clip_by_global_norm(delta, tf.constant(self.setting.privacy.clip_norm, tf.float32))
        return super().prepare(parameters, clipped, tf.where(tf.math.is_finite(norm), weight, 0.0), noise)

    def resolutions(self, parameters: Structure, steps: float) -> Structure:
        """No coordinate exceeds the clip norm times the weight."""
        bound = self.setting.privacy.clip_norm * max(1.0, self.setting.largest_weight)
        return collections.OrderedDict(delta=tf.constant(bound / steps), weight=tf.constant(1.0))
