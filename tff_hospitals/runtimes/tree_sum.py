"""Adding contributions up as a tree, always in one order: the sum has the same bits wherever its parts were made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Leaves = list[np.ndarray]


def tree_sum(items: Sequence[T], add: Callable[[T, T], T]) -> T:
    """Neighbours are added, then the sums of neighbours, until one is left.

    >>> tree_sum("abcde", lambda one, other: f"({one}{other})")
    '(((ab)(cd))e)'

    Raises:
      ValueError: nothing to add.
    """
    level = list(items)
    if not level:
        raise ValueError("a sum of nothing has no shape: give at least one item")
    while len(level) > 1:
        pairs = [add(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        level = [*pairs, level[-1]] if len(level) % 2 else pairs
    return level[0]


def add_leaves(one: Leaves, other: Leaves) -> Leaves:
    """Element by element; whole numbers wrap around as they do under a secure sum."""
    return [mine + theirs for mine, theirs in zip(one, other)]
