"""What a model is, in one digest: the code that makes it, its configuration, and the weights that it starts from.

Two processes that build the same model find the same digest; an edited function, another closure, a changed file of
weights give another one. A run is known by it: what was begun with one model does not go on with another.

Code counts as Python compiles it, without comments and line numbers. From the function that builds the model it is
followed through everything of the user's own that it names: functions, classes, modules, constants. Installed packages
count by name: their versions stand in the record of a run.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import os
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_hospitals.foundations import files
from tff_hospitals.models import layer_tree

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))
_DEEPEST = 12  # of containers in containers
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
_COMPILED = tuple(importlib.machinery.EXTENSION_SUFFIXES)
_NO_PART_OF_A_CLASS = ("__module__", "__dict__", "__weakref__", "__doc__", "__qualname__", "__annotations__")


class Description:
    """Describes values as plain JSON that does not depend on the process; `of_users_own` tells whether any code was met
    that belongs to no installed package.

    >>> def scaled(factor):
    ...     return lambda inputs: inputs * factor
    >>> (
    ...     Description().of(scaled(2)) == Description().of(scaled(2)),
    ...     Description().of(scaled(2)) == Description().of(scaled(3)),
    ... )
    (True, False)
    """

    def __init__(self) -> None:
        self.of_users_own = False
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is given to another object

    def of(self, value: Any, depth: int = 0) -> Any:
        """The description of any value."""
        if isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, np.ndarray) or tf.is_tensor(value) or isinstance(value, (tf.Variable, np.generic)):
            return _of_array(value)
        if depth > _DEEPEST:
            return _name(type(value))
        if not isinstance(value, (tuple, frozenset)):  # of these Python may keep one for many, or not
            if id(value) in self._seen:
                return ["as before", self._seen[id(value)]]
            self._seen[id(value)] = len(self._seen)
            self._kept.append(value)
        return self._of_object(value, depth + 1)

    def _of_object(self, value: Any, depth: int) -> Any:
        if isinstance(value, Mapping):
            items = [[repr(key), self.of(item, depth)] for key, item in value.items()]
            return ["mapping", sorted(items, key=lambda item: item[0])]
        if isinstance(value, (set, frozenset)):
            return ["set", sorted(str(self.of(item, depth)) for item in value)]
        if isinstance(value, Sequence):
            return [self.of(item, depth) for item in value]
        if isinstance(value, functools.partial):
            return ["partial", *(self.of(part, depth) for part in (value.func, value.args, value.keywords))]
        if isinstance(value, types.MethodType):
            return ["method", self.of(value.__func__, depth), self.of(value.__self__, depth)]
        if isinstance(value, types.FunctionType):
            return self._of_function(value, depth)
        if isinstance(value, type):
            return self._of_class(value, depth)
        if isinstance(value, types.ModuleType):
            return value.__name__
        if isinstance(value, (property, staticmethod, classmethod, functools.cached_property)):
            parts = [getattr(value, name, None) for name in ("fget", "fset", "__func__", "func")]
            return [_name(type(value)), *(self.of(part, depth) for part in parts if part is not None)]
        return [_name(type(value)), self.of(type(value), depth), self.of(_state(value), depth)]

    def _of_function(self, function: types.FunctionType, depth: int) -> Any:
        found: list[Any] = ["function", _name(function)]
        found.append([self.of(cell, depth) for cell in _contents(function)])
        found.append([self.of(function.__defaults__, depth), self.of(function.__kwdefaults__, depth)])
        if _installed(function.__module__):
            return found
        self.of_users_own = True
        names: set[str] = set()
        code = self._of_code(function.__code__, function.__doc__, names, depth)
        return [*found, code, self._of_globals(function.__globals__, names, depth)]

    def _of_code(self, code: types.CodeType, docstring: str | None, names: set[str], depth: int) -> Any:
        names.update(code.co_names)
        constants = list(code.co_consts)
        if docstring is not None and constants[:1] == [docstring]:
            constants = constants[1:]
        inner = [
            self._of_code(one, None, names, depth) if isinstance(one, types.CodeType) else self.of(one, depth)
            for one in constants
        ]
        digest = hashlib.sha256(code.co_code).hexdigest()
        return [digest, list(code.co_names), list(code.co_varnames), list(code.co_freevars), inner]

    def _of_globals(self, known: Mapping[str, Any], names: set[str], depth: int) -> Any:
        """What a function's code names outside of itself, also as attributes of the user's modules."""
        found = []
        for name in sorted(names & set(known)):
            value = known[name]
            if isinstance(value, types.ModuleType) and not _installed(value.__name__):
                attributes = sorted(names & set(vars(value)))
                found.append([name, [[one, self.of(vars(value)[one], depth)] for one in attributes]])
            else:
                found.append([name, self.of(value, depth)])
        return found

    def _of_class(self, kind: type, depth: int) -> Any:
        if _installed(kind.__module__):
            return _name(kind)
        self.of_users_own = True
        found: list[Any] = [_name(kind), [self.of(base, depth) for base in kind.__bases__]]
        for name, value in sorted(vars(kind).items()):
            if name not in _NO_PART_OF_A_CLASS and not isinstance(value, (types.MemberDescriptorType,)):
                found.append([name, self.of(value, depth)])
        return found


def program(model: Any, builder: Any) -> tuple[str, bool]:
    """A digest of what a model computes, whatever its weights; and whether code of a user's own has a part in it.

    Args:
      model: a `FunctionalModel`.
      builder: the function that its Keras model comes from.
    """
    describe = Description()
    parts = [
        type(model).__name__,
        describe.of(builder),
        [describe.of(type(layer)) for layer in (model.keras, *layer_tree.layer_paths(model.keras))],
        _configuration(model.keras, describe),
        model.learning,
        [*map(str, model.trainable_specs), "frozen", *map(str, model.frozen_specs)],
        [*model.trainable_names, "frozen", *model.frozen_names],
    ]
    return files.fingerprint(parts), describe.of_users_own


def learning(model: Any, keras_loss: Any, *settings: Any) -> str:
    """A digest of what a model learns: its loss and everything that changes it.

    Args:
      model: a `FunctionalModel`.
      keras_loss: what its Keras model was compiled with.
      *settings: class weights, scale of the target and the like.
    """
    return files.fingerprint(Description().of([keras_loss, *settings, model.signature]))


def digest_of_weights(values: Sequence[np.ndarray]) -> str:
    """Of arrays in their order, to the last bit."""
    return files.fingerprint([_of_array(value) for value in values])


def _of_array(value: Any) -> Any:
    if not isinstance(value, (np.ndarray, np.generic)) and not hasattr(value, "numpy"):  # symbolic: it has no value
        return [_name(type(value)), str(getattr(value, "shape", ""))]
    array = np.asarray(value)
    content = array.tobytes() if array.dtype != object else repr(array.tolist()).encode()
    return [str(array.dtype), list(array.shape), hashlib.sha256(content).hexdigest()]


def _configuration(keras: tf.keras.Model, describe: Description) -> Any:
    try:
        whole: Any = keras.get_config()
    except Exception:  # a user's layers without get_config: layer by layer, and their code says the rest
        whole = None
    layers = layer_tree.layer_paths(keras)
    lambdas = [describe.of(layer.function) for layer in layers if isinstance(layer, tf.keras.layers.Lambda)]
    if whole is not None:
        return [describe.of(_without_code(whole)), lambdas]
    found = []
    for layer, path in layers.items():
        try:
            config = layer.get_config()
        except Exception:  # as above
            config = {}
        found.append([path, _name(type(layer)), describe.of(_without_code(config))])
    return [found, lambdas]


def _without_code(config: Any) -> Any:
    """A Keras configuration without compiled functions, whose bytes differ from process to process."""
    if isinstance(config, Mapping):
        if config.get("class_name") == "__lambda__":
            return "function"
        inner = {
            key: _without_code(value)
            for key, value in config.items()
            if not (key == "function" and "function_type" in config)
        }
        return inner if config.get("class_name") != "Lambda" else {**inner, "config": _lambda_config(inner)}
    return [_without_code(item) for item in config] if isinstance(config, (list, tuple)) else config


def _lambda_config(config: Mapping[str, Any]) -> Any:
    own = config.get("config")
    return {key: value for key, value in own.items() if key != "function"} if isinstance(own, Mapping) else own


def _contents(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            yield None


def _state(value: Any) -> Any:
    config = getattr(value, "get_config", None)
    of_users_own = not _installed(type(value).__module__)
    if callable(config) and (isinstance(value, tf.Module) or not of_users_own):
        try:
            return _without_code(config())
        except Exception:  # whatever a user's object does
            return None
    state = getattr(value, "__dict__", None)
    ours = type(value).__module__.partition(".")[0] == __name__.partition(".")[0]
    return dict(state) if state is not None and (ours or of_users_own) else None


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def _installed(module: str | None) -> bool:
    """Whether a module belongs to Python, to an installed package or to this one: known by name and version."""
    top = str(module).partition(".")[0]
    if top in (__name__.partition(".")[0], "keras", "tensorflow", *sys.builtin_module_names):
        return True
    file = str(getattr(sys.modules.get(str(module)), "__file__", None) or "")
    return file.startswith(_STANDARD_LIBRARY) or "-packages" in file or file.endswith(_COMPILED)
