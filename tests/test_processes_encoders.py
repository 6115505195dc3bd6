"""The TensorFlow twins of the codec decode what the codec decodes: same draws, same values."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from tff_hospitals.communication import parse_chain, parsing
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.processes import encoder_draws

pytestmark = pytest.mark.tensorflow

CHAINS = (
    "none",
    "rotate",
    "threshold:0.5",
    "topk:0.1",
    "randk:0.1",
    "randk:0.1:unscaled",
    "quantize:1",
    "quantize:4",
    "quantize:8",
    "quantize:2:nearest",
    "quantize:4:nearest",
    "float16",
    "bfloat16",
    "onebit:biased",
    "ternary",
    "rotate,quantize:4",
    "rotate,onebit",
    "rotate,onebit:biased",
    "rotate,eden:2",
    "rotate,eden:3:biased",
    "rotate,eden:4,entropy",
    "topk:0.05,ternary:mean,entropy",
    "topk:0.2,quantize:6",
    "threshold:1,quantize:4",
    "threshold:1,ternary",
    "randk:0.3,quantize:8",
    "rotate,topk:0.1,ternary:mean",
    "rotate,randk:0.25,quantize:4",
)
LENGTHS = {
    "one": [1],
    "few": [3, 5, 1],
    "blocks": [16384 + 40, 10, 20000],
    "layers": [784 * 4, 4, 40, 10],
}


def vectors(lengths):
    generator = Streams.from_seed(7).child("values", *lengths).generator()
    size = sum(lengths)
    normal = generator.standard_normal(size, np.float32)
    spike = np.zeros(size, np.float32)
    spike[size // 2] = -3.0
    ties = np.where(generator.integers(2, size=size) == 1, 1.5, -1.5).astype(np.float32)
    return {
        "normal": normal,
        "zeros": np.zeros(size, np.float32),
        "spike": spike,
        "ties": ties,
        "offset": 1000 + normal * np.float32(1e-3),
        "tiny": normal * np.float32(1e-30),
        "huge": normal * np.float32(1e30),
        "positive": np.abs(normal) + np.float32(0.1),
    }


def test_every_stage_of_the_codec_is_tried():
    tried = {piece.split(":")[0] for text in CHAINS for piece in text.split(",")}
    assert tried == set(parsing.FORMS) - {"delta"} | {"none"}


@pytest.mark.parametrize("text", CHAINS)
def test_the_twin_decodes_what_the_codec_decodes(text):
    import tensorflow as tf

    from tff_hospitals.processes import encoders

    chain = parse_chain(text)
    for number, (name, lengths) in enumerate(LENGTHS.items()):
        key = Streams.from_seed(number).child(text).key()
        draws = encoder_draws.draw(chain, lengths, key)
        expected_shapes = {key: shape for key, (shape, _) in encoder_draws.draw_shapes(chain, lengths).items()}
        assert {key: array.shape for key, array in draws.items()} == expected_shapes

        @tf.function(autograph=False)
        def twin(flat, draws, lengths=lengths):
            return encoders.transcode(chain, lengths, flat, draws)

        for kind, flat in vectors(lengths).items():
            arrays = []
            for index, part in enumerate(np.split(flat, np.cumsum(lengths)[:-1])):
                arrays.append((str(index), part))
            payload = chain.encode(arrays, key, want_decoded=False).payload
            expected = np.concatenate(chain.decode(payload, [(length,) for length in lengths], key))
            tensors = collections.OrderedDict((key, tf.constant(value)) for key, value in draws.items())
            found = twin(tf.constant(flat), tensors).numpy()
            scale = float(np.abs(flat).max()) or 1.0
            error = np.linalg.norm(found / scale - expected / scale)
            # A sum of squares that differs in its last bit may put one value of a block on the next of EDEN's levels.
            bound = 1e-2 if "eden" in text else 2e-6
            assert error <= bound * max(1.0, np.linalg.norm(expected / scale)), (name, kind)


def test_another_key_gives_other_draws():
    chain = parse_chain("rotate,quantize:4")
    one, other = (encoder_draws.draw(chain, [100], np.array(key)) for key in ([1, 2], [1, 3]))
    assert not np.array_equal(one["dither"], other["dither"])
    assert not np.array_equal(one["signs"], other["signs"])
