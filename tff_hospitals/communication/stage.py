"""What every stage of a chain is: a small frozen object that says what it does to the values and undoes it.

A chain runs over one flat float32 vector (all tensors of an update, one after the other). Stages come in five ranks, in
this order: delta, rotate, sparsify, quantise, entropy. Each states whether it keeps the mean (`bias`), whether it can
be combined with error feedback (`contraction`) and by how much it can stretch a vector (`norm_growth`).
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

DELTA, ROTATE, SPARSIFY, QUANTISE, ENTROPY = range(5)
RANK_NAMES = ("delta", "rotate", "sparsify", "quantise", "entropy")

UNBIASED = "unbiased"  # the expectation of what is decoded is what was encoded
NEARLY_UNBIASED = "nearly unbiased"  # exact for an ideal random rotation, a small error for the Hadamard one
BIASED = "biased"

GROUP = 1 << 14  # values that share scales: 64 KiB of float32, which stays in the processor's cache


@dataclasses.dataclass(frozen=True)
class Context:
    """What both ends know besides the payload.

    Args:
      lengths: values per tensor, in the order of the flat vector.
      key: uint64 [2] for the chain's shared random bits; None where the chain needs none.
    """

    lengths: tuple[int, ...]
    key: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Values in all tensors together."""
        return sum(self.lengths)

    def shared_key(self) -> np.ndarray:
        """The key, for a stage that cannot do without.

        Raises:
          ValueError: if there is none (a chain refuses this before any stage runs).
        """
        if self.key is None:
            raise ValueError("this stage draws random bits that both ends share: a key is needed")
        return self.key


class Symbols(NamedTuple):
    """Quantised values: unsigned integers below `alphabet`, and the float32 scales [groups, scales_per_group]."""

    values: np.ndarray
    alphabet: int
    scales: np.ndarray


class Stage(abc.ABC):
    """Base of all stages; subclasses are frozen dataclasses whose text form is `str(stage)`."""

    rank: ClassVar[int]
    name: ClassVar[str]

    @property
    def bias(self) -> str:
        """`UNBIASED`, `NEARLY_UNBIASED` or `BIASED`."""
        return UNBIASED

    @property
    def contraction(self) -> bool:
        """Whether the error is never longer than the input (in expectation over the stage's own randomness)."""
        return True

    @property
    def uses_key(self) -> bool:
        """Whether the stage draws shared random bits."""
        return False

    def norm_growth(self, group: int) -> float:
        """Upper bound of ||decoded|| / ||encoded|| (Euclidean) over all vectors, for groups of `group` values."""
        del group
        return 1.0

    def order_problems(self, chain: Mapping[int, Stage]) -> list[tuple[str, str]]:
        """What this stage needs around it, as (bound, remedy); `chain` holds the stages of a chain by rank."""
        del chain
        return []

    def __str__(self) -> str:
        return self.name


class Transform(Stage):
    """Changes the vector, keeps all its information."""

    @abc.abstractmethod
    def encode(self, values: np.ndarray, context: Context) -> np.ndarray:
        """A new vector, possibly longer."""

    @abc.abstractmethod
    def decode(self, values: np.ndarray, context: Context) -> np.ndarray:
        """The inverse; may work in place."""


class Sparsifier(Stage):
    """Keeps some values and drops the others."""

    positions_travel: ClassVar[bool] = True
    copies: ClassVar[bool] = True  # whether kept values are as they were

    @abc.abstractmethod
    def encode(self, values: np.ndarray, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """(kept values float32 [k], their positions uint32 [k], ascending)."""

    @abc.abstractmethod
    def kept(self, size: int) -> int | None:
        """How many of `size` values are kept; None if it depends on the values."""

    def positions(self, size: int, context: Context) -> np.ndarray:
        """The positions that both ends draw, uint32 [k], ascending; where positions do not travel.

        Raises:
          TypeError: for a stage whose positions travel.
        """
        raise TypeError(f"{self.name} draws no positions")


class Quantiser(Stage):
    """Turns float32 values into symbols of a small alphabet and a few scales per group."""

    rank = QUANTISE
    scales_per_group: ClassVar[int] = 1
    copies: ClassVar[bool] = False  # whether values of any size come through without a calculation

    @property
    def dithered(self) -> bool:
        """Whether it rounds at random, with a random number for every value."""
        return self.uses_key

    @property
    @abc.abstractmethod
    def alphabet(self) -> int:
        """How many symbols there are, at most 256 unless a power of two."""

    @abc.abstractmethod
    def encode(self, values: np.ndarray, groups: Sequence[tuple[int, int]], context: Context) -> Symbols:
        """Symbols of float32 `values`; `groups` are (start, stop) of the runs that share scales."""

    @abc.abstractmethod
    def decode(self, symbols: Symbols, groups: Sequence[tuple[int, int]]) -> np.ndarray:
        """Float32 values, from element-wise IEEE operations only: the same bits on every machine."""


@dataclasses.dataclass(frozen=True)
class Unquantised(Quantiser):
    """Float32 values as they are: what a chain without a quantiser sends."""

    name = "float32"
    scales_per_group = 0
    copies = True
    alphabet = 1 << 32

    def encode(self, values: np.ndarray, groups: Sequence[tuple[int, int]], context: Context) -> Symbols:
        """The bit patterns of the values."""
        return Symbols(values.view(np.uint32), self.alphabet, np.empty((len(groups), 0), np.float32))

    def decode(self, symbols: Symbols, groups: Sequence[tuple[int, int]]) -> np.ndarray:
        """The values of the bit patterns, as a view."""
        return symbols.values.view(np.float32)


def number_text(value: float) -> str:
    """The shortest text that reads back as `value`.

    >>> number_text(0.01), number_text(1.0)
    ('0.01', '1')
    """
    text = repr(float(value))
    return text[:-2] if text.endswith(".0") else text


def run_count(lengths: Sequence[int]) -> int:
    """How many `runs` there are, without making the list.

    >>> run_count([3, 0, GROUP + 1])
    3
    """
    return sum(-(-length // GROUP) for length in lengths)


def runs(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """(start, stop) of groups: every tensor, cut into runs of at most `GROUP` values.

    >>> runs([3, 0, GROUP + 1])
    [(0, 3), (3, 16387), (16387, 16388)]
    """
    groups, start = [], 0
    for length in lengths:
        stop = start + length
        groups += [(first, min(first + GROUP, stop)) for first in range(start, stop, GROUP)]
        start = stop
    return groups
