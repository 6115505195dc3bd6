"""The outermost layer of a payload: magic, version, chain fingerprint, body, checksum.

Bytes that crossed a network are not trusted. Everything is read through `Reader`, which never looks past the end and
turns each inconsistency into a `PayloadError` that names the place; nothing is allocated from a length that stands in
the payload unless the bytes themselves are there.

>>> sealed = seal(7, [b"body"])
>>> len(sealed) - len(b"body") == OVERHEAD_BYTES
True
>>> unseal(7, sealed).take(4, "body").tobytes()
b'body'
>>> unseal(7, sealed[:-1])
Traceback (most recent call last):
...
tff_hospitals.communication.container.PayloadError: checksum does not match: the 12 bytes were cut or changed on the way
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Union

import numpy as np

Buffer = Union[bytes, bytearray, memoryview]

MAGIC = b"TH"
VERSION = 1
_HEAD = struct.Struct("<2sBH")
_CHECKSUM = struct.Struct("<I")
OVERHEAD_BYTES = _HEAD.size + _CHECKSUM.size


class PayloadError(ValueError):
    """Received bytes that are not a payload of the expected chain, shapes and version; the message says where."""


def seal(fingerprint: int, parts: Iterable[Buffer]) -> bytes:
    """Joins the parts of a body between header and checksum (crc32: guards against accidents, not against an attacker).

    Args:
      fingerprint: 16 bits that name the chain which wrote the body.
      parts: the encoded sections.
    """
    pieces = [_HEAD.pack(MAGIC, VERSION, fingerprint), *parts]
    checksum = 0
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    return b"".join((*pieces, _CHECKSUM.pack(checksum)))


def unseal(fingerprint: int, payload: Buffer) -> Reader:
    """Checks header and checksum and returns a reader at the start of the body.

    Raises:
      PayloadError: too short, cut, changed, of another version or written by another chain.
    """
    data = memoryview(payload).cast("B")
    if len(data) < OVERHEAD_BYTES:
        raise PayloadError(f"{len(data)} bytes are too few: a payload has at least {OVERHEAD_BYTES}")
    body_end = len(data) - _CHECKSUM.size
    if zlib.crc32(data[:body_end]) != _CHECKSUM.unpack(data[body_end:])[0]:
        raise PayloadError(f"checksum does not match: the {len(data)} bytes were cut or changed on the way")
    magic, version, written_by = _HEAD.unpack(data[: _HEAD.size])
    if magic != MAGIC:
        raise PayloadError(f"starts with {bytes(magic)!r}, not with {MAGIC!r}: these bytes are not a payload")
    if version != VERSION:
        raise PayloadError(f"format version {version}, this program reads {VERSION}: update the older end")
    if written_by != fingerprint:
        raise PayloadError("was written by another chain of encoders than the one that reads it: set both ends alike")
    return Reader(data[_HEAD.size : body_end])


class Writer:
    """Collects the sections of a body."""

    def __init__(self) -> None:
        self.parts: list[Buffer] = []

    def varint(self, value: int) -> None:
        """A whole number >= 0, seven bits a byte, least significant first (LEB128)."""
        out = bytearray()
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
        self.parts.append(out)

    def buffer(self, data: Buffer) -> None:
        """Raw bytes whose length the reader knows from elsewhere."""
        self.parts.append(data)

    def array(self, values: np.ndarray, dtype: str) -> None:
        """The raw little-endian bytes of an array whose length the reader knows from elsewhere; not copied yet."""
        if values.size:
            self.parts.append(np.ascontiguousarray(values, dtype=dtype).data.cast("B"))

    def extend(self, other: Writer) -> None:
        """Everything that another writer holds."""
        self.parts += other.parts

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return sum(map(len, self.parts))

    def joined(self) -> bytes:
        """Everything written so far."""
        return b"".join(self.parts)


class Reader:
    """Walks through a body and raises `PayloadError` where it does not hold what it should."""

    def __init__(self, data: memoryview):
        self._data = data
        self.offset = 0

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self.offset

    def take(self, count: int, what: str) -> memoryview:
        """The next `count` bytes, as a view."""
        if count > self.remaining:
            raise PayloadError(f"{what}: {count} bytes expected at offset {self.offset}, {self.remaining} are left")
        view = self._data[self.offset : self.offset + count]
        self.offset += count
        return view

    def varint(self, what: str, high: int) -> int:
        """A whole number from 0 to `high`."""
        value = shift = 0
        while True:
            byte = self.take(1, what)[0]
            value |= (byte & 0x7F) << shift
            if value > high or shift > 63:
                raise PayloadError(f"{what}: a number above {high} stands at offset {self.offset - 1}")
            if byte < 0x80:
                return value
            shift += 7

    def array(self, count: int, dtype: str, what: str) -> np.ndarray:
        """The next `count` numbers of a little-endian `dtype` (a read-only view)."""
        kind = np.dtype(dtype)
        return np.frombuffer(self.take(count * kind.itemsize, what), dtype=kind)

    def finish(self) -> None:
        """Checks that nothing is left over."""
        if self.remaining:
            raise PayloadError(f"{self.remaining} bytes too many at offset {self.offset}")


def varint_bytes(value: int) -> int:
    """Bytes that `Writer.varint` takes for `value`."""
    return max(1, -(-int(value).bit_length() // 7))
