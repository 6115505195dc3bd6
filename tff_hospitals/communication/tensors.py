"""Named float32 tensors to one flat vector and back, with checks that name the tensor and the index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tff_hospitals.foundations import validation

_PIECE = 1 << 18
MAX_VALUES = (1 << 32) - 1


def sizes(shapes: Sequence[Sequence[int]]) -> list[int]:
    """Values in a tensor of each shape."""
    return [math.prod(int(axis) for axis in shape) for shape in shapes]


def flatten(arrays: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """A new float32 vector with all values, tensor after tensor in row-major order.

    Raises:
      InvalidInput: naming every tensor that is not float32 or holds NaN or infinity, with the first index.
    """
    problems = []
    for name, array in arrays:
        kind = np.asarray(array).dtype
        if kind != np.float32:
            problems.append(validation.Problem(name, kind.name, "must be float32", "cast it before encoding"))
    validation.raise_if(problems)
    flat = np.empty(sum(array.size for _, array in arrays), np.float32)
    start = 0
    for name, array in arrays:
        piece = flat[start : start + array.size]
        piece.reshape(array.shape)[...] = array
        start += array.size
        if not math.isfinite(largest_magnitude(piece)):
            first = int(np.argmin(np.isfinite(piece)))
            where, value = name_of(first, [(name, array)])[0], float(piece[first])
            remedy = "leave this hospital out of the round, or lower its learning rate"
            problems.append(validation.Problem(where, value, "must be finite to be encoded", remedy))
    validation.raise_if(problems)
    return flat


def name_of(index: int, arrays: Sequence[tuple[str, np.ndarray]]) -> tuple[str, Any]:
    """("name[i, j]", value) of the value at a flat index."""
    for name, array in arrays:
        if index < array.size:
            place = np.unravel_index(index, array.shape)
            return (f"{name}[{', '.join(str(int(axis)) for axis in place)}]" if place else name), float(array[place])
        index -= array.size
    raise IndexError(index)


def largest_magnitude(flat: np.ndarray) -> float:
    """The largest magnitude of a vector, 0 for an empty one; NaN or infinity if there is one."""
    largest = np.float32(0)
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        largest = np.maximum(largest, np.maximum(piece.max(), -piece.min()))  # maximum hands NaN on
    return float(largest)


def split(flat: np.ndarray, shapes: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Views of `flat` in the given shapes."""
    out, start = [], 0
    for shape, size in zip(shapes, sizes(shapes)):
        out.append(flat[start : start + size].reshape(tuple(shape)))
        start += size
    return out


def saturate(flat: np.ndarray) -> np.ndarray:
    """Puts the largest finite value of either sign in place of infinity, in place."""
    largest = np.finfo(np.float32).max
    return np.clip(flat, -largest, largest, out=flat)


def add(flat: np.ndarray, reference: np.ndarray | None) -> np.ndarray:
    """Adds a reference, if there is one, in place; sums beyond float32 become the largest finite value."""
    if reference is None:
        return flat
    with np.errstate(over="ignore"):
        flat += reference
    return flat if math.isfinite(largest_magnitude(flat)) else saturate(flat)
