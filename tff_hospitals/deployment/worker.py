"""The loop of a hospital's worker: dial, present itself, answer, and dial again when the line is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tff_hospitals.deployment.site import Site
from tff_hospitals.deployment.transport import Line, LineClosed

_LOOK_SECONDS = 0.5
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 10.0


def serve(
    site: Site,
    dial: Callable[[], Line],
    *,
    give_up_seconds: float = 3600.0,
    stop: threading.Event | None = None,
    paused: Callable[[], bool] = lambda: False,
) -> None:
    """Answers until the server says that it is over, or the hospital leaves.

    Args:
      site: what answers.
      dial: makes a new connection.
      give_up_seconds: without any connection, after which the worker ends.
      stop: set to leave.
      paused: while true, requests stay unanswered; they are answered afterwards if they still count.

    Raises:
      LineClosed: no connection for too long.
      RecordError: the journal cannot be written: nothing may leave any more.
    """
    stop = threading.Event() if stop is None else stop
    pause, alone_since = _FIRST_PAUSE_SECONDS, time.monotonic()
    while not (stop.is_set() or site.ended):
        line = None
        try:
            line = dial()
            line.send(site.hello())
            pause = _FIRST_PAUSE_SECONDS
            while not (stop.is_set() or site.ended):
                if paused():
                    stop.wait(_LOOK_SECONDS)
                    continue
                received = line.receive(_LOOK_SECONDS)
                alone_since = time.monotonic()
                answer = None if received is None else site.handle(received)
                if answer is not None:
                    line.send(answer)
        except LineClosed:
            if time.monotonic() - alone_since > give_up_seconds:
                raise
            stop.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        finally:
            if line is not None:
                line.close()
