"""The metrics of a model at every hospital, on all test records together, and on a server-held set.

Metrics are computed in float64 from the model's outputs, so they do not depend on how records were batched.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.hospitals.hospital import Part
from tff_hospitals.hospitals.lazy import load_part
from tff_hospitals.training.metrics import Predictions, evaluate_parts

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.models import FunctionalModel

OwnWeights = Mapping[str, tuple[tuple, tuple]]
"""By hospital: trained and frozen weights of its own model."""
POOLED = "pooled"
SERVER = "server"
_BATCH = 4096
_KEPT_FUNCTIONS = 32
_functions: collections.OrderedDict[tuple, Any] = collections.OrderedDict()


class Evaluator:
    """Evaluates weights on the test parts of hospitals.

    Args:
      model: the functional model.
      dataset: hospitals whose test parts count.
      server_held: an optional part that the server holds itself, reported as `server`.
    """

    def __init__(self, model: FunctionalModel, dataset: HospitalDataset, server_held: Part | None = None):
        parts = [(hospital.hospital_id, hospital.test) for hospital in dataset.hospitals]
        self.spans: dict[str, slice] = {}
        position = 0
        for name, part in parts:
            self.spans[name] = slice(position, position + part.records)
            position += part.records
        self.spans[POOLED] = slice(0, position)
        if server_held is not None:
            parts.append((SERVER, server_held))
            self.spans[SERVER] = slice(position, position + server_held.records)
        self._parts = dict(parts)
        # Lazy test parts pass through one batch after the other; only labels and one row of results stay.
        whole = [part for _, part in parts]
        self._batches: Callable[[], Iterable[Part]]
        if getattr(model, "mixes_records", False):  # a record is then evaluated with those of its own hospital
            self._batches = lambda: (load_part(one) for one in whole if one.records)
        else:
            self._batches = (lambda: _batches(whole)) if dataset.recipe else _kept([_together(parts)])
        self._task = model.task
        self._predict = _predictor(model)

    def __call__(self, weights: tuple, frozen: tuple, own: OwnWeights | None = None) -> dict[str, dict[str, float]]:
        """Metrics by scope: every hospital id, `pooled`, and `server` if there is one.

        Args:
          weights, frozen: of the model.
          own: by hospital the trained and frozen weights of its own model, where each has one.

        Returns:
          {scope: {metric: value, ..., "records": count}} with the metrics of the task (`metrics.METRICS`); what the
          records do not define is NaN.
        """
        found = self.predictions(weights, frozen, own)
        values = evaluate_parts(found, self.spans)
        return {
            scope: {**values[scope], "records": float(span.stop - span.start)} for scope, span in self.spans.items()
        }

    def predictions(self, weights: tuple, frozen: tuple, own: OwnWeights | None = None) -> Predictions:
        """What the model says about every test record, hospitals in order (`spans` says whose are whose)."""
        found = []
        together: list[tuple[tuple, Iterable[Part]]] = [((weights, frozen), self._batches())]
        for model, batches in _of_each(self._parts, own) if own else together:
            for batch in batches:
                outcome = self._predict(*model, batch.features, batch.labels)
                found.append([np.asarray(batch.labels), *(value.numpy() for value in outcome)])
        columns = [np.concatenate(column) for column in zip(*found)] if found else [np.zeros([0])] * 4
        return Predictions(self._task, *columns)


def _of_each(parts: Mapping[str, Part], own: OwnWeights) -> list[tuple[tuple, Iterable[Part]]]:
    """Every hospital's own weights, and the batches of its records."""
    return [(own[name], _batches([part])) for name, part in parts.items()]


def _together(parts: Sequence[tuple[str, Part]]) -> Part:
    features = np.concatenate([np.asarray(part.features, np.float32) for _, part in parts])
    return Part(features, np.concatenate([part.labels for _, part in parts]))


def _kept(parts: Sequence[Part]) -> Callable[[], Iterable[Part]]:
    """The batches of parts in memory as tensors: a model is evaluated after every round."""
    import tensorflow as tf

    found = [Part(tf.constant(one.features), tf.constant(one.labels)) for one in _batches(parts)]
    return lambda: found


def _batches(parts: Sequence[Part]) -> Iterator[Part]:
    """All records in order, `_BATCH` at a time, whatever the parts' sizes."""
    waiting: list[Part] = []
    count = 0
    for part in parts:
        loaded, start = load_part(part), 0
        while start < loaded.records:
            end = min(loaded.records, start + _BATCH - count)
            waiting.append(Part(loaded.features[start:end], loaded.labels[start:end]))
            count, start = count + end - start, end
            if count == _BATCH:
                yield _joined(waiting)
                waiting, count = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(parts: Sequence[Part]) -> Part:
    if len(parts) == 1:
        return parts[0]
    return Part(np.concatenate([part.features for part in parts]), np.concatenate([part.labels for part in parts]))


def _predictor(model: FunctionalModel) -> Any:
    """One traced prediction function per model object."""
    import tensorflow as tf

    key = (id(model),)
    if key not in _functions:

        def predict(weights: tuple, frozen: tuple, features: Any, labels: Any) -> tuple:
            outputs = model.predict(weights, frozen, features, training=False)
            return model.per_record_loss(outputs, labels), model.correct(outputs, labels), model.scores(outputs)

        # The model is kept with its function, so that its id cannot be given to another one.
        _functions[key] = (model, tf.function(predict, autograph=False, reduce_retracing=True))
        while len(_functions) > _KEPT_FUNCTIONS:
            _functions.popitem(last=False)
    return _functions[key][1]
