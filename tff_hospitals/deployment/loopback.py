"""An engine within one process, for tests and for trying a plan: the same messages, no network.

>>> hub = Hub(most_bytes=100)
>>> line = hub.dial("north")
>>> hub.send("north", b"question"), line.receive(1.0)
(True, b'question')
>>> line.send(b"answer"), hub.collect(1.0)
(None, ('north', b'answer'))
"""

from __future__ import annotations

import queue

from tff_hospitals.deployment.transport import Arrivals, Line, LineClosed, Transport

_WAITING = 64  # messages of one hospital that are held


class Hub(Transport):
    """The server's end.

    Args:
      most_bytes: of a message.
    """

    engine = "loopback"

    def __init__(self, most_bytes: int):
        self.most_bytes = most_bytes
        self._lines: dict[str, HubLine] = {}
        self._arrived = Arrivals(_WAITING)

    def dial(self, hospital: str) -> HubLine:
        """A hospital's end of a new connection; an older one of the same hospital is closed."""
        if hospital in self._lines:
            self._lines[hospital].close()
        line = self._lines[hospital] = HubLine(self, hospital)
        return line

    def present(self) -> tuple[str, ...]:
        """Hospitals that are connected now."""
        return tuple(name for name, line in self._lines.items() if line.open)

    def send(self, hospital: str, message: bytes) -> bool:
        """Hands a message over."""
        line = self._lines.get(hospital)
        if line is None or not line.open:
            return False
        line.inbox.put(message)
        return True

    def collect(self, seconds: float) -> tuple[str, bytes] | None:
        """The next message."""
        return self._arrived.get(seconds)

    def arrive(self, hospital: str, message: bytes) -> None:
        """Takes a message in, unless it is too large or nobody has come for those before it."""
        if len(message) > self.most_bytes or not self._arrived.put(hospital, message):
            self.dropped += 1

    def close(self) -> None:
        """Ends all connections."""
        for line in self._lines.values():
            line.close()


class HubLine(Line):
    """A hospital's end."""

    def __init__(self, hub: Hub, hospital: str):
        self._hub, self._hospital, self.open = hub, hospital, True
        self.inbox: queue.Queue[bytes] = queue.Queue()

    def send(self, message: bytes) -> None:
        """Hands a message over."""
        if not self.open:
            raise LineClosed("the connection to the server is closed. Remedy: dial again.")
        self._hub.arrive(self._hospital, message)

    def receive(self, seconds: float) -> bytes | None:
        """The next message."""
        if not self.open:
            raise LineClosed("the connection to the server is closed. Remedy: dial again.")
        try:
            return self.inbox.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None

    def close(self) -> None:
        """Ends the connection."""
        self.open = False
