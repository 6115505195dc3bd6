"""Few-bit quantisers of rotated values, DRIVE (one bit) and EDEN (1 to 4 bits), and the scaled sign without rotation.

After a random rotation the values of a block look Gaussian whatever the vector was, so one fixed codebook suits them
all and only one number per block, the scale, travels beside the symbols. That scale is chosen in one of two ways:

* unbiased: S = ||y||^2 / <y, c(y)>; errors of many hospitals average out. Normalised error pi/2 - 1 = .571 at one bit.
* biased:   S = <y, c(y)> / ||c(y)||^2; the least error of one vector. Normalised error 1 - 2/pi = .363 at one bit.

Source: Vargaftik, Ben Basat, Portnoy, Mendelson, Ben Itzhak, Mitzenmacher: DRIVE, 2021, arXiv:2105.08339; EDEN, 2022,
arXiv:2108.08842. Levels: Max 1960, "Quantizing for minimum distortion", table I.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tff_hospitals.communication import stage
from tff_hospitals.communication.forms import Form, register, whole

# Positive half of the levels of least error for the standard normal distribution; both ends hold the same four digits.
_LEVELS = {
    1: (0.7979,),
    2: (0.4528, 1.5104),
    3: (0.2451, 0.7560, 1.3439, 2.1520),
    4: (0.1284, 0.3881, 0.6568, 0.9423, 1.2562, 1.6181, 2.0690, 2.7326),
}
CELLS = 4096  # the encoder looks symbols up in this many cells over [-REACH, REACH]
REACH = 4.0


@dataclasses.dataclass(frozen=True)
class Eden(stage.Quantiser):
    """`eden:bits` and `eden:bits:biased`: the best fixed levels for Gaussian values, one scale per rotated block.

    Args:
      bits: 1 to 4.
      unbiased: which of the two scales. Unbiased is exact for an ideal random rotation and holds up to a small error
        for the Hadamard rotation.
    """

    bits: int
    unbiased: bool = True

    name = "eden"
    without_rotation = ""

    @property
    def alphabet(self) -> int:
        """2**bits."""
        return 1 << self.bits

    @property
    def bias(self) -> str:
        """By the choice of the scale."""
        return stage.NEARLY_UNBIASED if self.unbiased else stage.BIASED

    @property
    def contraction(self) -> bool:
        """The biased scale is a projection onto the codeword."""
        return not self.unbiased

    @property
    def needs_rotation(self) -> bool:
        """Levels are made for values that look Gaussian."""
        return True

    @property
    def dithered(self) -> bool:
        """The nearest level; what is random is the rotation before it."""
        return False

    def order_problems(self, chain: Mapping[int, stage.Stage]) -> list[tuple[str, str]]:
        """A rotation before it, and for an unbiased scale the whole rotated vector."""
        found = []
        if self.needs_rotation and stage.ROTATE not in chain:
            bound = f"{self} needs rotate before it: its levels and scale are made for rotated values"
            found.append((bound, f"write rotate,{self}{self.without_rotation}"))
        if self.unbiased and stage.SPARSIFY in chain:
            sparsifier = chain[stage.SPARSIFY]
            bound = f"{self} right after {sparsifier}: the scale is unbiased only for a whole rotated vector"
            found.append((bound, f"write {self}:biased or drop {sparsifier}"))
        return found

    def norm_growth(self, group: int) -> float:
        """Biased: 1, a projection. Unbiased: 1 / cos(angle from vector to codeword), bounded by the levels alone."""
        if not self.unbiased:
            return 1.0
        levels = _LEVELS[self.bits]
        # <y, c> >= c_min ||y||_1 >= c_min ||y|| and ||c|| <= c_max sqrt(group)
        return levels[-1] / levels[0] * group**0.5

    def levels(self) -> np.ndarray:
        """Float32 [2**bits], ascending."""
        half = np.array(_LEVELS[self.bits], np.float32)
        return np.concatenate([-half[::-1], half])

    def encode(self, values: np.ndarray, groups: Sequence[tuple[int, int]], context: stage.Context) -> stage.Symbols:
        """Index of the nearest level (uint8); one scale per group, 0 for a group of zeros."""
        levels = self.levels()
        cell_middles = (np.arange(CELLS) + 0.5) * (2 * REACH / CELLS) - REACH
        nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, cell_middles).astype(np.uint8)
        out = np.zeros(values.size, np.uint8)
        scales = np.zeros((len(groups), 1), np.float32)
        for index, (start, stop) in enumerate(groups):
            group = values[start:stop]
            energy = float(np.add.reduce(group * group, dtype=np.float64))  # the same in any order of summation
            if energy == 0:
                continue
            if self.bits == 1:
                symbols = (group >= 0).astype(np.uint8)
            else:
                cells = group * np.float32((group.size / energy) ** 0.5 * CELLS / (2 * REACH))
                cells += np.float32(CELLS / 2)
                np.clip(cells, 0, CELLS - 1, out=cells)
                symbols = nearest.take(cells.astype(np.int32))
            code = levels.take(symbols)
            product = float(np.add.reduce(group * code, dtype=np.float64))
            if self.unbiased:
                scales[index] = energy / product
            else:
                scales[index] = product / float(np.add.reduce(code * code, dtype=np.float64))
            out[start:stop] = symbols
        return stage.Symbols(out, self.alphabet, scales)

    def decode(self, symbols: stage.Symbols, groups: Sequence[tuple[int, int]]) -> np.ndarray:
        """Level times scale."""
        levels = self.levels()
        out = np.empty(symbols.values.size, np.float32)
        for (start, stop), (scale,) in zip(groups, symbols.scales):
            (levels * scale).take(symbols.values[start:stop], out=out[start:stop], mode="clip")
        return out

    def __str__(self) -> str:
        return f"{self.name}:{self.bits}{'' if self.unbiased else ':biased'}"


@dataclasses.dataclass(frozen=True)
class OneBit(Eden):
    """`onebit` (DRIVE) and `onebit:biased`: the sign of every value and one scale per group.

    Without rotation only `onebit:biased` is sound: it then is the scaled sign, ||x||_1 / n * sign(x), of error-feedback
    SGD (Karimireddy, Rebjock, Stich, Jaggi 2019, arXiv:1901.09847).

    >>> values = np.array([1, -3], np.float32)
    >>> biased = OneBit(unbiased=False)
    >>> biased.decode(biased.encode(values, [(0, 2)], stage.Context((2,))), [(0, 2)]).tolist()
    [2.0, -2.0]
    """

    bits: int = dataclasses.field(default=1, init=False)

    name = "onebit"
    without_rotation = " or onebit:biased"

    @property
    def needs_rotation(self) -> bool:
        """The biased scale suits any values."""
        return self.unbiased

    def levels(self) -> np.ndarray:
        """Plain signs."""
        return np.array([-1, 1], np.float32)

    def decode(self, symbols: stage.Symbols, groups: Sequence[tuple[int, int]]) -> np.ndarray:
        """Plus or minus the scale (as arithmetic, which is faster than looking up two levels)."""
        out = symbols.values.astype(np.float32)
        for (start, stop), (scale,) in zip(groups, symbols.scales):
            out[start:stop] *= 2 * scale
            out[start:stop] -= scale
        return out

    def __str__(self) -> str:
        return f"{self.name}{'' if self.unbiased else ':biased'}"


register(Form("onebit[:biased]", lambda plain: OneBit(unbiased=plain), None, "biased"))
register(Form("eden:bits[:biased]", Eden, whole("eden", 1, 4), "biased"))
