"""Encoders inside a TFF learning process: the encoded broadcast as a `DistributionProcess`, the upload's twin.

TFF ships graphs to a worker, which cannot call the codec: here its TensorFlow twin computes what is decoded, from the
codec's own draws. The draws of the broadcast wait in the distributor's state, those of an upload come with the
hospital's data; the runtime puts them there. For each upload the process also reports what was encoded and what was
decoded, in the hospital's own row, so that the runtime can make the payload and check it: a simulation's instrument.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_hospitals.processes import encoder_draws, encoders
from tff_hospitals.processes.encoded_transfer import EncodedTransfer
from tff_hospitals.processes.noise import global_norm


def flat(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """All values in one vector."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def unflat(transfer: EncodedTransfer, values: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """The inverse of `flat`."""
    pieces = tf.split(values, list(transfer.lengths))
    return tuple(tf.reshape(piece, shape) for piece, shape in zip(pieces, transfer.shapes))


def specs_of(shapes: collections.OrderedDict) -> collections.OrderedDict:
    """Tensor specs of (shape, dtype) pairs."""
    return collections.OrderedDict((name, tf.TensorSpec(shape, dtype)) for name, (shape, dtype) in shapes.items())


def upload_spec(transfer: EncodedTransfer, hospitals_per_round: int) -> collections.OrderedDict:
    """What a hospital's encoder is given beside the update: draws, residual and its row in the reports.

    Also what the server multiplies by of a late one, which in a simulation knows it where it decodes.
    """
    spec = specs_of(encoder_draws.draw_shapes(transfer.upload, transfer.lengths))
    if transfer.error_feedback:
        spec["residual"] = tf.TensorSpec([sum(transfer.lengths)], tf.float32)
    if transfer.late:
        spec["late"] = tf.TensorSpec([], tf.float32)
    spec["place"] = tf.TensorSpec([hospitals_per_round], tf.float32)
    return spec


def transcode_upload(transfer: EncodedTransfer, delta: Sequence[tf.Tensor], given: Any) -> tuple[tuple, Any]:
    """What the server adds up of an update, and the report: (encoded values, decoded values) in the hospital's row."""
    update = flat(delta)
    carried = update + given["residual"] if transfer.error_feedback else update
    decoded = encoders.transcode(transfer.upload, transfer.lengths, carried, given)
    if transfer.skip_below is not None:
        sent = tf.greater_equal(global_norm((carried,)), np.float32(transfer.skip_below))
        decoded = tf.where(sent, decoded, tf.zeros_like(decoded))
    row = given["place"][:, tf.newaxis]
    report = collections.OrderedDict(encoded=row * update[tf.newaxis], decoded=row * decoded[tf.newaxis])
    return unflat(transfer, given["late"] * decoded if transfer.late else decoded), report


def build_distributor(transfer: EncodedTransfer, weights_type: Any) -> tff.learning.templates.DistributionProcess:
    """The encoded broadcast: state at the server, and every hospital decodes the same values."""
    chain = transfer.broadcast
    state_spec = collections.OrderedDict(
        held=tuple(tf.TensorSpec(shape, tf.float32) for shape in transfer.shapes),
        first=tf.TensorSpec([], tf.bool),
        draws=specs_of(encoder_draws.draw_shapes(chain, transfer.lengths)),
    )
    state_type = tff.types.tensorflow_to_type(state_spec)

    @tff.tensorflow.computation
    def initial_state() -> Any:
        return collections.OrderedDict(
            held=tuple(tf.zeros(shape) for shape in transfer.shapes),
            first=tf.constant(True),
            draws=tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), state_spec["draws"]),
        )

    @tff.tensorflow.computation(state_type, weights_type)
    def encode(state: Any, weights: Any) -> Any:
        model = flat(tuple(weights.trainable))
        if chain.needs_reference:
            held = flat(tuple(state["held"]))
            decoded = held + encoders.transcode(chain, transfer.lengths, model - held, state["draws"])
            decoded = tf.where(state["first"], model, decoded)
        else:
            decoded = encoders.transcode(chain, transfer.lengths, model, state["draws"])
        parts = unflat(transfer, decoded)
        after = collections.OrderedDict(held=parts, first=tf.constant(False), draws=state["draws"])
        return after, tff.learning.models.ModelWeights(parts, ())

    @tff.federated_computation
    def init_fn() -> Any:
        return tff.federated_eval(initial_state, tff.SERVER)

    @tff.federated_computation(tff.FederatedType(state_type, tff.SERVER), tff.FederatedType(weights_type, tff.SERVER))
    def next_fn(state: Any, weights: Any) -> Any:
        after, decoded = tff.federated_map(encode, (state, weights))
        return tff.templates.MeasuredProcessOutput(
            after, tff.federated_broadcast(decoded), tff.federated_value((), tff.SERVER)
        )

    return tff.learning.templates.DistributionProcess(init_fn, next_fn)
