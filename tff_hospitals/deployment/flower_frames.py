"""How this library and its programs in Flower's environment speak: frames over a pair of pipes, standard library alone.

The two environments share no package, so that nothing but bytes can pass. Whoever starts a program ends it by closing
the pipe: none outlives its starter, whichever way that one ends.

    kind 1 | length of name 2 | length of content 8 | name | content

>>> import io
>>> pipe = io.BytesIO()
>>> write(pipe, MESSAGE, "north", b"sealed")
>>> _ = pipe.seek(0)
>>> read(pipe), read(pipe)
((3, 'north', b'sealed'), None)
>>> split(join([b"one", b"", b"three"]), 100)
[b'one', b'', b'three']
>>> split(join([b"one"])[:-1], 100)
Traceback (most recent call last):
...
ValueError: cut off
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import BinaryIO

LISTENING, PRESENT, MESSAGE, DROPPED, GONE = range(1, 6)
"""An address, or a hospital's node that is known now; who is there; a message; one that was too large; the end."""

Frame = tuple[int, str, bytes]
_HEAD, _LENGTH = struct.Struct("!BHQ"), struct.Struct("!Q")


def write(stream: BinaryIO, kind: int, name: str = "", content: bytes = b"") -> None:
    """Writes a frame.

    Raises:
      OSError: nobody reads any more.
    """
    encoded = name.encode()
    stream.write(_HEAD.pack(kind, len(encoded), len(content)) + encoded)
    stream.write(content)
    stream.flush()


def read(stream: BinaryIO) -> Frame | None:
    """The next frame; None when there is no more."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    kind, named, length = _HEAD.unpack(head)
    name, content = stream.read(named), stream.read(length)
    return (kind, name.decode(), content) if len(content) == length else None


def join(messages: Sequence[bytes]) -> bytes:
    """Several messages in one: what a hospital has to say when it is asked."""
    return b"".join(_LENGTH.pack(len(one)) + one for one in messages)


def split(data: bytes, most_bytes: int) -> list[bytes]:
    """The inverse of `join`; a message that is larger than `most_bytes` is left out, and b"" stands for it.

    Raises:
      ValueError: cut off.
    """
    found, at = [], 0
    while at < len(data):
        if at + _LENGTH.size > len(data):
            raise ValueError("cut off")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + length > len(data):
            raise ValueError("cut off")
        found.append(data[at : at + length] if length <= most_bytes else b"")
        at += length
    return found
