"""The loop of a hospital's worker: it pauses, leaves, dials again and gives up when the hospital says so."""

from __future__ import annotations

import collections
import threading

import pytest

from tff_hospitals.deployment import worker
from tff_hospitals.deployment.transport import LineClosed

pytestmark = pytest.mark.tensorflow


class Line:
    """Hands out what the server asked, and keeps what was answered."""

    def __init__(self, asked):
        self.asked, self.sent, self.closed = collections.deque(asked), [], False

    def send(self, message):
        self.sent.append(message)

    def receive(self, seconds):
        if not self.asked:
            raise LineClosed("the server is gone")
        return self.asked.popleft()

    def close(self):
        self.closed = True


class Site:
    """Answers everything with its capitals, and is over after the word `end`."""

    ended = False

    def hello(self):
        return "hello"

    def handle(self, received):
        self.ended = received == "end"
        return received.upper()


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(worker, "_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(worker, "_FIRST_PAUSE_SECONDS", 0.001)


def test_requests_wait_while_the_hospital_pauses_and_are_answered_afterwards():
    line, looks = Line(["one", "end"]), []

    def paused():
        looks.append(list(line.sent))
        return len(looks) <= 3

    worker.serve(Site(), lambda: line, paused=paused)
    assert looks[:4] == [["hello"]] * 4  # nothing was answered while it paused
    assert line.sent == ["hello", "ONE", "END"]
    assert line.closed


def test_a_hospital_that_leaves_answers_nothing_more():
    line, stop = Line(["one", "two", "end"]), threading.Event()
    site = Site()
    site.handle = lambda received: (stop.set(), received.upper())[1]
    worker.serve(site, lambda: line, stop=stop)
    assert line.sent == ["hello", "ONE"]
    assert line.closed
    assert list(line.asked) == ["two", "end"]


def test_a_lost_line_is_dialled_again_and_every_line_is_closed():
    lines = [Line(["one"]), Line([]), Line(["end"])]
    dialled = iter(lines)
    worker.serve(Site(), lambda: next(dialled))
    assert [line.sent for line in lines] == [["hello", "ONE"], ["hello"], ["hello", "END"]]
    assert all(line.closed for line in lines)


def test_without_any_connection_it_ends_with_the_reason():
    def nobody():
        raise LineClosed("nobody listens")

    with pytest.raises(LineClosed, match="nobody listens"):
        worker.serve(Site(), nobody, give_up_seconds=0.01)
