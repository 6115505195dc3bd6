"""Packs symbols of 1 to 16 bits without gaps, and ternary symbols five to a byte; no loop over values.

Eight symbols of b bits fill b bytes exactly. They are folded pairwise inside wider machine words (2b bits, 4b, 8b), so
that every step is one operation over a whole array.

>>> data = pack(np.array([1, 2, 3, 4], np.uint8), bits=3)
>>> list(data), unpack(data, count=4, bits=3).tolist()
([209, 8], [1, 2, 3, 4])
"""

from __future__ import annotations

import numpy as np

from tff_hospitals.communication.container import Buffer, PayloadError

_CHUNK = 1 << 16  # symbols worked on at once: a multiple of 8 that stays in the processor's cache
_POWERS_OF_THREE = np.array([1, 3, 9, 27, 81], np.uint8)
_TRITS = (np.arange(243, dtype=np.uint8)[:, None] // _POWERS_OF_THREE % 3).astype(np.uint8)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` symbols of `bits` bits take."""
    return (count * bits + 7) // 8


def pack(symbols: np.ndarray, bits: int) -> np.ndarray:
    """Packs symbols, least significant bit first, into uint8 [packed_bytes].

    Args:
      symbols: unsigned integers [count], each below 2**bits.
      bits: 1 to 16.
    """
    if bits == 8:
        return np.ascontiguousarray(symbols, np.uint8)
    if bits == 16:
        return np.ascontiguousarray(symbols, "<u2").view(np.uint8)
    out = np.empty(packed_bytes(symbols.size, bits), np.uint8)
    for start in range(0, symbols.size, _CHUNK):
        chunk = symbols[start : start + _CHUNK]
        first = start // 8 * bits
        out[first : first + packed_bytes(chunk.size, bits)] = _pack_chunk(chunk, bits)
    return out


def unpack(data: Buffer, count: int, bits: int) -> np.ndarray:
    """The inverse of `pack`: uint8 [count] up to 8 bits, uint16 [count] above.

    Args:
      data: exactly `packed_bytes(count, bits)` bytes.
      count: number of symbols.
      bits: 1 to 16.
    """
    if bits == 8:
        return np.frombuffer(data, np.uint8)
    if bits == 16:
        return np.frombuffer(data, "<u2").astype(np.uint16, copy=False)
    packed = np.frombuffer(data, np.uint8)
    out = np.empty(count, np.uint8 if bits < 8 else np.uint16)
    for start in range(0, count, _CHUNK):
        length = min(_CHUNK, count - start)
        first = start // 8 * bits
        out[start : start + length] = _unpack_chunk(packed[first : first + packed_bytes(length, bits)], length, bits)
    return out


def _pack_chunk(symbols: np.ndarray, bits: int) -> np.ndarray:
    if bits == 1:
        return np.packbits(symbols.astype(np.uint8, copy=False), bitorder="little")
    padded = np.zeros(-(-symbols.size // 8) * 8, "<u1" if bits <= 8 else "<u2")
    padded[: symbols.size] = symbols
    filled, held = bits, padded.dtype.itemsize * 8  # each word of `held` bits has `filled` bits of content
    while held < 64:
        words = padded.view(f"<u{held // 4}")
        kind = words.dtype.type
        padded = words & kind((1 << filled) - 1) | (words >> kind(held) << kind(filled))
        filled, held = 2 * filled, 2 * held
    if bits <= 8:
        rows = padded.view(np.uint8).reshape(-1, 8)[:, :bits]
    else:  # two words of 4*bits each: join them across the byte that they share
        low, high = padded[0::2], padded[1::2]
        both = np.empty((low.size, 2), "<u8")
        both[:, 0] = low | high << np.uint64(4 * bits)
        both[:, 1] = high >> np.uint64(64 - 4 * bits)
        rows = both.view(np.uint8).reshape(-1, 16)[:, :bits]
    return rows.reshape(-1)[: packed_bytes(symbols.size, bits)]


def _unpack_chunk(packed: np.ndarray, count: int, bits: int) -> np.ndarray:
    if bits == 1:
        return np.unpackbits(packed, count=count, bitorder="little")
    groups = -(-count // 8)
    flat = np.zeros(groups * bits, np.uint8)
    flat[: packed.size] = packed
    rows = flat.reshape(groups, bits)
    if bits <= 8:
        wide = np.zeros((groups, 8), np.uint8)
        wide[:, :bits] = rows
        words, filled = wide.reshape(-1).view("<u8"), 8 * bits
    else:
        wide = np.zeros((groups, 16), np.uint8)
        wide[:, :bits] = rows
        both = wide.view("<u8")
        words = np.empty(2 * groups, "<u8")
        words[0::2] = both[:, 0]
        words[1::2] = both[:, 0] >> np.uint64(4 * bits) | both[:, 1] << np.uint64(64 - 4 * bits)
        filled = 4 * bits
    held = 64
    while filled > bits:  # split each word into two halves, each with half of the content
        kind = words.dtype.type
        half = kind((1 << filled // 2) - 1)
        upper = words >> kind(filled // 2) & half
        words = (words & half | upper << kind(held // 2)).view(f"<u{held // 16}")
        filled, held = filled // 2, held // 2
    return words[:count]


def pack_trits(symbols: np.ndarray) -> np.ndarray:
    """Packs symbols 0, 1, 2 five to a byte: 1.6 bits each, where the entropy of three equal shares is 1.585.

    Source: quartic encoding of 3LC (Lim, Andersen, Kaminsky 2019, arXiv:1802.07389).

    >>> len(pack_trits(np.zeros(1000, np.uint8))) * 8 / 1000
    1.6
    """
    padded = np.zeros(trit_bytes(symbols.size) * 5, np.uint8)
    padded[: symbols.size] = symbols
    columns = padded.reshape(-1, 5)
    out = np.zeros(columns.shape[0], np.uint8)
    for place, weight in enumerate(_POWERS_OF_THREE):
        out += columns[:, place] * weight
    return out


def unpack_trits(data: Buffer, count: int) -> np.ndarray:
    """The inverse of `pack_trits`: uint8 [count].

    Raises:
      PayloadError: a byte above 242, which five ternary symbols never give.
    """
    packed = np.frombuffer(data, np.uint8)
    if packed.size and int(packed.max()) > 242:
        raise PayloadError("ternary symbols: a byte above 242 stands for no five ternary symbols")
    return _TRITS.take(packed, axis=0).reshape(-1)[:count]


def trit_bytes(count: int) -> int:
    """Bytes that `count` ternary symbols take."""
    return (count + 4) // 5
