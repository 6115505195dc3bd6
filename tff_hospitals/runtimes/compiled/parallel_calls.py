"""Calls that run side by side in threads and give their results one after the other."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Iterable, Iterator
from typing import Callable, TypeVar

T = TypeVar("T")


def ordered(pool: concurrent.futures.Executor, calls: Iterable[Callable[[], T]], in_flight: int) -> Iterator[T]:
    """The results of the calls in the order of the calls, whatever the order in which they arrive.

    What is added up from them has the same bits on any number of threads. Only a few calls are taken from `calls`
    beyond those whose result was given, so that memory is bounded by them and not by how many there are.

    Args:
      pool: runs the calls.
      calls: taken in the caller's thread, so that whatever makes them need not care for threads.
      in_flight: how many calls may wait or run beside the one that is waited for.

    Raises:
      Exception: that of a call, where its result would have been; calls that have begun run to their end.

    >>> with concurrent.futures.ThreadPoolExecutor(2) as pool:
    ...     list(ordered(pool, (lambda n=n: n * n for n in range(5)), in_flight=2))
    [0, 1, 4, 9, 16]
    """
    waiting: collections.deque[concurrent.futures.Future[T]] = collections.deque()
    try:
        for call in calls:
            waiting.append(pool.submit(call))
            if len(waiting) > in_flight:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
