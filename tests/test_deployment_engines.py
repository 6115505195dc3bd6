"""What every engine does: one suite on all of them; Flower where its environment is there already."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest

from tff_hospitals.deployment import flower_environment
from tff_hospitals.deployment.certificates import Authority
from tff_hospitals.deployment.engines import Engine
from tff_hospitals.deployment.loopback import Hub
from tff_hospitals.deployment.transport import LineClosed
from tff_hospitals.foundations.validation import InvalidInput

pytestmark = pytest.mark.tensorflow
FLOWER = flower_environment.existing()
IDS = ("north", "sou\u00df", "west")
MOST = 1_000_000
needs_flower = pytest.mark.skipif(
    FLOWER is None,
    reason="Flower's environment is not there; ./run scripts/federation.py up --engine=flower .. makes it",
)


class Loopback:
    """The engine within one process, dialled like the others."""

    name = "loopback"

    def __init__(self):
        self.hub = None

    def listen(self, folder, address, hospitals, most):
        self.hub = Hub(most)
        return self.hub

    def dial(self, folder, address, hospital, most, seconds):
        return self.hub.dial(hospital)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Keys and certificates of a server, of hospitals, and of a stranger with the authority's certificate."""
    folder = tmp_path_factory.mktemp("engines")
    authority = Authority("ours")
    authority.write_server(folder / "server", ["localhost", "127.0.0.1"])
    for name in (*IDS, "outsider"):
        authority.write_hospital(folder / name, name)
    Authority("strangers").write_hospital(folder / "stranger", IDS[0])
    (folder / "stranger" / "ca.crt").write_bytes((folder / "server" / "ca.crt").read_bytes())
    Authority("old", days=-0.001).write_server(folder / "old", ["localhost"])
    return folder


@pytest.fixture(
    params=["loopback", "grpc", pytest.param("flower", marks=[needs_flower, pytest.mark.slow])], scope="module"
)
def engine(request):
    if request.param == "loopback":
        return Loopback()
    return Engine(request.param, FLOWER if request.param == "flower" else None)


@pytest.fixture
def server(engine, folders):
    made = engine.listen(folders / "server", "127.0.0.1:0", IDS, MOST)
    yield made
    made.close()


@pytest.fixture
def dial(engine, folders, server):
    with contextlib.ExitStack() as stack:

        def connect(hospital, place=None, seconds=20.0):
            address = getattr(server, "address", "")
            line = engine.dial(folders / (place or hospital), address, hospital, MOST, seconds)
            stack.callback(line.close)
            return line

        yield connect


def first_words(server, line, words=b"hello"):
    """What a hospital says when it comes, and who the engine says it is."""
    line.send(words)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        assert line.receive(0.05) is None
        arrived = server.collect(0.2)
        if arrived is not None:
            return arrived
    return None


def received(line, seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = line.receive(0.2)
        if found is not None:
            return found
    return None


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_messages_arrive_whole_in_order_and_under_the_right_name(server, dial):
    lines = {name: dial(name) for name in IDS}
    for name, line in lines.items():
        assert first_words(server, line, name.encode()) == (name, name.encode())
    assert sorted(server.present()) == sorted(IDS)
    line, payload = lines[IDS[1]], np.random.default_rng(0).bytes(MOST - 10)
    for content in (b"\x00", payload):
        assert server.send(IDS[1], content)
        assert received(line) == content
        line.send(content[::-1])
        assert line.receive(0.05) is None
        assert server.collect(20.0) == (IDS[1], content[::-1])
    for content in (b"one", b"two", b"three"):
        assert server.send(IDS[1], content)
    assert [received(line) for _ in range(3)] == [b"one", b"two", b"three"]
    assert server.dropped == 0
    assert not server.send("stranger", b"?")
    assert server.collect(0.0) is None


def test_what_is_larger_than_the_bound_does_not_arrive_and_the_next_message_does(server, dial):
    line = dial(IDS[0])
    assert first_words(server, line) == (IDS[0], b"hello")
    server.send(IDS[0], b"question")
    assert received(line) == b"question"
    with contextlib.suppress(LineClosed):
        line.send(bytes(3 * MOST))
        line.receive(0.5)
    line.close()
    back = dial(IDS[0])
    assert first_words(server, back, b"back") == (IDS[0], b"back")


def test_who_floods_keeps_nobody_elses_words_out(server, dial):
    flooding, other = dial(IDS[0]), dial(IDS[1])
    for line, name in ((flooding, IDS[0]), (other, IDS[1])):
        assert first_words(server, line) == (name, b"hello")
        server.send(name, b"question")
        assert received(line) == b"question"
    for _ in range(400):  # more than is held of everybody together
        flooding.send(b"me")
    assert flooding.receive(0.2) is None  # who waits for the next question has answered the last one
    assert until(lambda: server.dropped > 0)
    other.send(b"the answer")
    assert other.receive(0.2) is None
    found = []
    assert until(lambda: (found.append(server.collect(0.1)), (IDS[1], b"the answer") in found)[1], 10.0)
    assert len([one for one in found if one is not None and one[0] == IDS[0]]) < 200


def test_a_second_connection_takes_the_place_of_the_first(server, dial):
    older = dial(IDS[0])
    assert first_words(server, older) == (IDS[0], b"hello")
    newer = dial(IDS[0])
    assert first_words(server, newer, b"newer") == (IDS[0], b"newer")
    assert server.send(IDS[0], b"question")
    assert received(newer) == b"question"
    with pytest.raises(LineClosed):
        until(lambda: older.receive(0.2) is not None)


def test_who_leaves_is_present_no_more_and_a_closed_server_ends_all_lines(server, dial):
    leaving, staying = dial(IDS[0]), dial(IDS[1])
    assert first_words(server, leaving) is not None
    assert first_words(server, staying) is not None
    leaving.close()
    assert until(lambda: server.present() == (IDS[1],))
    assert not server.send(IDS[0], b"lost")
    server.close()
    with pytest.raises(LineClosed, match="Remedy: dial again"):
        until(lambda: staying.receive(0.2) is not None, 60.0)
    server.close()
    staying.close()
    staying.close()


@pytest.mark.parametrize("place", ["stranger", "outsider"])
def test_nobody_else_gets_a_line(engine, server, dial, place):
    if engine.name == "loopback":
        pytest.skip("nobody is outside of one process")
    try:
        line = dial("outsider" if place == "outsider" else IDS[0], place, 2.0)
        line.send(b"let me in")
        for _ in range(5):
            line.receive(0.2)
    except LineClosed:
        pass
    assert server.collect(0.5) is None
    assert server.present() == ()


def test_what_cannot_listen_or_runs_without_protection_says_why(engine, server, folders):
    if engine.name == "loopback":
        pytest.skip("nothing listens")
    with pytest.raises(InvalidInput, match=r"cannot be listened on.*Remedy: free it"):
        engine.listen(folders / "server", server.address, IDS, MOST)
    with pytest.raises(InvalidInput, match="nothing runs there without TLS"):
        engine.listen(None, "0.0.0.0:0", IDS, MOST)
    with pytest.raises(InvalidInput, match=r"expired .* Remedy: have it renewed"):
        engine.listen(folders / "old", "127.0.0.1:0", IDS, MOST)
