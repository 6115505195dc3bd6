"""Building a Keras model as a function of a random key, without leaving a trace in anybody's random state."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from keras.src import backend as keras_backend
from tensorflow.python.eager import context as eager_context

from tff_hospitals.foundations.validation import InvalidInput, Problem, raise_if
from tff_hospitals.models import keras_zoo, options, user_model
from tff_hospitals.models.signature import ModelSignature

# Building changes global state for a moment (seeds, layer names): one build at a time.
FIXED_KEY = np.array([0, 0], np.int64)  # for weights that are replaced right away
_BUILD_LOCK = threading.RLock()


def build_model(name_or_path: str, signature: ModelSignature, **given: Any) -> Any:
    """See `tff_hospitals.models.build_model`."""
    from tff_hospitals.models.functional import FunctionalModel

    raise_if(options.model_problems(name_or_path, signature, **given))
    common = {**options.COMMON_OPTIONS, **{name: given[name] for name in given if name in options.COMMON_OPTIONS}}
    own = {name: given[name] for name in given if name not in options.COMMON_OPTIONS}
    builder: Callable[[], tf.keras.Model]
    if options.is_path(name_or_path):
        builder = user_model.load_builder(name_or_path, signature)
    else:
        builder = functools.partial(keras_zoo.BUILDERS[name_or_path], signature, **own)
    settings = {
        "name": name_or_path,
        "trainable": options.masks(common["trainable"]),
        "pretrained": common["pretrained"],
        "keep_initial": common["keep_initial"],
    }
    if common["lora_rank"] is not None:
        from tff_hospitals.models.low_rank import LowRankModel

        return LowRankModel(builder, signature, rank=int(common["lora_rank"]), **settings)
    return FunctionalModel(builder, signature, **settings)


def build_under_key(
    builder: Callable[[], Any],
    signature: ModelSignature,
    key: np.ndarray,
    *,
    name: str,
    trainable: tuple[str, ...] | None = None,
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

    Raises:
      InvalidInput: the builder fails, returns something else, or a pattern matches no layer.
    """
    with _BUILD_LOCK, outside_graphs(), _isolated(key):
        model = built(builder, signature, name)
    if trainable is not None:
        _freeze_all_but(model, trainable)
    return model


def built(builder: Callable[[], Any], signature: ModelSignature, name: str) -> tf.keras.Model:
    """What the builder returns, checked to be a Keras model and with its weights made; called as `name` in messages."""
    try:
        model = builder()
    except InvalidInput:
        raise
    except Exception as error:  # whatever a user's function does
        bound = f"building it fails: {type(error).__name__}: {str(error).strip()[:400]}"
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


def _call_once(model: tf.keras.Model, signature: ModelSignature, name: str) -> None:
    try:
        model(tf.zeros([1, *signature.feature_shape]), training=False)
    except Exception as error:
        bound = f"cannot be called on features of shape {[None, *signature.feature_shape]}: {str(error).strip()[:400]}"
        raise InvalidInput([Problem("model", name, bound, "fit its first layer to the data set")]) from error


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
    paths, chosen = layer_paths(model), chosen_layers(model, patterns)
    # Outer layers first: setting `trainable` on a layer sets it on all layers inside.
    for layer in paths:
        layer.trainable = True
    for layer in paths:
        if own_variables(layer) and layer not in chosen:
            layer.trainable = False


def chosen_layers(model: tf.keras.Model, patterns: tuple[str, ...]) -> set[Any]:
    """The layers with weights that names or patterns mean; a name of an outer layer means everything inside it.

    Raises:
      InvalidInput: patterns that match no layer, with the layers that there are.
    """
    paths = layer_paths(model)
    owners = [(layer, path) for layer, path in paths.items() if own_variables(layer)]

    def matches(path: str, pattern: str) -> bool:
        parts = path.split("/")
        prefixes = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        return any(fnmatch.fnmatchcase(text, pattern) for text in (*prefixes, parts[-1]))

    unmatched = [pattern for pattern in patterns if not any(matches(path, pattern) for _, path in owners)]
    if unmatched:
        names = ", ".join(path for _, path in owners)
        raise InvalidInput(
            [
                Problem("trainable", pattern, "matches no layer with weights", f"the layers are: {names[:600]}")
                for pattern in unmatched
            ]
        )
    return {layer for layer, path in owners if any(matches(path, pattern) for pattern in patterns)}


def layer_paths(model: tf.keras.Model) -> dict[Any, str]:
    """All layers inside a model, outer before inner, with paths of names such as `encoder/dense_1`."""
    paths: dict[Any, str] = {}

    def visit(layer: Any, prefix: str) -> None:
        for inner in layer._flatten_layers(recursive=False, include_self=False):
            if id(inner) in seen:
                continue
            seen.add(id(inner))
            path = f"{prefix}{inner.name}"
            paths[inner] = path
            visit(inner, f"{path}/")

    seen: set[int] = {id(model)}
    visit(model, "")
    return paths


def own_variables(layer: Any) -> list[tf.Variable]:
    """Variables that a layer made itself, without those of the layers inside it."""
    return [*layer._trainable_weights, *layer._non_trainable_weights]
