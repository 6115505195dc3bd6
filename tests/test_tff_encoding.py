"""Encoders as public parts of TFF processes: what is decoded, how many bytes are counted, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from few_fast import few_fast

from tff_hospitals.communication import parse_chain
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.processes import encoder_draws

pytestmark = pytest.mark.tensorflow

SHAPES = ((40, 10), (10,), (10, 3))
EXACT = [
    "none",
    "float16",
    "bfloat16",
    "quantize:8",
    "quantize:4:nearest",
    "rotate,quantize:4",
    "rotate,onebit",
    "rotate,eden:3",
    "ternary",
    "topk:0.05",
    "topk:0.05,quantize:4",
    "randk:0.1",
    "randk:0.1,quantize:8",
    "rotate,topk:0.1,ternary:mean",
]


@pytest.fixture(scope="module")
def context():
    from tff_hospitals.runtimes.native.context import native_context

    with native_context() as made:
        yield made


def values(scale=1.0, seed=0):
    return [scale * np.random.default_rng(seed).normal(size=shape).astype(np.float32) for shape in SHAPES]


@pytest.mark.parametrize("text", EXACT)
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e-25])
def test_the_bytes_are_those_of_the_codec(text, scale):
    """Tiny values take an exponent of one or two bytes; kept values fall into one tensor or three."""
    import tensorflow as tf

    from tff_hospitals.tff.encoding import GraphCodec

    chain = parse_chain(text)
    codec = GraphCodec(chain, SHAPES)
    given = values(scale)
    given[0][:5] *= 100  # what topk keeps stands in one tensor
    payload = chain.encode([(str(i), one) for i, one in enumerate(given)], np.array([1, 2])).payload
    flat = tf.concat([tf.reshape(one, [-1]) for one in given], axis=0)
    decoded, counted = codec.transcode(flat, tf.constant([5, 6], tf.int64))
    assert codec.measured == "payload_bytes"
    if "randk" in text and "quantize" in text:  # which positions are kept decides how many groups there are
        assert abs(int(counted) - len(payload)) <= 8 * len(SHAPES)
    else:
        assert int(counted) == len(payload)
    assert np.isfinite(decoded.numpy()).all()


@pytest.mark.parametrize("text", ["quantize:4,entropy", "threshold:0.5"])
def test_a_length_that_depends_on_values_is_bounded(text):
    import tensorflow as tf

    from tff_hospitals.tff.encoding import GraphCodec

    chain = parse_chain(text)
    codec = GraphCodec(chain, SHAPES)
    given = values()
    payload = chain.encode([(str(i), one) for i, one in enumerate(given)], np.array([1, 2])).payload
    flat = tf.concat([tf.reshape(one, [-1]) for one in given], axis=0)
    assert codec.measured == "payload_bytes_at_most"
    assert int(codec.transcode(flat, tf.constant([5, 6], tf.int64))[1]) >= len(payload)


@pytest.mark.parametrize(
    "text", few_fast(["quantize:2", "rotate,quantize:4", "randk:0.1", "ternary"], slow=["quantize:2"])
)
def test_draws_in_the_graph_have_the_form_and_the_mean_of_the_codecs(text):
    import tensorflow as tf

    from tff_hospitals.tff.encoding import GraphCodec

    chain = parse_chain(text)
    codec = GraphCodec(chain, SHAPES)
    theirs = encoder_draws.draw(chain, codec.lengths, np.array([1, 2]))
    mine = codec.draws(tf.constant([1, 2], tf.int64))
    assert list(mine) == list(theirs)
    for name, array in theirs.items():
        assert mine[name].shape == array.shape
        assert mine[name].dtype == array.dtype
        assert float(np.min(mine[name])) >= array.min() - 1e-6 or name != "signs"
    if "positions" in theirs:
        assert (np.diff(mine["positions"].numpy()) > 0).all()
    flat = tf.concat([tf.reshape(one, [-1]) for one in values()], axis=0)
    keys = tf.stack([tf.range(300, dtype=tf.int64), tf.range(300, dtype=tf.int64) + 7], axis=1)
    decoded = tf.map_fn(lambda key: codec.transcode(flat, key)[0], keys, fn_output_signature=tf.float32).numpy()
    # Unbiased: the mean of 300 is off by as much as the spread explains, no more and no less.
    error = np.sqrt(np.mean((decoded.mean(axis=0) - flat.numpy()) ** 2))
    expected = np.sqrt(np.mean(decoded.var(axis=0)) / 300)
    assert 0.8 * expected < error < 1.2 * expected


def test_an_encoded_broadcast_sends_differences_that_every_client_decodes(context):
    import tensorflow as tf
    import tensorflow_federated as tff

    from tff_hospitals.tff import encoded_distributor

    weights_type = tff.types.tensorflow_to_type(
        tff.learning.models.ModelWeights(tuple(tf.TensorSpec(shape, tf.float32) for shape in SHAPES), ())
    )
    process = encoded_distributor("delta,quantize:8").create(weights_type)
    assert isinstance(process, tff.learning.templates.DistributionProcess)

    @tff.federated_computation(
        process.initialize.type_signature.result,
        tff.FederatedType(weights_type, tff.SERVER),
        tff.FederatedType(np.int32, tff.CLIENTS),
    )
    def send(state, value, clients):
        output = process.next(state, value)
        return output.state, output.measurements, tff.federated_mean(output.result)

    state = process.initialize()
    for number in range(3):
        model = tff.learning.models.ModelWeights(tuple(one * (1 + 0.01 * number) for one in values()), ())
        state, measured, decoded = send(state, model, [0, 0])
        error = max(np.abs(a - b).max() for a, b in zip(decoded.trainable, model.trainable))
        if number == 0:
            assert measured["payload_bytes"] == 4 * 440
            assert error == 0
        else:
            assert 440 < measured["payload_bytes"] < 500  # a byte a value
            assert 0 < error < 0.01 * 4 / 100  # a hundredth of the difference, not of the model


def test_an_encoded_sum_works_in_the_mean_of_tff(context):
    import tensorflow as tf
    import tensorflow_federated as tff

    from tff_hospitals.tff import encoded_sum_factory

    value_type = tff.types.tensorflow_to_type([tf.TensorSpec(shape, tf.float32) for shape in SHAPES])
    factory = tff.aggregators.MeanFactory(encoded_sum_factory("quantize:8"))
    process = factory.create(value_type, tff.TensorType(np.float32))
    clients = [values(seed=seed) for seed in (1, 2)]
    output = process.next(process.initialize(), clients, [1.0, 3.0])
    for found, one, other in zip(output.result, *clients):
        np.testing.assert_allclose(found, (one + 3 * other) / 4, atol=0.05)
    payload = parse_chain("quantize:8").encode([("a", one) for one in clients[0]], np.array([1, 2])).payload
    assert output.measurements["mean_value"]["payload_bytes"] == 2 * (len(payload) + 16)  # and the client's key


def refusal(call):
    with pytest.raises(InvalidInput) as error:
        call()
    assert "Remedy" in str(error.value)
    return str(error.value)


def test_values_that_cannot_be_encoded_are_named():
    import tensorflow as tf
    import tensorflow_federated as tff

    from tff_hospitals.tff import encoded_distributor, encoded_sum_factory

    whole = tff.types.tensorflow_to_type([tf.TensorSpec([3], tf.float32), tf.TensorSpec([2], tf.int32)])
    text = refusal(lambda: encoded_sum_factory("quantize:8").create(whole))
    assert "the clients' value, tensor 1" in text
    assert "must be float32" in text
    open_type = tff.types.tensorflow_to_type([tf.TensorSpec([None], tf.float32)])
    assert "must have a known shape" in refusal(lambda: encoded_distributor("quantize:8").create(open_type))
    sequence = tff.SequenceType(np.float32)
    assert "must be a tensor" in refusal(lambda: encoded_sum_factory("quantize:8").create(sequence))
    assert "holds no tensor" in refusal(lambda: encoded_sum_factory("none").create(tff.StructType([])))
    assert "an upload already is a difference" in refusal(lambda: encoded_sum_factory("delta,quantize:8"))
    assert "quantise" in refusal(lambda: encoded_sum_factory("quantise:8"))
