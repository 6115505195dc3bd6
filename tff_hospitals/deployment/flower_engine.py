"""The engine of Flower: its SuperLink and nodes without apps carry the same signed messages.

Flower needs packages that do not go with TensorFlow's, so that both ends run in an environment of its own (see
`flower_environment`) and are spoken to over pipes. Flower is trusted with nothing: it hands bytes on. It does not wait
for answers but asks for them, many times a second, which is what a round takes longer than over gRPC.

A hospital's node replies to what it was sent and cannot begin; what a worker says without having been asked goes along
with its next reply. The server greets every node that comes, and so hears its first words.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import queue
import subprocess
import tempfile
import threading
import time
from typing import IO

from tff_hospitals.deployment import flower_frames as frames
from tff_hospitals.deployment import grpc_engine
from tff_hospitals.deployment.transport import Arrivals, DeploymentError, Line, LineClosed, Transport
from tff_hospitals.foundations.validation import Problem, raise_if

_START = (
    "import runpy, sys, types; package = types.ModuleType('tff_hospitals'); package.__path__ = [sys.argv.pop(1)]; "
    "sys.modules['tff_hospitals'] = package; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
"""Finds our two programs, and not the packages that lie beside this one."""
_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
_SETTINGS = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "PYTHONDONTWRITEBYTECODE": "1"}
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_WAITING = 8  # messages of one hospital that are held
_START_SECONDS, _END_SECONDS = 120.0, 15.0


class Program:
    """A program in Flower's environment, ended by closing its pipe.

    Args:
      python: of that environment.
      name: of the program's module.
      arguments: of it.
    """

    def __init__(self, python: pathlib.Path, name: str, arguments: list[str]):
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        command = [str(python), "-P", "-s", "-E", "-c", _START, str(_PACKAGE), f"tff_hospitals.deployment.{name}"]
        kept = {one: os.environ[one] for one in _KEPT if one in os.environ}
        self._process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**kept, **_SETTINGS},
        )
        self._lock = threading.Lock()

    @property
    def output(self) -> IO[bytes]:
        """What it says, frame by frame."""
        if self._process.stdout is None:
            raise RuntimeError("the program was started without its pipe")
        return self._process.stdout

    @property
    def ended(self) -> bool:
        """Whether it runs no more."""
        return self._process.poll() is not None

    def tell(self, kind: int, name: str = "", content: bytes = b"") -> bool:
        """Writes a frame; False when the program has ended."""
        try:
            with self._lock:
                if self._process.stdin is None:
                    return False
                frames.write(self._process.stdin, kind, name, content)  # type: ignore[arg-type]
        except (OSError, ValueError):
            return False
        return True

    def last_words(self) -> str:
        """The end of what it wrote for people."""
        self._said.seek(0)
        return self._said.read().decode(errors="replace")[-500:].strip()

    def close(self) -> None:
        """Ends it; calling it twice is no error."""
        with contextlib.suppress(OSError), self._lock:
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class FlowerServer(Transport):
    """The server's end: a SuperLink on one port.

    Args:
      python: of Flower's environment.
      folder: with key, certificate and authority; None: no TLS, on the loopback interface only.
      address: `host:port`; port 0 takes a free one.
      hospitals: who may attach.
      most_bytes: of a message.

    Attributes:
      address: where it listens.

    Raises:
      InvalidInput: expired certificate, port in use, no TLS beyond loopback.
      DeploymentError: Flower does not start.
    """

    engine = "flower"

    def __init__(
        self,
        python: pathlib.Path,
        folder: pathlib.Path | None,
        address: str,
        hospitals: tuple[str, ...],
        most_bytes: int,
    ):
        arguments = [f"--listen={address}", f"--hospitals={json.dumps(hospitals)}", f"--most_bytes={most_bytes}"]
        arguments += _tls(folder, address)
        self._present: tuple[str, ...] = ()
        self._arrived = Arrivals(_WAITING)
        self._program = Program(python, "flower_superlink", arguments)
        first = frames.read(self._program.output)  # type: ignore[arg-type]
        if first is None or first[0] != frames.LISTENING:
            said = self._program.last_words()
            self._program.close()
            if first is not None and first[1] == "listen":
                remedy = "free it, or give another --listen=host:port"
                raise_if([Problem("listen", address, f"cannot be listened on ({first[2].decode()})", remedy)])
            raise DeploymentError(
                f"Flower's SuperLink did not start: {said or 'it said nothing'}. Remedy: make its environment again "
                "(remove the folder), or take --engine=grpc."
            )
        self.address = first[1]
        threading.Thread(target=self._read, daemon=True, name="from the SuperLink").start()

    def _read(self) -> None:
        while True:
            frame = frames.read(self._program.output)  # type: ignore[arg-type]
            if frame is None:
                self._present = ()
                return
            kind, hospital, content = frame
            if kind == frames.PRESENT:
                self._present = tuple(json.loads(content))
            elif kind == frames.MESSAGE:
                self.dropped += not self._arrived.put(hospital, content)
            elif kind == frames.DROPPED:
                self.dropped += 1

    def present(self) -> tuple[str, ...]:
        """Hospitals that are connected now."""
        return self._present

    def send(self, hospital: str, message: bytes) -> bool:
        """Hands a message over."""
        return hospital in self._present and self._program.tell(frames.MESSAGE, hospital, message)

    def collect(self, seconds: float) -> tuple[str, bytes] | None:
        """The next message."""
        return self._arrived.get(seconds)

    def close(self) -> None:
        """Ends all connections."""
        self._program.close()


class FlowerLine(Line):
    """A hospital's end.

    Args:
      python: of Flower's environment.
      folder: with key, certificate and authority; None: no TLS, to the loopback interface only.
      address: `host:port` of the server.
      hospital: its id.
      most_bytes: of a message.
      seconds: to reach the server.

    Raises:
      InvalidInput: expired certificate, no TLS beyond loopback.
      LineClosed: the server cannot be reached.
    """

    def __init__(
        self,
        python: pathlib.Path,
        folder: pathlib.Path | None,
        address: str,
        hospital: str,
        most_bytes: int,
        seconds: float,
    ):
        arguments = [f"--server={address}", f"--hospital={hospital}", f"--most_bytes={most_bytes}"]
        arguments += [f"--seconds={seconds}", *_tls(folder, address)]
        self._most_bytes = most_bytes
        self._program = Program(python, "flower_node", arguments)
        self._in: queue.Queue[bytes | None] = queue.Queue()
        self._out: list[bytes] = []
        self._asked = False
        self.cause = ""
        first = frames.read(self._program.output)  # type: ignore[arg-type]
        if first is None or first[0] != frames.LISTENING:
            cause = self._program.last_words() if first is None else first[2].decode(errors="replace")
            self._program.close()
            raise LineClosed(
                f"the server at {address} could not be reached within {seconds:g} s, or does not take this hospital's "
                f"certificate ({cause[-200:]}). Remedy: check address, network and certificates."
            )
        threading.Thread(target=self._read, daemon=True, name="from the node").start()

    def _read(self) -> None:
        while True:
            frame = frames.read(self._program.output)  # type: ignore[arg-type]
            if frame is None or frame[0] == frames.GONE:
                self.cause = "" if frame is None else frame[2].decode(errors="replace")
                self._in.put(None)
                return
            self._in.put(frame[2])

    def send(self, message: bytes) -> None:
        """Hands a message over; it leaves with the reply to what came last."""
        if self._program.ended:
            raise self._closed()
        if len(message) <= self._most_bytes:
            self._out.append(message)

    def receive(self, seconds: float) -> bytes | None:
        """The next message."""
        end = time.monotonic() + seconds
        while True:
            self._reply()
            try:
                found = self._in.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return None
            if found is None:
                self._in.put(None)
                raise self._closed()
            self._asked = True
            if found:  # an empty one is the greeting: it only asks for what is to be said
                return found

    def _reply(self) -> None:
        """Who asks for the next message has said all about the last one."""
        if self._asked:
            self._program.tell(frames.MESSAGE, "", frames.join(self._out))
            self._out, self._asked = [], False

    def _closed(self) -> LineClosed:
        return LineClosed(f"the connection to the server is gone ({self.cause or 'it ended'}). Remedy: dial again.")

    def close(self) -> None:
        """Ends the connection."""
        self._reply()
        self._program.close()


def _tls(folder: pathlib.Path | None, address: str) -> list[str]:
    """How a program is told its certificates; those that are not valid now are refused."""
    if folder is None:
        grpc_engine.only_loopback(address.rpartition(":")[0])
        return []
    grpc_engine.credentials(folder)
    return [f"--tls={folder.absolute()}"]
