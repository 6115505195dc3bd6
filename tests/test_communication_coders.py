"""Bit packing, positions, range coding: exact inverses, sizes near what theory allows, names of what was picked."""

from __future__ import annotations

import itertools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from tff_hospitals.communication import bits, entropy, parse_chain, positions, rans, sizes
from tff_hospitals.communication.container import PayloadError, Reader, Writer


def reader_of(written: Writer | bytes | np.ndarray) -> Reader:
    data = written.joined() if isinstance(written, Writer) else bytes(written)
    return Reader(memoryview(data))


def entropy_bits(symbols: np.ndarray) -> float:
    share = np.bincount(symbols)[np.bincount(symbols) > 0] / symbols.size
    return float(-(share * np.log2(share)).sum() * symbols.size)


@pytest.mark.parametrize("width", range(1, 17))
def test_packing_is_the_binary_number_of_all_symbols(width):
    for count in [0, 1, 7, 8, 9, 100, (1 << 16) + 5]:
        word = np.uint8 if width <= 8 else np.uint16
        symbols = np.random.default_rng(count).integers(0, 1 << width, count).astype(word)
        packed = bits.pack(symbols, width)
        assert packed.size == bits.packed_bytes(count, width) == math.ceil(count * width / 8)
        unpacked = bits.unpack(bytes(packed), count, width)
        assert unpacked.dtype == symbols.dtype
        assert (unpacked == symbols).all()
        if count <= 100:
            number = sum(int(symbol) << width * place for place, symbol in enumerate(symbols))
            assert bytes(packed) == number.to_bytes(packed.size, "little")


def test_ternary_symbols_take_1_6_bits():
    symbols = np.random.default_rng(0).integers(0, 3, 10_003).astype(np.uint8)
    packed = bits.pack_trits(symbols)
    assert 8 * packed.size / symbols.size == pytest.approx(1.6, abs=0.001)
    assert (bits.unpack_trits(bytes(packed), symbols.size) == symbols).all()
    with pytest.raises(PayloadError, match="242"):
        bits.unpack_trits(b"\xf3", 5)


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
@hypothesis.given(st.data())
def test_positions_come_back_and_take_the_bytes_of_the_shortest_code(data):
    size = data.draw(st.integers(1, 200_000))
    count = data.draw(st.integers(0, min(size, 300)))
    generator = np.random.default_rng(data.draw(st.integers(0, 9)))
    clustered = data.draw(st.booleans())
    pool = min(size, 2 * count + 1) if clustered else size
    kept = np.sort(generator.choice(pool, count, replace=False)).astype(np.uint32) + np.uint32(size - pool)
    for coded in (True, False):
        code, written = positions.encode(kept, size, entropy=coded)
        assert written.size <= positions.plain_bytes(count, size)
        reader = reader_of(written)
        assert (positions.decode(code, reader, count, size) == kept).all()
        assert reader.remaining == 0
        assert coded or code in ("fixed-width", "bitmap")


def test_random_positions_cost_what_the_closed_form_says():
    generator = np.random.default_rng(1)
    for density in [0.3, 0.1, 0.01, 1 / 400, 1e-4]:
        kept = np.flatnonzero(generator.random(1_000_000) < density).astype(np.uint32)
        code, written = positions.encode(kept, 1_000_000)
        per_position = 8 * written.size / kept.size
        assert code == "golomb-rice"
        assert per_position == pytest.approx(sizes.golomb_bits_per_position(density), rel=0.04)
        assert per_position >= 0.95 * sizes.position_entropy_bits(density)
    assert sizes.golomb_bits_per_position(0.01) == pytest.approx(8.108, abs=5e-4)


def test_clustered_positions_choose_elias_gamma_and_crowded_ones_a_bitmap():
    clusters = np.concatenate([start + np.arange(40) for start in range(0, 1_000_000, 100_000)]).astype(np.uint32)
    assert positions.encode(clusters, 1_000_000)[0] == "elias-gamma"
    crowded = np.flatnonzero(np.arange(1000) % 10 != 3).astype(np.uint32)
    assert positions.encode(crowded, 1000)[0] == "bitmap"
    assert positions.encode(np.array([17], np.uint32), 1000, entropy=False)[0] == "fixed-width"


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(st.lists(st.integers(0, 2**32 - 1), max_size=40))
def test_elias_gamma_takes_any_number(numbers):
    array = np.array(numbers, np.uint32)
    assert positions.decode_gamma(reader_of(positions.encode_gamma(array)), array.size, "x").tolist() == numbers


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(st.lists(st.integers(0, 10**9), min_size=1, max_size=256).filter(any))
def test_frequencies_sum_to_their_unit_and_forget_no_symbol(counts):
    table = rans.frequencies(np.array(counts))
    assert table.sum() == 1 << 14
    assert ((table > 0) == (np.array(counts) > 0)).all()


