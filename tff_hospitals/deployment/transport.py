"""How messages travel: the little that the two sides ask of an engine.

An engine carries bytes between a hospital and the server and says which hospital a connection belongs to. It is trusted
with nothing else: messages are signed, numbered and bounded by those who use it. It never waits without a limit, and it
drops a message that is larger than the bound that it was given.
"""

from __future__ import annotations

import abc
import collections
import queue
import threading

from tff_hospitals.foundations.validation import Failure
from tff_hospitals.training.results import TrainingError


class DeploymentError(TrainingError):
    """The federation cannot go on; the message names round, hospitals, cause and remedy."""


class LineClosed(Failure):
    """The connection is gone; a hospital dials again."""


class Arrivals:
    """Messages that came and wait for the server, so many of each hospital: who floods keeps nobody else's out.

    >>> arrivals = Arrivals(each=2)
    >>> [arrivals.put(name, b"?") for name in ("north", "north", "north", "south")]
    [True, True, False, True]
    >>> arrivals.get(0.0), arrivals.put("north", b"!")
    (('north', b'?'), True)

    Args:
      each: messages of one hospital that are held.
    """

    def __init__(self, each: int):
        self._each, self._held = each, collections.Counter[str]()
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()

    def put(self, hospital: str, message: bytes) -> bool:
        """Takes a message in; False when there is no room for more of that hospital."""
        with self._lock:
            if self._held[hospital] >= self._each:
                return False
            self._held[hospital] += 1
        self._queue.put((hospital, message))
        return True

    def get(self, seconds: float) -> tuple[str, bytes] | None:
        """The first one; None when none came within that time."""
        try:
            arrived = self._queue.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        with self._lock:
            self._held[arrived[0]] -= 1
        return arrived


class Transport(abc.ABC):
    """The server's end.

    Attributes:
      engine: its name in reports.
      address: where it listens, if anywhere.
      dropped: how many messages were too large, or came when there was no room for them.
    """

    engine: str
    address: str
    dropped: int = 0

    @abc.abstractmethod
    def present(self) -> tuple[str, ...]:
        """Hospitals that are connected now."""

    @abc.abstractmethod
    def send(self, hospital: str, message: bytes) -> bool:
        """Hands a message over without waiting; False when the hospital is not connected."""

    @abc.abstractmethod
    def collect(self, seconds: float) -> tuple[str, bytes] | None:
        """The next message and the hospital on whose connection it came; None when none came within that time."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends all connections; calling it twice is no error."""


class Line(abc.ABC):
    """A hospital's end: it dials out, no port is open there."""

    @abc.abstractmethod
    def send(self, message: bytes) -> None:
        """Hands a message over.

        Raises:
          LineClosed: the connection is gone.
        """

    @abc.abstractmethod
    def receive(self, seconds: float) -> bytes | None:
        """The next message; None when none came within that time.

        Raises:
          LineClosed: the connection is gone.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the connection; calling it twice is no error."""
