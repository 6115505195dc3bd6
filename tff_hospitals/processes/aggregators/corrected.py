"""The server's half of algorithms that correct local steps: means of updates, and of what is sent beside them.

The hospitals' half is in `corrections`. All of these are sums, so that every runtime serves them.
"""

from __future__ import annotations

import abc
import collections

import numpy as np
import tensorflow as tf

from tff_hospitals.processes.aggregators.base import Structure, with_changes
from tff_hospitals.processes.aggregators.mean import Mean
from tff_hospitals.processes.aggregators.registry import register
from tff_hospitals.processes.noise import Tensors, all_finite, global_norm, parameter_count, unflatten

PROXIMAL_STEP, PROXIMAL_PATIENCE = 0.1, 5
"""How far an adaptive proximal weight moves, and after how many rounds of falling loss in a row it falls."""


class Corrected(Mean):
    """A mean whose server remembers something.

    Attributes:
      tells: whether hospitals receive the state's `told`.
    """

    tells = True

    told = ("told",)

    def parameters(self, state: Structure) -> Structure:
        """What hospitals correct their steps by."""
        return collections.OrderedDict(told=state["told"]) if self.tells else collections.OrderedDict()

    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """The mean update, and the state by what was sent beside; nothing changes where nobody took part."""
        mean = tuple(tf.math.divide_no_nan(tensor, total["weight"]) for tensor in total["delta"])
        count = len(self.specs)
        present = total["weight"] > 0
        update, after = self.settled(state, mean[:count], mean[count:], self._share(total["weight"]))
        update = tuple(tf.where(present, tensor, tf.zeros_like(tensor)) for tensor in update)
        after = tf.nest.map_structure(lambda new, old: tf.where(present, new, old), after, state)
        return update, after, collections.OrderedDict(update_norm=global_norm(update))

    def _share(self, weight: tf.Tensor) -> tf.Tensor:
        """The part of all hospitals that took part."""
        if self.setting.cohort.kind == "all":
            return tf.constant(1.0)
        return weight / tf.constant(float(self.setting.hospitals))

    @abc.abstractmethod
    def settled(
        self, state: Structure, update: Tensors, beside: Tensors, share: tf.Tensor
    ) -> tuple[Tensors, Structure]:
        """The update of the round and the next state.

        Args:
          state: before the round.
          update: the mean of the updates.
          beside: the mean of what was sent beside them; empty where nothing is.
          share: float32, the part of all hospitals that took part.
        """


class _Vector(Corrected):
    """A server that tells hospitals a vector of all parameters, at first zero."""

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """The vector."""
        return collections.OrderedDict(told=np.zeros([parameter_count(self.specs)], np.float32))


@register("scaffold")
class Scaffold(_Vector):
    """The server's variate moves by the mean change of all hospitals', those that were away included."""

    def settled(
        self, state: Structure, update: Tensors, beside: Tensors, share: tf.Tensor
    ) -> tuple[Tensors, Structure]:
        """See the class."""
        return update, with_changes(state, told=state["told"] + share * beside[0])


@register("feddyn")
class FedDyn(Corrected):
    """The mean model minus h / alpha; what is remembered is -h / alpha, the sum of the shares of all updates so far."""

    tells = False

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """The sum."""
        return collections.OrderedDict(gathered=np.zeros([parameter_count(self.specs)], np.float32))

    def settled(
        self, state: Structure, update: Tensors, beside: Tensors, share: tf.Tensor
    ) -> tuple[Tensors, Structure]:
        """See the class."""
        flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in update], axis=0)
        gathered = state["gathered"] + share * flat
        moved = tuple(one + more for one, more in zip(update, unflatten(gathered, self.specs)))
        return moved, with_changes(state, gathered=gathered)


@register("mime_lite")
class MimeLite(_Vector):
    """The server's momentum takes in the mean gradient."""

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """Momentum and its decay, which is an input of the program."""
        decay = np.float32(self.setting.client.momentum)
        return collections.OrderedDict(**super().initial_state(key, noise_multiplier), decay=decay)

    def settled(
        self, state: Structure, update: Tensors, beside: Tensors, share: tf.Tensor
    ) -> tuple[Tensors, Structure]:
        """See the class."""
        return update, with_changes(state, told=(1.0 - state["decay"]) * beside[0] + state["decay"] * state["told"])


