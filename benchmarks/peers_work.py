"""The work that `peers.py` gives to every library: records, first weights, the loss that shows that it was done, turns.

Only numpy is needed here: the environments of the others lack this package. The records are drawn as
`tff_hospitals.hospitals.synthetic` draws them (standard normal features, the label is the class whose random linear
score, with noise of the same deviation, is highest), from other streams.
"""

from __future__ import annotations

import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import paired

FEATURES, HIDDEN, CLASSES = 784, 200, 10
RECORDS, BATCH, RATE = 200, 20, 0.1
SEED = 20
WARM_ROUNDS = 5  # before the first measurement; the loss is taken after them
Arrays = Sequence[Any]


def site_records(site: int) -> tuple[np.ndarray, np.ndarray]:
    """Training records of a site.

    Args:
      site: its number, 0 or more; a site's records do not depend on how many sites there are.

    Returns:
      Features of shape (200, 784), float32, and labels of shape (200,), int32.
    """
    rule = np.random.default_rng([SEED, 0]).standard_normal((FEATURES, CLASSES)) / np.sqrt(FEATURES)
    generator = np.random.default_rng([SEED, 1, site])
    features = generator.standard_normal((RECORDS, FEATURES), np.float32)
    scores = features @ rule + generator.standard_normal((RECORDS, CLASSES))
    return features, np.argmax(scores, axis=1).astype(np.int32)


def first_weights() -> list[np.ndarray]:
    """Kernel (784, 200), bias (200,), kernel (200, 10), bias (10,): Glorot's uniform kernels, zero biases."""
    generator = np.random.default_rng([SEED, 2])
    weights = []
    for rows, columns in ((FEATURES, HIDDEN), (HIDDEN, CLASSES)):
        bound = np.sqrt(6 / (rows + columns))
        weights.append(generator.uniform(-bound, bound, (rows, columns)).astype(np.float32))
        weights.append(np.zeros(columns, np.float32))
    return weights


def training_loss(weights: Arrays, sites: int) -> float:
    """Mean cross-entropy over the training records of all sites."""
    first, first_bias, second, second_bias = (np.asarray(one, np.float32) for one in weights)
    total = 0.0
    for site in range(sites):
        features, labels = site_records(site)
        logits = (np.maximum(features @ first + first_bias, 0) @ second + second_bias).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        log_sums = np.log(np.exp(logits).sum(axis=1))
        total += float(np.mean(log_sums - logits[np.arange(len(labels)), labels]))
    return total / sites


class Turns:
    """A row's conversation with `peers.py`: says when the first round is done, then the loss, then rounds on demand.

    Some libraries call back after every round instead of being called for one; so the row only tells it that a round
    has ended, and goes on if the answer is yes.
    """

    def __init__(self, sites: int):
        self._sites, self._rounds, self._started = sites, 0, 0.0

    def round_done(self, weights: Callable[[], Arrays]) -> bool:
        """Whether to run another round.

        Args:
          weights: gives the model's four arrays; called once, after the fifth round.
        """
        seconds = time.perf_counter() - self._started
        self._rounds += 1
        if self._rounds == 1:
            paired.say("first round")
        if self._rounds < WARM_ROUNDS:
            return True
        paired.say(repr(training_loss(weights(), self._sites) if self._rounds == WARM_ROUNDS else seconds))
        wanted = bool(sys.stdin.readline())
        self._started = time.perf_counter()
        return wanted


def repeat(sites: int, one_round: Callable[[], None], weights: Callable[[], Arrays]) -> None:
    """Rounds of a library that is called for each of them, until no more are wanted."""
    turns = Turns(sites)
    one_round()
    while turns.round_done(weights):
        one_round()
