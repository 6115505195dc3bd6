"""Finalizers: the server optimiser applied to the aggregated update, as pure functions.

The update (initial - final weights) plays the part of a gradient (Reddi et al. 2021, "Adaptive Federated Optimization",
arXiv:2003.00295). The formulas are those of TFF's optimisers, and a test holds them to it; they are written here
because the compiled runtime should not have to import TFF, which takes longer than most runs.
"""

from __future__ import annotations

import abc
import collections
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tff_hospitals.plan.parts import ServerPlan
from tff_hospitals.processes.noise import Tensors

Structure = collections.OrderedDict


class Finalizer(abc.ABC):
    """The contract of a finalizer."""

    def __init__(self, server: ServerPlan):
        self.server = server

    def initial_state(self, specs: Sequence[tf.TensorSpec]) -> Structure:
        """Slots before the first round, as numpy arrays."""
        return collections.OrderedDict()

    @abc.abstractmethod
    def apply(self, state: Structure, weights: Tensors, update: Tensors) -> tuple[Tensors, Structure]:
        """New weights and state."""


def _zeros(specs: Sequence[tf.TensorSpec], value: float = 0.0) -> tuple[np.ndarray, ...]:
    return tuple(np.full(spec.shape.as_list(), value, np.float32) for spec in specs)


class Sgd(Finalizer):
    """w = w - rate * v, with v = momentum * v + update."""

    def initial_state(self, specs: Sequence[tf.TensorSpec]) -> Structure:
        """A velocity per weight when there is momentum."""
        return collections.OrderedDict(velocity=_zeros(specs)) if self.server.momentum else collections.OrderedDict()

    def apply(self, state: Structure, weights: Tensors, update: Tensors) -> tuple[Tensors, Structure]:
        """New weights and state."""
        if self.server.momentum:
            update = tuple(self.server.momentum * v + u for v, u in zip(state["velocity"], update))
            state = collections.OrderedDict(velocity=update)
        return tuple(w - self.server.learning_rate * u for w, u in zip(weights, update)), state


class Adagrad(Finalizer):
    """w = w - rate * u / sqrt(sum of u**2 + epsilon), the sum starting at 0.1 as in TFF."""

    def initial_state(self, specs: Sequence[tf.TensorSpec]) -> Structure:
        """Accumulated squares."""
        return collections.OrderedDict(squares=_zeros(specs, 0.1))

    def apply(self, state: Structure, weights: Tensors, update: Tensors) -> tuple[Tensors, Structure]:
        """New weights and state."""
        squares = tuple(s + tf.square(u) for s, u in zip(state["squares"], update))
        rate, epsilon = self.server.learning_rate, self.server.epsilon
        weights = tuple(w - rate * u / tf.sqrt(s + epsilon) for w, u, s in zip(weights, update, squares))
        return weights, collections.OrderedDict(squares=squares)


class Adam(Finalizer):
    """Adam with bias correction; `epsilon` (the paper's tau) decides how adaptive it is."""

    def initial_state(self, specs: Sequence[tf.TensorSpec]) -> Structure:
        """Step count and two moments."""
        return collections.OrderedDict(step=np.int32(0), first=_zeros(specs), second=self._second(specs))

    def _second(self, specs: Sequence[tf.TensorSpec]) -> tuple[np.ndarray, ...]:
        return _zeros(specs)

    def _next_second(self, second: Tensors, update: Tensors) -> Tensors:
        return tuple(v + (tf.square(u) - v) * (1 - self.server.beta_2) for v, u in zip(second, update))

    def apply(self, state: Structure, weights: Tensors, update: Tensors) -> tuple[Tensors, Structure]:
        """New weights and state."""
        beta_1, beta_2, epsilon = self.server.beta_1, self.server.beta_2, self.server.epsilon
        step = state["step"] + 1
        first = tuple(m + (u - m) * (1 - beta_1) for m, u in zip(state["first"], update))
        second = self._next_second(state["second"], update)
        at = tf.cast(step, tf.float32)
        rate = self.server.learning_rate * tf.sqrt(1 - tf.pow(beta_2, at)) / (1 - tf.pow(beta_1, at))
        weights = tuple(w - rate * m / (tf.sqrt(v) + epsilon) for w, m, v in zip(weights, first, second))
        return weights, collections.OrderedDict(step=step, first=first, second=second)


class Yogi(Adam):
    """Yogi (Zaheer et al. 2018): Adam whose second moment moves by a bounded step; it starts at 1e-6 as in TFF."""

    def _second(self, specs: Sequence[tf.TensorSpec]) -> tuple[np.ndarray, ...]:
        return _zeros(specs, 1e-6)

    def _next_second(self, second: Tensors, update: Tensors) -> Tensors:
        share = 1 - self.server.beta_2
        squares = tuple(tf.square(u) for u in update)
        return tuple(v + share * tf.sign(square - v) * square for v, square in zip(second, squares))


FINALIZERS: dict[str, Callable[[ServerPlan], Finalizer]] = {"sgd": Sgd, "adagrad": Adagrad, "adam": Adam, "yogi": Yogi}


def build_finalizer(server: ServerPlan) -> Finalizer:
    """The finalizer that a plan names."""
    return FINALIZERS[server.optimizer](server)
