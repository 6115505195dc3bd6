"""Sparsifiers: send few values and, unless both ends can derive them, their positions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from tff_hospitals.communication import shared_randomness, stage
from tff_hospitals.communication.forms import Form, fraction, real, register

_CHUNK = 1 << 16


def _kept_by(values: np.ndarray, bound: np.float32) -> np.ndarray:
    """Ascending positions (uint32) of values whose magnitude is at least `bound`, found in cache-sized pieces."""
    starts = range(0, values.size, _CHUNK)
    counts = [int(np.count_nonzero(np.abs(values[start : start + _CHUNK]) >= bound)) for start in starts]
    out, filled = np.empty(sum(counts), np.uint32), 0
    for start, count in zip(starts, counts):
        there = np.flatnonzero(np.abs(values[start : start + _CHUNK]) >= bound)
        np.add(there, start, out=out[filled : filled + count], casting="unsafe")
        filled += count
    return out


@dataclasses.dataclass(frozen=True)
class Threshold(stage.Sparsifier):
    """`threshold:t`: skips every value whose magnitude is below `t`. Biased; what is skipped is at most `t` per value.

    >>> Threshold(0.5).encode(np.array([0.1, -0.5, 0.9], np.float32), stage.Context((3,)))[1].tolist()
    [1, 2]
    """

    bound: float

    rank = stage.SPARSIFY
    name = "threshold"

    @property
    def bias(self) -> str:
        """Small values are always lost."""
        return stage.BIASED

    def kept(self, size: int) -> int | None:
        """Depends on the values."""
        return None

    def encode(self, values: np.ndarray, context: stage.Context) -> tuple[np.ndarray, np.ndarray]:
        """The values at or above the bound, and where they are."""
        positions = _kept_by(values, np.float32(self.bound))
        return values[positions], positions

    def __str__(self) -> str:
        return f"{self.name}:{stage.number_text(self.bound)}"


@dataclasses.dataclass(frozen=True)
class TopK(stage.Sparsifier):
    """`topk:fraction`: keeps the ceil(fraction * n) values of largest magnitude (of equal ones, the first).

    Biased, and a contraction: ||x - decoded||^2 <= (1 - k/n) ||x||^2.
    Source: Stich, Cordonnier, Jaggi 2018, arXiv:1809.07599.
    """

    fraction: float

    rank = stage.SPARSIFY
    name = "topk"

    @property
    def bias(self) -> str:
        """Small values are always lost."""
        return stage.BIASED

    def kept(self, size: int) -> int:
        """ceil(fraction * size)."""
        return count_of(self.fraction, size)

    def encode(self, values: np.ndarray, context: stage.Context) -> tuple[np.ndarray, np.ndarray]:
        """The largest values and where they are."""
        count = self.kept(values.size)
        if count == 0:
            return values[:0], np.empty(0, np.uint32)
        magnitudes = np.abs(values)
        magnitudes.partition(values.size - count)
        bound = magnitudes[values.size - count]
        del magnitudes
        positions = _kept_by(values, bound)
        surplus = positions.size - count
        if surplus:
            ties = np.flatnonzero(np.abs(values[positions]) == bound)
            positions = np.delete(positions, ties[ties.size - surplus :])
        return values[positions], positions

    def __str__(self) -> str:
        return f"{self.name}:{stage.number_text(self.fraction)}"


@dataclasses.dataclass(frozen=True)
class RandomK(stage.Sparsifier):
    """`randk:fraction`: keeps ceil(fraction * n) values at random positions that both ends draw from the shared key.

    The vector is cut into k equal stretches and one value is drawn from each (a stratified draw: k random numbers
    instead of n, and sorted positions at once). A kept value is multiplied by the length of its stretch, which makes
    the result unbiased; `randk:fraction:unscaled` leaves it as it is, which makes a contraction for error feedback.
    Source: Konecny et al. 2016, arXiv:1610.05492 (random mask); Stich et al. 2018 (contraction).

    >>> context = stage.Context((1000,), np.array([1, 2], np.uint64))
    >>> RandomK(0.01).encode(np.ones(1000, np.float32), context)[0].tolist()
    [100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0]
    """

    fraction: float
    scaled: bool = True

    rank = stage.SPARSIFY
    name = "randk"
    positions_travel = False
    copies = False

    @property
    def bias(self) -> str:
        """Scaling makes up for what is dropped."""
        return stage.UNBIASED if self.scaled else stage.BIASED

    @property
    def contraction(self) -> bool:
        """Only without scaling."""
        return not self.scaled

    @property
    def uses_key(self) -> bool:
        """The positions are shared."""
        return True

    def kept(self, size: int) -> int:
        """ceil(fraction * size)."""
        return count_of(self.fraction, size)

    def norm_growth(self, group: int) -> float:
        """The longest stretch: the one kept value may be the only one that is not zero."""
        return float(math.ceil(1 / self.fraction)) if self.scaled else 1.0

    def positions(self, size: int, context: stage.Context) -> np.ndarray:
        """The shared positions, uint32 [k], ascending."""
        out = np.empty(self.kept(size), np.uint32)
        for piece, positions, _ in self._draw(size, context):
            out[piece] = positions
        return out

    def encode(self, values: np.ndarray, context: stage.Context) -> tuple[np.ndarray, np.ndarray]:
        """The drawn values, scaled, and where they are."""
        out = np.empty(self.kept(values.size), np.uint32)
        kept = np.empty(out.size, np.float32)
        for piece, positions, lengths in self._draw(values.size, context):
            out[piece] = positions
            kept[piece] = values[positions]
            if self.scaled:
                kept[piece] *= lengths
        return kept, out

    def _draw(self, size: int, context: stage.Context) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """In cache-sized pieces: which stretches, the position drawn from each, its length."""
        count = self.kept(size)
        generator = shared_randomness.raw_generator(context.shared_key(), shared_randomness.POSITIONS)
        for start in range(0, count, _CHUNK):
            stop = min(start + _CHUNK, count)
            edges = np.arange(start, stop + 1, dtype=np.uint64) * np.uint64(size) // np.uint64(count)
            lengths = np.diff(edges)
            uniform = generator.random_raw(stop - start) >> np.uint64(32)
            offsets = uniform * lengths >> np.uint64(32)  # uniform below the length, up to 2**-32 of it
            yield slice(start, stop), edges[:-1] + offsets, lengths.astype(np.float32)

    def __str__(self) -> str:
        return f"{self.name}:{stage.number_text(self.fraction)}{'' if self.scaled else ':unscaled'}"


def count_of(fraction: float, size: int) -> int:
    """How many of `size` values a fraction is, rounded up, so that a tensor that is not empty never becomes empty.

    >>> count_of(0.01, 1000), count_of(0.01, 1001), count_of(0.01, 0)
    (10, 11, 0)
    """
    return min(size, math.ceil(round(fraction * size, 9)))


register(Form("threshold:t", lambda bound, plain: Threshold(bound), real("threshold", "bound", low=0, low_open=True)))
register(Form("topk:fraction", lambda share, plain: TopK(share), fraction("topk")))
register(Form("randk:fraction[:unscaled]", RandomK, fraction("randk"), "unscaled"))
