"""Files in which TensorFlow Federated keeps its simulation sets: records by client and split, read without TensorFlow.

| form | layout |
|---|---|
| SQLite (`emnist_all.sqlite`) | tables `examples` and `client_metadata` |
| HDF5 (`fed_emnist_train.h5`, earlier versions) | `examples/CLIENT/FIELD`, one file for each split |

A serialized example is a `tf.train.Example`: fields of bytes, floats or whole numbers, in the wire format of protocol
buffers (varints, lengths, packed numbers), of which `parse_example` reads what examples use.
"""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from tff_hospitals.foundations.files import RecordError

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_HDF5_SIGNATURE, _SQLITE_SIGNATURE = b"\x89HDF\r\n\x1a\n", b"SQLite format 3\x00"


class ClientFile(Protocol):
    """Records of clients in a file, one split of it."""

    def sizes(self) -> dict[str, int]:
        """Records of each client, ids in order."""

    def records(self, client: str) -> dict[str, Any]:
        """Fields of a client's records, by name: an array each, or a list of bytes."""

    def name(self) -> str:
        """Changes with what the file holds, as far as that is known without reading every record."""


def open_split(path: pathlib.Path, split: str) -> ClientFile:
    """A split of a file of either form.

    Args:
      path: of the file.
      split: its name in SQLite; an HDF5 file is one split.

    Raises:
      RecordError: a file that is neither, or that cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}. Remedy: fetch it again.") from error
    if start == _SQLITE_SIGNATURE:
        return _Sqlite(path, split)
    if start.startswith(_HDF5_SIGNATURE):
        return _Hdf5(path)
    raise RecordError(f"{path} is neither a SQLite nor an HDF5 file. Remedy: fetch it again, and unpack it (.lzma).")


class _Sqlite:
    def __init__(self, path: pathlib.Path, split: str):
        self._path, self._split = path, split

    @contextlib.contextmanager
    def _asked(self, question: str, values: Sequence[str]) -> Iterator[sqlite3.Cursor]:
        try:
            with contextlib.closing(
                sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True)
            ) as connection:
                yield connection.execute(question, tuple(values))
        except sqlite3.Error as error:
            words = "Remedy: fetch it again; it must hold the tables examples and client_metadata of TFF's data sets."
            raise RecordError(f"{self._path} cannot be read: {error}. {words}") from error

    def sizes(self) -> dict[str, int]:
        """See `ClientFile`."""
        words = "SELECT client_id, num_examples FROM client_metadata WHERE split_name = ? ORDER BY client_id"
        with self._asked(words, [self._split]) as rows:
            found = {str(client): int(count) for client, count in rows}
        if not found:
            raise RecordError(f"{self._path} has no client of the split {self._split!r}. Remedy: fetch it again.")
        return found

    def records(self, client: str) -> dict[str, Any]:
        """See `ClientFile`."""
        words = "SELECT serialized_example_proto FROM examples WHERE client_id = ? AND split_name = ? ORDER BY rowid"
        with self._asked(words, [client, self._split]) as rows:
            examples = [parse_example(bytes(row[0])) for row in rows]
        names = examples[0] if examples else {}
        columns = {name: [example[name] for example in examples] for name in names}
        return {
            name: [value[0] for value in values] if isinstance(values[0], list) else np.stack(values)
            for name, values in columns.items()
        }

    def name(self) -> str:
        """See `ClientFile`."""
        return _name_of(self._path, self._split, self.sizes())


class _Hdf5:
    def __init__(self, path: pathlib.Path):
        self._path = path

    @contextlib.contextmanager
    def _examples(self) -> Iterator[Any]:
        import h5py  # type: ignore[import-untyped]

        try:
            with h5py.File(self._path, "r") as file:
                yield file["examples"]
        except (OSError, KeyError) as error:
            raise RecordError(f"{self._path} cannot be read: {error}. Remedy: fetch it again.") from error

    def sizes(self) -> dict[str, int]:
        """See `ClientFile`."""
        with self._examples() as examples:
            return {client: len(next(iter(examples[client].values()))) for client in sorted(examples)}

    def records(self, client: str) -> dict[str, Any]:
        """See `ClientFile`."""
        with self._examples() as examples:
            found = {name: values[()] for name, values in examples[client].items()}
        return {
            name: list(map(bytes, values)) if values.dtype.kind in "OS" else values for name, values in found.items()
        }

    def name(self) -> str:
        """See `ClientFile`."""
        return _name_of(self._path, "", self.sizes())


def _name_of(path: pathlib.Path, split: str, sizes: dict[str, int]) -> str:
    digest = hashlib.sha256(f"{path.name} {split} {path.stat().st_size} {sorted(sizes.items())}".encode())
    return digest.hexdigest()


def parse_example(message: bytes) -> dict[str, Any]:
    """The fields of a serialized `tf.train.Example`: float32 or int64 arrays, or lists of bytes.

    Raises:
      RecordError: bytes that are no such message.

    >>> parse_example(bytes.fromhex("0a0d0a0b0a017812061a040a020305"))
    {'x': array([3, 5])}
    """
    try:
        fields: dict[str, Any] = {}
        for features in _parts(message, 1):
            for entry in _parts(features, 1):
                (key,), (value,) = _parts(entry, 1), _parts(entry, 2)
                fields[key.decode()] = _values(value)
        return fields
    except (IndexError, ValueError) as error:
        raise RecordError(f"a record is no tf.train.Example ({error}). Remedy: fetch the file again.") from error


def _values(feature: bytes) -> Any:
    for number, kind, body in _fields(feature):
        inner = list(_fields(body)) if kind == _LENGTH else []
        packed = b"".join(part for _, of, part in inner if of == _LENGTH)
        if number == 1:
            return [part for _, _, part in inner]
        if number == 2:
            return np.frombuffer(packed or b"".join(part for _, _, part in inner), "<f4").astype(np.float32)
        if number == 3:
            return _varints(packed or b"".join(part for _, _, part in inner))
    return np.zeros(0, np.float32)


def _parts(message: bytes, wanted: int) -> list[bytes]:
    return [body for number, kind, body in _fields(message) if number == wanted and kind == _LENGTH]


def _fields(message: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Number, kind and bytes of each field of a message."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == _LENGTH:
            size, place = _varint(message, place)
        elif kind == _VARINT:
            size = _varint(message, place)[1] - place
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"unknown kind {kind}")
        if place + size > len(message):
            raise ValueError("it is cut off")
        yield key >> 3, kind, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place
        if shift > 63:
            raise ValueError("a number has no end")


def _varints(packed: bytes) -> np.ndarray:
    """All numbers of a packed field at once, int64."""
    found = np.frombuffer(packed, np.uint8)
    ends = np.flatnonzero(found < 128)
    if not len(found):
        return np.zeros(0, np.int64)
    if not len(ends) or ends[-1] != len(found) - 1:
        raise ValueError("a number has no end")
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = np.arange(len(found)) - np.repeat(starts, ends - starts + 1)
    parts = (found & 127).astype(np.uint64) << (7 * places).astype(np.uint64)
    return np.add.reduceat(parts, starts).astype(np.int64)
