"""Building a Keras model as a function of a random key, without leaving a trace in anybody's random state."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from keras.src import backend as keras_backend
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import context as eager_context

from tff_hospitals.foundations.signature import ModelSignature
from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.models import failures, inputs, layer_tree

# Building changes global state for a moment (seeds, layer names): one build at a time.
FIXED_KEY = np.array([0, 0], np.int64)  # for weights that are replaced right away
_BUILD_LOCK = threading.RLock()


def build_under_key(
    builder: Callable[[], Any],
    signature: ModelSignature,
    key: np.ndarray,
    *,
    name: str,
    trainable: tuple[str, ...] | None = None,
    local: tuple[str, ...] = (),
) -> tf.keras.Model:
    """Calls the builder so that random initial weights depend on `key` alone, and layer names on nothing.

    The seeds that Keras, TensorFlow, numpy and Python's `random` would draw from are replaced during the call and put
    back afterwards. An initializer with a seed of its own keeps that seed: then every key gives the same weights.

    Args:
      builder: returns a new Keras model at each call.
      signature: gives the shape with which a model that has no weights yet is called once.
      key: int64 [2].
      name: how messages call the model.
      trainable: names or patterns of the layers to train; all others are frozen. None leaves the model as it is.
      local: names or patterns of the layers that hospitals keep: what travels holds them frozen.

    Raises:
      InvalidInput: the builder fails, returns something else, or a pattern matches no layer.
    """
    with _BUILD_LOCK, outside_graphs(), _isolated(key):
        model = built(builder, signature, name)
    if trainable is not None:
        _freeze_all_but(model, trainable)
    if local:
        for layer in layer_tree.chosen_layers(model, local, "local_layers"):
            layer.trainable = False
    return model


def built(builder: Callable[[], Any], signature: ModelSignature, name: str) -> tf.keras.Model:
    """What the builder returns, checked to be a Keras model and with its weights made; called as `name` in messages."""
    try:
        model = builder()
    except InvalidInput:
        raise
    except Exception as error:  # whatever a user's function does
        bound = f"building it fails: {failures.reason(error)}"
        raise InvalidInput([Problem("model", name, bound, "call the function by itself to see where")]) from error
    if not isinstance(model, tf.keras.Model):
        bound = f"returned {type(model).__module__}.{type(model).__qualname__}, not a tf.keras.Model"
        raise InvalidInput([Problem("model", name, bound, "return a tf.keras.Model (not a layer, class or tensor)")])
    if not model.built or (not model.weights and not model.inputs):
        _call_once(model, signature, name)
    return model


@contextlib.contextmanager
def outside_graphs() -> Iterator[None]:
    """Eager mode, whatever graph the caller is tracing."""
    # Named, because `init_scope` stays inside graphs that are no functions (TensorFlow Federated traces in such), and
    # inside absl's `app.run` Keras may find no mode at all and then builds for TensorFlow 1.
    with tf.init_scope(), eager_context.eager_mode():
        yield


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Gradient tapes record, as they do not in `outside_graphs` alone: a trace there would hold no gradient."""
    stopped = pywrap_tfe.TFE_Py_TapeSetIsStopped()
    if stopped:
        pywrap_tfe.TFE_Py_TapeSetRestartOnThread()
    try:
        yield
    finally:
        if stopped:
            pywrap_tfe.TFE_Py_TapeSetStopOnThread()


def _call_once(model: tf.keras.Model, signature: ModelSignature, name: str) -> None:
    features = inputs.arrangement(model, signature)(tf.zeros([1, *signature.feature_shape]))
    try:
        model(features, training=False)
        if any(_takes_one_record(layer) for layer in model._flatten_layers()):
            model(tf.nest.map_structure(lambda one: tf.concat([one, one], axis=0), features), training=False)
    except Exception as error:  # whatever a user's layers do
        bound = f"cannot be called on {failures.shapes_of(features)}: {failures.reason(error)}"
        remedy = "fit its first layer to the data set; call() takes the features (a tensor, or a dict of them) alone"
        raise InvalidInput([Problem("model", name, bound, remedy)]) from error


def _takes_one_record(layer: Any) -> bool:
    """Whether a Sequential without Input took the first batch's size for every batch's.

    It would build itself anew when it is first called on another, which is in the middle of a trace.
    """
    if not isinstance(layer, tf.keras.Sequential) or not layer.inputs:
        return False
    return layer.inputs[0].shape.rank is not None and layer.inputs[0].shape[:1] == [1]


@contextlib.contextmanager
def _isolated(key: np.ndarray) -> Iterator[None]:
    digest = hashlib.sha256(np.asarray(key, "<i8").tobytes()).digest()
    number = int.from_bytes(digest, "little")
    small = number % (2**31 - 1)
    context: Any = eager_context.context()
    generators: Any = keras_backend._SEED_GENERATOR
    names: Any = keras_backend.PER_GRAPH_OBJECT_NAME_UIDS
    observed: Any = keras_backend.OBSERVED_NAMES
    missing = object()

    python_state, numpy_state = random.getstate(), np.random.get_state()
    seed_before, rng_before = context._seed, getattr(context, "_rng", missing)
    generator_before = getattr(generators, "generator", missing)
    names_before, observed_before = list(names.items()), set(observed)
    random.seed(number)
    np.random.seed(small)
    # Set directly: tf.random.set_seed would also empty the kernel caches and so restart the caller's seeded operations.
    context._seed, context._rng = small, random.Random(number)
    generators.generator = random.Random(number)
    names.clear()
    observed.clear()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        context._seed = seed_before
        if rng_before is missing:
            del context._rng
        else:
            context._rng = rng_before
        if generator_before is missing:
            del generators.generator
        else:
            generators.generator = generator_before
        names.clear()
        names.update(names_before)
        observed.clear()
        observed.update(observed_before)


def _freeze_all_but(model: tf.keras.Model, patterns: tuple[str, ...]) -> None:
    paths, chosen = layer_tree.layer_paths(model), layer_tree.chosen_layers(model, patterns)
    # Outer layers first: setting `trainable` on a layer sets it on all layers inside.
    for layer in paths:
        layer.trainable = True
    for layer in paths:
        if layer_tree.own_variables(layer) and layer not in chosen:
            layer.trainable = False
