"""The logits behind what a Keras model puts out."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tff_hospitals.foundations.validation import InvalidInput, Problem


def as_logits(outputs: Any, task: str) -> tf.Tensor:
    """What a model puts out, or for a classifier that ends in a sigmoid or softmax what these were computed from."""
    if task == "regression":
        return outputs
    before = getattr(outputs, "_keras_logits", None)  # left by Keras' own sigmoid and softmax
    if before is not None:
        return before
    if not tf.executing_eagerly():
        operation = source_operation(outputs)
        if operation.type in ("Sigmoid", "Softmax"):
            return operation.inputs[0]
    return outputs


def single(outputs: Any) -> Any:
    """The one tensor that a model puts out, also where it is the only one of a list or dictionary.

    Raises:
      InvalidInput: there are several.
    """
    found = tf.nest.flatten(outputs)
    if len(found) != 1:
        bound = "must have one output tensor"
        raise InvalidInput([Problem("model", f"{len(found)} outputs", bound, "return one tensor of logits")])
    return found[0]


def hides_logits(outputs: Any, task: str) -> bool:
    """Whether what a classifier put out, computed at once and not in a graph, may be probabilities."""
    at_once = tf.is_tensor(outputs) and task != "regression" and tf.executing_eagerly()
    return at_once and getattr(outputs, "_keras_logits", None) is None


def source_operation(tensor: tf.Tensor) -> Any:
    """The operation of a graph that computes a tensor, past mere copies."""
    operation = tensor.op
    while operation.type == "Identity":
        operation = operation.inputs[0].op
    return operation
