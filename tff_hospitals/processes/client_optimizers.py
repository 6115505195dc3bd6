"""The optimisers of local training, as pure functions of (weights, slots, gradients).

Their settings may be tensors: a program that is compiled once serves every learning rate and momentum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol, Union

import tensorflow as tf

from tff_hospitals.plan.parts import ClientPlan
from tff_hospitals.processes import adam
from tff_hospitals.processes.noise import Tensors

Number = Union[tf.Tensor, float]


class ClientOptimizer(Protocol):
    """Slots start anew in every round; a hospital keeps nothing between rounds."""

    def initial_slots(self, weights: Tensors) -> tuple: ...

    def step(
        self, weights: Tensors, slots: tuple, gradients: Tensors, learning_rate: tf.Tensor
    ) -> tuple[Tensors, tuple]: ...


@dataclasses.dataclass(frozen=True)
class Sgd:
    """Gradient descent with Polyak momentum: v = momentum * v + g; w = w - rate * v. Without momentum: None."""

    momentum: Number | None = None

    def initial_slots(self, weights: Tensors) -> tuple:
        """One velocity per weight, or nothing without momentum."""
        return () if self.momentum is None else tuple(tf.zeros_like(weight) for weight in weights)

    def step(
        self, weights: Tensors, slots: tuple, gradients: Tensors, learning_rate: tf.Tensor
    ) -> tuple[Tensors, tuple]:
        """New weights and slots."""
        if self.momentum is not None:
            momentum = tf.cast(self.momentum, tf.float32)
            slots = tuple(momentum * slot + gradient for slot, gradient in zip(slots, gradients))
            gradients = slots
        return tuple(weight - learning_rate * gradient for weight, gradient in zip(weights, gradients)), slots


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam with the usual settings and bias correction; with a decay of the weights, AdamW.

    The decay stands beside the gradient and is not divided by its size (Loshchilov and Hutter 2019, arXiv:1711.05101).
    """

    beta_1: Number = 0.9
    beta_2: Number = 0.999
    epsilon: Number = 1e-7
    weight_decay: Number | None = None

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
        first = adam.moved(first, gradients, self.beta_1)
        second = adam.moved(second, tuple(tf.square(gradient) for gradient in gradients), self.beta_2)
        if self.weight_decay is not None:
            left = 1.0 - learning_rate * tf.cast(self.weight_decay, tf.float32)
            weights = tuple(left * weight for weight in weights)
        weights = adam.stepped(weights, first, second, count, learning_rate, self.beta_1, self.beta_2, self.epsilon)
        return weights, (count, first, second)


def settings_of(client: ClientPlan) -> dict[str, float]:
    """The numbers of a plan's local optimiser that a compiled program takes as inputs; what is 0 is left out.

    >>> settings_of(ClientPlan(learning_rate=0.1, momentum=0.9))
    {'learning_rate': 0.1, 'momentum': 0.9}
    """
    found = {"learning_rate": client.learning_rate}
    if client.optimizer == "sgd" and client.momentum:
        found["momentum"] = client.momentum
    if client.optimizer == "adamw":
        found["weight_decay"] = client.weight_decay
    if client.proximal_mu:
        found["proximal_mu"] = client.proximal_mu
    return found


def client_optimizer(client: ClientPlan, settings: Mapping[str, Number]) -> ClientOptimizer:
    """The optimiser that a plan names.

    Args:
      client: the plan's client work.
      settings: as `settings_of` gives them, as numbers or tensors.
    """
    if client.optimizer == "sgd":
        return Sgd(settings.get("momentum"))
    return Adam(weight_decay=settings.get("weight_decay"))


def learning_rate_at(client: ClientPlan, round_number: tf.Tensor, learning_rate: Number | None = None) -> tf.Tensor:
    """Float32 learning rate in a round (0-based), by the plan's schedule; `learning_rate` replaces that of round 0."""
    kind, _, rest = client.learning_rate_schedule.partition(":")
    numbers = [float(number) for number in rest.split(":")] if rest else []
    at = tf.cast(round_number, tf.float32)
    rate = tf.cast(client.learning_rate if learning_rate is None else learning_rate, tf.float32)
    if kind == "inverse_sqrt":
        return rate / tf.sqrt(1.0 + at)
    if kind == "exponential":
        return rate * tf.pow(tf.constant(numbers[0], tf.float32), at)
    if kind == "step":
        return rate * tf.pow(tf.constant(numbers[1], tf.float32), tf.floor(at / numbers[0]))
    return rate
