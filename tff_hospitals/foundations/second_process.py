"""A second process on a core that this one leaves idle: it is asked for results of functions, and gives them in order.

It is a matter of time alone: where it cannot start, or ends before it has answered, the one who asked does the work.

>>> with SecondProcess(cores=1) as second:  # with one core there is none
...     second.ask(sorted, [2, 1])
False
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, BinaryIO


class Lost(RuntimeError):
    """The second process ended before it had answered."""


class SecondProcess:
    """The process, from now to the end of the `with` block; nothing of it outlives this one.

    Args:
      cores: that this process may use; with one there is no second process. Default: as the system says.
    """

    def __init__(self, cores: int | None = None):
        self._process: subprocess.Popen[bytes] | None = None
        if (len(os.sched_getaffinity(0)) if cores is None else cores) < 2:
            return
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import main; main()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C is for us; the other side ends with its input
            )

    def __enter__(self) -> SecondProcess:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what was not sent before it ended
                    pipe and pipe.close()

    def ask(self, function: Callable[..., Any], *arguments: Any) -> bool:
        """Asks for the result of a function of a module; False where nobody answers."""
        return self._send((function, arguments, True))

    def tell(self, function: Callable[..., Any], *arguments: Any) -> bool:
        """Has a function called whose result nobody needs, such as one that loads what will be used."""
        return self._send((function, arguments, False))

    def _send(self, request: Any) -> bool:
        process = self._process
        if process is None or process.stdin is None:
            return False
        try:
            process.stdin.write(pickle.dumps(request))
            process.stdin.flush()
        except (OSError, ValueError):  # it ended; its pipe is closed
            return False
        return True

    def answer(self) -> Any:
        """The result of what was asked for first of all that is not answered yet.

        Raises:
          Lost: the process ended.
          Exception: what the function raised.
        """
        process = self._process
        if process is None or process.stdout is None:
            raise Lost("there is no second process")
        try:
            value, error = pickle.load(process.stdout)  # from our own child, over a pipe that nobody else has
        except (
            Exception
        ) as problem:  # what of an error cannot travel raises anything; what follows it is not to be read
            process.kill()
            raise Lost("the second process ended before it had answered") from problem
        if error is not None:
            raise error
        return value


def main() -> None:
    """The other side: answers until its input ends, and ends with it, whatever it does then."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    requests: queue.SimpleQueue[tuple[Callable[..., Any], tuple, bool]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    while True:
        function, arguments, answered = requests.get()
        value = error = None
        try:
            value = function(*arguments)
        except Exception as problem:
            error = problem
        if answered:
            answers.write(pickle.dumps((value, error)))
            answers.flush()


def _listen(stream: BinaryIO, requests: queue.SimpleQueue[Any]) -> None:
    while True:
        try:
            requests.put(pickle.load(stream))  # from our own parent
        except BaseException:  # the other side is gone, whatever of it was still on its way
            os._exit(0)
