"""What the messages of a plan hold, byte for byte: shapes and types follow from the composed plan at both ends.

Payloads of an encoded broadcast or upload are those of the byte formats; everything else is the contents of tensors.
The whole numbers of a secure sum are packed without gaps, as many bits each as the modulus has.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tff_hospitals.communication.bits import packed_bytes
from tff_hospitals.deployment.body import tensors_from_bytes, tensors_to_bytes
from tff_hospitals.deployment.envelope import Rejected
from tff_hospitals.deployment.keys import sha512

if TYPE_CHECKING:
    from tff_hospitals.processes.composition import Composition

_ROOM_BYTES = 1 << 20  # for headers, keys, shares and payloads that an encoder makes larger


class Tensors:
    """One structure of tensors whose shapes and types both ends know.

    Args:
      like: tensors or specs in that structure.
    """

    def __init__(self, like: Any):
        self._like = like
        leaves = tf.nest.flatten(like)
        self.shapes = [tuple(int(axis) for axis in leaf.shape) for leaf in leaves]
        self.dtypes = [leaf.dtype.as_numpy_dtype for leaf in leaves]
        self.values = sum(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """Bytes of the contents."""
        return sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in zip(self.shapes, self.dtypes))

    def pack(self, structure: Any) -> bytes:
        """Contents of such a structure."""
        return tensors_to_bytes([np.asarray(leaf) for leaf in tf.nest.flatten(structure)])

    def unpack(self, data: bytes) -> Any:
        """The structure, of numpy arrays.

        Raises:
          Rejected: another size, or values that are not finite.
        """
        leaves = tensors_from_bytes(data, self.shapes, self.dtypes)
        return tf.nest.pack_sequence_as(self._like, leaves)

    def to_words(self, structure: Any, bits: int) -> np.ndarray:
        """All values as uint32 modulo 2**bits, one behind the other."""
        flat = [np.asarray(leaf).ravel().astype(np.int32).view(np.uint32) for leaf in tf.nest.flatten(structure)]
        return np.concatenate(flat) & np.uint32(2**bits - 1)

    def from_words(self, words: np.ndarray) -> Any:
        """The structure of int32 arrays from values modulo some power of two."""
        leaves, at = [], 0
        for shape in self.shapes:
            size = math.prod(shape)
            leaves.append(words[at : at + size].view(np.int32).reshape(shape))
            at += size
        return tf.nest.pack_sequence_as(self._like, leaves)


class Wire:
    """The messages of a composed plan."""

    def __init__(self, composition: Composition):
        self.bits = composition.aggregator.modulus_bits
        self.transfer = composition.transfer
        self.weights = Tensors(tuple(composition.model.trainable_specs))
        self.parameters = Tensors(composition.blank_parameters())
        zero = composition.zero_contribution()
        self.contribution = Tensors(zero)
        self.beside = Tensors(collections.OrderedDict((k, v) for k, v in zero.items() if k != "delta"))

    @property
    def encodes_upload(self) -> bool:
        """Whether updates become payloads of the byte formats."""
        return self.transfer is not None and self.transfer.encodes_upload

    @property
    def most_bytes(self) -> int:
        """Of any message of this plan."""
        largest = max(self.weights.size + self.parameters.size, self.contribution.size)
        return 2 * largest + _ROOM_BYTES


def pack_words(words: np.ndarray, bits: int) -> bytes:
    """uint32 values below 2**bits without gaps, least significant bit first.

    >>> data = pack_words(np.array([1, 2**20 - 1, 5], np.uint32), 20)
    >>> len(data), unpack_words(data, 3, 20).tolist()
    (8, [1, 1048575, 5])
    """
    if bits == 32:
        return words.astype("<u4").tobytes()
    spread = np.unpackbits(words.astype("<u4").view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
    return np.packbits(spread[:, :bits].ravel(), bitorder="little").tobytes()


def unpack_words(data: bytes, count: int, bits: int) -> np.ndarray:
    """The inverse of `pack_words`: uint32 [count].

    Raises:
      Rejected: another number of bytes.
    """
    if len(data) != packed_bytes(count, bits):
        raise Rejected(f"{len(data)} bytes of whole numbers: must be {packed_bytes(count, bits)}")
    if bits == 32:
        return np.frombuffer(data, "<u4").astype(np.uint32)
    spread = np.zeros((count, 32), np.uint8)
    flat = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little")
    spread[:, :bits] = flat.reshape(count, bits)
    return np.packbits(spread, axis=1, bitorder="little").view("<u4").ravel().astype(np.uint32)


def name_of_content(number: int, cohort: Sequence[str], *parts: bytes) -> bytes:
    """32 bytes that two requests share only if they ask the same: round, hospitals in it, every byte of the parts."""
    content = [repr((number, list(cohort))).encode()]
    for part in parts:
        content += len(part).to_bytes(8, "big"), part
    return sha512(*content)[:32]


def key_to_bytes(key: Any) -> bytes:
    """A key of shared bits, int64 [2]; empty where there is none."""
    return b"" if key is None else np.asarray(key, "<i8").tobytes()


def key_from_bytes(data: bytes) -> np.ndarray | None:
    """The inverse of `key_to_bytes`.

    Raises:
      Rejected: neither empty nor 16 bytes.
    """
    if len(data) not in (0, 16):
        raise Rejected(f"a key of {len(data)} bytes: must be 16")
    return np.frombuffer(data, "<i8").astype(np.int64) if data else None


def rows_of_text(values: Sequence[Any]) -> list[str]:
    """Ids from a message.

    Raises:
      Rejected: something else.
    """
    if (
        not isinstance(values, list)
        or not all(isinstance(one, str) for one in values)
        or len(set(values)) != len(values)
    ):
        raise Rejected("must be a list of different ids")
    return values
