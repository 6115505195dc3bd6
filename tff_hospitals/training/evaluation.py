"""Loss, accuracy and AUC of a model at every hospital, on all test records together, and on a server-held set.

Metrics are computed in float64 from the model's outputs, so they do not depend on how records were batched.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.hospitals.hospital import Part
from tff_hospitals.hospitals.lazy import load_part

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.models import FunctionalModel

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
        self._spans: dict[str, slice] = {}
        position = 0
        for name, part in parts:
            self._spans[name] = slice(position, position + part.records)
            position += part.records
        self._spans[POOLED] = slice(0, position)
        if server_held is not None:
            parts.append((SERVER, server_held))
            self._spans[SERVER] = slice(position, position + server_held.records)
        # Lazy test parts pass through one batch after the other; only labels and one row of results stay.
        self._parts = [part for _, part in parts] if dataset.recipe else [_together(parts)]
        self._task = model.task
        self._predict = _predictor(model)

    def __call__(self, weights: tuple, frozen: tuple) -> dict[str, dict[str, float]]:
        """Metrics by scope: every hospital id, `pooled`, and `server` if there is one.

        Returns:
          {scope: {"loss", "accuracy", "auc", "records"}}; a metric that the records do not define is NaN (AUC of a
          test part with one class, accuracy of a regression).
        """
        losses, correct, scores = self.predictions(weights, frozen)
        return {
            scope: {
                "loss": _mean(losses[span]),
                "accuracy": _mean(correct[span]),
                "auc": area_under_curve(self._labels[span], scores[span]) if self._task != "regression" else math.nan,
                "records": float(len(losses[span])),
            }
            for scope, span in self._spans.items()
        }

    def predictions(self, weights: tuple, frozen: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Loss, correctness (0 or 1) and score of every record, hospitals in order."""
        found = []
        labels = []
        for batch in _batches(self._parts):
            found.append([value.numpy() for value in self._predict(weights, frozen, batch.features, batch.labels)])
            labels.append(batch.labels)
        self._labels = np.concatenate(labels) if labels else np.zeros([0], np.int64)
        if not found:
            return np.zeros([0]), np.zeros([0]), np.zeros([0])
        return tuple(np.concatenate(column).astype(np.float64) for column in zip(*found))


def _together(parts: Sequence[tuple[str, Part]]) -> Part:
    features = np.concatenate([np.asarray(part.features, np.float32) for _, part in parts])
    return Part(features, np.concatenate([part.labels for _, part in parts]))


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


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def area_under_curve(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve; ties count half; mean over classes (one against the rest) for several classes.

    Args:
      labels: [records] class numbers.
      scores: [records] probability of class 1, or [records, classes].

    Returns:
      A value in [0, 1], or NaN when a class that is scored has no records or all of them.

    >>> area_under_curve(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    0.75
    """
    if scores.ndim == 2:
        return float(np.mean([area_under_curve(labels == c, scores[:, c]) for c in range(scores.shape[1])]))
    positive = labels.astype(bool)
    count = int(positive.sum())
    others = len(labels) - count
    if count == 0 or others == 0:
        return math.nan
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # mid-ranks, 1-based
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))
