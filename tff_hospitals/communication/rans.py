"""Range coding of small alphabets: rANS with many interleaved streams, so that numpy works on a row of them at once.

Symbol i belongs to stream i mod K. Each stream is a 32-bit state; when a state would overflow it sheds its lower 16
bits into the shared word list, in an order that the decoder repeats. The cost is the entropy (with frequencies in units
of 2**-14) plus the K final states.

Source: Duda 2013, arXiv:1311.2540 (asymmetric numeral systems); Giesen 2014, arXiv:1402.3392 (interleaved streams).

>>> symbols = np.array([0, 0, 1, 0, 0, 0, 0, 0] * 500, np.uint8)
>>> data = encode(symbols, frequencies(np.bincount(symbols)))
>>> data.size < 300, bool((decode(Reader(memoryview(data.joined())), symbols.size, 2) == symbols).all())
(True, True)
"""

from __future__ import annotations

import numpy as np

from tff_hospitals.communication import positions
from tff_hospitals.communication.container import PayloadError, Reader, Writer

_PRECISION = 14
_WHOLE = 1 << _PRECISION
_LOW = np.uint32(1 << 16)  # states rest in [2**16, 2**32)
_STEPS = 1024  # rows at most for a short input: balances the time of a row against the 3 bytes of a stream
_MAX_STREAMS = 4096


def streams(count: int) -> int:
    """How many streams code `count` symbols."""
    return max(1, min(_MAX_STREAMS, -(-count // _STEPS)))


def frequencies(histogram: np.ndarray) -> np.ndarray:
    """A histogram scaled to the sum 2**14, with at least 1 for every symbol that occurs.

    >>> frequencies(np.array([3, 0, 1])).tolist()
    [12288, 0, 4096]
    """
    share = histogram / histogram.sum() * _WHOLE
    scaled = np.maximum(np.rint(share), histogram > 0).astype(np.int64)
    excess = int(scaled.sum()) - _WHOLE
    while excess:  # at most half a unit per symbol, or one per rare symbol, too much: taken where it costs least
        largest = int(np.argmax(scaled))
        change = max(-excess, 1 - int(scaled[largest]))
        scaled[largest] += change
        excess += change
    return scaled


def predicted_bytes(histogram: np.ndarray) -> float:
    """Bytes that `encode` will take, within a few: cross entropy, frequency table and final states."""
    counts = histogram[histogram > 0]
    scaled = frequencies(histogram)
    bits_of_symbols = float(-(counts * np.log2(scaled[histogram > 0] / _WHOLE)).sum())
    table = 2 * np.log2(scaled + 1.0).astype(np.int64).sum() + scaled.size
    # A final state takes 4 bytes and holds one byte of the symbols on average.
    return (bits_of_symbols + float(table)) / 8 + 4 + 3 * streams(int(histogram.sum()))


def encode(symbols: np.ndarray, table: np.ndarray) -> Writer:
    """Codes uint8 [n] symbols, n >= 1.

    Args:
      symbols: each with table[symbol] > 0.
      table: int [alphabet] from `frequencies`; alphabet at most 256.
    """
    count, lanes = symbols.size, streams(symbols.size)
    frequency = table.astype(np.uint32)
    start = (np.cumsum(table) - table).astype(np.uint32)
    states = np.full(lanes, _LOW, np.uint32)
    shed = []
    for first in range((count - 1) // lanes * lanes, -1, -lanes):
        row = symbols[first : first + lanes]
        state = states[: row.size]
        frequency_here = frequency.take(row)
        full = state >> np.uint32(32 - _PRECISION) >= frequency_here
        overflow = state[full]
        shed.append(overflow.astype(np.uint16))
        state[full] = overflow >> np.uint32(16)
        quotient = state // frequency_here
        state -= quotient * frequency_here
        quotient <<= np.uint32(_PRECISION)
        state += quotient
        state += start.take(row)
    shed.reverse()
    words = np.concatenate(shed)
    writer = Writer()
    writer.extend(positions.encode_gamma(table))
    writer.varint(words.size)
    writer.array(states, "<u4")
    writer.array(words, "<u2")
    return writer


def decode(reader: Reader, count: int, alphabet: int) -> np.ndarray:
    """The inverse of `encode`: uint8 [count], count >= 1.

    Raises:
      PayloadError: for a table that does not sum to 2**14, too few or too many words, or states that do not end where
        the encoder started.
    """
    table = positions.decode_gamma(reader, alphabet, "frequencies")
    if int(table.max()) > _WHOLE or int(table.sum()) != _WHOLE:
        raise PayloadError(f"frequencies: do not sum to {_WHOLE}")
    words_left = reader.varint("range coder, words", high=reader.remaining // 2)
    lanes = streams(count)
    states = reader.array(lanes, "<u4", "range coder, states").astype(np.uint32)
    words = reader.array(words_left, "<u2", "range coder, words").astype(np.uint32)
    if bool((states < _LOW).any()):
        raise PayloadError("range coder: a state below 2**16")
    frequency = table.astype(np.uint32)
    symbol_of_slot = np.repeat(np.arange(alphabet, dtype=np.uint8), table.astype(np.int64))
    start = np.cumsum(frequency, dtype=np.uint32) - frequency
    offset = np.arange(_WHOLE, dtype=np.uint32) - start.take(symbol_of_slot)
    # One look-up for both: frequency (up to 2**14) above, offset of the slot within its symbol below.
    both = frequency.take(symbol_of_slot) << np.uint32(16) | offset
    out = np.empty(count, np.uint8)
    used = 0
    for first in range(0, count, lanes):
        state = states[: count - first]
        slot = state & np.uint32(_WHOLE - 1)
        symbol_of_slot.take(slot, out=out[first : first + lanes], mode="clip")
        here = both.take(slot)
        state >>= np.uint32(_PRECISION)
        state *= here >> np.uint32(16)
        state += here & np.uint32(0xFFFF)
        empty = state < _LOW
        need = int(np.count_nonzero(empty))
        if used + need > words.size:
            raise PayloadError(f"range coder: ran out of words at symbol {first} of {count}")
        state[empty] = state[empty] << np.uint32(16) | words[used : used + need]
        used += need
    if used != words.size or bool((states != _LOW).any()):
        raise PayloadError("range coder: does not end where it started")
    return out
