"""Penalties on weights: Keras' regularizers, and an L2 penalty on everything that is trained.

They depend on the weights alone, not on any record. So their gradient is added after clipping and noise: it costs no
privacy, and no record's gradient is clipped for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tff_hospitals.models import layer_tree

_KERAS_OWN = "Layer._handle_weight_regularization.<locals>._loss_for_variable"


class Penalties:
    """The penalties of a Keras model as a function of its trainable weights.

    Args:
      keras: the model.
      trainable: its trained variables; what is frozen has no part in it.
      l2: factor of the sum of squares of all trained weights.
    """

    def __init__(self, keras: tf.keras.Model, trainable: Sequence[tf.Variable], l2: float = 0.0):
        position = {id(variable): number for number, variable in enumerate(trainable)}
        self._l2 = l2
        self._of: list[tuple[int, Callable[[Any], Any]]] = []
        for layer in (keras, *layer_tree.layer_paths(keras)):
            for variable, regularizer in _of_weights(layer):
                if id(variable) in position:
                    self._of.append((position[id(variable)], regularizer))

    def __bool__(self) -> bool:
        return bool(self._of) or self._l2 > 0

    def __call__(self, weights: Sequence[Any]) -> tf.Tensor:
        """The sum of all penalties: float32 []."""
        found = [tf.cast(regularizer(weights[number]), tf.float32) for number, regularizer in self._of]
        if self._l2:
            found += [self._l2 * tf.reduce_sum(tf.square(weight)) for weight in weights]
        return tf.add_n(found) if found else tf.constant(0.0)

    def gradients(self, weights: Sequence[Any]) -> tuple[tf.Tensor, ...]:
        """Of the sum, in the order of the weights."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            total = self(weights)
        return tuple(tape.gradient(total, list(weights), unconnected_gradients=tf.UnconnectedGradients.ZERO))


def others(layer: Any) -> int:
    """How many losses a layer adds that are no function of one weight."""
    return len(layer._callable_losses) - len(_of_weights(layer))


def _of_weights(layer: Any) -> list[tuple[tf.Variable, Callable[[Any], Any]]]:
    found: list[tuple[tf.Variable, Callable[[Any], Any]]] = []
    for tagged in layer._callable_losses:
        call = tagged.args[0] if isinstance(tagged, functools.partial) and tagged.args else tagged
        inner: Any = getattr(call, "func", None)
        if isinstance(call, functools.partial) and getattr(inner, "__qualname__", "") == _KERAS_OWN:
            found.append((call.args[0], inner))
    return found
