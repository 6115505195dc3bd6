"""Randomised Hadamard rotation: spreads every value over its whole block, so that few-bit quantisers lose less.

A block is multiplied by random signs and by the orthonormal Walsh-Hadamard matrix. Both ends derive the signs from the
shared key. The transform is made of additions, subtractions and one multiplication per value, in a fixed order: decoded
values are the same bits on every machine with IEEE arithmetic, whatever its vector units or threads.

Source: Ailon, Chazelle 2009 (fast Johnson-Lindenstrauss transform); for federated uploads Suresh, Yu, Kumar, McMahan
2017, arXiv:1611.00429.

>>> block = np.array([1, 0, 0, 0], np.float32)
>>> walsh_hadamard(block, np.empty(4, np.float32))
>>> block.tolist()
[1.0, 1.0, 1.0, 1.0]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from tff_hospitals.communication import shared_randomness, stage
from tff_hospitals.communication.forms import Form, register

MAX_BLOCK = stage.GROUP
_SMALL = 16  # below this a remainder is padded to the next power of two instead of being split further


def blocks(size: int) -> list[tuple[int, int]]:
    """(start, stop) of blocks, all powers of two, that cover `size` values; the last may reach beyond by at most 15.

    >>> blocks(MAX_BLOCK + 64 + 9)
    [(0, 16384), (16384, 16448), (16448, 16464)]
    """
    found, start = [], 0
    while start < size:
        left = size - start
        length = min(MAX_BLOCK, 1 << (left.bit_length() - 1))
        if length <= _SMALL and length < left:
            length *= 2
        found.append((start, start + length))
        start += length
    return found


def block_count(size: int) -> int:
    """How many `blocks` there are, without making the list.

    >>> block_count(1000 * MAX_BLOCK + 73) == 1000 + len(blocks(73))
    True
    """
    whole, rest = divmod(size, MAX_BLOCK)
    return whole + len(blocks(rest))


def walsh_hadamard(block: np.ndarray, scratch: np.ndarray) -> None:
    """Multiplies `block` by the (unnormalised) Walsh-Hadamard matrix, in place.

    Args:
      block: float32 [n], n a power of two, contiguous.
      scratch: float32 [n], overwritten.
    """
    columns = min(block.size, 64)  # rows and columns in turn: the additions always run along long stretches
    rows = block.size // columns
    result, spare = _butterflies(block, scratch, columns)
    np.copyto(spare.reshape(columns, rows), result.reshape(rows, columns).T)
    result, spare = _butterflies(spare, result, rows)
    if result is block:
        np.copyto(spare, result)
        result, spare = spare, result
    np.copyto(block.reshape(rows, columns), result.reshape(columns, rows).T)


def _butterflies(source: np.ndarray, target: np.ndarray, inner: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums and differences at distance inner, 2*inner, ... up to the end; returns (result, the other array)."""
    while inner < source.size:
        pairs, out = source.reshape(-1, 2, inner), target.reshape(-1, 2, inner)
        np.add(pairs[:, 0], pairs[:, 1], out=out[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=out[:, 1])
        source, target = target, source
        inner *= 2
    return source, target


@dataclasses.dataclass(frozen=True)
class Rotate(stage.Transform):
    """`rotate`: a random orthogonal map of each block; lengths are kept, so it grows no norm and loses nothing.

    >>> context = stage.Context(lengths=(3,), key=np.array([1, 2], np.uint64))
    >>> values = np.array([4, 0, 0], np.float32)
    >>> rotated = Rotate().encode(values, context)
    >>> np.abs(rotated).tolist(), Rotate().decode(rotated, context).tolist()
    ([2.0, 2.0, 2.0, 2.0], [4.0, -0.0, -0.0])
    """

    rank = stage.ROTATE
    name = "rotate"

    @property
    def uses_key(self) -> bool:
        """The signs are shared."""
        return True

    @staticmethod
    def groups(size: int) -> list[tuple[int, int]]:
        """The blocks: values that were mixed with one another share scales."""
        return blocks(size)

    def encode(self, values: np.ndarray, context: stage.Context) -> np.ndarray:
        """Rotates float32 [n]; the result is padded to whole blocks."""
        plan = blocks(values.size)
        out = np.zeros(plan[-1][1] if plan else 0, np.float32)
        out[: values.size] = values
        scratch = np.empty(min(MAX_BLOCK, out.size), np.float32)
        for (start, stop), signs in zip(plan, block_signs(plan, context)):
            block = out[start:stop]
            block *= signs
            walsh_hadamard(block, scratch[: block.size])
        return out

    def decode(self, values: np.ndarray, context: stage.Context) -> np.ndarray:
        """Rotates back, in place, and drops the padding."""
        plan = blocks(context.size)
        scratch = np.empty(min(MAX_BLOCK, values.size), np.float32)
        for (start, stop), signs in zip(plan, block_signs(plan, context)):
            block = values[start:stop]
            walsh_hadamard(block, scratch[: block.size])
            block *= signs
        return values[: context.size]


def block_signs(plan: list[tuple[int, int]], context: stage.Context) -> Iterator[np.ndarray]:
    """For each block, float32 [block size]: random signs divided by the square root of the block size."""
    generator = shared_randomness.raw_generator(context.shared_key(), shared_randomness.SIGNS)
    table: np.ndarray | None = None
    tables: tuple[int, np.ndarray] | None = None
    for start, stop in plan:
        size = stop - start
        scale = np.float32(1) / np.sqrt(np.float32(size))
        data = generator.random_raw(max(1, size // 64)).astype("<u8", copy=False).view(np.uint8)
        if size < 64:
            bits = np.unpackbits(data, count=size, bitorder="little")
            yield (np.float32(1) - 2 * bits.astype(np.float32)) * scale
            continue
        if table is None:
            byte_bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
            table = 1 - 2 * byte_bits.astype(np.float32)
        if tables is None or tables[0] != size:
            tables = (size, table * scale)
        yield tables[1].take(data, axis=0).reshape(-1)


register(Form("rotate", lambda plain: Rotate()))
