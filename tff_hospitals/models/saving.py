"""Models out to plain Keras files, and pretrained weights in."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Sequence
from typing import Any

import h5py  # type: ignore[import-untyped]
import tensorflow as tf

from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.models import layer_tree

KERAS, WEIGHTS, CONFIG = "model.keras", "model.weights.h5", "model_config.json"
ORIGINAL_UNITS = "original_units"
"""The layer that brings a scaled target back, where no dense layer could."""
_SUFFIXES = (".keras", ".weights.h5", ".h5")
_LISTED = 8


def save_keras(model: tf.keras.Model, path: os.PathLike[str] | str) -> None:
    """Writes a `.keras` file atomically; `tf.keras.models.load_model` reads it without this package.

    A model with layers of a user's own can be loaded where these classes can be imported and are registered with Keras
    (`tf.keras.saving.register_keras_serializable`) or given as `custom_objects`.

    Example: `save_keras(model.keras_model(trainable, frozen), "runs/mine/model.keras")`.

    Raises:
      InvalidInput: `path` does not end in .keras.
      RecordError: the file could not be written; what stood there before is untouched.
    """
    if pathlib.Path(path).suffix != ".keras":
        raise InvalidInput([Problem("path", os.fspath(path), "must end in .keras", "name it for example model.keras")])
    with tempfile.TemporaryDirectory(prefix="tff_hospitals_") as folder:
        draft = pathlib.Path(folder) / "model.keras"
        try:
            model.save(draft, save_format="keras")
        except OSError as error:
            raise files.RecordError(
                f"could not prepare {path} in {folder}: {error}. Remedy: free some space there or set TMPDIR."
            ) from error
        files.write_bytes(path, draft.read_bytes())


def save_trained(model: tf.keras.Model, folder: pathlib.Path, builder: str) -> list[str]:
    """Writes `model.keras`, and where plain Keras cannot load it also its weights and its configuration.

    Args:
      model: the trained model.
      folder: where to.
      builder: the plan's name of the function that makes it.

    Returns:
      Warnings: that model.keras could not be written at all.

    Raises:
      RecordError: a file could not be written.
    """
    warnings: list[str] = []
    obstacles = loading_obstacles(model)
    try:
        save_keras(model, folder / KERAS)
    except files.RecordError:
        raise
    except Exception as error:  # a layer that Keras cannot describe
        why = " ".join(str(error).split())[:200]
        warnings.append(f"{KERAS} could not be written ({why}): take {WEIGHTS} and the function that made the model")
        obstacles = obstacles or ["the model"]
    if obstacles:
        with tempfile.TemporaryDirectory(prefix="tff_hospitals_") as place:
            draft = pathlib.Path(place) / WEIGHTS
            model.save_weights(draft)
            files.write_bytes(folder / WEIGHTS, draft.read_bytes())
        try:
            config = json.loads(json.dumps(model.get_config(), default=str))
        except Exception:  # whatever a user's layers do
            config = None
        module, _, function = builder.partition(":")
        load = f"from {module} import {function}; model = {function}(); model.load_weights({WEIGHTS!r})"
        scaled = [one for one in model.layers if one.name == ORIGINAL_UNITS] if builder.partition(":")[2] else []
        if scaled:
            load += f"; its outputs are times {scaled[0].scale:g} plus {scaled[0].offset:g} in original units"
        about = {"load": load, "not_plain_keras": obstacles, "class": type(model).__name__, "config": config}
        files.write_json(folder / CONFIG, about)
    return warnings


def loading_obstacles(model: tf.keras.Model) -> list[str]:
    """The layers for whose code plain Keras has to be given something: Lambda, and classes of a user's own.

    Classes that are registered (`tf.keras.saving.register_keras_serializable`) are found once their module is imported.
    """
    found = []
    for layer in (model, *layer_tree.layer_paths(model)):
        kind = type(layer)
        own = kind.__module__.partition(".")[0] not in ("keras", "tensorflow")
        registered = tf.keras.saving.get_registered_name(kind) != kind.__name__
        if isinstance(layer, tf.keras.layers.Lambda):
            found.append(f"{layer.name} (Lambda)")
        elif own and not registered:
            found.append(f"{layer.name} ({kind.__name__}, not registered)")
    return list(dict.fromkeys(found))


def cannot_load(obstacles: Sequence[str]) -> str:
    """What is said before training of a model that plain Keras cannot load."""
    more = f" and {len(obstacles) - _LISTED} more" if len(obstacles) > _LISTED else ""
    return (
        f"plain Keras cannot load the {KERAS} of this model by itself: {', '.join(obstacles[:_LISTED])}{more}. "
        f"{WEIGHTS} and {CONFIG} are written beside it: call the function that makes the model, then load_weights. "
        "Remedy: register classes with tf.keras.saving.register_keras_serializable, write a layer in place of a Lambda"
    )


def load_weights(model: tf.keras.Model, path: os.PathLike[str] | str) -> None:
    """Loads weights of the same architecture into `model`; no code from the file is run, only numbers are read.

    Args:
      model: the Keras model to fill.
      path: a `.keras` file, Keras' `.weights.h5`, or an older `.h5` of weights or of a whole model.

    Raises:
      InvalidInput: the file is missing, of another kind or damaged, or has other weights (all shapes that differ are
        listed side by side).
    """
    name = os.fspath(path)
    if not name.endswith(_SUFFIXES):
        bound = f"must end in one of {', '.join(_SUFFIXES)}"
        raise _invalid(name, bound, "save it with model.save('x.keras') or model.save_weights('x.weights.h5')")
    if not os.path.isfile(name):
        raise _invalid(name, "there is no such file", "give the path of a file of saved weights")
    try:
        given = _shapes(name)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        text = f"cannot be read as a {_kind(name)} file: {error}"
        raise _invalid(name, text, "save the weights again with Keras") from error
    with tempfile.TemporaryDirectory(prefix="tff_hospitals_") as folder:
        draft = os.path.join(folder, "own.h5" if _kind(name) == ".h5" else "own.weights.h5")
        model.save_weights(draft)
        wanted = _shapes(draft)
    clashes = _clashes(given, wanted, by_name=_kind(name) != ".h5")
    if clashes:
        more = f" and {len(clashes) - _LISTED} more" if len(clashes) > _LISTED else ""
        text = f"has other weights than the model: {'; '.join(clashes[:_LISTED])}{more}"
        raise _invalid(name, text, "choose the model's options as they were when the file was saved")
    try:
        model.load_weights(name)
    except (OSError, KeyError, ValueError) as error:
        raise _invalid(name, f"cannot be loaded: {' '.join(str(error).split())[:300]}", "save it again") from error


def _kind(name: str) -> str:
    return next(suffix for suffix in _SUFFIXES if name.endswith(suffix))


def _shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights in a file, in the file's own order."""
    if _kind(name) == ".keras":
        with zipfile.ZipFile(name) as archive, archive.open("model.weights.h5") as part, h5py.File(part, "r") as file:
            return _datasets(file)
    with h5py.File(name, "r") as file:
        return _datasets(file) if _kind(name) == ".weights.h5" else _legacy(file)


