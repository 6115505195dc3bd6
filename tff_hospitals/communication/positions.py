"""Codes for ascending positions: fixed width, bitmap, Golomb-Rice and Elias gamma, whichever is shortest for the case.

The last two code the gaps between positions. Random positions of density p have geometric gaps, for which Golomb-Rice
costs r + 1 / (1 - (1 - p)^(2^r)) bits each: 8.108 at p = .01, where no code can do with less than 8.079. Elias gamma
wins where positions come in clusters. Both are held as a unary stream and a stream of low bits, which numpy reads and
writes whole.

Source: Golomb 1966; Rice 1979; Elias 1975; for federated uploads Sattler et al. 2019, arXiv:1903.02891, equation 17.

>>> code, coded = encode(np.arange(3, 1000, 50, np.uint32), size=1000)
>>> code, coded.size, decode(code, Reader(memoryview(coded.joined())), count=20, size=1000)[:3].tolist()
('golomb-rice', 20, [3, 53, 103])
"""

from __future__ import annotations

import numpy as np

from tff_hospitals.communication import bits
from tff_hospitals.communication.container import PayloadError, Reader, Writer, varint_bytes

CODES = ("fixed-width", "bitmap", "golomb-rice", "elias-gamma")
_MAX_RICE = 16
_PIECE = 1 << 16


def fixed_width_bits(size: int) -> int:
    """Bits of one position below `size` in fixed width: 1 to 32."""
    return max(1, (size - 1).bit_length())


def fixed_width_bytes(count: int, size: int) -> int:
    """Bytes of `count` positions below `size` in fixed width (split into two symbols above 16 bits)."""
    width = fixed_width_bits(size)
    if width <= 16:
        return bits.packed_bytes(count, width)
    return bits.packed_bytes(count, 16) + bits.packed_bytes(count, width - 16)


def plain_bytes(count: int, size: int) -> int:
    """Bytes of the shorter of fixed width and bitmap: the most that positions take, with or without entropy coding."""
    return min(fixed_width_bytes(count, size), bits.packed_bytes(size, 1))


def encode(positions: np.ndarray, size: int, *, entropy: bool = True) -> tuple[str, Writer]:
    """The name of the shortest code and what it wrote.

    Args:
      positions: uint32 [k], strictly ascending, below `size`.
      size: length of the vector they point into.
      entropy: False leaves only fixed width and bitmap.
    """
    lengths = {"fixed-width": fixed_width_bytes(positions.size, size), "bitmap": bits.packed_bytes(size, 1)}
    coded = entropy and 0 < positions.size <= size // 2  # above one in two, no code for gaps is shorter than the bitmap
    gaps, rice = positions[:0], 0
    if coded:
        gaps = np.diff(positions, prepend=np.uint32(0))
        gaps[1:] -= np.uint32(1)
        rice = _best_rice(gaps)
        lengths["golomb-rice"] = 1 + _two_streams_bytes(_rice_unary_bits(gaps, rice), gaps.size * rice)
        widths = _bit_lengths(gaps)
        low_bits = int(widths.sum(dtype=np.int64))
        lengths["elias-gamma"] = _two_streams_bytes(low_bits + gaps.size, low_bits)
    code = min(lengths, key=lambda name: (lengths[name], CODES.index(name)))
    if code in ("fixed-width", "bitmap"):
        return code, _encode_fixed(positions, size) if code == "fixed-width" else _encode_bitmap(positions, size)
    return code, _encode_rice(gaps, rice) if code == "golomb-rice" else encode_gamma(gaps)


def decode(code: str, reader: Reader, count: int, size: int) -> np.ndarray:
    """Positions uint32 [count], checked to ascend strictly and to stay below `size`.

    Raises:
      PayloadError: for bytes that `encode` does not write.
    """
    if code == "bitmap":
        return _decode_bitmap(reader, count, size)
    if code == "fixed-width":
        positions = _decode_fixed(reader, count, size)
        if count and (int(positions[-1]) >= size or not bool((positions[1:] > positions[:-1]).all())):
            raise PayloadError(f"positions: not ascending or beyond {size}")
        return positions
    gaps = _decode_rice(reader, count) if code == "golomb-rice" else decode_gamma(reader, count, "positions")
    positions = np.cumsum(gaps.astype(np.uint64) + np.uint64(1)) - np.uint64(1)
    if count and int(positions[-1]) >= size:
        raise PayloadError(f"positions: {int(positions[-1])} is beyond the {size} values")
    return positions.astype(np.uint32)


def _encode_bitmap(positions: np.ndarray, size: int) -> Writer:
    mask = np.zeros(size, np.uint8)
    mask[positions] = 1
    writer = Writer()
    writer.array(bits.pack(mask, 1), "u1")
    return writer


def _decode_bitmap(reader: Reader, count: int, size: int) -> np.ndarray:
    packed = np.frombuffer(reader.take(bits.packed_bytes(size, 1), "positions"), np.uint8)
    positions, filled = np.empty(count, np.uint32), 0
    for first in range(0, packed.size, _PIECE):
        there = np.flatnonzero(np.unpackbits(packed[first : first + _PIECE], bitorder="little")) + 8 * first
        if filled + there.size > count or (there.size and there[-1] >= size):
            raise PayloadError(f"positions: the bitmap has ones beyond the {count} expected")
        positions[filled : filled + there.size] = there
        filled += there.size
    if filled != count:
        raise PayloadError(f"positions: the bitmap has {filled} ones, {count} are expected")
    return positions


