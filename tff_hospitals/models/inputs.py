"""Features as the inputs of a Keras model: one tensor, or one for each named input.

Records travel as one block of numbers, [batch, *feature_shape]. A model of several inputs gets each by its name: a
column of the table (all levels of a category together), or a key of the arrays that a data set was made from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tff_hospitals.foundations.signature import ModelSignature
from tff_hospitals.foundations.validation import Problem


def arrangement(keras: tf.keras.Model, signature: ModelSignature) -> Callable[[tf.Tensor], Any]:
    """What turns features [batch, *feature_shape] into what the model is called with.

    Args:
      keras: a built model, or one of a class of the user's own that has not been called yet.
      signature: which inputs the data have.
    """
    wanted = list(getattr(keras, "input_names", None) or []) if keras.inputs else []
    named = dict(_places(signature))
    if len(wanted) > 1 and not set(wanted) - set(named):
        return lambda features: {name: _part(features, *named[name]) for name in wanted}
    if not wanted and signature.named:
        return lambda features: {name: _part(features, *place) for name, place in named.items()}
    if len(wanted) == 1 and wanted[0] in named and not _fits(keras.inputs[0], signature.feature_shape):
        return lambda features: _part(features, *named[wanted[0]])
    return lambda features: features


def places_of_inputs(keras: tf.keras.Model, signature: ModelSignature) -> list[tuple[int, int] | None]:
    """Where each input of a functional model begins in a record's numbers, and how many it takes.

    None: the data do not have it.
    """
    places = {name: (start, int(np.prod(shape))) for name, (start, shape) in _places(signature)}
    names = list(getattr(keras, "input_names", None) or [])
    if len(names) == 1 and (names[0] not in places or _fits(keras.inputs[0], signature.feature_shape)):
        return [(0, int(np.prod(signature.feature_shape)))]
    return [places.get(name) for name in names]


def problems(keras: tf.keras.Model, signature: ModelSignature, name: str) -> list[Problem]:
    """Inputs of a functional model that the data do not have, or have in another shape."""
    inputs, named = list(keras.inputs or []), dict(_places(signature))
    names = list(getattr(keras, "input_names", None) or [one.name for one in inputs])
    there = ", ".join(f"{one} {shape}" for one, (_, shape) in named.items()) or "one block without names"
    if len(inputs) > 1:
        missing = [one for one in names if one not in named]
        if missing:
            bound = f"has inputs {', '.join(names)}, of which the data know no {', '.join(missing)}"
            remedy = f"name its inputs as those of the data, which are: {there[:300]}"
            return [Problem("model", name, bound, remedy)]
        pairs = [(one, tensor, named[one][1]) for one, tensor in zip(names, inputs)]
    elif inputs and names[0] in named and not _fits(inputs[0], signature.feature_shape):
        pairs = [(names[0], inputs[0], named[names[0]][1])]
    elif inputs and not _fits(inputs[0], signature.feature_shape):
        bound = f"takes features of shape {tuple(inputs[0].shape)[1:]}, and the data set has {signature.feature_shape}"
        return [Problem("model", name, bound, "fit its Input to the data set or reshape in its first layer")]
    else:
        pairs = []
    return [
        Problem(
            "model", name, f"takes {one} of shape {tuple(tensor.shape)[1:]}, and the data have {shape}", "reshape it"
        )
        for one, tensor, shape in pairs
        if not _fits(tensor, shape)
    ]


def _fits(tensor: Any, shape: tuple[int, ...]) -> bool:
    return tf.TensorShape((None, *shape)).is_compatible_with(tensor.shape)


def _places(signature: ModelSignature) -> list[tuple[str, tuple[int, tuple[int, ...]]]]:
    """Where each input begins in a record's numbers, and its shape."""
    found, start = [], 0
    for name, shape in signature.inputs:
        found.append((name, (start, shape)))
        start += int(np.prod(shape))
    return found


def _part(features: tf.Tensor, start: int, shape: tuple[int, ...]) -> tf.Tensor:
    part = features[:, start : start + int(np.prod(shape))]
    return part if len(shape) == 1 else tf.reshape(part, [-1, *shape])
