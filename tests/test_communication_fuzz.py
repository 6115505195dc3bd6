"""Bytes that crossed a network badly: a decoder answers with arrays or with PayloadError, soon, with nothing else."""

from __future__ import annotations

import struct
import time
import tracemalloc
import zlib

import hypothesis
import numpy as np
import pytest
from communication_chains import KEY, all_chains, hard_tensors, named
from hypothesis import strategies as st

from tff_hospitals.communication import PayloadError, parse_chain

CHAINS = all_chains()
SHAPES = [(40, 6), (7,)]
GENERATOR = np.random.default_rng(0)
ARRAYS = [GENERATOR.standard_normal(shape).astype(np.float32) for shape in SHAPES]
PAYLOADS = [chain.encode(named(ARRAYS), KEY, want_decoded=False).payload for chain in CHAINS]


def resealed(data: bytes) -> bytes:
    """The same bytes with a checksum that fits, so that what lies behind the checksum is reached."""
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def decode_or_refuse(chain, payload, shapes=SHAPES) -> bool:
    try:
        arrays = chain.decode(payload, shapes, KEY)
    except PayloadError as error:
        if not 0 < len(str(error)) < 300:
            pytest.fail(f"a message of {len(str(error))} characters")
        return False
    assert [array.shape for array in arrays] == shapes
    assert all(np.isfinite(array).all() for array in arrays)
    return True


def test_every_cut_and_every_flipped_bit_is_noticed():
    for text in ["none", "rotate,quantize:4,entropy", "threshold:1,ternary:mean,entropy"]:
        chain = parse_chain(text)
        payload = chain.encode(named(ARRAYS), KEY).payload
        assert decode_or_refuse(chain, payload)
        for length in range(0, len(payload), 1 if len(payload) < 300 else 23):
            with pytest.raises(PayloadError):
                chain.decode(payload[:length], SHAPES, KEY)
        for place in range(0, len(payload), 1 if len(payload) < 300 else 23):
            flipped = bytearray(payload)
            flipped[place] ^= 1 << place % 8
            with pytest.raises(PayloadError):
                chain.decode(flipped, SHAPES, KEY)
        with pytest.raises(PayloadError, match="checksum"):
            chain.decode(payload + b"x", SHAPES, KEY)


@hypothesis.settings(max_examples=250, deadline=5000, derandomize=True)
@hypothesis.given(
    which=st.integers(0, len(CHAINS) - 1),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=6),
    cut=st.sampled_from([0, 0, 0.001, 0.01, 0.1, 0.5]),
)
def test_forged_bytes_behind_a_fitting_checksum_decode_or_are_refused(which, flips, cut):
    payload = bytearray(PAYLOADS[which])
    for place, change in flips:
        payload[5 + int(place * (len(payload) - 10))] ^= change
    forged = resealed(bytes(payload[: max(9, len(payload) - round(cut * len(payload)))]))
    decode_or_refuse(CHAINS[which], forged)


@hypothesis.settings(max_examples=120, deadline=5000, derandomize=True)
@hypothesis.given(st.integers(0, len(CHAINS) - 1), st.binary(max_size=200))
def test_random_bodies_decode_or_are_refused(which, body):
    decode_or_refuse(CHAINS[which], body)
    decode_or_refuse(CHAINS[which], resealed(PAYLOADS[which][:7] + body + b"\0\0\0\0"))


def test_forged_bytes_in_the_coders_are_mostly_refused_not_decoded():
    """The checks are real: of random changes inside range-coded symbols, few survive the coder's own end state."""
    chain = parse_chain("quantize:3:nearest,entropy")
    values = GENERATOR.standard_normal(6000).astype(np.float32)
    payload = chain.encode([("w", values)]).payload
    assert chain.sections(payload, [(6000,)])[-1].coder == "rans"
    survived = 0
    first = 9 + 8  # behind frame, counts and scales: coder, frequencies, states, words
    places = [*range(first, first + 30), *range(first + 30, len(payload) - 4, 60)]
    for place in places:
        forged = bytearray(payload)
        forged[place] ^= 0x10
        survived += decode_or_refuse(chain, resealed(bytes(forged)), [(6000,)])
    assert survived <= 0.02 * len(places)


