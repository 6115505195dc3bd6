"""The server's side of the conversation: who is there, what they are asked, whose answer counts.

`ask` sends one request to some hospitals and gives back what came in time. An answer counts when it was signed by the
hospital's own key, came on that hospital's connection, and names the number of the request that this hospital has not
answered yet. Everything else is written to the journal and changes nothing. A hospital that dials in again while it is
asked gets the request once more, under a new number.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tff_hospitals.deployment.agreement import SERVER, Agreement
from tff_hospitals.deployment.body import Body, pack, unpack
from tff_hospitals.deployment.envelope import REFUSALS, Envelope, Kind, Rejected, seal, unseal
from tff_hospitals.deployment.journal import Journal, printable
from tff_hospitals.deployment.keys import SigningKey, sha512
from tff_hospitals.deployment.transport import DeploymentError, Transport
from tff_hospitals.foundations.validation import Problem, raise_if

_MOST_WORKERS = 16  # of one hospital, one after the other, that are remembered
_MOST_LINES = 200  # of one kind about one hospital that the journal holds; more are counted only
_MOST_RETURNS = 10  # of one hospital during one request, after each of which it is asked once more


@dataclasses.dataclass
class Answers:
    """What came of a request.

    Attributes:
      bodies: by hospital, in the order of asking.
      missing: why there is none of the others.
    """

    bodies: dict[str, Body]
    missing: dict[str, str]


class Federation:
    """The hospitals of an agreement, as the server sees them.

    Args:
      agreement: that all approved.
      key: the server's.
      transport: the engine.
      journal: of what happened.

    Attributes:
      process: signature of the composed plan; hospitals must have the same.
      rejected: messages that were not what may come here.
      refusals: why hospitals refused last, by id.
      arrivals: how often each hospital has presented itself.
      heard: when each hospital last said something that counts, by the monotonic clock.
      asking: the kind of the last request, and its round.
      waiting: hospitals whose answer is waited for now.

    Raises:
      InvalidInput: the key is not the one in the agreement.
    """

    def __init__(self, agreement: Agreement, key: SigningKey, transport: Transport, journal: Journal):
        if key.public != agreement.server_key:
            remedy = "start the server with the key that the agreement names"
            raise_if([Problem("signing key", key.public[:8] + "..", "is not the server's of the agreement", remedy)])
        self.agreement, self.transport, self.journal = agreement, transport, journal
        self.process = ""
        self.rejected = 0
        self.refusals: dict[str, str] = {}
        self._key = key
        self._hashed = (b"", sha512(b""))
        self._number = time.time_ns()
        self._last: dict[str, int] = {}
        self._workers: dict[str, list[str]] = {}
        self.arrivals: dict[str, int] = {}
        self.heard: dict[str, float] = {}
        self.asking: tuple[str, int] = ("", -1)
        self.waiting: frozenset[str] = frozenset()
        self._lines = collections.Counter[tuple[str, str]]()
        for entry in journal.entries:
            self._lines[entry["event"], entry.get("hospital", "")] += 1

    # -- who is there -----------------------------------------------------------

    def wait_for(self, hospitals: Iterable[str], seconds: float, fewest: int) -> None:
        """Waits until hospitals have presented themselves.

        Args:
          hospitals: all who are waited for.
          seconds: at most.
          fewest: with whom it can begin when the time is over.

        Raises:
          DeploymentError: fewer are there.
        """
        wanted = list(hospitals)
        end = time.monotonic() + seconds
        while not all(name in self.arrivals for name in wanted):
            if time.monotonic() > end:
                break
            self._take(end, {}, {})
        there = [name for name in wanted if name in self.arrivals]
        if len(there) < fewest:
            missing = [name for name in wanted if name not in self.arrivals]
            said = "".join(f" {name} said: {why}." for name, why in self.refusals.items())
            raise DeploymentError(
                f"only {len(there)} of {len(wanted)} hospitals presented themselves within {seconds:g} s: "
                f"{', '.join(missing)} did not, and at least {fewest} must.{said} Remedy: start their workers, look "
                "into their journals, or wait longer."
            )

    # -- asking -----------------------------------------------------------------

    def ask(
        self,
        kind: Kind,
        number_of_round: int,
        bodies: Mapping[str, bytes],
        seconds: float | None = None,
        check: Callable[[str, Body], object] | None = None,
        when_back: Mapping[str, bytes] | None = None,
    ) -> Answers:
        """Asks hospitals, and waits for all answers or the deadline.

        Args:
          kind: of the request.
          number_of_round: 0-based.
          bodies: what each is asked.
          seconds: default the agreement's deadline.
          check: raises `Rejected` where an answer cannot be used; it then counts as none.
          when_back: what a hospital is asked instead that dials in again meanwhile.
        """
        end = time.monotonic() + (self.agreement.deadline_seconds if seconds is None else seconds)
        waiting: dict[str, int] = {}
        answers = Answers({}, {})

        def send(name: str, content: Mapping[str, bytes]) -> None:
            waiting[name] = self._send(name, kind, number_of_round, content[name])

        self.asking = kind.name, number_of_round
        arrived, returns = dict(self.arrivals), collections.Counter[str]()
        found: dict[str, Body] = {}
        for name in bodies:
            send(name, bodies)
        while waiting and time.monotonic() < end:
            self.waiting = frozenset(waiting)
            took = self._take(end, waiting, answers.missing)
            if took is not None:
                name, body = took
                try:
                    if check is not None:
                        check(name, body)
                    found[name] = body
                except Rejected as error:
                    why = printable(str(error))
                    self._reject(name, f"its answer cannot be used: {why}")
                    answers.missing[name] = f"sent what cannot be used: {why}"
            for name in list(waiting):
                if self.arrivals.get(name, 0) != arrived.get(name, 0):
                    arrived[name] = self.arrivals[name]
                    returns[name] += 1
                    if returns[name] > _MOST_RETURNS:
                        continue  # its line does not hold, or it wants to keep the server busy
                    send(name, bodies if when_back is None else when_back)
        self.waiting = frozenset()
        for name in waiting:
            answers.missing[name] = "did not answer in time" if name in self.transport.present() else "is not connected"
        answers.bodies = {name: found[name] for name in bodies if name in found}
        return answers

    def tell(self, kind: Kind, number_of_round: int, bodies: Mapping[str, bytes]) -> None:
        """Sends what needs no answer."""
        for name, body in bodies.items():
            self._send(name, kind, number_of_round, body)

    def _send(self, hospital: str, kind: Kind, number_of_round: int, body: bytes) -> int:
        """Signs and sends a message; gives its number."""
        one = self.agreement
        self._number += 1
        message = Envelope(kind, SERVER, one.identity_bytes, one.digest, number_of_round, self._number, 0, body)
        if self._hashed[0] is not body:
            self._hashed = body, sha512(body)
        self.transport.send(hospital, seal(message, self._key, self._hashed[1]))
        return self._number

    # -- listening ---------------------------------------------------------------

    def _take(self, end: float, waiting: dict[str, int], missing: dict[str, str]) -> tuple[str, Body] | None:
        """Takes one message in; gives the answer that it is, if it is one that somebody waits for."""
        arrived = self.transport.collect(max(0.0, end - time.monotonic()))
        if arrived is None:
            return None
        hospital, data = arrived
        try:
            message = unseal(data, self.agreement.hospital_keys, self.agreement.identity_bytes, self.agreement.digest)
            if message.sender != hospital:
                raise Rejected(f"signed by {message.sender!r}, on the connection of {hospital!r}")
            body = unpack(message.body)
            worker = str(body.fields.get("worker", ""))[:64]
            if message.kind is Kind.HELLO:
                self._only_one_worker(hospital, worker, message.number)
            if message.number <= self._last.get(hospital, 0):
                raise Rejected("a message that came before, or is older than one that came")
            self._last[hospital] = message.number
            self.heard[hospital] = time.monotonic()
            if message.kind is Kind.HELLO:
                self._welcome(hospital, worker, body)
                return None
            if message.kind not in (Kind.ANSWER, Kind.REFUSAL):
                raise Rejected(f"hospitals do not send {message.kind.name}")
            if waiting.get(hospital) != message.answers:
                raise Rejected("an answer that nobody waits for: late, repeated, or to another request")
            del waiting[hospital]
            if message.kind is Kind.REFUSAL:
                why = REFUSALS.get(str(body.fields.get("kind")), "for a reason that is not known here")
                missing[hospital] = f"refused: {why}"
                self.refusals[hospital] = why
                self._write("refused", hospital, round=message.round, why=why)
                return None
            return hospital, body
        except Rejected as error:
            self._reject(hospital, str(error))
            return None

    def _welcome(self, hospital: str, worker: str, body: Body) -> None:
        process = body.field("process", str)
        if self.process and process != self.process:
            why = (
                f"it composed process {printable(process[:32])}, the server {self.process}: install the same version "
                "of tff_hospitals, and load the same extensions"
            )
            self.refusals[hospital] = why
            raise Rejected(why)
        seen = body.fields.get("seen", 0)
        if isinstance(seen, int) and seen > self._number:
            why = "it has seen later messages of this server, whose clock went back. Remedy: set the server's clock"
            self.refusals[hospital] = why
            raise Rejected(why)
        known = self._workers.setdefault(hospital, [])
        if worker not in known:
            self._workers[hospital] = [*known[-_MOST_WORKERS:], worker]
        self.refusals.pop(hospital, None)
        self.arrivals[hospital] = self.arrivals.get(hospital, 0) + 1
        self._write("present", hospital)

    def _only_one_worker(self, hospital: str, worker: str, number: int) -> None:
        """Sends a worker away that another one of its hospital has followed: they would disturb each other for ever.

        Raises:
          Rejected: it is such a worker, or one whose clock is behind.
        """
        known = self._workers.get(hospital, [])
        why = ""
        if worker in known[:-1]:
            why = (
                "two workers of this hospital run at once, and the other one came later. Remedy: run one, in one "
                "folder; what each of them charged is in its own journal alone"
            )
        elif worker not in known and number <= self._last.get(hospital, 0):
            why = "its messages are older than those of the worker before: the clock went back. Remedy: set the clock"
        if why:
            self.refusals[hospital] = why
            self.tell(Kind.END, 0, {hospital: pack({"why": why, "worker": worker})})
            raise Rejected(why)

    def _reject(self, hospital: str, why: str) -> None:
        self.rejected += 1
        self._write("rejected", hospital, why=why[:200])

    def _write(self, event: str, hospital: str, **fields: Any) -> None:
        """A line of what came from a hospital: so many of each, started again or not, that nobody fills the disk."""
        self._lines[event, hospital] += 1
        if self._lines[event, hospital] <= _MOST_LINES:
            self.journal.append(event, durable=False, hospital=hospital, **fields)

    def close(self) -> None:
        """Tells everybody that it is over, and ends the connections."""
        self.tell(Kind.END, 0, dict.fromkeys(self.transport.present(), pack({})))
        time.sleep(0.05)  # what is on its way may arrive
        self.transport.close()
