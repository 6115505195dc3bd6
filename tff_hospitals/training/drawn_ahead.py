"""The batches of the next rounds are drawn while this one is trained: they do not depend on weights."""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Callable

from tff_hospitals.training.round_inputs import RoundInput


class DrawnAhead:
    """Inputs of rounds, drawn one call ahead on a core that the compiled program leaves idle.

    Args:
      draw: a round's input, by its number alone.
      cores: that this process may use; with one, nothing is drawn ahead. Default: as the system says.

    >>> ahead = DrawnAhead(lambda number: number * number, cores=2)
    >>> ahead.rounds(0, 2, last=5), ahead.rounds(2, 4, last=5)
    ([0, 1], [4, 9])
    >>> ahead.rounds(8, 9, last=9)  # another round than was expected
    [64]
    """

    def __init__(self, draw: Callable[[int], RoundInput], cores: int | None = None):
        self._draw = draw
        self._ahead = (len(os.sched_getaffinity(0)) if cores is None else cores) > 1
        self._waiting: dict[int, concurrent.futures.Future[RoundInput]] = {}

    def rounds(self, start: int, end: int, last: int) -> list[RoundInput]:
        """Rounds `start` to `end` - 1; as many after them, before `last`, are begun."""
        waiting = self._waiting
        found = [
            waiting.pop(number).result() if number in waiting else self._draw(number) for number in range(start, end)
        ]
        self.stop()
        if self._ahead:
            for number in range(end, min(last, end + end - start)):
                self._waiting[number] = _pool(os.getpid()).submit(self._draw, number)
        return found

    def stop(self) -> None:
        """What was begun and not taken is no longer wanted."""
        for unused in self._waiting.values():
            unused.cancel()
        self._waiting = {}


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> concurrent.futures.Executor:
    """One thread for all runs of a process: more of them would wait for each other."""
    return concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="drawn_ahead")
