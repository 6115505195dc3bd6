"""Batches that a client draws for itself inside TFF, from all of its own records.

TFF gives client work no identity and no key, so every client takes fresh bits of its operating system in every round:
draws are independent between clients and rounds, and nobody can repeat them. What is drawn is what `hospitals.batches`
draws in the other runtimes: the ledger's claim is the same.
"""

from __future__ import annotations

import collections

import tensorflow as tf

Schedule = collections.OrderedDict


def system_key() -> tf.Tensor:
    """int64 [2] from the operating system, other ones at every execution."""
    return tf.raw_ops.NonDeterministicInts(shape=tf.constant([2], tf.int64), dtype=tf.int64)


def batches_in_an_epoch(records: tf.Tensor, batch_size: int) -> tf.Tensor:
    """How many batches a pass has; at least one."""
    return tf.maximum(1, -(-records // batch_size))


def poisson(key: tf.Tensor, records: tf.Tensor, probability: tf.Tensor, steps: tf.Tensor, groups: int = 1) -> Schedule:
    """In every step every record takes part with one probability, independently of all else (Abadi et al. 2016).

    Of several groups only the one whose turn it is takes part, as in `hospitals.batches.cyclic_poisson`.

    Args:
      key: int64 [2].
      records: int32, number of records.
      probability: float64, of each record in each step.
      steps: int32, number of steps.
      groups: record i belongs to group i mod `groups`, whose turn step t mod `groups` is.

    Returns:
      `indices` int32 [steps, most], `mask` float32 of the same shape; no batch is cut to fit.
    """
    draws = tf.random.stateless_uniform(tf.stack([steps, records]), seed=key, dtype=tf.float64, alg="philox")
    joins = draws < probability
    if groups > 1:
        joins &= (tf.range(records) % groups)[tf.newaxis] == (tf.range(steps) % groups)[:, tf.newaxis]
    hits = tf.where(joins)
    chosen = tf.RaggedTensor.from_value_rowids(hits[:, 1], hits[:, 0], nrows=tf.cast(steps, tf.int64))
    sizes = chosen.row_lengths()
    most = tf.reduce_max(tf.concat([sizes, [1]], axis=0))
    indices = chosen.to_tensor(shape=tf.stack([tf.cast(steps, tf.int64), most]))
    return collections.OrderedDict(
        indices=tf.cast(indices, tf.int32), mask=tf.sequence_mask(sizes, most, dtype=tf.float32)
    )


def same_order(key: tf.Tensor, records: tf.Tensor, batch_size: int, steps: tf.Tensor) -> Schedule:
    """Passes in one shuffled order, so that a record comes back after as many steps as a pass has (DP-FTRL)."""
    order = tf.argsort(tf.random.stateless_uniform([records], seed=key, dtype=tf.float64, alg="philox"))
    per_epoch = batches_in_an_epoch(records, batch_size)
    padding = per_epoch * batch_size - records
    places = tf.reshape(tf.pad(order, [[0, padding]]), [per_epoch, batch_size])
    mask = tf.reshape(tf.pad(tf.ones([records]), [[0, padding]]), [per_epoch, batch_size])
    rows = tf.range(steps) % per_epoch
    return collections.OrderedDict(indices=tf.cast(tf.gather(places, rows), tf.int32), mask=tf.gather(mask, rows))
