"""Which layer of a model fails, on what, and why: one sentence in place of a page of traceback."""

from __future__ import annotations

import re
from typing import Any

import tensorflow as tf

from tff_hospitals.models import layer_tree
from tff_hospitals.models.tracing import converted, plain_python

_LONGEST = 300


def failing_layer(model: Any, weights: Any, frozen: Any, features: Any, *, training: bool, key: Any) -> str | None:
    """Runs a model layer by layer; None when nothing fails.

    Args:
      model: a `FunctionalModel`.
      weights, frozen: its weights.
      features: [records, *feature_shape].
      training: whether dropout and its like are active.
      key: int64 [2].

    Returns:
      Such as "layer hidden (Dense) fails on inputs of shape (20, 2): Matrix size-incompatible".
    """
    innermost: list[str] = []

    def watched(layer: Any, path: str) -> Any:
        call = layer.call

        @plain_python
        def listening(inputs: Any, *rest: Any, **keywords: Any) -> Any:
            try:
                return converted(call)(inputs, *rest, **keywords)
            except Exception as error:
                if not innermost:
                    shapes = shapes_of(inputs)
                    innermost.append(f"layer {path} ({type(layer).__name__}) fails on {shapes}: {reason(error)}")
                raise

        return (layer, "call", listening)

    def overrides() -> list[Any]:
        return [watched(layer, path) for layer, path in layer_tree.layer_paths(model.keras).items()]

    try:
        with tf.init_scope():
            model.predict(weights, frozen, features, training=training, key=key, overrides=overrides)
    except Exception as error:  # whatever a user's layers do
        return innermost[0] if innermost else f"the model fails on {shapes_of(features)}: {reason(error)}"
    return None


def shapes_of(inputs: Any) -> str:
    """What a layer was given, without any number of it."""
    if isinstance(inputs, dict):
        return "inputs of shapes " + ", ".join(f"{key} {_shape(value)}" for key, value in inputs.items())
    if isinstance(inputs, (list, tuple)):
        return "inputs of shapes " + ", ".join(map(_shape, inputs))
    return f"inputs of shape {_shape(inputs)}"


def _shape(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else str(tuple(shape))


def reason(error: Exception) -> str:
    """The first words of an error, without what Keras and TensorFlow wrap around them and without values of records."""
    text = str(getattr(error, "message", None) or error)
    text = re.sub(r"\{\{.*?\}\}|\[Op:\w+\]( name:.*)?|\[[\d, ]+\] = [^\s,]+", "", text)
    text = text.split("Call arguments received by")[0]
    text = re.sub(r"Exception encountered when calling layer.*?\n\n", "", text, flags=re.DOTALL)
    stated = re.search(r"assertion failed: \[([^\]]*)\]|Summarized data: b'([^']*)'", text)
    words = " ".join(((stated.group(1) or stated.group(2)) if stated else text).split()).rstrip(". ")
    return f"{type(error).__name__}: {words[:_LONGEST]}" if words else type(error).__name__
