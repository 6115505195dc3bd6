"""What can go wrong between hospitals, as functions of a hospital's answers, and a federation in which it does.

A fault gets the case and an answer that `FAULTY` (or another hospital) is about to send, and gives what is sent
instead. `Case.run` lets a server and four workers run over an engine meanwhile, as their commands do.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import math
import os
import socket
import threading
import time

import numpy as np
from federations import Members, train_deployed

from tff_hospitals.deployment.approval import Limits
from tff_hospitals.deployment.body import pack, unpack
from tff_hospitals.deployment.certificates import Authority
from tff_hospitals.deployment.engines import Engine
from tff_hospitals.deployment.envelope import Kind, seal, unseal
from tff_hospitals.deployment.journal import Journal
from tff_hospitals.deployment.loopback import Hub
from tff_hospitals.deployment.site import Site
from tff_hospitals.deployment.site_memory import SiteMemory
from tff_hospitals.deployment.transport import LineClosed
from tff_hospitals.deployment.worker import serve

FAULTY, ROUND = "site_2", 1  # the round, 0-based, in which it happens
AWAY_SECONDS = 0.7


class Killed(RuntimeError):
    """What ends a server as a kill would: it says nothing to anybody."""


# -- faults ------------------------------------------------------------------------


def nothing(case, answer):
    return [answer]


def slow(case, answer):
    time.sleep(0.5)
    return [answer]


def duplicated(case, answer):
    return [answer, answer]


def out_of_order(case, answer):
    """What it sent in the round before comes again behind it."""
    return [answer, *case.sent[FAULTY][-1:]]


def late(case, answer):
    """It comes when the next round is asked for."""
    case.held = answer
    return []


def of_another_run(case, answer):
    """Whole, signed, and with the right number, but of another federation."""
    return [case.signed(answer, federation=os.urandom(16)), answer]


def cut(case, answer):
    return [answer[: len(answer) // 2], answer[:-1], answer]


def oversized(case, answer):
    return [bytes(2 * case.most + 10_000_000), answer]


def wrong_shape(case, answer):
    content = unpack(case.opened(answer).body)
    sections = {name: data[:-4] for name, data in content.sections.items()}
    return [case.signed(answer, body=pack(content.fields, sections))]


def not_a_number(case, answer):
    content = unpack(case.opened(answer).body)
    sections = {name: np.full(len(data) // 4, np.nan, "<f4").tobytes() for name, data in content.sections.items()}
    return [case.signed(answer, body=pack(content.fields, sections))]


def dead(case, answer):
    """Gone in the round, and away until the next one."""
    case.away = lambda name: name == FAULTY and case.asked() <= ROUND
    raise LineClosed("dead")


def back_again(case, answer):
    raise LineClosed("cut")


def network_cut(case, answer):
    """All lines of all hospitals are cut at once, and nobody gets through for a while."""
    until = time.monotonic() + AWAY_SECONDS
    case.away = lambda name: time.monotonic() < until
    case.cut()
    return [answer]


def half_gone(case, answer):
    """Two of four are away until the round is given up and asked for again."""
    case.away = lambda name: name in case.gone and case.attempts() < 2
    raise LineClosed("dead")


def too_few(case, answer):
    """Two of four are away until the run has ended, and come back when it is started again."""
    case.away = lambda name: name in case.gone and not case.over.is_set()
    raise LineClosed("dead")


@dataclasses.dataclass(frozen=True)
class Fault:
    """One row of the table.

    Attributes:
      act: what happens to the answer.
      counts: whether the hospital's part of that round is in the sum all the same.
      gives_up: in how many attempts the deadline passes as soon as everybody else has answered: no test waits for it.
      words: that a warning of the run must hold, where it does not count.
      rejects: whether something of it must have been rejected or dropped.
      answer: the which of its answers in that round it is.
    """

    act: object
    counts: bool = True
    gives_up: int = 0
    words: str = ""
    rejects: bool = False
    answer: int = 1


FAULTS = {
    "nothing": Fault(nothing),
    "slow": Fault(slow),
    "dead in a round": Fault(dead, False, 1, "left out"),
    "back again": Fault(back_again),
    "duplicated": Fault(duplicated, rejects=True),
    "late": Fault(late, False, 1, "did not answer in time (left out)", True),
    "out of order": Fault(out_of_order, rejects=True),
    "from another run": Fault(of_another_run, rejects=True),
    "cut off": Fault(cut, rejects=True),
    "wrong shape": Fault(wrong_shape, False, words="sent what cannot be used", rejects=True),
    "NaN": Fault(not_a_number, False, words="not finite", rejects=True),
    "oversized": Fault(oversized),
    "network cut": Fault(network_cut),
    "server killed and restarted": Fault(nothing),
    "all killed and restarted": Fault(nothing),
    "half of the cohort gone": Fault(half_gone, gives_up=1, words="attempt 1 is not used"),
    "too few hospitals": Fault(too_few, gives_up=3),
}


SECURE_FAULTS = {
    # Of one hospital, at each of the four steps: keys, shares, numbers, and what opens the sum.
    "wrong keys": Fault(wrong_shape, False, words="sent what cannot be used", rejects=True, answer=1),
    "cut at the shares": Fault(back_again, answer=2),
    "wrong shares": Fault(wrong_shape, False, words="sent what cannot be used", rejects=True, answer=2),
    "cut at the numbers": Fault(back_again, answer=3),
    "wrong numbers": Fault(wrong_shape, False, words="sent what cannot be used", rejects=True, answer=3),
    "cut at the opening": Fault(back_again, words="its numbers count", answer=4),
    "wrong opening": Fault(wrong_shape, words="its numbers count", rejects=True, answer=4),
}


# -- a federation ------------------------------------------------------------------


class Clock:
    """The time as the server's side of the conversation sees it; it can be set ahead."""

    time_ns, sleep = staticmethod(time.time_ns), staticmethod(time.sleep)

    def __init__(self):
        self.ahead = 0.0

    def monotonic(self):
        return time.monotonic() + self.ahead


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Proxy:
    """Listens in front of a server; what passes can be cut."""

    def __init__(self, address):
        self._target, self._open = (address.rpartition(":")[0], int(address.rpartition(":")[2])), []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.shut = lambda: False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                inner, _ = self._listener.accept()
                outer = None
                with contextlib.suppress(OSError):
                    outer = None if self.shut() else socket.create_connection(self._target)
                if outer is None:
                    inner.close()
                    continue
                self._open += [inner, outer]
                for source, target in ((inner, outer), (outer, inner)):
                    threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    @staticmethod
    def _pass(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def cut(self):
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def close(self):
        self._listener.close()
        self.cut()


class Line:
    """A hospital's line, on which a fault acts once: on its answer in the round of the fault."""

    def __init__(self, case, hospital, line):
        self._case, self._hospital, self._line = case, hospital, line

    def send(self, message):
        case, kind, number = self._case, message[5], int.from_bytes(message[54:58], "little")
        instead = [message]
        if case.held is not None and self._hospital == FAULTY:
            instead, case.held = [case.held, message], None
        if kind == Kind.ANSWER and number == ROUND and self._hospital in case.gone - case.happened:
            case.answered[self._hospital] += 1
            if case.answered[self._hospital] == case.fault.answer:
                case.happened.add(self._hospital)
                instead = case.fault.act(case, message)
        for one in instead:
            self._line.send(one)
        case.sent[self._hospital].append(message)

    def receive(self, seconds):
        return self._line.receive(seconds)

    def close(self):
        self._line.close()


class Case:
    """A fault over an engine.

    Args:
      fault: of the table.
      engine: "loopback", or an engine.
      folder: of keys and journals.
      first: members whose composed plan and hospitals' programs are taken.
      works: those programs, by hospital.
      clock: of the server.
    """

    def __init__(self, fault: Fault, engine: Engine | str, folder, first: Members, works, clock: Clock):
        self.fault, self.engine, self.folder, self.clock = fault, engine, folder, clock
        self.members = Members(first.plan, first.dataset, fewest_hospitals=3)
        self.members.parts = first.parts
        self.most = works[FAULTY].wire.most_bytes
        self._works = works
        self.gone = {FAULTY, "site_3"} if fault.act in (half_gone, too_few) else {FAULTY}
        self.sent = {name: [] for name in works}
        self.happened, self.held, self.answered = set(), None, collections.Counter()
        self.away = lambda name: False
        self.over = threading.Event()
        self.federation = None
        self._asked = []
        if engine != "loopback":
            authority = Authority("ours")
            authority.write_server(folder / "tls", ["127.0.0.1"])
            for name in works:
                authority.write_hospital(folder / name / "tls", name)
        self.start()

    def start(self):
        """Everybody begins with what lies on the disk."""
        self._stop, self.transport, self._proxy = threading.Event(), None, None
        self.sites = {name: self._site(name, copy.copy(work)) for name, work in self._works.items()}
        self._listen("127.0.0.1:0")

    def another(self, name):
        """A second worker of a hospital, in a folder of its own."""
        return self._site(name, copy.copy(self._works[name]), "another")

    def _site(self, name, work, beside=""):
        work.agreement = self.members.agreement
        folder = self.folder / beside / name
        limits = Limits(math.inf, None)
        return Site(work, self.members.keys[name], Journal(folder / "journal.jsonl"), SiteMemory(folder), limits)

    def _listen(self, address):
        if self.engine == "loopback":
            self.transport = Hub(self.most)
        else:
            ids = self.members.dataset.ids
            self.transport = self.engine.listen(self.folder / "tls", address, ids, self.most)
            if self._proxy is None:
                self._proxy = Proxy(self.transport.address)
                self._proxy.shut = lambda: self.away("everybody")

    def dial(self, name):
        """A line of a hospital; there is none while it is away."""
        if self.away(name):
            raise LineClosed("away")
        if self.engine == "loopback":
            line = self.transport.dial(name)
        else:
            line = self.engine.dial(self.folder / name / "tls", self._proxy.address, name, self.most, 20.0)
        return Line(self, name, line)

    def cut(self):
        """Cuts every line."""
        if self.engine == "loopback":
            self.transport.close()
        else:
            self._proxy.cut()

    def kill(self):
        """The server is gone, without a word to anybody."""
        self.transport.close()

    # -- what the server asked ----------------------------------------------------------

    def asked(self):
        """The last round that was asked for; the one after all of them when the run is over."""
        return max((number for kind, number in self._asked if kind is Kind.ROUND), default=-1)

    def attempts(self):
        """How often the round of the fault was asked for."""
        return self._asked.count((Kind.ROUND, ROUND))

    # -- messages -------------------------------------------------------------------------

    def opened(self, answer):
        one = self.members.agreement
        return unseal(answer, one.hospital_keys, one.identity_bytes, one.digest)

    def signed(self, answer, **changes):
        """The answer with something changed, signed by the hospital itself."""
        return seal(dataclasses.replace(self.opened(answer), **changes), self.members.keys[FAULTY])

    # -- running ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def workers(self):
        """The hospitals' workers, in threads, until the block ends."""
        threads = [
            threading.Thread(
                target=serve,
                args=(site, lambda one=name: self.dial(one)),
                kwargs={"stop": self._stop},
                daemon=True,
            )
            for name, site in self.sites.items()
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self.transport.close()
            if self._proxy is not None:
                self._proxy.close()
            for thread in threads:
                thread.join(20)
        assert not any(thread.is_alive() for thread in threads)

    def serve(self, run_dir, fewest=4, **more):
        """What a server's command does, from the first word to the last: its run."""
        self.federation = self.members.federation(self.transport, self.folder)
        self.federation.process = self.sites[FAULTY].work.parts.signature
        ask = self.federation.ask

        def noted(kind, number, bodies, check=None, **settings):
            self._asked.append((kind, number))
            awaited = set(bodies) - self.gone

            def checked(name, body):
                if check is not None:
                    check(name, body)
                awaited.discard(name)
                if (kind, number) == (Kind.ROUND, ROUND) and not awaited and self.attempts() <= self.fault.gives_up:
                    until(lambda: self.happened == self.gone)
                    self.clock.ahead += self.members.agreement.deadline_seconds

            return ask(kind, number, bodies, check=checked, **settings)

        self.federation.ask = noted
        self.federation.wait_for(self.members.dataset.ids, 60, fewest)
        return train_deployed(self.members, self.federation, run_dir, **more)

    def restart(self):
        """The server listens again where it did."""
        self._listen(getattr(self.transport, "address", ""))
