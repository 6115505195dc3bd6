"""Flower's messages that hold our bytes: runs in Flower's environment only.

A message is a tree of objects that travel one by one, by their digests. Small ones are configuration values (three
objects); large ones arrays, which Flower cuts into pieces and does not turn over byte by byte.
"""

from __future__ import annotations

from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

BODY_BYTES = 8 << 20
"""The largest call or answer that is due: Flower cuts arrays into objects of 5 MiB."""
_PIECE_BYTES = 5 << 20
_SMALL_BYTES = 1 << 15


def most_objects(most_bytes: int) -> int:
    """How many objects a message of so many bytes may have."""
    return 8 + most_bytes // _PIECE_BYTES


def content(data: bytes) -> Any:
    """A record of Flower that holds the bytes."""
    if len(data) <= _SMALL_BYTES:
        return RecordDict({"bytes": ConfigRecord({"all": data})})
    array = Array(dtype="uint8", shape=(len(data),), stype="bytes", data=data)
    return RecordDict({"bytes": ArrayRecord({"all": array})})


def finished(message: Any) -> tuple[Any, dict[str, bytes]]:
    """The object tree of a new message, which has its name from now on, and its objects."""
    message.metadata.__dict__["_message_id"] = message.object_id
    with no_object_id_recompute():
        objects = {name: one.deflate() for name, one in get_all_nested_objects(message).items()}
        return get_object_tree(message), objects


def opened(name: str, objects: dict[str, bytes]) -> tuple[Any, bytes]:
    """A message from its objects, and the bytes that it holds.

    Raises:
      ValueError: it holds something else.
    """
    message = inflate_object_from_contents(name, objects)
    if not isinstance(message, Message):
        raise ValueError("no message")
    found = message.content["bytes"]["all"]
    data = found.data if isinstance(found, Array) else found
    if not isinstance(data, bytes):
        raise ValueError("a message of something else than bytes")
    message.metadata.__dict__["_message_id"] = name
    return message, data