@pytest.mark.parametrize("count", [1, 2, 1023, 1024, 1025, 40_000])
@pytest.mark.parametrize("spread", [0.3, 2, 40])
def test_range_coding_comes_back_at_the_price_of_the_entropy(count, spread):
    symbols = np.clip(np.random.default_rng(count).normal(128, spread, count), 0, 255).astype(np.uint8)
    histogram = np.bincount(symbols, minlength=256)
    written = rans.encode(symbols, rans.frequencies(histogram))
    assert (rans.decode(reader_of(written), count, 256) == symbols).all()
    assert written.size == pytest.approx(rans.predicted_bytes(histogram), rel=0.02, abs=6)
    if count == 40_000:
        table_and_states = 8 * (170 + 3 * rans.streams(count))
        assert 8 * written.size <= 1.01 * entropy_bits(symbols) + table_and_states


def test_every_coder_is_picked_where_it_belongs():
    generator = np.random.default_rng(2)
    arrays = {
        "constant": np.full(5000, 7, np.uint8),
        "packed": generator.integers(0, 16, 5000).astype(np.uint8),
        "rans": np.clip(generator.normal(8, 0.7, 50_000), 0, 15).astype(np.uint8),
        "zstd": np.tile(generator.integers(0, 16, 100), 200).astype(np.uint8),
    }
    for expected, symbols in arrays.items():
        writer = Writer()
        assert entropy.encode(writer, symbols, 16) == (expected,)
        found, coders = entropy.decode(reader_of(writer), symbols.size, 16)
        assert (found == symbols).all()
        assert coders == (expected,)


@pytest.mark.parametrize("alphabet", [2, 3, 16, 256, 512, 1 << 12, 1 << 16, 1 << 32])
def test_planes_put_symbols_together_again(alphabet):
    word = np.uint8 if alphabet <= 256 else np.uint16 if alphabet <= 1 << 16 else np.uint32
    generator = np.random.default_rng(3)
    for high in (alphabet, max(2, alphabet // 7)):
        symbols = generator.integers(0, high, 3001, dtype=np.uint64).astype(word)
        writer = Writer()
        entropy.encode(writer, symbols, alphabet)
        found, _ = entropy.decode(reader_of(writer), symbols.size, alphabet)
        assert found.astype(np.uint64).tolist() == symbols.tolist()
        assert writer.size <= entropy.packed_bytes(symbols.size, alphabet) + 2 * len(entropy.planes(alphabet))


def test_sections_name_the_coders_of_a_payload():
    values = np.random.default_rng(4).standard_normal(20_000).astype(np.float32)
    chain = parse_chain("topk:0.05,quantize:12,entropy")
    payload = chain.encode([("w", values)], [1, 2]).payload
    sections = {section.name: section for section in chain.sections(payload, [(20_000,)], [1, 2])}
    assert list(sections) == ["frame", "counts", "positions", "scales", "symbols"]
    assert sections["positions"].coder == "golomb-rice"
    assert sections["symbols"].coder in {"+".join(pair) for pair in itertools.product(entropy.CODERS, repeat=2)}


@pytest.mark.parametrize("fraction", [0.25, 0.75])
def test_without_entropy_the_size_is_known_beforehand(fraction):
    values = np.random.default_rng(5).standard_normal(999).astype(np.float32)
    chain = parse_chain(f"topk:{fraction},quantize:4")
    kept = math.ceil(fraction * 999)
    # frame 9, count 2, exponent 1, code 1, the shorter of ten bits a position and a bitmap, two scales, 4 bits each
    by_hand = 9 + 2 + 1 + 1 + min(math.ceil(10 * kept / 8), 125) + 8 + math.ceil(kept / 2)
    assert len(chain.encode([("w", values)], [1, 2]).payload) == by_hand == sizes.payload_bytes(chain, [(999,)]).low
