"""Finalizers: the server optimiser applied to the aggregated update, as pure functions.

The update (initial - final weights) plays the part of a gradient (Reddi et al. 2021, "Adaptive Federated Optimization",
arXiv:2003.00295). The formulas are those of TFF's optimisers, and a test holds them to it; they are written here
because the compiled runtime should not have to import TFF, which takes longer than most runs.

As in TFF, the state holds the settings (learning rate, momentum, betas) beside the slots: they are inputs of the
programs that are compiled from these functions, and one program serves them all. Settings are float64, so that 1 - beta
keeps its digits.
"""

from __future__ import annotations

import abc
import collections
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tff_hospitals.plan.parts import ServerPlan
from tff_hospitals.processes import adam
from tff_hospitals.processes.aggregators.base import Structure, with_changes
from tff_hospitals.processes.noise import Tensors
from tff_hospitals.processes.settings_by_round import at_round


class Finalizer(abc.ABC):
    """The contract of a finalizer.

    Attributes:
      settings: names of the plan's numbers that are in the state.
    """

    settings: tuple[str, ...] = ("learning_rate",)

    def __init__(self, server: ServerPlan):
        self.server = server

    def initial_state(self, specs: Sequence[tf.TensorSpec]) -> Structure:
        """Settings, and slots before the first round, as numpy values."""
        settings = {name: np.float64(getattr(self.server, name)) for name in self.settings}
        return collections.OrderedDict(**settings, **self.slots(specs))

    def slots(self, specs: Sequence[tf.TensorSpec]) -> Structure:
        """What the optimiser remembers, before the first round."""
        return collections.OrderedDict()

    @abc.abstractmethod
    def apply(self, state: Structure, weights: Tensors, update: Tensors) -> tuple[Tensors, Structure]:
        """New weights and state."""


def _zeros(specs: Sequence[tf.TensorSpec], value: float = 0.0) -> tuple[np.ndarray, ...]:
    return tuple(np.full(spec.shape.as_list(), value, np.float32) for spec in specs)


def _single(value: tf.Tensor) -> tf.Tensor:
    return tf.cast(value, tf.float32)


class Sgd(Finalizer):
    """w = w - rate * v, with v = momentum * v + update."""

    def __init__(self, server: ServerPlan):
        super().__init__(server)
        if server.momentum:
            self.settings = ("learning_rate", "momentum")

    def slots(self, specs: Sequence[tf.TensorSpec]) -> Structure:
        """A velocity per weight when there is momentum."""
        return collections.OrderedDict(velocity=_zeros(specs)) if self.server.momentum else collections.OrderedDict()

    def apply(self, state: Structure, weights: Tensors, update: Tensors) -> tuple[Tensors, Structure]:
        """New weights and state."""
        if self.server.momentum:
            momentum = _single(state["momentum"])
            update = tuple(momentum * v + u for v, u in zip(state["velocity"], update))
            state = with_changes(state, velocity=update)
        rate = _single(state["learning_rate"])
        return tuple(w - rate * u for w, u in zip(weights, update)), state


class Adagrad(Finalizer):
    """w = w - rate * u / sqrt(sum of u**2 + epsilon), the sum starting at 0.1 as in TFF."""

    settings = ("learning_rate", "epsilon")

    def slots(self, specs: Sequence[tf.TensorSpec]) -> Structure:
        """Accumulated squares."""
        return collections.OrderedDict(squares=_zeros(specs, 0.1))

    def apply(self, state: Structure, weights: Tensors, update: Tensors) -> tuple[Tensors, Structure]:
        """New weights and state."""
        squares = tuple(s + tf.square(u) for s, u in zip(state["squares"], update))
        rate, epsilon = _single(state["learning_rate"]), _single(state["epsilon"])
        weights = tuple(w - rate * u / tf.sqrt(s + epsilon) for w, u, s in zip(weights, update, squares))
        return weights, with_changes(state, squares=squares)


