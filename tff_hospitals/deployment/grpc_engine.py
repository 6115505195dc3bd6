"""The engine of gRPC: one stream per hospital, mutual TLS; identity is the name in the hospital's certificate.

Hospitals dial out. A connection without a certificate of the federation's authority reaches no line of Python here. A
second connection of a hospital takes the place of its first one: a line that died unseen must not keep it out.
"""

from __future__ import annotations

import contextlib
import pathlib
import queue
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

from tff_hospitals.deployment import certificates
from tff_hospitals.deployment.keys import read_private
from tff_hospitals.deployment.transport import Arrivals, Line, LineClosed, Transport
from tff_hospitals.foundations.validation import Failure, InvalidInput, Problem, raise_if

_SERVICE, _METHOD = "tff_hospitals.Federation", "Attach"
_FRAMING_BYTES = 4096
_WAITING = 8  # messages of one hospital that are held
_ALIVE_MILLISECONDS = 10_000
_LOOK_SECONDS = 0.5
_STRANGERS = 64  # connections beyond those of hospitals; more would use up the files that a process may have open
_HANDSHAKE_MILLISECONDS = 10_000  # after which a connection is cut that does not say who it is


def _options(most_bytes: int) -> list[tuple[str, int]]:
    most = min(most_bytes + _FRAMING_BYTES, 2**31 - 1)
    return [
        ("grpc.max_receive_message_length", most),
        ("grpc.max_send_message_length", 2**31 - 1),
        ("grpc.keepalive_time_ms", _ALIVE_MILLISECONDS),
        ("grpc.keepalive_timeout_ms", _ALIVE_MILLISECONDS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", _ALIVE_MILLISECONDS // 2),
        ("grpc.so_reuseport", 0),
    ]


def credentials(folder: pathlib.Path) -> tuple[bytes, bytes, bytes]:
    """Key, certificate and authority in a folder; certificates that are not valid now are refused."""
    found = [
        p for name in (certificates.CERTIFICATE, certificates.AUTHORITY) for p in certificates.problems(folder / name)
    ]
    raise_if(found)
    key = read_private(folder / certificates.KEY)
    return key, (folder / certificates.CERTIFICATE).read_bytes(), (folder / certificates.AUTHORITY).read_bytes()


def _of_server(folder: pathlib.Path) -> Any:
    key, certificate, authority = credentials(folder)
    return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)


def _renewed(folder: pathlib.Path) -> Any:
    """What new connections are shown; None, which keeps what was shown before, where the files are no good."""
    try:
        return _of_server(folder)
    except (Failure, InvalidInput, OSError):
        return None


