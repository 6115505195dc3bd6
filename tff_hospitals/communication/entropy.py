"""Codes symbol arrays in as few bytes as they need, and says which coder it took.

An array is cut into planes of at most 8 bits (a 12-bit symbol gives its upper 8 and lower 4 bits), and each plane goes
through the cheapest of: `constant`, `packed` (bit packing, or five ternary symbols to a byte), `rans` (range coding:
within a percent of the entropy, 60 MB/s), `zstd` (finds repetitions; about ten times faster). Zstandard is taken where
it is at most 1 % longer.

>>> writer = Writer()
>>> encode(writer, np.zeros(1000, np.uint8), 16), writer.size
(('constant',), 2)
"""

from __future__ import annotations

import numpy as np

from tff_hospitals.communication import bits, rans
from tff_hospitals.communication.container import PayloadError, Reader, Writer

CODERS = ("packed", "constant", "rans", "zstd")
_ZSTD_SLACK = 1.01
_ZSTD_LEVEL = 1


def planes(alphabet: int) -> tuple[tuple[int, int], ...]:
    """(shift, alphabet) of the planes that symbols below `alphabet` are cut into, the most significant first.

    >>> planes(3), planes(1 << 12), planes(1 << 32)
    (((0, 3),), ((4, 256), (0, 16)), ((24, 256), (16, 256), (8, 256), (0, 256)))
    """
    if alphabet == 3:
        return ((0, 3),)
    width = _width(alphabet)
    found = []
    while width > 0:
        taken = min(8, width)
        width -= taken
        found.append((width, 1 << taken))
    return tuple(found)


def _width(alphabet: int) -> int:
    """Bits that a symbol needs: an alphabet need not be a power of two."""
    return (alphabet - 1).bit_length()


def packed_bytes(count: int, alphabet: int) -> int:
    """Bytes of `count` symbols without entropy coding."""
    if alphabet == 3:
        return bits.trit_bytes(count)
    return bits.packed_bytes(count, _width(alphabet))


def encode_packed(writer: Writer, symbols: np.ndarray, alphabet: int) -> None:
    """Writes symbols in fixed width (ternary ones five to a byte)."""
    if alphabet == 1 << 32:
        writer.array(symbols, "<u4")
    elif alphabet == 3:
        writer.array(bits.pack_trits(symbols), "u1")
    else:
        writer.array(bits.pack(symbols, _width(alphabet)), "u1")


def decode_packed(reader: Reader, count: int, alphabet: int) -> np.ndarray:
    """The inverse of `encode_packed`."""
    if alphabet == 1 << 32:
        return reader.array(count, "<u4", "values")
    data = reader.take(packed_bytes(count, alphabet), "symbols")
    if alphabet == 3:
        return bits.unpack_trits(data, count)
    return _below(bits.unpack(data, count, _width(alphabet)), alphabet)


def _below(symbols: np.ndarray, alphabet: int) -> np.ndarray:
    """Refuses symbols that the width has room for and the alphabet has not."""
    if alphabet & (alphabet - 1) and symbols.size and int(symbols.max()) >= alphabet:
        raise PayloadError(f"symbols: {int(symbols.max())} is not below {alphabet}")
    return symbols


def encode(writer: Writer, symbols: np.ndarray, alphabet: int) -> tuple[str, ...]:
    """Writes the planes of `symbols` (unsigned integers below `alphabet`) and returns the coder taken for each."""
    taken = []
    for shift, size in planes(alphabet):
        plane = symbols if shift == 0 and alphabet <= 256 else (symbols >> symbols.dtype.type(shift)).astype(np.uint8)
        if size < 256 and alphabet > 256:
            plane = plane & np.uint8(size - 1)
        coder, coded = _shortest(np.ascontiguousarray(plane, np.uint8), size)
        writer.varint(CODERS.index(coder))
        writer.extend(coded)
        taken.append(coder)
    return tuple(taken)


def decode(reader: Reader, count: int, alphabet: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """The inverse of `encode`: the symbols and the coder of each plane.

    Raises:
      PayloadError: for bytes that `encode` does not write.
    """
    out = np.empty(0, np.uint8)
    taken: list[str] = []
    word: type = np.uint16 if alphabet <= 1 << 16 else np.uint32
    for shift, size in planes(alphabet):
        coder = CODERS[reader.varint("coder", high=len(CODERS) - 1)]
        plane = _decode_plane(coder, reader, count, size)
        if alphabet > 256:
            wide: np.ndarray = plane.astype(word)
            wide <<= word(shift)
            plane = np.bitwise_or(out, wide, out=wide) if taken else wide
        out = plane
        taken.append(coder)
    return _below(out, alphabet), tuple(taken)


def _shortest(plane: np.ndarray, alphabet: int) -> tuple[str, Writer]:
    writer = Writer()
    count = plane.size
    packed = packed_bytes(count, alphabet)
    if count == 0:
        return "packed", writer
    histogram = np.bincount(plane, minlength=alphabet)
    if int(histogram.max()) == count:
        writer.array(plane[:1], "u1")
        return "constant", writer
    expected = rans.predicted_bytes(histogram)
    zipped = _zstd_compress(plane)
    if len(zipped) + 4 < min(packed, _ZSTD_SLACK * expected):
        writer.varint(len(zipped))
        writer.buffer(zipped)
        return "zstd", writer
    if expected < packed:
        coded = rans.encode(plane, rans.frequencies(histogram))
        if coded.size < packed:
            return "rans", coded
    encode_packed(writer, plane, alphabet)
    return "packed", writer


def _decode_plane(coder: str, reader: Reader, count: int, alphabet: int) -> np.ndarray:
    if coder == "packed" or count == 0:
        return decode_packed(reader, count, alphabet)
    if coder == "constant":
        plane = np.full(count, reader.take(1, "constant symbol")[0], np.uint8)
    elif coder == "rans":
        return rans.decode(reader, count, alphabet)
    else:
        length = reader.varint("zstd, length", high=reader.remaining)
        plane = _zstd_decompress(reader.take(length, "zstd frame"), count)
    if int(plane.max()) >= alphabet:
        raise PayloadError(f"symbols: {int(plane.max())} is not below {alphabet}")
    return plane


def _zstd_compress(plane: np.ndarray) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=False).compress(plane.data)


def _zstd_decompress(data: memoryview, count: int) -> np.ndarray:
    import zstandard

    try:
        # The frame says how much it holds: look before a corrupted number makes the library allocate it.
        if zstandard.get_frame_parameters(data).content_size != count:
            raise PayloadError(f"zstd frame: does not hold {count} symbols")
        content = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(data)
    except zstandard.ZstdError as error:
        raise PayloadError(f"zstd frame: {error}") from error
    if len(content) != count:
        raise PayloadError(f"zstd frame: {len(content)} symbols instead of {count}")
    return np.frombuffer(content, np.uint8)
