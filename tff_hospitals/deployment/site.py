"""A hospital's worker: takes requests in, decides, and answers; it needs no network to be tested.

`handle` gets bytes that came from outside and gives the bytes of the answer, or None. Whatever comes, one of three
things happens: an answer that the agreement covers, charged before it is given; a signed refusal with its reason; or
nothing, where the sender could not even prove to be the server. Nothing but the first changes what the hospital holds.
"""

from __future__ import annotations

import dataclasses
import itertools
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tff_hospitals.communication.container import PayloadError
from tff_hospitals.deployment import body, wire
from tff_hospitals.deployment.agreement import SERVER
from tff_hospitals.deployment.approval import Limits
from tff_hospitals.deployment.envelope import Envelope, Kind, Rejected, seal, unseal
from tff_hospitals.deployment.journal import JOURNALLED_REJECTIONS, Journal
from tff_hospitals.deployment.keys import SigningKey, sha512
from tff_hospitals.deployment.secure_sum import Member
from tff_hospitals.deployment.site_ledger import SiteLedger
from tff_hospitals.deployment.site_memory import SiteMemory
from tff_hospitals.deployment.site_work import SiteWork, Work
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.training.odometer import Odometer

_MOST_EVALUATIONS = 4  # of one round, with different weights
_SESSION_BYTES = _KEY_BYTES = 16
_REQUESTS, _REQUESTS_OF_A_ROUND = 10_000, 200  # that are answered: more than any run needs, and the disk has room for


@dataclasses.dataclass
class _Session:
    """A secure sum under way.

    `charged` hospitals were to bring their share of the noise; `answers` by request, so that a line that was cut costs
    nobody the session.
    """

    number: int
    name: bytes
    member: Member
    request: str = ""
    asked: bytes = b""
    charged: int = 0
    answers: dict[bytes, bytes] = dataclasses.field(default_factory=dict)


