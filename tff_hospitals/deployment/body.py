"""What is in a message: a few named plain values and named sections of bytes; read without trust.

    length of header (varint) | header, strict JSON | sections, in the order in which the header names them

Sections hold payloads as the byte formats made them (`communication`), or tensors whose shapes both ends know from the
plan: no shape, type or size of a tensor is ever believed from a message.

>>> packed = pack({"cohort": ["north"]}, {"weights": b"1234"})
>>> found = unpack(packed)
>>> found.fields["cohort"], found.section("weights", 4)
(['north'], b'1234')
>>> unpack(packed + b"5")
Traceback (most recent call last):
...
tff_hospitals.deployment.envelope.Rejected: 1 bytes too many at offset 4
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tff_hospitals.communication.container import PayloadError, Reader, Writer
from tff_hospitals.deployment.envelope import Rejected
from tff_hospitals.foundations.files import plain

_HEADER_BYTES = 1 << 20
_MOST_SECTIONS = 4096
_MOST_BYTES = 1 << 31


@dataclasses.dataclass(frozen=True)
class Body:
    """The content of a message that was read.

    Attributes:
      fields: plain values by name.
      sections: bytes by name.
    """

    fields: Mapping[str, Any]
    sections: Mapping[str, bytes]

    def section(self, name: str, size: int | None = None) -> bytes:
        """A section that must be there.

        Args:
          name: of it.
          size: in bytes; None: any.

        Raises:
          Rejected: it is missing, or of another size.
        """
        if name not in self.sections:
            raise Rejected(f"the section {name!r} is missing")
        found = self.sections[name]
        if size is not None and len(found) != size:
            raise Rejected(f"the section {name!r} has {len(found)} bytes: must be {size}")
        return found

    def field(self, name: str, kind: type | tuple[type, ...]) -> Any:
        """A plain value that must be there and of that type.

        Raises:
          Rejected: it is missing, or something else.
        """
        found = self.fields.get(name)
        if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
            raise Rejected(f"the field {name!r} is missing or of another type")
        return found


def pack(fields: Mapping[str, Any], sections: Mapping[str, bytes] | None = None) -> bytes:
    """The bytes of a body."""
    sections = sections or {}
    header = {"fields": plain(fields), "sections": [[name, len(data)] for name, data in sections.items()]}
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    writer = Writer()
    writer.varint(len(text))
    writer.buffer(text)
    for data in sections.values():
        writer.buffer(data)
    return writer.joined()


def unpack(data: bytes) -> Body:
    """The body in bytes that need not be trusted.

    Raises:
      Rejected: they are not what `pack` writes.
    """
    reader = Reader(memoryview(data))
    try:
        text = bytes(reader.take(reader.varint("header", _HEADER_BYTES), "header"))
        header = json.loads(text, parse_constant=_no_constant)
        fields, named = header["fields"], header["sections"]
        if not isinstance(fields, dict) or not isinstance(named, list) or len(named) > _MOST_SECTIONS:
            raise Rejected("the header is not one")
        # Sections lie one behind the other; their views are cut from where the header ended.
        sections_at = Reader(memoryview(data)[reader.offset :])
        sections: dict[str, bytes] = {}
        for name, size in named:
            if not isinstance(name, str) or name in sections or type(size) is not int or not 0 <= size < _MOST_BYTES:
                raise Rejected("the header names a section that cannot be")
            sections[name] = bytes(sections_at.take(size, name))
        sections_at.finish()
    except (PayloadError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, Rejected):
            raise
        raise Rejected(str(error)[:200] or type(error).__name__) from error
    return Body(fields, sections)


def _no_constant(name: str) -> None:
    raise Rejected(f"{name} is no number here")


# -- tensors ----------------------------------------------------------------


def tensors_to_bytes(arrays: Sequence[Any]) -> bytes:
    """Contents of tensors one behind the other, little-endian, without shapes."""
    return b"".join(_little(np.asarray(array)).tobytes() for array in arrays)


def tensors_from_bytes(data: bytes, shapes: Sequence[Sequence[int]], dtypes: Sequence[Any]) -> list[np.ndarray]:
    """Tensors of known shapes and types.

    Args:
      data: as `tensors_to_bytes` made them; need not be trusted.
      shapes, dtypes: what must be there.

    Raises:
      Rejected: another size, or a value that is not finite.
    """
    kinds = [np.dtype(one).newbyteorder("<") for one in dtypes]
    sizes = [math.prod(int(axis) for axis in shape) for shape in shapes]
    wanted = sum(size * kind.itemsize for size, kind in zip(sizes, kinds))
    if len(data) != wanted:
        raise Rejected(f"tensors of {len(data)} bytes: must be {wanted}")
    found, at = [], 0
    for shape, size, kind in zip(shapes, sizes, kinds):
        values = np.frombuffer(data, kind, size, at).reshape(tuple(shape))
        at += size * kind.itemsize
        if kind.kind == "f" and not np.isfinite(values).all():
            raise Rejected("a tensor holds a value that is not finite")
        found.append(values.astype(kind.newbyteorder("="), copy=True))
    return found


def _little(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