def _encode_fixed(positions: np.ndarray, size: int) -> Writer:
    width = fixed_width_bits(size)
    writer = Writer()
    writer.array(bits.pack(positions & np.uint32(0xFFFF), min(width, 16)), "u1")
    if width > 16:
        writer.array(bits.pack(positions >> np.uint32(16), width - 16), "u1")
    return writer


def _decode_fixed(reader: Reader, count: int, size: int) -> np.ndarray:
    width = fixed_width_bits(size)
    low = bits.unpack(reader.take(bits.packed_bytes(count, min(width, 16)), "positions"), count, min(width, 16))
    positions = low.astype(np.uint32)
    if width > 16:
        high = bits.unpack(reader.take(bits.packed_bytes(count, width - 16), "positions"), count, width - 16)
        positions |= high.astype(np.uint32) << np.uint32(16)
    return positions


def _rice_unary_bits(gaps: np.ndarray, rice: int) -> int:
    return gaps.size + int((gaps >> np.uint32(rice)).sum(dtype=np.int64))


def _best_rice(gaps: np.ndarray) -> int:
    guess = max(0, int(np.log2(max(float(gaps.mean(dtype=np.float64)) * 0.69, 1.0))))
    near = range(max(0, guess - 1), min(guess + 2, _MAX_RICE) + 1)
    return min(near, key=lambda rice: gaps.size * rice + _rice_unary_bits(gaps, rice), default=_MAX_RICE)


def _two_streams_bytes(unary_bits: int, low_bits: int) -> int:
    unary = (unary_bits + 7) // 8
    return varint_bytes(unary) + unary + (low_bits + 7) // 8


def _write_unary(writer: Writer, quotients: np.ndarray) -> None:
    """Each number as that many zeros and a one; the number of bytes goes first."""
    ends = np.cumsum(quotients.astype(np.int64) + 1) - 1
    stream = np.zeros(int(ends[-1]) + 1 if ends.size else 0, np.uint8)
    stream[ends] = 1
    packed = bits.pack(stream, 1)
    writer.varint(packed.size)
    writer.array(packed, "u1")


def _read_unary(reader: Reader, count: int, what: str) -> np.ndarray:
    length = reader.varint(f"{what}, length", high=reader.remaining)
    stream = np.frombuffer(reader.take(length, what), np.uint8)
    ends = [  # in pieces, so that the bits of a long stream are never all unpacked at once
        np.flatnonzero(np.unpackbits(stream[first : first + _PIECE], bitorder="little")) + 8 * first
        for first in range(0, length, _PIECE)
    ]
    found = np.concatenate(ends) if ends else np.empty(0, np.int64)
    if found.size != count:
        raise PayloadError(f"{what}: {found.size} code words found, {count} expected")
    return (np.diff(found, prepend=-1) - 1).astype(np.uint64)


def _encode_rice(gaps: np.ndarray, rice: int) -> Writer:
    writer = Writer()
    writer.varint(rice)
    _write_unary(writer, gaps >> np.uint32(rice))
    if rice:
        low = (gaps & np.uint32((1 << rice) - 1)).astype(np.uint8 if rice <= 8 else np.uint16)
        writer.array(bits.pack(low, rice), "u1")
    return writer


def _decode_rice(reader: Reader, count: int) -> np.ndarray:
    rice = reader.varint("positions, Rice parameter", high=_MAX_RICE)
    gaps = _read_unary(reader, count, "positions") << np.uint64(rice)
    if rice:
        gaps |= bits.unpack(reader.take(bits.packed_bytes(count, rice), "positions"), count, rice)
    return gaps


def _bit_lengths(numbers: np.ndarray) -> np.ndarray:
    """floor(log2(number + 1)): how many low bits Elias gamma writes for number + 1."""
    return np.frexp(numbers.astype(np.float64) + 1)[1] - 1


def encode_gamma(numbers: np.ndarray) -> Writer:
    """Elias gamma code of whole numbers from 0 on: unary bit lengths, then all low bits, least significant first."""
    writer = Writer()
    widths = _bit_lengths(numbers)
    _write_unary(writer, widths)
    first = np.cumsum(widths) - widths
    stream = np.zeros(int(widths.sum()), np.uint8)
    shifted = numbers.astype(np.uint64) + np.uint64(1)
    for place in range(int(widths.max(initial=0))):
        there = widths > place
        stream[first[there] + place] = shifted[there] >> np.uint64(place) & np.uint64(1)
    writer.array(bits.pack(stream, 1), "u1")
    return writer


def decode_gamma(reader: Reader, count: int, what: str) -> np.ndarray:
    """The inverse of `encode_gamma`: uint64 [count].

    Raises:
      PayloadError: for bytes that `encode_gamma` does not write.
    """
    widths = _read_unary(reader, count, what).astype(np.int64)
    if count and int(widths.max()) > 32:
        raise PayloadError(f"{what}: a code word for a number above 2**32")
    total = int(widths.sum())
    stream = bits.unpack(reader.take(bits.packed_bytes(total, 1), what), total, 1)
    first = np.cumsum(widths) - widths
    numbers = np.uint64(1) << widths.astype(np.uint64)
    for place in range(int(widths.max(initial=0))):
        there = widths > place
        numbers[there] |= stream[first[there] + place].astype(np.uint64) << np.uint64(place)
    return numbers - np.uint64(1)
