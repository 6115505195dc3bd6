"""Uniform quantisation with 1 to 16 bits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from tff_hospitals.communication import shared_randomness, stage
from tff_hospitals.communication.forms import Form, register, whole

FLAT = 2.0**-120  # its reciprocal is still finite; chains scale vectors so that this is 2**-100 of the largest value
Grid = Callable[[float, float], "tuple[float, float]"]


def round_to_grid(
    values: np.ndarray, groups: Sequence[tuple[int, int]], top: int, grid: Grid, key: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Symbols 0 to `top` of values on evenly spaced levels, group by group.

    Args:
      values: float32 [n].
      groups: (start, stop) of runs that share a grid.
      top: the highest symbol.
      grid: maps (smallest, largest value of a group) to (value at the middle of the grid, step); a step below `FLAT`
        counts as zero, all symbols are 0 then.
      key: uint64 [2] for stochastic rounding, None for rounding to the nearest.

    Returns:
      uint8 [n] (uint16 if top > 255), and float32 [groups, 2] with (middle, step).
    """
    out = np.empty(values.size, np.uint8 if top <= 255 else np.uint16)
    scales = np.zeros((len(groups), 2), np.float32)
    generator = None if key is None else shared_randomness.private_generator(key, shared_randomness.DITHER)
    work = np.empty(stage.GROUP, np.float32)
    dither = np.full(stage.GROUP, 0.5, np.float32)
    # Above 31 float32 roundings could lift the highest value into the next symbol: the grid is made a little wider.
    widen = 1 + 2.0**-14 if generator is not None and top > 31 else 1.0
    for index, (start, stop) in enumerate(groups):
        group = values[start:stop]
        size = group.size
        middle, step = grid(float(group.min()), float(group.max()))
        step = step * widen if step >= FLAT else 0.0
        scales[index] = middle, step
        if generator is not None:  # for every group, so that no group's random bits depend on another's values
            np.copyto(dither[:size], generator.random_raw(-(-size // 4)).astype("<u8", copy=False).view("<u2")[:size])
            dither[:size] *= np.float32(2.0**-16)
        if step == 0:
            out[start:stop] = 0
            continue
        level = np.subtract(group, np.float32(middle), out=work[:size])
        level *= np.float32(1) / np.float32(step)
        level += np.float32(top / 2)
        level += dither[:size]
        np.copyto(out[start:stop], level, casting="unsafe")
    return out, scales


def from_grid(symbols: np.ndarray, groups: Sequence[tuple[int, int]], top: int, scales: np.ndarray) -> np.ndarray:
    """The inverse of `round_to_grid`: (symbol - top / 2) * step + middle, float32 [n]."""
    out = symbols.astype(np.float32)
    half = np.float32(top / 2)
    for (start, stop), (middle, step) in zip(groups, scales):
        group = out[start:stop]
        group -= half
        group *= step
        group += middle
    return out


@dataclasses.dataclass(frozen=True)
class Quantize(stage.Quantiser):
    """`quantize:bits`: evenly spaced levels between the smallest and the largest value of each group.

    Default: stochastic rounding, levels from minimum to maximum; unbiased, up to 2**-17 of a step (16 random bits each)
    and the rounding of float32 itself.

    `quantize:bits:nearest`: rounds to the nearest level; zero is a level, so that zeros stay zeros and no error is
    larger than its value: with 2 bits or more a contraction, fit for error feedback.

    Source: Alistarh, Grubic, Li, Tomioka, Vojnovic 2017, arXiv:1610.02132 (QSGD); Suresh et al. 2017, arXiv:1611.00429.

    >>> values = np.array([-1, 0, 0.4, 2], np.float32)
    >>> symbols = Quantize(2, stochastic=False).encode(values, [(0, 4)], stage.Context((4,)))
    >>> symbols.values.tolist(), Quantize(2, stochastic=False).decode(symbols, [(0, 4)]).tolist()
    ([0, 1, 1, 3], [-1.0, 0.0, 0.0, 2.0])
    """

    bits: int
    stochastic: bool = True

    name = "quantize"
    scales_per_group = 2

    @property
    def alphabet(self) -> int:
        """2**bits."""
        return 1 << self.bits

    @property
    def bias(self) -> str:
        """Unbiased when stochastic."""
        return stage.UNBIASED if self.stochastic else stage.BIASED

    @property
    def contraction(self) -> bool:
        """Only with zero among the levels, which takes 2 bits."""
        return not self.stochastic and self.bits >= 2

    @property
    def uses_key(self) -> bool:
        """For the random rounding."""
        return self.stochastic

    def norm_growth(self, group: int) -> float:
        """1 + error norm / norm; an error is below a step (half of one if nearest), a step is range / (2**bits - 1)."""
        steps = math.sqrt(2 * group) / (self.alphabet - 1) * (1 + 2.0**-13)
        if self.stochastic:
            return 1 + steps
        return 1 + (min(1.0, steps) if self.contraction else steps / 2)

    def encode(self, values: np.ndarray, groups: Sequence[tuple[int, int]], context: stage.Context) -> stage.Symbols:
        """Symbols 0 to 2**bits - 1 (uint8, uint16 above 8 bits); scales are (middle of the grid, step)."""
        key = context.shared_key() if self.stochastic else None
        symbols, scales = round_to_grid(values, groups, self.alphabet - 1, self._grid, key)
        return stage.Symbols(symbols, self.alphabet, scales)

    def _grid(self, low: float, high: float) -> tuple[float, float]:
        top = self.alphabet - 1
        # In float32 the middle may lie off the true one by more than a step (values 1000 +- 1e-4): cover the wider half
        middle = float(np.float32(low / 2 + high / 2))
        step = 2 * max(high - middle, middle - low) / top
        if self.contraction and low < high:
            below = 0 if low >= 0 else top if high <= 0 else min(max(round(-low / (high - low) * top), 1), top - 1)
            step = max(-low / below if low < 0 else 0.0, high / (top - below) if high > 0 else 0.0)
            # In the decoder's own float32 operations, so that the symbol `below` decodes to zero exactly.
            zero = -(np.float32(below - top / 2) * np.float32(step))
            middle = float(zero) if step >= FLAT else middle
        return middle, step

    def decode(self, symbols: stage.Symbols, groups: Sequence[tuple[int, int]]) -> np.ndarray:
        """The levels of the symbols."""
        return from_grid(symbols.values, groups, self.alphabet - 1, symbols.scales)

    def __str__(self) -> str:
        return f"{self.name}:{self.bits}{'' if self.stochastic else ':nearest'}"


register(Form("quantize:bits[:nearest]", Quantize, whole("quantize", 1, 16), "nearest"))
