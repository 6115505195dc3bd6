"""How messages travel: the little that the two sides ask of an engine.

An engine carries bytes between a hospital and the server and says which hospital a connection belongs to. It is trusted
with nothing else: messages are signed, numbered and bounded by those who use it. It never waits without a limit, and it
drops a message that is larger than the bound that it was given.
"""

from __future__ import annotations

import abc

from tff_hospitals.foundations.validation import Failure
from tff_hospitals.training.results import TrainingError


class DeploymentError(TrainingError):
    """The federation cannot go on; the message names round, hospitals, cause and remedy."""


class LineClosed(Failure):
    """The connection is gone; a hospital dials again."""


class Transport(abc.ABC):
    """The server's end.

    Attributes:
      engine: its name in reports.
      dropped: how many messages were too large, or came when there was no room for them.
    """

    engine: str
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
