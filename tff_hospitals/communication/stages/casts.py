"""Casts to 16-bit floats: half the bytes, no choice to make."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from tff_hospitals.communication import stage
from tff_hospitals.communication.forms import Form, register


@dataclasses.dataclass(frozen=True)
class Float16(stage.Quantiser):
    """`float16`: IEEE half precision after scaling each group by a power of two, so that its largest value just fits.

    Relative error at most 2**-11 down to 2**-29 of the group's largest value (a plain cast loses gradients below 6e-5).
    """

    name = "float16"
    alphabet = 1 << 16

    @property
    def bias(self) -> str:
        """Rounds to the nearest."""
        return stage.BIASED

    def norm_growth(self, group: int) -> float:
        """One rounding."""
        return 1 + 2.0**-10

    def encode(self, values: np.ndarray, groups: Sequence[tuple[int, int]], context: stage.Context) -> stage.Symbols:
        """The bit patterns of the scaled values (uint16)."""
        out = np.empty(values.size, np.float16)
        scales = np.ones((len(groups), 1), np.float32)
        for index, (start, stop) in enumerate(groups):
            group = values[start:stop]
            largest = float(max(group.max(), -group.min()))
            if largest >= 2.0**-100:
                scales[index] = 2.0 ** (math.frexp(largest)[1] - 15)
            np.multiply(group, np.float32(1) / scales[index, 0], out=out[start:stop], casting="unsafe")
        return stage.Symbols(out.view(np.uint16), self.alphabet, scales)

    def decode(self, symbols: stage.Symbols, groups: Sequence[tuple[int, int]]) -> np.ndarray:
        """Half precision back to float32, times the power of two."""
        out = np.ascontiguousarray(symbols.values).view(np.float16).astype(np.float32)
        for (start, stop), (scale,) in zip(groups, symbols.scales):
            out[start:stop] *= scale
        return out


@dataclasses.dataclass(frozen=True)
class BFloat16(stage.Quantiser):
    """`bfloat16`: the upper half of a float32, rounded to the nearest even: relative error at most 2**-8, no scales.

    >>> symbols = BFloat16().encode(np.array([1.00390625], np.float32), [(0, 1)], stage.Context((1,)))
    >>> BFloat16().decode(symbols, [(0, 1)]).tolist()
    [1.0]
    """

    name = "bfloat16"
    copies = True
    scales_per_group = 0
    alphabet = 1 << 16

    @property
    def bias(self) -> str:
        """Rounds to the nearest."""
        return stage.BIASED

    def norm_growth(self, group: int) -> float:
        """One rounding."""
        return 1 + 2.0**-7

    def encode(self, values: np.ndarray, groups: Sequence[tuple[int, int]], context: stage.Context) -> stage.Symbols:
        """The upper sixteen bits, rounded; the largest finite value where rounding would give infinity."""
        out = np.empty(values.size, np.uint16)
        for start, stop in groups:
            bits = values[start:stop].view(np.uint32)
            upper = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
            upper -= ((upper & np.uint32(0x7FFF)) == 0x7F80).astype(np.uint32)
            out[start:stop] = upper
        return stage.Symbols(out, self.alphabet, np.empty((len(groups), 0), np.float32))

    def decode(self, symbols: stage.Symbols, groups: Sequence[tuple[int, int]]) -> np.ndarray:
        """Sixteen zero bits below."""
        out = symbols.values.astype(np.uint32)
        out <<= np.uint32(16)
        return out.view(np.float32)


register(Form("float16", lambda plain: Float16()))
register(Form("bfloat16", lambda plain: BFloat16()))