@register("fedprox_adaptive")
class AdaptiveProximal(Corrected):
    """The proximal weight rises by .1 when the mean loss rises, and falls by .1 after five rounds of falling loss.

    Li et al. 2020, arXiv:1812.06127, section 5.3; it starts at the plan's `proximal_mu`.
    """

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """The weight, the loss of the last round, and rounds in a row in which it fell."""
        return collections.OrderedDict(
            told=np.array([self.setting.client.proximal_mu], np.float32), loss=np.float32(np.inf), falling=np.int32(0)
        )

    def settled(
        self, state: Structure, update: Tensors, beside: Tensors, share: tf.Tensor
    ) -> tuple[Tensors, Structure]:
        """See the class."""
        loss = beside[0][0]
        first = tf.math.is_inf(state["loss"])
        rose = tf.logical_and(loss > state["loss"], tf.logical_not(first))
        fell = tf.logical_and(loss < state["loss"], tf.logical_not(first))
        falling = tf.where(fell, tf.add(state["falling"], 1), 0)
        due = falling >= PROXIMAL_PATIENCE
        step = tf.where(rose, PROXIMAL_STEP, tf.where(due, -PROXIMAL_STEP, 0.0))
        return update, with_changes(
            state, told=tf.maximum(state["told"] + step, 0.0), loss=loss, falling=tf.where(due, 0, falling)
        )


@register("agnostic")
class Agnostic(Corrected):
    """Mohri, Sivek and Suresh 2019, arXiv:1902.00146: the mixture of hospitals that is worst for the model.

    The server's weights start equal, go up along the hospitals' losses and are projected onto the simplex. A hospital's
    place in the round arrives as its weight (1, 2, ...), as for rules that see every update; all take part.
    """

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """The weights of the hospitals."""
        return collections.OrderedDict(told=np.full([self.setting.hospitals], 1.0 / self.setting.hospitals, np.float32))

    def prepare(self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure) -> Structure:
        """The update by the hospital's weight, and its loss in its own place."""
        *update, loss = delta
        finite = all_finite(delta)
        place = tf.one_hot(tf.cast(weight, tf.int32) - 1, self.setting.hospitals)
        share = tf.reduce_sum(place * parameters["told"])
        mean = super().prepare(parameters, tuple(update), tf.where(finite, share, 0.0), noise)
        return collections.OrderedDict(**mean, losses=place * tf.where(finite, loss, tf.zeros_like(loss)))

    def sent(self, contribution: Structure) -> Structure:
        """Of the losses its own."""
        return with_changes(contribution, losses=contribution["losses"][:1])

    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """The mean by the weights, and the next weights."""
        rate = tf.constant(self.setting.privacy.agnostic_learning_rate, tf.float32)
        weights = on_simplex(state["told"] + rate * total["losses"])
        update, _, measured = super().finish(state, total, noise)
        return update, with_changes(state, told=weights), measured

    def settled(
        self, state: Structure, update: Tensors, beside: Tensors, share: tf.Tensor
    ) -> tuple[Tensors, Structure]:
        """The update as it is."""
        return update, state


def on_simplex(values: tf.Tensor) -> tf.Tensor:
    """The nearest point of no negative numbers that add up to one (Duchi et al. 2008).

    >>> [round(float(one), 3) for one in on_simplex(tf.constant([0.5, 0.9, -0.2]))]
    [0.3, 0.7, 0.0]
    """
    ordered = tf.sort(values, direction="DESCENDING")
    above = (tf.cumsum(ordered) - 1.0) / tf.cast(tf.range(1, values.shape[0] + 1), tf.float32)
    positive = tf.reduce_sum(tf.cast(ordered > above, tf.int32))
    return tf.maximum(values - tf.gather(above, positive - 1), 0.0)
