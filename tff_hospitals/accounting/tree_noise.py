"""Noise of a binary tree over steps: prefix sums of any length carry the noise of few nodes (DP-FTRL).

Every completed node of the tree over steps 1, 2, ... gets one unit normal. The noise on the sum of the first t steps is
estimated from all completed nodes with the least variance that they allow (Honaker 2015, "Efficient use of
differentially private binary trees", estimation from below): a node of level l has variance 1 / (2 - 2**-l) instead of
1. What a step adds is the *residual*, the noise of its prefix minus that of the prefix before it, so that a plain
gradient step becomes a step of DP-FTRL.

Source: Kairouz, McMahan, Song, Thakkar, Thakurta and Xu 2021, "Practical and private (deep) learning without sampling
or shuffling", arXiv:2103.00039.

>>> prefix_variance(4)  # one node of level 2: 1 / (2 - 1/4)
0.5714285714285714
>>> residual_matrix(3).shape  # steps by nodes: leaves 1, 2, 3 and the node over 1 and 2
(3, 4)
"""

from __future__ import annotations

import functools

import numpy as np


def levels_of(steps: int) -> int:
    """Levels of the tree over so many steps."""
    return max(1, int(steps).bit_length())


def variance_of_level(level: int) -> float:
    """Variance of the best estimate of a completed node's noise from all nodes below it, its own variance being 1."""
    return 1.0 / (2.0 - 2.0**-level)


def own_weight(level: int) -> float:
    """Weight of a node's own noise in its estimate; its children's estimates together have the rest."""
    if level == 0:
        return 1.0
    below = 2.0 * variance_of_level(level - 1)
    return below / (1.0 + below)


def prefix_variance(steps: int) -> float:
    """Variance of the noise on the sum of the first `steps` steps, for unit noise on the nodes."""
    return sum(variance_of_level(level) for level in range(levels_of(steps)) if steps >> level & 1)


@functools.lru_cache(maxsize=64)
def prefix_matrix(steps: int) -> np.ndarray:
    """float32 [steps, nodes]: row t - 1 makes the noise of the first t steps out of unit normals of the nodes.

    Nodes are numbered in the order in which steps complete them, lower levels first.
    """
    nodes = sum(steps >> level for level in range(levels_of(steps)))
    rows = np.zeros((steps, nodes))
    open_nodes: dict[int, np.ndarray] = {}  # level -> weights of the estimate of the node that waits for its sibling
    count = 0
    for step in range(1, steps + 1):
        estimate = np.zeros(nodes)
        estimate[count] = 1.0
        count, level = count + 1, 0
        while level in open_nodes:
            estimate = estimate + open_nodes.pop(level)
            level += 1
            estimate *= 1.0 - own_weight(level)
            estimate[count] = own_weight(level)
            count += 1
        open_nodes[level] = estimate
        rows[step - 1] = sum(open_nodes.values())
    return rows.astype(np.float32)


@functools.lru_cache(maxsize=64)
def residual_matrix(steps: int) -> np.ndarray:
    """float32 [steps, nodes]: what each step adds; the sum of the first t rows is row t - 1 of `prefix_matrix`."""
    return np.diff(prefix_matrix(steps), axis=0, prepend=np.float32(0.0)).astype(np.float32)
