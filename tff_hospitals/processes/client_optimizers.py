"""The optimisers of local training, as pure functions of (weights, slots, gradients)."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import tensorflow as tf

from tff_hospitals.plan.parts import ClientPlan
from tff_hospitals.processes.noise import Tensors


class ClientOptimizer(Protocol):
    """Slots start anew in every round; a hospital keeps nothing between rounds."""

    def initial_slots(self, weights: Tensors) -> tuple: ...

    def step(
        self, weights: Tensors, slots: tuple, gradients: Tensors, learning_rate: tf.Tensor
    ) -> tuple[Tensors, tuple]: ...


@dataclasses.dataclass(frozen=True)
class Sgd:
    """Gradient descent with Polyak momentum: v = momentum * v + g; w = w - rate * v."""

    momentum: float = 0.0

    def initial_slots(self, weights: Tensors) -> tuple:
        """One velocity per weight, or nothing without momentum."""
        return tuple(tf.zeros_like(weight) for weight in weights) if self.momentum else ()

    def step(
        self, weights: Tensors, slots: tuple, gradients: Tensors, learning_rate: tf.Tensor
    ) -> tuple[Tensors, tuple]:
        """New weights and slots."""
        if self.momentum:
            slots = tuple(self.momentum * slot + gradient for slot, gradient in zip(slots, gradients))
            gradients = slots
        return tuple(weight - learning_rate * gradient for weight, gradient in zip(weights, gradients)), slots


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) with the usual bias correction."""

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def initial_slots(self, weights: Tensors) -> tuple:
        """Step count, first and second moments."""
        zeros = tuple(tf.zeros_like(weight) for weight in weights)
        return (tf.constant(0.0), zeros, zeros)

    def step(
        self, weights: Tensors, slots: tuple, gradients: Tensors, learning_rate: tf.Tensor
    ) -> tuple[Tensors, tuple]:
        """New weights and slots."""
        count, first, second = slots
        count = count + 1.0
        first = tuple(self.beta_1 * m + (1 - self.beta_1) * g for m, g in zip(first, gradients))
        second = tuple(self.beta_2 * v + (1 - self.beta_2) * tf.square(g) for v, g in zip(second, gradients))
        rate = learning_rate * tf.sqrt(1 - self.beta_2**count) / (1 - self.beta_1**count)
        weights = tuple(w - rate * m / (tf.sqrt(v) + self.epsilon) for w, m, v in zip(weights, first, second))
        return weights, (count, first, second)


def client_optimizer(client: ClientPlan) -> ClientOptimizer:
    """The optimiser that a plan names."""
    return Adam() if client.optimizer == "adam" else Sgd(client.momentum)


def learning_rate_at(client: ClientPlan, round_number: tf.Tensor) -> tf.Tensor:
    """Float32 learning rate in a round (0-based), by the plan's schedule."""
    kind, _, rest = client.learning_rate_schedule.partition(":")
    numbers = [float(number) for number in rest.split(":")] if rest else []
    at = tf.cast(round_number, tf.float32)
    rate = tf.constant(client.learning_rate, tf.float32)
    if kind == "inverse_sqrt":
        return rate / tf.sqrt(1.0 + at)
    if kind == "exponential":
        return rate * tf.pow(tf.constant(numbers[0], tf.float32), at)
    if kind == "step":
        return rate * tf.pow(tf.constant(numbers[1], tf.float32), tf.floor(at / numbers[0]))
    return rate
