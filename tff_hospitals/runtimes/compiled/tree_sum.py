"""Adding contributions up as a tree, always in one order: the sum has the same bits wherever its parts were made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

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
    total = TreeSum(add)
    for item in items:
        total.append(item)
    found = total.result()
    if found is None:
        raise ValueError("a sum of nothing has no shape: give at least one item")
    return found


class TreeSum(Generic[T]):
    """The same sum of items that come one after the other; holds the sums of a few whole branches, never the items.

    Args:
      add: of two items or sums.

    >>> total = TreeSum(lambda one, other: f"({one}{other})")
    >>> for letter in "abcdef":
    ...     total.append(letter)
    >>> total.result()
    '(((ab)(cd))(ef))'
    """

    def __init__(self, add: Callable[[T, T], T]):
        self._add = add
        self._branches: list[tuple[int, T]] = []  # height and sum, highest first; no two of the same height

    def append(self, item: T) -> None:
        """Adds the next item."""
        height = 0
        while self._branches and self._branches[-1][0] == height:
            item = self._add(self._branches.pop()[1], item)
            height += 1
        self._branches.append((height, item))

    def result(self) -> T | None:
        """The sum of all items so far; None without any."""
        if not self._branches:
            return None
        *higher, (_, total) = self._branches
        for _, branch in reversed(higher):
            total = self._add(branch, total)
        return total


def add_leaves(one: Leaves, other: Leaves) -> Leaves:
    """Element by element; whole numbers wrap around as they do under a secure sum."""
    return [mine + theirs for mine, theirs in zip(one, other)]