def test_a_payload_of_another_chain_model_or_version_is_named():
    payload = parse_chain("quantize:4").encode(named(ARRAYS), KEY).payload
    with pytest.raises(PayloadError, match="another chain"):
        parse_chain("quantize:5").decode(payload, SHAPES, KEY)
    with pytest.raises(PayloadError, match="holds 247 values, the shapes 240"):
        parse_chain("quantize:4").decode(payload, SHAPES[:1], KEY)
    newer = resealed(payload[:2] + b"\x02" + payload[3:])
    with pytest.raises(PayloadError, match="format version 2"):
        parse_chain("quantize:4").decode(newer, SHAPES, KEY)
    with pytest.raises(PayloadError, match="not a payload"):
        parse_chain("quantize:4").decode(resealed(b"GIF89a" + payload[6:]), SHAPES, KEY)
    with pytest.raises(PayloadError, match="too few"):
        parse_chain("quantize:4").decode(b"", SHAPES, KEY)


def test_not_finite_values_cannot_be_smuggled_in():
    values = np.ones(4, np.float32)
    payload = bytearray(parse_chain("none").encode([("w", values)]).payload)
    payload[-8:-4] = np.array([np.nan], "<f4").tobytes()
    with pytest.raises(PayloadError, match="not finite"):
        parse_chain("none").decode(resealed(bytes(payload)), [(4,)])
    payload = bytearray(parse_chain("quantize:8:nearest").encode([("w", values)]).payload)
    payload[7:11] = np.array([np.inf], "<f4").tobytes()
    with pytest.raises(PayloadError, match="scales"):
        parse_chain("quantize:8:nearest").decode(resealed(bytes(payload)), [(4,)])


def test_numbers_in_a_payload_cannot_make_the_decoder_allocate():
    """Whatever lengths are forged, memory stays within a few times the model, which is known from the shapes."""
    huge = b"\xff\xff\xff\xff\x0f"  # 2**32 - 1 as a varint
    start = time.monotonic()
    tracemalloc.start()
    for chain, payload in zip(CHAINS[::19], PAYLOADS[::19]):
        for place in range(5, min(len(payload) - 9, 60)):
            decode_or_refuse(chain, resealed(payload[:place] + huge + payload[place + 5 :]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000
    assert time.monotonic() - start < 60


def test_a_zstd_frame_that_claims_terabytes_is_refused():
    zstandard = pytest.importorskip("zstandard")
    chain = parse_chain("quantize:4:nearest,entropy")
    values = np.tile(GENERATOR.standard_normal(50), 100).astype(np.float32)
    payload = chain.encode([("w", values)]).payload
    assert chain.sections(payload, [(5000,)])[-1].coder == "zstd"
    frame = payload.index(zstandard.FRAME_HEADER)
    for length in range(1, 9):
        forged = payload[: frame + 4] + bytes([0xE0]) + b"\xff" * length + payload[frame + 5 + length :]
        with pytest.raises(PayloadError, match="zstd"):
            chain.decode(resealed(forged), [(5000,)])


def test_hard_tensors_survive_flips_behind_the_checksum():
    for turn, arrays in enumerate(hard_tensors().values()):
        shapes = [array.shape for array in arrays]
        for chain in CHAINS[turn::40]:
            payload = bytearray(chain.encode(named(arrays), KEY, want_decoded=False).payload)
            for place in range(5, len(payload) - 4, 5):
                forged = bytes(payload[:place]) + bytes([payload[place] ^ 0xFF]) + bytes(payload[place + 1 :])
                decode_or_refuse(chain, resealed(forged), shapes)
