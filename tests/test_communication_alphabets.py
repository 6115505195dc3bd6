"""Alphabets of every size travel whole: packed and entropy coded, also those that are no power of two."""

from __future__ import annotations

import numpy as np
import pytest

from tff_hospitals.communication import entropy
from tff_hospitals.communication.container import PayloadError, Reader, Writer


def body_of(writer):
    return memoryview(b"".join(bytes(part) for part in writer.parts))


@pytest.mark.parametrize("alphabet", [2, 3, 4, 5, 10, 16, 17, 21, 31, 33, 100, 200, 255, 256])
@pytest.mark.parametrize("coded", [False, True])
def test_every_symbol_comes_back(alphabet, coded):
    generator = np.random.default_rng(alphabet)
    symbols = np.concatenate([np.arange(alphabet), generator.integers(0, alphabet, 1000)]).astype(np.uint8)
    writer = Writer()
    (entropy.encode if coded else entropy.encode_packed)(writer, symbols, alphabet)
    data = body_of(writer)
    found = (
        entropy.decode(Reader(data), symbols.size, alphabet)[0]
        if coded
        else entropy.decode_packed(Reader(data), symbols.size, alphabet)
    )
    np.testing.assert_array_equal(found, symbols)
    if not coded:
        bits = 1.6 if alphabet == 3 else np.ceil(np.log2(alphabet))
        assert len(data) <= symbols.size * bits / 8 + 2


def test_a_symbol_beyond_the_alphabet_is_refused():
    writer = Writer()
    entropy.encode_packed(writer, np.array([20, 21], np.uint8), 32)
    with pytest.raises(PayloadError, match="21 is not below 21"):
        entropy.decode_packed(Reader(body_of(writer)), 2, 21)