class Adam(Finalizer):
    """Adam with bias correction; `epsilon` (the paper's tau) decides how adaptive it is."""

    settings = ("learning_rate", "beta_1", "beta_2", "epsilon")

    def slots(self, specs: Sequence[tf.TensorSpec]) -> Structure:
        """Step count and two moments."""
        return collections.OrderedDict(step=np.int32(0), first=_zeros(specs), second=self._second(specs))

    def _second(self, specs: Sequence[tf.TensorSpec]) -> tuple[np.ndarray, ...]:
        return _zeros(specs)

    def _next_second(self, second: Tensors, update: Tensors, beta_2: tf.Tensor) -> Tensors:
        return adam.moved(second, tuple(tf.square(u) for u in update), beta_2)

    def apply(self, state: Structure, weights: Tensors, update: Tensors) -> tuple[Tensors, Structure]:
        """New weights and state."""
        step, beta_1, beta_2 = state["step"] + 1, state["beta_1"], state["beta_2"]
        first = adam.moved(state["first"], update, beta_1)
        second = self._next_second(state["second"], update, beta_2)
        rate = _single(state["learning_rate"])
        directions = adam.directed(first, second, step, rate, beta_1, beta_2, state["epsilon"])
        return self._moved(weights, directions, rate), with_changes(state, step=step, first=first, second=second)

    def _moved(self, weights: Tensors, directions: Tensors, rate: tf.Tensor) -> Tensors:
        return tuple(weight - direction for weight, direction in zip(weights, directions))


class Yogi(Adam):
    """Yogi (Zaheer et al. 2018): Adam whose second moment moves by a bounded step; it starts at 1e-6 as in TFF."""

    def _second(self, specs: Sequence[tf.TensorSpec]) -> tuple[np.ndarray, ...]:
        return _zeros(specs, 1e-6)

    def _next_second(self, second: Tensors, update: Tensors, beta_2: tf.Tensor) -> Tensors:
        share = _single(1.0 - beta_2)
        squares = tuple(tf.square(u) for u in update)
        return tuple(v + share * tf.sign(square - v) * square for v, square in zip(second, squares))


class Lamb(Adam):
    """LAMB (You et al. 2020, arXiv:1904.00962): Adam's step, in every tensor as long as rate times the tensor's norm.

    Where a tensor or its step is zero, as biases are before the first round, the step is Adam's.
    """

    def _moved(self, weights: Tensors, directions: Tensors, rate: tf.Tensor) -> Tensors:
        moved = []
        for weight, direction in zip(weights, directions):
            own, step = tf.norm(weight), tf.norm(direction)
            length = tf.where(tf.logical_and(own > 0, step > 0), rate * tf.math.divide_no_nan(own, step), 1.0)
            moved.append(weight - length * direction)
        return tuple(moved)


FINALIZERS: dict[str, Callable[[ServerPlan], Finalizer]] = {
    "sgd": Sgd,
    "adagrad": Adagrad,
    "adam": Adam,
    "yogi": Yogi,
    "lamb": Lamb,
}


class ByRound(Finalizer):
    """Another finalizer, whose learning rate is multiplied by a factor of each round.

    Args:
      inner: the finalizer.
      factors: of the rounds, float64 [rounds]; the last one goes on.
    """

    def __init__(self, inner: Finalizer, factors: np.ndarray):
        super().__init__(inner.server)
        self.inner, self.factors, self.settings = inner, factors, inner.settings

    def slots(self, specs: Sequence[tf.TensorSpec]) -> Structure:
        """Those of the inner one, and the round."""
        return collections.OrderedDict(round=np.int32(0), **self.inner.slots(specs))

    def apply(self, state: Structure, weights: Tensors, update: Tensors) -> tuple[Tensors, Structure]:
        """New weights and state, which keeps the learning rate at factor 1."""
        rate = state["learning_rate"]
        now = with_changes(state, learning_rate=rate * at_round(self.factors, state["round"]))
        weights, after = self.inner.apply(now, weights, update)
        return weights, with_changes(after, learning_rate=rate, round=state["round"] + 1)


def build_finalizer(server: ServerPlan, factors: np.ndarray | None = None) -> Finalizer:
    """The finalizer that a plan names; `factors` of its learning rate by round, where it changes."""
    made = FINALIZERS[server.optimizer](server)
    return made if factors is None else ByRound(made, factors)
