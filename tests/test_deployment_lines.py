"""Lines of the default engine over time: certificates that end and are renewed, streams that nobody reads."""

from __future__ import annotations

import os
import queue
import shutil
import socket
import time

import grpc
import pytest

from tff_hospitals.deployment import grpc_engine
from tff_hospitals.deployment.certificates import Authority
from tff_hospitals.deployment.grpc_engine import GrpcLine, GrpcServer
from tff_hospitals.deployment.transport import LineClosed
from tff_hospitals.foundations.validation import InvalidInput

IDS = ("north", "south")
MOST = 1_000_000
SECONDS = 1.5


def write(authority, folder, days):
    authority._days = days
    authority.write_server(folder / "server", ["localhost", "127.0.0.1"])
    for name in IDS:
        authority.write_hospital(folder / name, name)


def said(server, line, words):
    line.send(words)
    return server.collect(10.0)


def test_certificates_end_and_are_renewed_while_a_run_goes_on(tmp_path):
    authority, now, renewed = Authority("ours"), tmp_path / "now", tmp_path / "renewed"
    write(authority, renewed, 90)
    write(authority, now, SECONDS / 86400)
    began = time.monotonic()
    server = GrpcServer(now / "server", "127.0.0.1:0", IDS, MOST)
    try:
        line = GrpcLine(now / "north", server.address, "north", MOST, 10.0)
        assert said(server, line, b"hello") == ("north", b"hello")
        time.sleep(max(0.0, began + SECONDS + 1.1 - time.monotonic()))  # they are valid to the second
        # The hospital is told of its own; with a new one it finds the server's ended, and does not speak to it.
        with pytest.raises(InvalidInput, match=r"expired on .*Remedy: have it renewed"):
            GrpcLine(now / "south", server.address, "south", MOST, 1.0)
        with pytest.raises(LineClosed, match="check address, network and certificates"):
            GrpcLine(renewed / "south", server.address, "south", MOST, 1.0)
        assert said(server, line, b"still here") == ("north", b"still here")
        for name in ("tls.key", "tls.crt"):
            shutil.copy(renewed / "server" / name, now / "server" / name)
        other = GrpcLine(renewed / "south", server.address, "south", MOST, 10.0)
        assert said(server, other, b"hello") == ("south", b"hello")
        assert said(server, line, b"as before") == ("north", b"as before")
        # What nobody can use changes nothing.
        (now / "server" / "tls.crt").write_text("no certificate")
        again = GrpcLine(renewed / "south", server.address, "south", MOST, 10.0)
        assert said(server, again, b"again") == ("south", b"again")
        for one in (line, other, again):
            one.close()
    finally:
        server.close()


def test_streams_that_a_hospital_opens_and_never_reads_keep_nobody_out(tmp_path):
    write(Authority("ours"), tmp_path, 90)
    server = GrpcServer(tmp_path / "server", "127.0.0.1:0", IDS, MOST)
    key, certificate, authority = grpc_engine.credentials(tmp_path / "north")
    given, opened = grpc.ssl_channel_credentials(authority, key, certificate), []
    try:
        for _ in range(2 * len(IDS) + 4):  # more than may be open at once
            channel = grpc.secure_channel(server.address, given)
            out = queue.Queue()
            opened.append((channel, channel.stream_stream("/tff_hospitals.Federation/Attach")(iter(out.get, None))))
            out.put(b"me")
            assert server.collect(5.0) == ("north", b"me")
            for _ in range(3):
                server.send("north", bytes(MOST))
        line = GrpcLine(tmp_path / "south", server.address, "south", MOST, 5.0)
        assert said(server, line, b"hello") == ("south", b"hello")
        line.close()
    finally:
        for channel, _ in opened:
            channel.close()
        server.close()


def test_connections_of_strangers_use_up_no_files_and_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(grpc_engine, "_STRANGERS", 8)
    monkeypatch.setattr(grpc_engine, "_HANDSHAKE_MILLISECONDS", 1000)
    write(Authority("ours"), tmp_path, 90)
    server, opened = GrpcServer(tmp_path / "server", "127.0.0.1:0", IDS, MOST), []
    host, port = server.address.split(":")
    try:
        line = GrpcLine(tmp_path / "north", server.address, "north", MOST, 5.0)
        assert said(server, line, b"hello") == ("north", b"hello")
        before = len(os.listdir("/proc/self/fd"))
        opened += [socket.create_connection((host, int(port)), 5.0) for _ in range(60)]
        time.sleep(0.3)
        assert len(os.listdir("/proc/self/fd")) - before - len(opened) <= 4 * len(IDS) + 8
        assert said(server, line, b"still here") == ("north", b"still here")
        other = GrpcLine(tmp_path / "south", server.address, "south", MOST, 10.0)  # once they are cut
        assert said(server, other, b"hello") == ("south", b"hello")
        for one in (line, other):
            one.close()
    finally:
        for one in opened:
            one.close()
        server.close()


@pytest.mark.parametrize("secure", [True, False])
def test_what_is_for_this_machine_takes_no_proxy_of_the_environment(tmp_path, monkeypatch, secure):
    write(Authority("ours"), tmp_path, 90)
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        proxy.settimeout(0.0)
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_proxy", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        server = GrpcServer(tmp_path / "server" if secure else None, "127.0.0.1:0", IDS, MOST)
        try:
            line = GrpcLine(tmp_path / "north" if secure else None, server.address, "north", MOST, 3.0)
            assert said(server, line, b"hello") == ("north", b"hello")
            line.close()
        finally:
            server.close()
        with pytest.raises(BlockingIOError):  # nobody came
            proxy.accept()
