"""Gradients of a model as an attacker computes them, and where its first dense layer is."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.foundations.validation import InvalidInput, Problem

if TYPE_CHECKING:
    from tff_hospitals.models import FunctionalModel

Tensors = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class DenseLayer:
    """Positions of a dense layer's kernel and bias among the trainable weights."""

    name: str
    kernel: int
    bias: int
    units: int


def gradient(model: FunctionalModel, weights: Any, frozen: Any, features: Any, labels: Any) -> Tensors:
    """Gradient of the mean loss of a batch, as numpy arrays in the order of the trainable weights."""
    import tensorflow as tf

    tensors = tuple(tf.convert_to_tensor(weight) for weight in weights)
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        outputs = model.predict(tensors, frozen, tf.convert_to_tensor(features), training=False)
        loss = tf.reduce_mean(model.per_record_loss(outputs, tf.convert_to_tensor(labels)))
    found = tape.gradient(loss, tensors, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return tuple(part.numpy() for part in found)


def dense_layers(model: FunctionalModel) -> list[DenseLayer]:
    """Trainable dense layers with a bias, in the order of the model."""
    position = {name: at for at, name in enumerate(model.trainable_names)}
    found = []
    for name, at in position.items():
        shape = model.trainable_specs[at].shape
        bias = position.get(f"{name.rsplit('/', 1)[0]}/bias")
        if name.endswith("/kernel") and len(shape) == 2 and bias is not None:
            found.append(DenseLayer(name.rsplit("/", 1)[0], at, bias, int(shape[1])))
    return found


def first_dense_layer(model: FunctionalModel) -> DenseLayer:
    """The dense layer with bias that reads the records themselves.

    Raises:
      validation.InvalidInput: the first layer that is trained is of another kind, has no bias, or is frozen.
    """
    inputs = math.prod(model.feature_shape)
    layers = dense_layers(model)
    first = layers[0] if layers else None
    if first is None or first.kernel != 0 or int(model.trainable_specs[0].shape[0]) != inputs or model.frozen_names:
        bound = f"has no trained dense first layer with a bias on its {inputs} inputs; this attack needs one"
        remedy = "attack a model such as logistic_regression or mlp, or use gradient matching"
        raise InvalidInput([Problem("model", model.name, bound, remedy)])
    return first


def last_dense_layer(model: FunctionalModel) -> DenseLayer:
    """The dense layer with bias that gives the outputs.

    Raises:
      validation.InvalidInput: the last layer is of another kind or has no bias.
    """
    units = model.num_classes if model.task == "multiclass" else 1
    layers = dense_layers(model)
    if not layers or layers[-1].units != units:
        bound = f"has no trained dense last layer with a bias and {units} outputs; this attack needs one"
        raise InvalidInput([Problem("model", model.name, bound, "attack a model that ends in such a layer")])
    return layers[-1]
