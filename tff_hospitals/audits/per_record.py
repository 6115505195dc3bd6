"""Each record's own gradient against one vector: inner products and norms, record by record, compiled once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.audits.gradients import Tensors

if TYPE_CHECKING:
    from tff_hospitals.models import FunctionalModel


class RecordGradients:
    """Inner products of records' gradients with an update.

    Args:
      model: the attacked model.
      frozen: its weights that do not travel.
    """

    def __init__(self, model: FunctionalModel, frozen: Tensors):
        import tensorflow as tf

        self._model, self._frozen = model, frozen
        self._run = tf.function(self._products, autograph=False, reduce_retracing=True)
        self._rows = tf.function(self._flat, autograph=False, reduce_retracing=True)

    def _products(self, weights: Any, targets: Any, features: Any, labels: Any) -> Any:
        import tensorflow as tf

        def one(pair: tuple) -> tuple:
            with tf.GradientTape() as tape:
                tape.watch(weights)
                outputs = self._model.predict(weights, self._frozen, pair[0][tf.newaxis], training=False)
                loss = tf.reduce_sum(self._model.per_record_loss(outputs, pair[1][tf.newaxis]))
            slopes = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            product = tf.add_n([tf.reduce_sum(a * b) for a, b in zip(slopes, targets)])
            return product, tf.sqrt(tf.add_n([tf.reduce_sum(a * a) for a in slopes]))

        return tf.map_fn(one, (features, labels), fn_output_signature=(tf.float32, tf.float32))

    def __call__(
        self, weights: Tensors, features: np.ndarray, labels: np.ndarray, delta: Tensors
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inner product [records] of each record's gradient with `delta`, and each gradient's norm [records]."""
        import tensorflow as tf

        products, norms = self._run(
            tuple(tf.convert_to_tensor(weight) for weight in weights),
            tuple(tf.convert_to_tensor(part, tf.float32) for part in delta),
            tf.convert_to_tensor(features),
            tf.convert_to_tensor(labels),
        )
        return np.asarray(products, np.float64), np.asarray(norms, np.float64)

    def _flat(self, weights: Any, features: Any, labels: Any) -> Any:
        import tensorflow as tf

        def one(pair: tuple) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(weights)
                outputs = self._model.predict(weights, self._frozen, pair[0][tf.newaxis], training=False)
                loss = tf.reduce_sum(self._model.per_record_loss(outputs, pair[1][tf.newaxis]))
            slopes = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return tf.concat([tf.reshape(part, [-1]) for part in slopes], axis=0)

        return tf.map_fn(one, (features, labels), fn_output_signature=tf.float32)

    def matrix(self, weights: Tensors, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Each record's gradient as a row: float64 [records, parameters]."""
        import tensorflow as tf

        tensors = tuple(tf.convert_to_tensor(weight) for weight in weights)
        rows = self._rows(tensors, tf.convert_to_tensor(features), tf.convert_to_tensor(labels))
        return np.asarray(rows, np.float64)

    def cosines(self, weights: Tensors, features: np.ndarray, labels: np.ndarray, delta: Tensors) -> np.ndarray:
        """Cosine [records] between each record's own gradient and an update (initial - final: both point uphill)."""
        products, norms = self(weights, features, labels, delta)
        size = np.sqrt(sum(float((np.asarray(part, np.float64) ** 2).sum()) for part in delta))
        return products / np.maximum(norms * size, 1e-20)
