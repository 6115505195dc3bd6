"""Encoders as parts of anybody's TFF processes: an encoded broadcast, and an encoded sum of uploads.

TFF 0.87 has no encoded broadcast any more, and its encoded sum measures no bytes. Here a chain of encoders
(`communication.parse_chain`) is a `DistributionProcess` and an aggregation factory. TFF's executor moves tensors, never
payloads: what is computed is what the other end decodes, and what is measured is the exact length of the payload that
the numpy codec makes of the same values. Entropy coders have no length before there are bytes: their bound is reported,
as `payload_bytes_at_most`.

Random bits are drawn in the graph. Those of a broadcast come from a key in the state that both ends know. A client
draws a key of its own in each round, and its 16 bytes are counted, because the server cannot know it.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_hospitals.communication import Chain, parse_chain, sizes, stage
from tff_hospitals.communication.stages import rotation
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.processes import encoder_draws, encoders
from tff_hospitals.tff.sampling import system_key

if TYPE_CHECKING:
    from tff_hospitals.plan.plan import Plan

KEY_BYTES = 16
_SIGNS, _POSITIONS, _DITHER = 1, 2, 3


@dataclasses.dataclass(frozen=True)
class GraphCodec:
    """A chain over tensors of known shapes, inside a graph.

    Args:
      chain: the encoders.
      shapes: of the float32 tensors.
    """

    chain: Chain
    shapes: tuple[tuple[int, ...], ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Values of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def is_exact(self) -> bool:
        """Whether the length of a payload is known without making it."""
        pipeline = self.chain.pipeline
        counted = pipeline.sparsifier is None or pipeline.sparsifier.kept(100) is not None
        return counted and not pipeline.entropy

    @property
    def measured(self) -> str:
        """The name of the measurement."""
        return "payload_bytes" if self.is_exact else "payload_bytes_at_most"

    def draws(self, key: tf.Tensor) -> collections.OrderedDict:
        """What `encoder_draws.draw` draws, by TensorFlow's generator: other bits of the same distribution.

        Args:
          key: int64 [2].
        """
        found: collections.OrderedDict = collections.OrderedDict()
        for name, (shape, _) in encoder_draws.draw_shapes(self.chain, self.lengths).items():
            if name == "signs":
                scale = np.concatenate(
                    [
                        np.full(stop - start, 1 / np.sqrt(np.float32(stop - start)))
                        for start, stop in rotation.blocks(sum(self.lengths))
                    ]
                )
                bits = _bits(key, _SIGNS, shape)
                found[name] = tf.where(tf.equal(bits % 2, 0), 1.0, -1.0) * tf.constant(scale, tf.float32)
            elif name == "positions":
                found[name] = self._positions(key, shape[0])
            else:
                found[name] = tf.cast(_bits(key, _DITHER, shape) % 2**16, tf.float32) * 2.0**-16
        return found

    def _positions(self, key: tf.Tensor, count: int) -> tf.Tensor:
        """One position out of each of `count` equal stretches."""
        size = self.chain.pipeline.size(stage.Context(self.lengths))
        edges = np.arange(count + 1, dtype=np.int64) * size // count
        uniform = tf.cast(_bits(key, _POSITIONS, [count]), tf.int64) % 2**31
        offsets = uniform * tf.constant(np.diff(edges)) // 2**31
        return tf.cast(tf.constant(edges[:-1]) + offsets, tf.int32)

    def transcode(self, flat: tf.Tensor, key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What the other end decodes of float32 [sum of lengths], and the bytes of the payload (int64)."""
        decoded = encoders.transcode(self.chain, self.lengths, flat, self.draws(key))
        return decoded, self.payload_bytes(flat, key)

    def payload_bytes(self, flat: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """Length of the payload that the codec makes of these values, or its upper bound where `is_exact` is not."""
        bounds = sizes.payload_bytes(self.chain, self.shapes)
        if not self.is_exact:
            return tf.constant(bounds.high, tf.int64)
        total = tf.constant(bounds.low, tf.int64)
        pipeline = self.chain.pipeline
        if pipeline.calculates:
            exponent = encoders.exponent_of(flat)
            folded = tf.where(exponent >= 0, 2 * exponent, -2 * exponent - 1)
            total += tf.cast(folded > 127, tf.int64)  # beyond it the exponent takes a second byte
        sparsifier = pipeline.sparsifier
        if sparsifier is not None and pipeline.rotate is None and pipeline.quantiser.scales_per_group:
            kept = sparsifier.kept(sum(self.lengths)) or 0
            groups = encoders.group_count(self.chain, self.lengths, flat, self.draws(key))
            fewest = math.ceil(kept / stage.GROUP)
            total += tf.cast(4 * pipeline.quantiser.scales_per_group * (groups - fewest), tf.int64)
        return total


def _bits(key: tf.Tensor, purpose: int, shape: Sequence[int]) -> tf.Tensor:
    """Whole numbers of 31 random bits."""
    own = tf.random.experimental.stateless_fold_in(key, tf.constant(purpose, tf.int64))
    return tf.random.stateless_uniform(shape, seed=own, minval=0, maxval=2**31 - 1, dtype=tf.int32, alg="philox")


def _codec(chain: Chain, value_type: Any, what: str) -> GraphCodec:
    """The codec for a TFF type of float32 tensors of known shapes.

    Raises:
      InvalidInput: a tensor of another type, or of unknown shape.
    """
    shapes, found = [], []
    for number, leaf in enumerate(_leaves(value_type)):
        if not isinstance(leaf, tff.TensorType):
            found.append(Problem(f"{what}, part {number}", str(leaf)[:200], "must be a tensor", "send tensors alone"))
        elif leaf.dtype != np.float32 and leaf.dtype != tf.float32:
            remedy = "cast it to float32, or send it through another process"
            found.append(Problem(f"{what}, tensor {number}", str(leaf), "must be float32 to be encoded", remedy))
        elif leaf.shape is None or any(size is None for size in leaf.shape):
            remedy = "give a type with whole shapes"
            found.append(Problem(f"{what}, tensor {number}", str(leaf), "must have a known shape", remedy))
        else:
            shapes.append(tuple(int(size) for size in leaf.shape))
    if not shapes and not found:
        found.append(Problem(what, str(value_type)[:200], "holds no tensor", "give the type of what is sent"))
    if found:
        raise InvalidInput(found)
    return GraphCodec(chain, tuple(shapes))


def _leaves(value_type: Any) -> list[Any]:
    if isinstance(value_type, tff.StructType):
        return [leaf for part in value_type for leaf in _leaves(part)]
    return [value_type]


def flat_of(value: Any) -> tf.Tensor:
    """All values of a structure in one vector."""
    return tf.concat([tf.reshape(leaf, [-1]) for leaf in tf.nest.flatten(value)], axis=0)


def packed_as(value: Any, flat: tf.Tensor, codec: GraphCodec) -> Any:
    """The inverse of `flat_of`, in the structure of `value`."""
    pieces = tf.split(flat, list(codec.lengths))
    return tf.nest.pack_sequence_as(value, [tf.reshape(one, shape) for one, shape in zip(pieces, codec.shapes)])


def _known_chain(chain: Chain | str, direction: str) -> Chain:
    found = parse_chain(chain, name=direction) if isinstance(chain, str) else chain
    problems = found.usage_problems(direction=direction)
    if problems:
        raise InvalidInput([problem for problem in problems if problem is not None])
    return found


class EncodedDistributor:
    """A factory of encoded broadcasts; see `encoded_distributor`."""

    def __init__(self, chain: Chain, seed: int):
        self._chain, self._seed = chain, seed

    def create(self, value_type: Any) -> tff.learning.templates.DistributionProcess:
        """The process for values of a TFF type.

        Args:
          value_type: unplaced, float32 tensors of known shapes in any structure, such as
            `tff.learning.models.weights_type_from_model(model_fn)`.

        Raises:
          InvalidInput: another type, with the tensor that does not fit.
        """
        codec = _codec(self._chain, value_type, "the broadcast value")
        needs_reference = self._chain.needs_reference
        size = sum(codec.lengths)
        key = Streams.from_seed(self._seed).child("server", "broadcast").key()
        spec = collections.OrderedDict(
            round=tf.TensorSpec([], tf.int32),
            key=tf.TensorSpec([2], tf.int64),
            held=tf.TensorSpec([size if needs_reference else 0], tf.float32),
        )
        state_type = tff.types.tensorflow_to_type(spec)

        @tff.tensorflow.computation
        def initial_state() -> Any:
            return collections.OrderedDict(
                round=tf.constant(0, tf.int32), key=tf.constant(key), held=tf.zeros(spec["held"].shape)
            )

        @tff.tensorflow.computation(state_type, value_type)
        def encode(state: Any, value: Any) -> Any:
            flat, held = flat_of(value), state["held"]
            own = tf.random.experimental.stateless_fold_in(state["key"], tf.cast(state["round"], tf.int64))
            if needs_reference:
                decoded, payload = codec.transcode(flat - held, own)
                first = tf.equal(state["round"], 0)  # there is nothing yet to differ from
                decoded = tf.where(first, flat, held + decoded)
                payload = tf.where(first, tf.constant(4 * size, tf.int64), payload)
                held = decoded
            else:
                decoded, payload = codec.transcode(flat, own)
            after = collections.OrderedDict(round=state["round"] + 1, key=state["key"], held=held)
            return after, packed_as(value, decoded, codec), collections.OrderedDict([(codec.measured, payload)])

        @tff.federated_computation
        def init_fn() -> Any:
            return tff.federated_eval(initial_state, tff.SERVER)

        @tff.federated_computation(tff.FederatedType(state_type, tff.SERVER), tff.FederatedType(value_type, tff.SERVER))
        def next_fn(state: Any, value: Any) -> Any:
            after, decoded, measured = tff.federated_map(encode, (state, value))
            return tff.templates.MeasuredProcessOutput(after, tff.federated_broadcast(decoded), measured)

        return tff.learning.templates.DistributionProcess(init_fn, next_fn)


def encoded_distributor(chain: Chain | str, *, seed: int = 0) -> EncodedDistributor:
    """An encoded broadcast for `tff.learning.templates.compose_learning_process` and TFF's own builders.

    Every client decodes the same values. Measurements hold the payload's bytes, once for each client that receives it.
    With `delta` the difference to what clients decoded last is encoded, and the first round is sent as it is.

    Example (needs TFF)::

        distributor = encoded_distributor("delta,rotate,quantize:8").create(weights_type)
        process = tff.learning.algorithms.build_weighted_fed_avg(..., model_distributor=distributor)

    Args:
      chain: the encoders, such as `delta,rotate,quantize:8`.
      seed: of the random bits, which both ends know.

    Raises:
      InvalidInput: an unsound chain, or one that makes no sense for a broadcast.
    """
    return EncodedDistributor(_known_chain(chain, "broadcast"), seed)


class EncodedSumFactory(tff.aggregators.UnweightedAggregationFactory):
    """A factory of encoded sums; see `encoded_sum_factory`."""

    def __init__(self, chain: Chain, inner: tff.aggregators.UnweightedAggregationFactory | None):
        self._chain, self._inner = chain, tff.aggregators.SumFactory() if inner is None else inner

    def create(self, value_type: Any) -> tff.templates.AggregationProcess:
        """The process for clients' values of a TFF type.

        Raises:
          InvalidInput: another type than float32 tensors of known shapes, with the tensor that does not fit.
        """
        codec = _codec(self._chain, value_type, "the clients' value")
        inner = self._inner.create(value_type)

        @tff.tensorflow.computation(value_type)
        def encode(value: Any) -> Any:
            key = system_key()
            decoded, payload = codec.transcode(flat_of(value), key)
            return packed_as(value, decoded, codec), payload + (KEY_BYTES if self._chain.needs_key else 0)

        @tff.federated_computation
        def init_fn() -> Any:
            return inner.initialize()

        @tff.federated_computation(inner.next.type_signature.parameter[0], tff.FederatedType(value_type, tff.CLIENTS))
        def next_fn(state: Any, value: Any) -> Any:
            decoded, payload = tff.federated_map(encode, value)
            output = inner.next(state, decoded)
            measured = collections.OrderedDict(
                [(codec.measured, tff.federated_sum(payload)), ("inner", output.measurements)]
            )
            return tff.templates.MeasuredProcessOutput(output.state, output.result, tff.federated_zip(measured))

        return tff.templates.AggregationProcess(init_fn, next_fn)


def encoded_sum_factory(
    chain: Chain | str, *, inner: tff.aggregators.UnweightedAggregationFactory | None = None
) -> tff.aggregators.UnweightedAggregationFactory:
    """A sum of what the server decodes of encoded uploads; measurements hold the bytes of all payloads together.

    Example (needs TFF)::

        mean = tff.aggregators.MeanFactory(encoded_sum_factory("rotate,quantize:4"))
        process = tff.learning.algorithms.build_weighted_fed_avg(..., model_aggregator=mean)

    Args:
      chain: the encoders, such as `rotate,quantize:4`; `delta` has no reference here.
      inner: adds up the decoded values; by default `tff.aggregators.SumFactory()`.

    Raises:
      InvalidInput: an unsound chain, or one that makes no sense for an upload.
    """
    return EncodedSumFactory(_known_chain(chain, "upload"), inner)


def codec_of_uploads(plan: Plan, shapes: Sequence[Sequence[int]]) -> GraphCodec | None:
    """The plan's encoder of uploads; None where they are dense."""
    chain = parse_chain(plan.upload, name="upload")
    return GraphCodec(chain, tuple(tuple(int(n) for n in shape) for shape in shapes)) if chain.stages else None
