"""Ternary quantisation: every value becomes -s, 0 or +s."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tff_hospitals.communication import stage
from tff_hospitals.communication.forms import Form, register
from tff_hospitals.communication.stages import codebook, uniform


@dataclasses.dataclass(frozen=True)
class Ternary(stage.Quantiser):
    """`ternary`: -s, 0 or +s, where s is the largest magnitude of the group, at random and unbiased; 1.6 bits or less.

    `ternary:mean`, after a sparsifier: each kept value becomes plus or minus the mean kept magnitude, so that the whole
    vector is ternary, its zeros being what was dropped (sparse ternary compression); one bit per kept value.
    Source: Wen et al. 2017, arXiv:1705.07878 (TernGrad); Sattler, Wiedemann, Mueller, Samek 2019, arXiv:1903.02891.

    >>> values = np.array([2, -2, 0], np.float32)
    >>> symbols = Ternary().encode(values, [(0, 3)], stage.Context((3,), np.array([1, 2], np.uint64)))
    >>> Ternary().decode(symbols, [(0, 3)]).tolist()
    [2.0, -2.0, 0.0]
    """

    stochastic: bool = True

    name = "ternary"

    @property
    def alphabet(self) -> int:
        """Three symbols, or two where the zeros are not among the values."""
        return 3 if self.stochastic else 2

    @property
    def bias(self) -> str:
        """Unbiased when stochastic."""
        return stage.UNBIASED if self.stochastic else stage.BIASED

    @property
    def contraction(self) -> bool:
        """The mean magnitude is a projection; the random choice is not."""
        return not self.stochastic

    @property
    def uses_key(self) -> bool:
        """For the random choice."""
        return self.stochastic

    def order_problems(self, chain: Mapping[int, stage.Stage]) -> list[tuple[str, str]]:
        """The mean of all values' sizes says nothing: zeros are made by a sparsifier."""
        if self.stochastic or stage.SPARSIFY in chain:
            return []
        bound = "ternary:mean needs a sparsifier before it: what that drops are the zeros"
        return [(bound, "write topk:0.01,ternary:mean or ternary")]

    def norm_growth(self, group: int) -> float:
        """All values may become as large as the largest."""
        return group**0.5 if self.stochastic else 1.0

    def encode(self, values: np.ndarray, groups: Sequence[tuple[int, int]], context: stage.Context) -> stage.Symbols:
        """Symbols 0, 1, 2 for -s, 0, +s; or 0, 1 for minus and plus the mean."""
        if not self.stochastic:
            return codebook.OneBit(unbiased=False).encode(values, groups, context)
        symbols, scales = uniform.round_to_grid(values, groups, 2, _from_zero, context.shared_key())
        return stage.Symbols(symbols, 3, scales[:, 1:])

    def decode(self, symbols: stage.Symbols, groups: Sequence[tuple[int, int]]) -> np.ndarray:
        """Sign times scale."""
        if not self.stochastic:
            return codebook.OneBit(unbiased=False).decode(symbols, groups)
        middle_and_step = np.concatenate([np.zeros_like(symbols.scales), symbols.scales], axis=1)
        return uniform.from_grid(symbols.values, groups, 2, middle_and_step)

    def __str__(self) -> str:
        return f"{self.name}{'' if self.stochastic else ':mean'}"


def _from_zero(low: float, high: float) -> tuple[float, float]:
    """The grid -s, 0, +s."""
    return 0.0, max(-low, high)


register(Form("ternary[:mean]", Ternary, None, "mean"))