class GrpcServer(Transport):
    """The server's end: a listener on one port.

    Args:
      folder: with key, certificate and authority; None: no TLS, on the loopback interface only.
      address: `host:port`; port 0 takes a free one.
      hospitals: who may attach.
      most_bytes: of a message.

    Attributes:
      address: where it listens.

    Raises:
      InvalidInput: expired certificate, port in use, no TLS beyond loopback.
    """

    engine = "grpc"

    def __init__(self, folder: pathlib.Path | None, address: str, hospitals: tuple[str, ...], most_bytes: int):
        self._hospitals = frozenset(hospitals)
        self._lock = threading.Lock()
        self._out: dict[str, queue.Queue[bytes | None]] = {}
        self._streams: dict[str, Any] = {}
        self._arrived = Arrivals(_WAITING)
        host = address.rpartition(":")[0]
        handler = grpc.stream_stream_rpc_method_handler(self._attach)
        self._pool = futures.ThreadPoolExecutor(4 + 2 * len(hospitals), thread_name_prefix="attached")
        self._server = grpc.server(
            self._pool,
            handlers=[grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler})],
            options=[
                *_options(most_bytes),
                ("grpc.max_allowed_incoming_connections", 4 * len(hospitals) + _STRANGERS),
                ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MILLISECONDS),
            ],
            maximum_concurrent_rpcs=2 * len(hospitals) + 2,
        )
        try:
            if folder is None:
                only_loopback(host)
                bound = self._server.add_insecure_port(address)
            else:
                given = grpc.dynamic_ssl_server_credentials(_of_server(folder), lambda: _renewed(folder), True)
                bound = self._server.add_secure_port(address, given)
        except RuntimeError as error:
            remedy = "free it, or give another --listen=host:port"
            raise InvalidInput([Problem("listen", address, "cannot be listened on: is it in use?", remedy)]) from error
        if not bound:
            remedy = "free it, or give another --listen=host:port"
            raise InvalidInput([Problem("listen", address, "cannot be listened on: is it in use?", remedy)])
        self.address = f"{host}:{bound}"
        self._server.start()

    def _attach(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """One hospital's stream: reads in a thread of its own, hands out what is waiting."""
        hospital = self._who(context)
        if hospital not in self._hospitals:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not in the roster")
        out: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        with self._lock:
            older = self._streams.get(hospital)
            self._out[hospital], self._streams[hospital] = out, context
        if older is not None:
            older.cancel()  # a stream that nobody reads would not end by a word: so many of them would keep others out

        def read() -> None:
            with contextlib.suppress(Exception):  # the stream ended, whichever way: the hospital is no longer present
                for message in requests:
                    if self._out.get(hospital) is out and not self._arrived.put(hospital, message):
                        self.dropped += 1
            _put(out, None)

        threading.Thread(target=read, daemon=True, name=f"from {hospital}").start()
        try:
            while context.is_active():
                with contextlib.suppress(queue.Empty):
                    message = out.get(timeout=_LOOK_SECONDS)
                    if message is None:
                        return
                    yield message
        finally:
            with self._lock:
                if self._out.get(hospital) is out:
                    del self._out[hospital], self._streams[hospital]

    @staticmethod
    def _who(context: Any) -> str:
        names = context.auth_context().get("x509_common_name")
        if names:
            return names[0].decode(errors="replace")
        return str(dict(context.invocation_metadata()).get("hospital", ""))  # without TLS: signatures alone count

    def present(self) -> tuple[str, ...]:
        """Hospitals that are connected now."""
        with self._lock:
            return tuple(self._out)

    def send(self, hospital: str, message: bytes) -> bool:
        """Hands a message over."""
        with self._lock:
            out = self._out.get(hospital)
        return out is not None and _put(out, message)

    def collect(self, seconds: float) -> tuple[str, bytes] | None:
        """The next message."""
        return self._arrived.get(seconds)

    def close(self) -> None:
        """Ends all connections."""
        with self._lock:
            everyone = list(self._out.values())
        for out in everyone:
            _put(out, None)
        self._server.stop(grace=1.0).wait(5.0)
        self._pool.shutdown(wait=False)


class GrpcLine(Line):
    """A hospital's end.

    Args:
      folder: with key, certificate and authority; None: no TLS, to the loopback interface only.
      address: `host:port` of the server.
      hospital: its id.
      most_bytes: of a message.
      seconds: to reach the server.

    Raises:
      InvalidInput: expired certificate, no TLS beyond loopback.
      LineClosed: the server cannot be reached.
    """

    def __init__(self, folder: pathlib.Path | None, address: str, hospital: str, most_bytes: int, seconds: float):
        metadata: tuple[tuple[str, str], ...] = ()
        options = _options(most_bytes)
        if _is_loopback(address.rpartition(":")[0]):
            options.append(("grpc.enable_http_proxy", 0))  # whatever the environment says: it stays on this machine
        if folder is None:
            only_loopback(address.rpartition(":")[0])
            self._channel = grpc.insecure_channel(address, options)
            metadata = (("hospital", hospital),)
        else:
            key, certificate, authority = credentials(folder)
            given = grpc.ssl_channel_credentials(authority, key, certificate)
            self._channel = grpc.secure_channel(address, given, options)
        try:
            grpc.channel_ready_future(self._channel).result(timeout=seconds)
        except grpc.FutureTimeoutError:
            self._channel.close()
            raise LineClosed(
                f"the server at {address} could not be reached within {seconds:g} s, or does not take this hospital's "
                "certificate. Remedy: check address, network and certificates."
            ) from None
        self._out: queue.Queue[bytes | None] = queue.Queue()
        self._in: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self.cause = ""
        call = self._channel.stream_stream(f"/{_SERVICE}/{_METHOD}")
        self._stream = call(iter(self._out.get, None), metadata=metadata)
        threading.Thread(target=self._read, daemon=True, name="from the server").start()

    def _read(self) -> None:
        try:
            for message in self._stream:
                self._in.put(message)
        except grpc.RpcError as error:
            self.cause = str(error.details() if isinstance(error, grpc.Call) else error)
        _put(self._in, None)

    def send(self, message: bytes) -> None:
        """Hands a message over."""
        if not self._stream.is_active():
            raise self._closed()
        self._out.put(message)

    def receive(self, seconds: float) -> bytes | None:
        """The next message."""
        try:
            found = self._in.get(timeout=max(0.0, seconds))
        except queue.Empty:
            if not self._stream.is_active():
                raise self._closed() from None
            return None
        if found is None:
            raise self._closed()
        return found

    def _closed(self) -> LineClosed:
        return LineClosed(f"the connection to the server is gone ({self.cause or 'it ended'}). Remedy: dial again.")

    def close(self) -> None:
        """Ends the connection."""
        self._out.put(None)
        self._stream.cancel()
        self._channel.close()


def _put(where: queue.Queue, what: Any) -> bool:
    """Puts something in without waiting; False when there is no room."""
    try:
        where.put_nowait(what)
    except queue.Full:
        return False
    return True


def only_loopback(host: str) -> None:
    """Without TLS nothing leaves this machine.

    Raises:
      InvalidInput: another interface.
    """
    if not _is_loopback(host):
        remedy = "give certificates, or stay on 127.0.0.1"
        raise_if([Problem("insecure", host, "is not the loopback interface: nothing runs there without TLS", remedy)])


def _is_loopback(host: str) -> bool:
    return host in ("127.0.0.1", "localhost", "[::1]")
