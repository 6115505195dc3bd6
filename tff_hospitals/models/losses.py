"""Loss, correctness and scores of the three tasks, computed from logits so that they stay finite and exact."""

from __future__ import annotations

import tensorflow as tf


def per_record_loss(task: str, outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The loss of each record: cross-entropy in nats, or the squared error for regression.

    Args:
      task: "binary" (one logit, or two as for two classes), "multiclass" or "regression".
      outputs: float32 [batch, units].
      labels: whole numbers [batch], or float32 [batch] for regression.

    Returns:
      float32 [batch].

    >>> per_record_loss("regression", tf.constant([[3.0]]), tf.constant([1.0])).numpy()
    array([4.], dtype=float32)
    """
    if task == "regression":
        return tf.math.squared_difference(outputs[:, 0], tf.cast(labels, outputs.dtype))
    if outputs.shape[-1] == 1:
        return tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.cast(labels, outputs.dtype), logits=outputs[:, 0])
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=outputs)


def correct(task: str, outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """1.0 for each record whose most probable class is its label (a tie counts for the lower class), else 0.0.

    For regression NaN: a share of correct answers does not exist, and nothing should be mistaken for it.
    """
    if task == "regression":
        return tf.fill(tf.shape(outputs)[:1], tf.constant(float("nan"), outputs.dtype))
    if outputs.shape[-1] == 1:
        guess = tf.cast(outputs[:, 0] > 0, tf.int64)
    else:
        guess = tf.argmax(outputs, axis=-1, output_type=tf.int64)
    return tf.cast(tf.equal(guess, tf.cast(labels, tf.int64)), tf.float32)


def scores(task: str, outputs: tf.Tensor) -> tf.Tensor:
    """Probability of class 1 (binary, [batch]), of each class ([batch, classes]), or the prediction ([batch])."""
    if task == "regression":
        return outputs[:, 0]
    if outputs.shape[-1] == 1:
        return tf.sigmoid(outputs[:, 0])
    probabilities = tf.nn.softmax(outputs)
    return probabilities[:, 1] if task == "binary" else probabilities