def _datasets(file: h5py.File) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and not name.startswith("optimizer"):
            found[name.replace("_layer_checkpoint_dependencies/", "").replace("/vars/", "/")] = tuple(node.shape)

    file.visititems(visit)
    return found


def _legacy(file: h5py.File) -> dict[str, tuple[int, ...]]:
    root = file.get("model_weights", file)
    found: dict[str, tuple[int, ...]] = {}
    for layer in root.attrs["layer_names"]:
        group = root[_text(layer)]
        for weight in group.attrs["weight_names"]:
            found[_text(weight)] = tuple(group[_text(weight)].shape)
    return found


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _clashes(given: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]], *, by_name: bool) -> list[str]:
    if by_name:
        names = list(dict.fromkeys([*wanted, *given]))
        pairs = [(name, given.get(name), wanted.get(name)) for name in names]
    else:
        # The older format matches layers by position: names may differ.
        size = max(len(given), len(wanted))
        left, right = ([*part.items()] + [("", None)] * (size - len(part)) for part in (given, wanted))
        pairs = [(name or other, shape, want) for (name, shape), (other, want) in zip(left, right)]
    return [
        f"{name} is {'absent' if shape is None else shape} in the file and {'absent' if want is None else want} here"
        for name, shape, want in pairs
        if shape != want
    ]


def _invalid(path: str, bound: str, remedy: str) -> InvalidInput:
    return InvalidInput([Problem("pretrained", path, bound, remedy)])
