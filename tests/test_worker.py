"""The worker's life is bound to ours, however we end: needs TFF's worker program, but not TensorFlow in Python."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from tff_hospitals.runtimes.native import worker as worker_module
from tff_hospitals.runtimes.native.worker import Worker, WorkerError

SECONDS_TO_END = 5.0

CHILD = """
import os, signal, sys, time
from tff_hospitals.runtimes.native.worker import Worker
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # as do children of some libraries' threads
worker = Worker()
print(worker.pid, worker.address, flush=True)
sys.stdin.readline()
if sys.argv[1] == "exception":
    raise RuntimeError("the parent failed")
if sys.argv[1] == "forked" and os.fork() == 0:
    os.close(1), os.close(2)
    time.sleep(30)
    os._exit(0)
if sys.argv[1] != "exit":
    time.sleep(60)
"""


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rsplit(")", 1)[1].split()[0] != "Z"


def gone_in_time(pid: int, seconds: float = SECONDS_TO_END) -> bool:
    end = time.monotonic() + seconds
    while lives(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not lives(pid)


def start_child(way: str) -> tuple[subprocess.Popen[str], int, pathlib.Path]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, way],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    pid, address = child.stdout.readline().split()
    assert lives(int(pid))
    child.stdin.write("go on\n")
    child.stdin.flush()
    return child, int(pid), pathlib.Path(address[len("unix:") :]).parent


@pytest.mark.parametrize(
    ("way", "number"),
    [
        ("exit", None),
        ("exception", None),
        ("ctrl_c", signal.SIGINT),
        ("terminate", signal.SIGTERM),
        ("kill", signal.SIGKILL),
    ],
)
def test_worker_ends_with_its_parent_and_holds_no_pipe(way: str, number: signal.Signals | None) -> None:
    child, pid, folder = start_child(way)
    if number is not None:
        os.killpg(child.pid, number)  # the whole foreground group, as a terminal does
    assert gone_in_time(pid)
    # communicate returns at the end of both pipes: were one kept open, this would time out
    _, errors = child.communicate(timeout=SECONDS_TO_END)
    assert ("the parent failed" in errors) == (way == "exception")
    end = time.monotonic() + SECONDS_TO_END
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not folder.exists()


def test_worker_ends_although_a_forked_copy_of_the_parent_lives_on() -> None:
    child, pid, _ = start_child("forked")
    os.kill(child.pid, signal.SIGKILL)
    try:
        assert gone_in_time(pid)
    finally:
        os.killpg(child.pid, signal.SIGKILL)  # the forked copy
        child.communicate(timeout=SECONDS_TO_END)


def test_worker_ends_when_its_keeper_is_killed() -> None:
    with Worker() as worker:
        assert worker.ending(patience_seconds=0) is None
        os.kill(worker._keeper.pid, signal.SIGKILL)
        assert gone_in_time(worker.pid)
        assert "ended" in (worker.ending() or "")


def test_a_killed_worker_is_reported_with_a_remedy() -> None:
    with Worker() as worker:
        os.kill(worker.pid, signal.SIGKILL)
        ending = worker.ending(patience_seconds=SECONDS_TO_END)
    assert ending is not None
    assert "SIGKILL" in ending
    assert "max_concurrent" in ending


def test_close_ends_the_worker_before_it_returns() -> None:
    worker = Worker()
    worker.close()
    assert not lives(worker.pid)
    assert worker.closed
    worker.close()
    assert "closed" in (worker.ending() or "")


def listening_ports() -> set[int]:
    """Ports on which anything listens in this network namespace."""
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A":
                ports.add(int(local.rsplit(":", 1)[1], 16))
    return ports


def port_of(worker: Worker) -> int:
    arguments = pathlib.Path(f"/proc/{worker.pid}/cmdline").read_bytes().split(b"\0")
    return int(next(a for a in arguments if a.startswith(b"--port=")).split(b"=")[1])


def test_an_isolated_worker_is_not_on_the_network() -> None:
    with Worker() as worker:
        if not worker.isolated:
            pytest.skip("this system refuses network namespaces")
        assert os.readlink(f"/proc/{worker.pid}/ns/net") != os.readlink("/proc/self/ns/net")
        assert port_of(worker) not in listening_ports()
        client = socket.socket(socket.AF_UNIX)
        with client:
            client.connect(worker.address[len("unix:") :])
            client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
            client.settimeout(SECONDS_TO_END)
            assert client.recv(9)[3:4] == b"\4"  # the worker's HTTP/2 settings frame: the relay works
        folder = pathlib.Path(worker.address[len("unix:") :]).parent
        assert folder.stat().st_mode & 0o077 == 0


def test_without_isolation_the_worker_says_so() -> None:
    with Worker(isolate=False) as worker:
        assert not worker.isolated
        assert port_of(worker) in listening_ports()


def test_a_system_that_refuses_namespaces_gets_an_open_worker(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = tmp_path / "keeper.py"
    keeper.write_text(
        f"import sys\nsys.path.insert(0, {str(worker_module._KEEPER.parent)!r})\nimport worker_keeper as k\n"
        "def refuse():\n    raise OSError(1, 'not permitted')\n"
        "k.isolate_network = refuse\nk.main()\n"
    )
    monkeypatch.setattr(worker_module, "_KEEPER", keeper)
    with Worker() as worker:
        assert not worker.isolated
        assert lives(worker.pid)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("echo no such flag >&2; exit 3", ["code 3", "no such flag"]),
        ("exec sleep 60", ["no port within 0.5 s"]),
    ],
)
def test_a_worker_that_does_not_start_is_a_named_error(tmp_path: pathlib.Path, lines: str, words: list[str]) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{lines}\n")
    program.chmod(0o755)
    with pytest.raises(WorkerError) as caught:
        Worker(program, ready_seconds=0.5)
    for word in ["did not start", "Remedy", *words]:
        assert word in str(caught.value)


def test_a_missing_program_is_a_named_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(WorkerError, match="No such file"):
        Worker(tmp_path / "nothing")
