"""Which layer of a model it is that mixes records, of a model that was seen to mix them.

It is the first layer that puts out something else for a record although what it was given of that record stayed the
same; or, where a model mixes in its gradients alone, the layer of which that holds for the gradients on their way back.
Inner layers end before the layers that hold them, so that the innermost one is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tff_hospitals.models import layer_tree
from tff_hospitals.models.randomness import Rows
from tff_hospitals.models.tracing import converted, plain_python

Moved = Callable[[np.ndarray, np.ndarray], bool]


class Place(NamedTuple):
    """A layer by its path, and its class."""

    path: str
    kind: str


class _Call(NamedTuple):
    """One call of a layer: what it was given and put out, each [records, numbers], and the gradients of both."""

    place: Place
    values: tuple[list[np.ndarray], list[np.ndarray]]
    gradients: tuple[list[np.ndarray], list[np.ndarray]]


class Observed:
    """A model at the weights at which it was seen to mix records.

    Args:
      model: a `FunctionalModel`.
      trainable, frozen: its weights.
      training: whether dropout and its like are active.
      key: int64 [2].
    """

    def __init__(self, model: Any, trainable: Any, frozen: Any, *, training: bool, key: Any):
        self._model, self._trainable, self._frozen, self._training, self._key = model, trainable, frozen, training, key

    def by_content(self, before: np.ndarray, after: np.ndarray, others: np.ndarray, moved: Moved) -> Place | None:
        """The layer that gives the `others` something else when one record of the batch is replaced.

        Args:
          before, after: two batches.
          others: numbers of the records that are the same in both.
          moved: whether what a call gave for records differs, by [records, numbers] of both.
        """
        pairs = zip(self._calls(before), self._calls(after))
        return _first(pairs, lambda old, new: moved(old[others], new[others]))

    def by_number(self, batch: np.ndarray, moved: Moved) -> Place | None:
        """The layer that gives a record alone something else than in its batch."""
        rows = range(len(batch))
        alone = zip(*(self._calls(batch[row : row + 1], Rows(tf.range(row, row + 1), len(batch))) for row in rows))
        return _first(zip(self._calls(batch), map(_together, alone)), moved)

    def _calls(self, features: np.ndarray, rows: Rows | None = None) -> list[_Call]:
        records = len(features)
        places: list[Place] = []
        counts: list[tuple[int, ...]] = []

        @plain_python
        def compute(features: tf.Tensor) -> Any:
            graph = tf.compat.v1.get_default_graph()
            noted: list[Any] = []
            layers = [*layer_tree.layer_paths(self._model.keras).items(), (self._model.keras, "")]
            outputs = self._model.predict(
                self._trainable,
                self._frozen,
                features,
                training=self._training,
                key=self._key,
                rows=rows,
                overrides=lambda: [_listening(layer, path, graph, noted) for layer, path in layers],
            )
            total = tf.reduce_sum(outputs + 0.5 * tf.square(outputs))
            places[:] = [place for place, *_ in noted]
            both = [[_of_records(part, records) for part in parts] for _, *parts in noted]
            counts[:] = [tuple(map(len, parts)) for parts in both]
            tensors = [tensor for parts in both for part in parts for tensor in part]
            try:
                gradients = tf.gradients(total, tensors, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            except LookupError:  # an operation without gradient
                gradients = [tf.zeros_like(tensor) for tensor in tensors]
            return tensors, gradients

        shape = tf.TensorSpec(features.shape, tf.float32)
        found = tf.function(compute, autograph=False).get_concrete_function(shape)(tf.constant(features))
        flat = [iter([np.reshape(one, (records, -1)) for one in part]) for part in found]

        def taken(count: tuple[int, ...]) -> Any:
            return [tuple([next(part) for _ in range(size)] for size in count) for part in flat]

        return [_Call(place, *taken(count)) for place, count in zip(places, counts)]


def _listening(layer: Any, path: str, graph: Any, noted: list[Any]) -> tuple[Any, str, Any]:
    call = layer.call

    @plain_python
    def listening(*given: Any, **keywords: Any) -> Any:
        if tf.compat.v1.get_default_graph() is not graph:  # of what happens in a loop only the loop's layer can be seen
            return converted(call)(*given, **keywords)
        # Each call has its own inputs, with the gradients that come back through this call and no other.
        given, keywords = tf.nest.map_structure(
            lambda one: tf.identity(one) if _is_float(one) else one, (given, keywords)
        )
        outputs = converted(call)(*given, **keywords)
        place = Place(path, type(layer).__name__)
        noted.append((place, tf.nest.flatten((given, keywords)), tf.nest.flatten(outputs)))
        return outputs

    return (layer, "call", listening)


def _of_records(values: Sequence[Any], records: int) -> list[tf.Tensor]:
    """Those numbers of a call that belong to records: a layer may take the steps of records for records."""
    tensors = [one for one in values if _is_float(one) and one.shape.rank]
    return [one for one in tensors if one.shape[0] and one.shape[0] % records == 0]


def _is_float(value: Any) -> bool:
    return bool(tf.is_tensor(value) and value.dtype.is_floating)


def _together(calls: Sequence[_Call]) -> _Call:
    def joined(parts: Sequence[Any]) -> Any:
        return tuple([np.concatenate(rows) for rows in zip(*part)] for part in zip(*parts))

    return _Call(calls[0].place, joined([one.values for one in calls]), joined([one.gradients for one in calls]))


def _first(pairs: Any, moved: Moved) -> Place | None:
    pairs = [(old, new) for old, new in pairs if old.place == new.place]
    for kind, source, target in (("values", 0, 1), ("gradients", 1, 0)):
        for old, new in pairs:
            # Of another size: a constant among what a call was given, or records that were counted in what it put out.
            changed = [
                [(one.shape != other.shape and which == 1) or _differ(one, other, moved) for one, other in zip(*both)]
                for which, both in enumerate(zip(getattr(old, kind), getattr(new, kind)))
            ]
            if any(changed[target]) and not any(changed[source]):
                return old.place
    return None


def _differ(one: np.ndarray, other: np.ndarray, moved: Moved) -> bool:
    return one.shape == other.shape and moved(one, other)
