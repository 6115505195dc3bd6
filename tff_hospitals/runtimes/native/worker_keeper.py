"""The small process between us and TFF's worker: starts it, hides it, and takes it along when we end.

Run as a program (`python -I -S worker_keeper.py ...`) by `worker.Worker`; it uses the standard library only. It

* takes a network namespace of its own, where the system allows one, so that the worker (which listens on all
  interfaces, without any authentication) can be reached from nowhere but through this process;
* starts the worker with streams of its own and with the order to the kernel to kill it when this process ends;
* passes bytes between a Unix socket in a private folder, on which our side listens, and the worker's port;
* ends, with the worker, as soon as its standard input closes or its parent is gone, whichever way the parent ended.

What it has to say goes to standard output as lines of JSON: first {"ready": true, "worker_pid": ...} or
{"failed": words}, later {"ended": code}.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_PARENT_POLL_SECONDS = 0.25
_LIBC = ctypes.CDLL(None, use_errno=True)


def isolate_network() -> None:
    """Moves this process into a new network namespace with nothing but its own loopback device.

    Raises:
      OSError: where the system refuses; the process may then stand in a namespace without loopback and must end.
    """
    user, group = os.getuid(), os.getgid()
    if _LIBC.unshare(_CLONE_NEWNET) != 0:  # allowed for root alone; others need a user namespace around it
        if _LIBC.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"unshare: {os.strerror(number)}")
        for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack("16xH14x", fcntl.ioctl(device, _SIOCGIFFLAGS, request))
        fcntl.ioctl(device, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def reserve_port() -> socket.socket:
    """A bound socket that never listens: while it is open the system gives its port to nobody who asks for a free one.

    The worker binds the same port beside it (gRPC sets SO_REUSEPORT), so two programs that start at once cannot meet.
    """
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind(("0.0.0.0", 0))
    return holder


def die_with_parent() -> None:
    """Runs in the child between fork and exec: the kernel kills it when the thread that forked it ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def pump(source: socket.socket, target: socket.socket) -> None:
    """Copies bytes until `source` has no more, then tells `target` so."""
    buffer = bytearray(1 << 18)
    view = memoryview(buffer)
    with contextlib.suppress(OSError):
        while True:
            count = source.recv_into(buffer)
            if not count:
                break
            target.sendall(view[:count])
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def relay(client: socket.socket, port: int) -> None:
    """Joins one connection of ours with the worker's port, a thread for each direction."""
    try:
        server = socket.create_connection(("127.0.0.1", port), timeout=10)
    except OSError:
        client.close()
        return
    server.settimeout(None)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for source, target in ((client, server), (server, client)):
        threading.Thread(target=pump, args=(source, target), daemon=True).start()


def wait_until_listening(worker: subprocess.Popen[bytes], port: int, seconds: float) -> str | None:
    """Waits for the worker's port; returns None, or in words why it did not open."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if worker.poll() is not None:
            return f"it ended at once with code {worker.returncode}"
        if not parent_lives_on(0.02):
            return "the process that asked for it is gone"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return None
    return f"it opened no port within {seconds:g} s"


def parent_lives_on(seconds: float) -> bool:
    """Waits up to `seconds` on standard input; False when it has closed."""
    return not readable([0], seconds) or bool(os.read(0, 1))


def readable(handles: list[int], seconds: float) -> list[int]:
    """Those file descriptors that can be read (or have closed); waits up to `seconds` for the first."""
    poll = select.poll()  # unlike select.select it takes numbers above 1,023
    for handle in handles:
        poll.register(handle, select.POLLIN)
    return [handle for handle, _ in poll.poll(1000 * seconds)]


def serve(worker: subprocess.Popen[bytes], listener: socket.socket, port: int, parent: int) -> None:
    """Accepts connections until the parent or the worker ends."""
    with endings(parent) as watched:
        while worker.poll() is None and os.getppid() == parent:
            ready = readable([listener.fileno(), *watched], _PARENT_POLL_SECONDS)
            if any(handle in ready for handle in watched):
                return
            if listener.fileno() in ready:
                client, _ = listener.accept()
                relay(client, port)


@contextlib.contextmanager
def endings(parent: int) -> Iterator[list[int]]:
    """File descriptors that become readable when the parent ends.

    Standard input alone does not suffice: a process that the parent forked keeps a copy of its other end.
    """
    handles = [0]
    with contextlib.suppress(OSError, AttributeError):  # a kernel before 5.3 has none; os.getppid() is asked as well
        handles.append(os.pidfd_open(parent))
    try:
        yield handles
    finally:
        for handle in handles[1:]:
            os.close(handle)


def say(**message: object) -> None:
    """One line of JSON to the parent, which may have gone."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(message).encode() + b"\n")


def start(options: argparse.Namespace, port: int) -> subprocess.Popen[bytes]:
    """Starts the worker with none of our streams; what it says goes to a file that is read if it fails."""
    with open(options.log, "wb") as log:
        return subprocess.Popen(
            [options.binary, f"--port={port}", *options.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,
        )


def keep(options: argparse.Namespace) -> None:
    """Starts the worker, serves it, and leaves nothing behind."""
    listener = socket.socket(fileno=options.listener)
    if options.isolate:
        try:
            isolate_network()
        except OSError as error:
            say(failed=f"no network namespace: {error}", refused_isolation=True)
            return
    holder = reserve_port()
    port = holder.getsockname()[1]
    try:
        worker = start(options, port)
    except OSError as error:
        say(failed=str(error))
        return
    try:
        problem = wait_until_listening(worker, port, options.ready_seconds)
        if problem:
            say(failed=problem)
            return
        say(ready=True, worker_pid=worker.pid)
        serve(worker, listener, port, options.parent)
        if worker.poll() is not None:
            say(ended=worker.returncode)
    finally:
        worker.kill()
        worker.wait()


def main() -> None:
    """Reads the arguments and keeps one worker."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--listener", type=int, required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--isolate", type=int, required=True)
    parser.add_argument("--ready_seconds", type=float, required=True)
    parser.add_argument("binary")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        if os.getppid() == options.parent:
            keep(options)
    finally:
        # The parent reads the log of a worker that failed and removes the folder itself; here only when it is gone.
        if os.getppid() != options.parent or not parent_lives_on(0):
            shutil.rmtree(options.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
