"""Running a Keras model on given tensors in place of its variables.

A Keras layer reads its weights from attributes. While a model is called, the attributes that hold its variables are
replaced by tensors and put back afterwards. What the call computes then is a function of these tensors: no variable is
read, so the trace fits in a loop, under XLA and in `tf.vectorized_map`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from keras.src.backend import RandomGenerator

from tff_hospitals.models.randomness import KeyedRandom, Rows

# Keras' own bookkeeping: lists of variables that no computation reads.
_BOOKKEEPING = frozenset(
    {"_trainable_weights", "_non_trainable_weights", "_obj_reference_counts_dict", "_callable_losses"}
)

Override = tuple[Any, str, Any]


class Slots:
    """The places of a model that hold its variables and random generators, found once.

    Args:
      model: a built Keras model.
      variables: the variables to replace, in the order in which `swapped` takes their tensors.
      constants: attributes that are replaced in every call.
    """

    def __init__(self, model: tf.keras.Model, variables: Sequence[tf.Variable], constants: Sequence[Override] = ()):
        self._position = {id(variable): position for position, variable in enumerate(variables)}
        self._holders: list[tuple[Any, str, Any]] = []
        self._generators: list[tuple[Any, str]] = []
        self._constants: list[Override] = list(constants)
        for layer in model._flatten_layers():
            if hasattr(layer, "reset_recurrent_dropout_mask"):
                # What cells of recurrent layers drew while the model was built; TensorFlow cannot walk past it.
                layer.reset_dropout_mask()
                layer.reset_recurrent_dropout_mask()
        for module in (model, *model.submodules):
            if vars(module).get("_could_use_gpu_kernel"):
                # Keras' LSTM and GRU then choose between two compiled functions, which cannot be vectorised.
                self._constants.append((module, "_could_use_gpu_kernel", False))
            for attribute, value in list(vars(module).items()):
                if attribute in _BOOKKEEPING or attribute.startswith("_self_"):
                    continue
                if isinstance(value, RandomGenerator):
                    self._generators.append((module, attribute))
                elif self._holds(value):
                    self._holders.append((module, attribute, value))

    @property
    def draws_random_numbers(self) -> bool:
        """Whether any layer has a random generator."""
        return bool(self._generators)

    def _holds(self, value: Any, depth: int = 0) -> bool:
        if id(value) in self._position:
            return True
        if depth > 8:
            return False
        if isinstance(value, dict):
            return any(self._holds(item, depth + 1) for item in value.values())
        return isinstance(value, (list, tuple)) and any(self._holds(item, depth + 1) for item in value)

    def _with_tensors(self, value: Any, tensors: Sequence[Any]) -> Any:
        if id(value) in self._position:
            return tensors[self._position[id(value)]]
        if isinstance(value, dict):
            return {key: self._with_tensors(item, tensors) for key, item in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self._with_tensors(item, tensors) for item in value))
        if isinstance(value, (list, tuple)):
            items = [self._with_tensors(item, tensors) for item in value]
            return items if isinstance(value, list) else tuple(items)
        return value

    @contextlib.contextmanager
    def swapped(
        self,
        tensors: Sequence[Any],
        key: Any = None,
        rows: Rows | None = None,
        overrides: Callable[[], Sequence[Override]] | None = None,
    ) -> Iterator[None]:
        """Puts tensors where the variables are, keyed generators where the generators are, and `overrides()` on top.

        Not safe for two threads at once: the caller holds a lock.
        """
        undo: list[tuple[dict[str, Any], str, bool, Any]] = []

        def put(module: Any, attribute: str, value: Any) -> None:
            # Past Keras' __setattr__, which would track, wrap or refuse what it is given.
            attributes = vars(module)
            undo.append((attributes, attribute, attribute in attributes, attributes.get(attribute)))
            attributes[attribute] = value

        try:
            for module, attribute, value in self._holders:
                put(module, attribute, self._with_tensors(value, tensors))
            for stream, (module, attribute) in enumerate(self._generators):
                put(module, attribute, KeyedRandom(module, key, stream, rows))
            for override in (*self._constants, *(() if overrides is None else overrides())):
                put(*override)
            yield
        finally:
            for attributes, attribute, existed, before in reversed(undo):
                if existed:
                    attributes[attribute] = before
                else:
                    attributes.pop(attribute, None)
