"""TFF's worker as a child that cannot outlive us, holds none of our streams and is hidden from the network.

The worker (`worker_binary` in TFF's package) executes *any* TensorFlow operation that reaches its port, reading and
writing files included, asks for no password and listens on all interfaces; it has no option for another address. Here
it runs behind `worker_keeper`: in a network namespace of its own where the system allows one (`Worker.isolated`), and
reached through a Unix socket in a folder that only this user may enter. Where the system refuses (some containers),
the worker's port is open to the network as in TFF itself: `isolated` is False, the doctor says so, and a firewall is
the user's to set.

>>> import sys
>>> Worker(binary=sys.executable)  # no worker: it knows no option --port
Traceback (most recent call last):
...
tff_hospitals.runtimes.native.worker.WorkerError: the TFF worker did not start: ...
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any

from tff_hospitals.foundations.validation import Failure

_KEEPER = pathlib.Path(__file__).with_name("worker_keeper.py")
_STOP_SECONDS = 10.0
_SOCKET_PATH_LIMIT = 100  # the system's bound is 108 bytes


class WorkerError(Failure):
    """TFF's worker did not start, ended, or was closed; the message says which and what to do."""


def default_binary() -> pathlib.Path:
    """Where TFF's worker lies, found without importing TFF (which takes ten seconds).

    Raises:
      WorkerError: when TFF is not installed or has no worker.
    """
    spec = importlib.util.find_spec("tensorflow_federated")
    if spec is None or spec.origin is None:
        raise WorkerError(
            "tensorflow_federated is not installed. Remedy: use ./run, or "
            "pip install --no-deps tensorflow-federated==0.87.0 tensorflow-privacy==0.9.0 google-vizier==0.1.11"
        )
    path = pathlib.Path(spec.origin).parent / "data" / "worker_binary"
    if not path.is_file():
        raise WorkerError(f"{path} is missing. Remedy: install tensorflow-federated again.")
    return path


class Worker:
    """One running worker. Use it in a `with` block, or call `close`.

    Args:
      binary: the program; None for TFF's own.
      arguments: its arguments after --port.
      environment: variables set for it over those of this process.
      isolate: whether to ask for a network namespace. A worker in one cannot read data over the network.
      ready_seconds: how long it may take until its port is open.

    Attributes:
      address: where gRPC finds it, "unix:/...".
      pid: the worker's process id.
      isolated: whether it is unreachable from the network.

    Raises:
      WorkerError: when it does not start in time.
    """

    def __init__(
        self,
        binary: os.PathLike[str] | str | None = None,
        *,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        isolate: bool = True,
        ready_seconds: float = 60.0,
    ):
        self._binary = os.fspath(binary if binary is not None else default_binary())
        self._arguments = list(arguments)
        self._environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")}
        self._environment.update(environment or {})
        self._ready_seconds = ready_seconds
        self._ending_words: str | None = None
        self.isolated = isolate
        answer = self._start()
        if answer.get("refused_isolation"):
            self.close()
            self.isolated = False
            answer = self._start()
        if "worker_pid" not in answer:
            said = self._log_tail()
            self.close()
            raise WorkerError(
                f"the TFF worker did not start: {answer.get('failed', 'its keeper ended')}."
                + (f" It said: {said}." if said else "")
                + " Remedy: run tff-hospitals doctor"
            )
        self.pid: int = answer["worker_pid"]

    def _start(self) -> dict[str, Any]:
        """Starts a keeper and returns its first message."""
        self._folder = _private_folder()
        folder_finalizer = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        socket_path = self._folder / "worker"
        self.address = f"unix:{socket_path}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(os.fspath(socket_path))
            listener.listen(16)
            self._keeper = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", os.fspath(_KEEPER)),
                    *("--parent", str(os.getpid()), "--listener", str(listener.fileno())),
                    *("--folder", os.fspath(self._folder), "--log", os.fspath(self._folder / "log")),
                    *("--isolate", str(int(self.isolated)), "--ready_seconds", str(self._ready_seconds)),
                    *(self._binary, *self._arguments),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self._environment,
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C is for us; the keeper notices when we end
            )
        folder_finalizer.detach()  # from here on the keeper's end and the folder's go together
        self._finalizer = weakref.finalize(self, _stop, self._keeper, self._folder, os.getpid())
        return self._message(self._ready_seconds + 10) or {}

    def _message(self, seconds: float) -> dict[str, Any] | None:
        """The keeper's next message, or None when there is none in time."""
        stream: IO[bytes] | None = self._keeper.stdout
        if stream is None or stream.closed:
            return None
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        line = stream.readline() if poll.poll(1000 * seconds) else b""
        return json.loads(line) if line else None

    def _log_tail(self) -> str:
        try:
            return (self._folder / "log").read_text(errors="replace").strip()[-500:]
        except OSError:
            return ""

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return not self._finalizer.alive

    def ending(self, patience_seconds: float = 1.0) -> str | None:
        """Why the worker is no longer there, in words with a remedy; None while it runs.

        Args:
          patience_seconds: how long to wait for the news: a broken connection is seen before its cause.
        """
        if self.closed:
            return "the TFF worker was closed. Remedy: make another context"
        end = time.monotonic() + patience_seconds
        while self._keeper.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        if self._keeper.poll() is None:
            return None
        if self._ending_words is None:
            self._ending_words = self._describe((self._message(0) or {}).get("ended"))
        return self._ending_words

    def _describe(self, code: int | None) -> str:
        """The worker's end in words, from its exit code (None: its keeper had no time to tell)."""
        if code == -signal.SIGKILL:
            why = "was killed (SIGKILL): most likely the machine ran out of memory. Remedy: lower max_concurrent"
        elif code is not None and code < 0:
            why = f"was ended by signal {signal.Signals(-code).name}. Remedy: run tff-hospitals doctor"
        else:
            words = "together with its keeper" if code is None else f"with code {code}"
            why = f"ended {words}. Remedy: run tff-hospitals doctor"
        said = self._log_tail()
        return f"the TFF worker {why}" + (f"; it said: {said}" if said else "")

    def close(self) -> None:
        """Ends the worker and waits until it is gone; more than once does no harm."""
        self._finalizer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _private_folder() -> pathlib.Path:
    """A new folder that only this user may enter, with a name short enough for a Unix socket in it."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tff_hospitals-"))
    if len(os.fsencode(folder / "worker")) > _SOCKET_PATH_LIMIT:
        folder.rmdir()
        folder = pathlib.Path(tempfile.mkdtemp(prefix="tff_hospitals-", dir="/tmp"))
    return folder


def _stop(keeper: subprocess.Popen[bytes], folder: pathlib.Path, owner: int) -> None:
    """Closes the keeper's standard input, which it takes as the order to end, and waits for it."""
    if os.getpid() != owner:  # a forked copy of us must not end the worker of the original
        return
    if keeper.stdin is not None:
        keeper.stdin.close()
    try:
        keeper.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()
    if keeper.stdout is not None:
        keeper.stdout.close()
    shutil.rmtree(folder, ignore_errors=True)