class Site:
    """One hospital under one approved agreement.

    Args:
      work: what it computes.
      key: it signs with.
      journal: of this hospital.
      memory: what it keeps from round to round.
      limits: that were approved.

    Attributes:
      worker: a name that no other process of this hospital has.
      ended: whether the server said that it is over for this worker.
      why: where that is not because the run is over.
    """

    def __init__(self, work: SiteWork, key: SigningKey, journal: Journal, memory: SiteMemory, limits: Limits):
        self.work, self.agreement, self.journal = work, work.agreement, journal
        self._key, self._memory = key, memory
        self.worker = secrets.token_hex(8)
        self.ledger = SiteLedger(
            work.own,
            work.dataset,
            work.noise,
            work.steps,
            work.plan.rounds,
            limits,
            bool(self.agreement.test_key) and work.repeatable,
            journal,
            Odometer(work.secret),
            self.agreement.digest.hex(),
            work.secret.digest("journal"),
        )
        self._numbers = itertools.count(time.time_ns())
        self._seen = max((entry.get("number", 0) for entry in journal.entries), default=0)
        self._evaluated: dict[int, set[str]] = {}
        self._session: _Session | None = None
        self._kept: tuple[str, Work] | None = None
        self._opened: dict[int, tuple[str, tuple[str, ...]]] = {}
        self._taken, self._most_taken = 0, _REQUESTS + _REQUESTS_OF_A_ROUND * work.plan.rounds
        for entry in journal.entries:
            if entry["event"] == "unmasked":
                self._opened[entry["round"]] = (entry["request"], tuple(entry["survivors"]))
            elif entry["event"] == "evaluated":
                self._evaluated.setdefault(entry["round"], set()).add(entry["request"])
            self._taken += entry["event"] in ("answered", "refused")
        self._rejected = sum(entry["event"] == "rejected" for entry in journal.entries)
        self.ended, self.why = False, ""
        self._handlers: Mapping[Kind, Callable[[Envelope, body.Body], bytes]] = {
            Kind.ROUND: self._round,
            Kind.EVALUATE: self._evaluate,
            Kind.KEYS: self._keys,
            Kind.SHARES: self._shares,
            Kind.UNMASK: self._unmask,
        }

    def hello(self) -> bytes:
        """How the hospital presents itself on a new connection."""
        said = {"process": self.work.parts.signature, "worker": self.worker, "seen": self._seen}
        return self._sealed(Kind.HELLO, 0, 0, body.pack(said))

    def handle(self, data: bytes) -> bytes | None:
        """The answer to bytes from outside; None: none is due.

        Raises:
          RecordError: the journal cannot be written, so that nothing may leave.
        """
        one = self.agreement
        try:
            request = unseal(data, {SERVER: one.server_key}, one.identity_bytes, one.digest)
            if request.number <= self._seen:
                raise Rejected("a request that came before, or is older than one that came")
            if self._taken >= self._most_taken and request.kind is not Kind.END:
                raise Rejected(f"more than {self._most_taken} requests, which no run of this plan needs")
        except Rejected as error:
            self._reject(str(error))
            return None
        self._seen = request.number
        self._taken += 1
        try:
            if request.kind is Kind.END:
                self._end(request, body.unpack(request.body))
                return None
            if one.problems_of_today(self.journal.latest):  # a clock that goes back makes nothing valid again
                raise Rejected("the agreement is over", "over")
            if request.kind not in self._handlers:
                raise Rejected(f"the server does not send {request.kind.name}")
            answer = self._once_in_session(request)
            kind = Kind.ANSWER
        except (Rejected, PayloadError, InvalidInput) as error:
            why = str(error)[:500]
            self.journal.append("refused", number=request.number, asked=request.kind.name, round=request.round, why=why)
            told = error.kind if isinstance(error, Rejected) else "message"
            answer, kind = body.pack({"kind": told}), Kind.REFUSAL
        else:
            self.journal.append(
                "answered",
                durable=False,  # what was charged is on the disk; asked again after a power cut, the same bits leave
                number=request.number,
                asked=request.kind.name,
                round=request.round,
                bytes=len(answer),
                epsilon=_told(self.ledger.epsilon),
            )
        return self._sealed(kind, request.round, request.number, answer)

    def _end(self, request: Envelope, asked: body.Body) -> None:
        if asked.fields.get("worker", self.worker) != self.worker:
            return  # said to another worker of this hospital, which had the line before
        self.ended, self.why = True, str(asked.fields.get("why", ""))
        said: dict[str, Any] = {"why": self.why} if self.why else {}
        self.journal.append("end", number=request.number, epsilon=_told(self.ledger.epsilon), **said)

    # -- rounds -----------------------------------------------------------------

    def _round(self, request: Envelope, asked: body.Body) -> bytes:
        number, link = request.round, self.work.wire
        cohort = self._cohort(asked)
        weights, form = self._weights(number, asked)
        parameters = self.work.parameters_of_plan(link.parameters.unpack(asked.section("parameters")))
        keys = {"upload_key": asked.section("upload_key", _KEY_BYTES if link.encodes_upload else None)}
        # What decides the answer, whatever form it came in: the same is the same release, anything else is another,
        # records that were mended in between included.
        model, records = link.weights.pack(weights), self.work.records
        parts = model, link.parameters.pack(parameters), keys["upload_key"], records
        digest = wire.name_of_content(number, cohort, *parts).hex()
        session = self._in_session(number, digest, len(cohort), asked) if link.bits is not None else None
        if session is not None:
            session.asked = wire.name_of_content(number, cohort, model, asked.section("parameters"))
        if link.bits is not None and self.work.needs_everyone:
            self._check_whole(len(cohort))
        kept = self._kept if self._kept is not None and self._kept[0] == digest else None
        if kept is None:
            self.ledger.charge(number, cohort, digest, drawn_anew=not self.work.repeatable)
        if form:
            self._memory.hold(number, weights)
        if kept is not None:
            return self._packed(kept[1], session, asked)
        residual = self._memory.residual_before(number, digest)
        work = self.work.train(
            number, cohort, weights, parameters, wire.key_from_bytes(keys["upload_key"]), residual, digest
        )
        self._memory.keep(number, digest, residual, work.residual)
        if not self.work.repeatable:  # fresh noise for the same content would be another release
            self._kept = digest, work
        return self._packed(work, session, asked)

    def _packed(self, work: Work, session: _Session | None, asked: body.Body) -> bytes:
        link = self.work.wire
        fields: dict[str, Any] = {"seconds": work.seconds, "sent": True}
        if self.work.tells_metrics:
            if not np.isfinite(work.metrics).all():
                fields["not_finite"] = True
            fields["metrics"] = [float(one) if np.isfinite(one) else None for one in work.metrics]
        if session is not None and link.bits is not None:
            words = link.contribution.to_words(work.contribution, link.bits)
            boxes = {name[4:]: data for name, data in asked.sections.items() if name.startswith("box:")}
            fields["asked"] = session.asked.hex()
            masked = session.member.masked(words, boxes, session.asked) & np.uint32(2**link.bits - 1)
            return body.pack(fields, {"masked": wire.pack_words(masked, link.bits)})
        if link.encodes_upload:
            fields["sent"] = work.payload is not None
            return body.pack(fields, {"payload": work.payload or b"", "beside": link.beside.pack(work.contribution)})
        return body.pack(fields, {"contribution": link.contribution.pack(work.contribution)})

    def _cohort(self, asked: body.Body) -> list[str]:
        cohort = wire.rows_of_text(asked.field("cohort", list))
        if self.work.own not in cohort or not set(cohort) <= set(self.agreement.hospital_keys):
            raise Rejected("the cohort names a stranger, or not this hospital")
        return cohort

    def _weights(self, number: int, asked: body.Body) -> tuple[tuple[np.ndarray, ...], bool]:
        """The model of the round, and whether the hospital has to hold it for the next payload."""
        link, data = self.work.wire, asked.section("weights")
        encodes = link.transfer is not None and link.transfer.encodes_broadcast
        if asked.field("form", str) == "whole" or link.transfer is None or not encodes:
            return tuple(link.weights.unpack(data)), encodes
        held: tuple[np.ndarray, ...] = ()
        if link.transfer.broadcast.needs_reference:
            held = self._memory.held(asked.field("held", int))
        key = wire.key_from_bytes(asked.section("broadcast_key"))
        found = link.transfer.receive_broadcast(data, held, key)
        if not all(np.isfinite(one).all() for one in found):
            raise Rejected("the model holds a value that is not finite")
        return found, True

    def _evaluate(self, request: Envelope, asked: body.Body) -> bytes:
        if not self.agreement.share_test_metrics:
            raise Rejected("the agreement says that no metrics of test records leave", "plan")
        if request.round > self.work.plan.rounds:
            raise Rejected("beyond the rounds of the approved plan", "plan")
        data = asked.section("weights")
        weights = self.work.wire.weights.unpack(data)
        known = self._evaluated.setdefault(request.round, set())
        digest = sha512(data)[:32].hex()
        if digest not in known:
            if len(known) >= _MOST_EVALUATIONS:
                raise Rejected(f"{len(known)} different models were evaluated in this round already", "plan")
            self.journal.append("evaluated", round=request.round, request=digest)
            known.add(digest)
        started = time.perf_counter()
        metrics = self.work.evaluate(weights)
        return body.pack({"metrics": metrics, "seconds": time.perf_counter() - started})

    # -- the secure sum -----------------------------------------------------------

    def _once_in_session(self, request: Envelope) -> bytes:
        """The answer to a request; the same bytes, where a session asks the same again because it was not heard."""
        handle, asked = self._handlers[request.kind], request.body
        if self.work.wire.bits is None or request.kind not in (Kind.SHARES, Kind.ROUND):
            return handle(request, body.unpack(asked))
        name = sha512(bytes([request.kind]) + request.round.to_bytes(4, "big"), asked)
        if self._session is not None and name in self._session.answers:
            return self._session.answers[name]
        answer = handle(request, body.unpack(asked))
        if self._session is not None:
            self._session.answers[name] = answer
        return answer

    def _keys(self, request: Envelope, asked: body.Body) -> bytes:
        name = asked.section("session", _SESSION_BYTES)
        if self.work.wire.bits is None:
            raise Rejected("the plan has no secure sum", "plan")
        one = self.agreement
        context = b"|".join((one.identity_bytes, one.digest, str(request.round).encode(), name))
        member = Member(self.work.own, self._key, context, one.hospital_keys, one.threshold)
        self._session = _Session(request.round, name, member)
        return body.pack({}, {"statement": member.statement()})

    def _shares(self, request: Envelope, asked: body.Body) -> bytes:
        session = self._current(request.round, asked)
        statements = {name[4:]: data for name, data in asked.sections.items() if name.startswith("say:")}
        boxes = session.member.shares(statements)
        return body.pack({}, {f"box:{name}": data for name, data in boxes.items()})

    def _unmask(self, request: Envelope, asked: body.Body) -> bytes:
        session = self._current(request.round, asked)
        survivors = tuple(sorted(wire.rows_of_text(asked.field("survivors", list))))
        if not session.request:
            raise Rejected("nothing was masked in this session", "sum")
        before = self._opened.get(request.round)
        if before is not None and before != (session.request, survivors):
            # The difference of two sums would be somebody's own numbers.
            raise Rejected("another sum of this round was opened already", "sum")
        if self.work.needs_everyone:
            self._check_whole(len(survivors), session.charged)
        shares = session.member.unmask(survivors)
        self.journal.append("unmasked", round=request.round, request=session.request, survivors=survivors)
        self._opened[request.round] = (session.request, survivors)
        return body.pack({}, {f"share:{name}": data for name, data in shares.items()})

    def _current(self, number: int, asked: body.Body) -> _Session:
        session = self._session
        if session is None or session.number != number or session.name != asked.section("session", _SESSION_BYTES):
            raise Rejected("not the session that is under way here", "sum")
        return session

    def _in_session(self, number: int, digest: str, hospitals: int, asked: body.Body) -> _Session:
        session = self._current(number, asked)
        if session.request:
            raise Rejected("numbers were masked in this session already", "sum")
        session.request, session.charged = digest, hospitals
        return session

    def _check_whole(self, hospitals: int, charged: int = 0) -> None:
        """Noise in shares is calibrated for the smallest cohort, and charged for the one that was named."""
        planned = max(charged, self.work.plan.cohort.smallest_size(len(self.agreement.hospital_keys)))
        if hospitals < planned:
            said = f"the noise is planned for {planned:g} hospitals, and {hospitals} would be in the sum"
            raise Rejected(said, "sum")

    # -- inside -------------------------------------------------------------------

    def _sealed(self, kind: Kind, number_of_round: int, answers: int, content: bytes) -> bytes:
        one = self.agreement
        number = next(self._numbers)
        return seal(
            Envelope(kind, self.work.own, one.identity_bytes, one.digest, number_of_round, number, answers, content),
            self._key,
        )

    def _reject(self, why: str) -> None:
        self._rejected += 1
        if self._rejected <= JOURNALLED_REJECTIONS:
            self.journal.append("rejected", durable=False, why=why[:200])


def _told(epsilon: float) -> float | None:
    return epsilon if np.isfinite(epsilon) else None
