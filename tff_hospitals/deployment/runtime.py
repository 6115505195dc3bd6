"""The deployed runtime: the one training loop, with the hospitals' half of every round done at the hospitals.

The server draws cohorts and its own noise, and finishes each round as every runtime does (`server_half`). Contributions
are added in the order of the compiled runtime. Batches and noise that this process drew for a hospital are never used:
the hospital draws its own; what counts here is how many steps it takes, which follows from the agreement.

A round with too few answers is repeated with the same content; a hospital that answers again sends the same bits, and
charges them once.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tff_hospitals.communication.container import PayloadError
from tff_hospitals.deployment import body, secure_sum, wire
from tff_hospitals.deployment.envelope import Kind, Rejected
from tff_hospitals.deployment.federation import Answers, Federation
from tff_hospitals.deployment.transport import DeploymentError
from tff_hospitals.processes.encoded_transfer import norm_of
from tff_hospitals.processes.rounds import METRICS as TRAINING_METRICS
from tff_hospitals.processes.rounds import HospitalRound, RoundInput, RoundOutput
from tff_hospitals.runtimes import base
from tff_hospitals.runtimes.compiled import chunked
from tff_hospitals.runtimes.compiled.server_half import Opened, Report, ServerHalf
from tff_hospitals.runtimes.compiled.tree_sum import TreeSum, add_leaves
from tff_hospitals.training.evaluation import POOLED
from tff_hospitals.training.metrics import METRICS, metrics_of

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.processes.composition import Composition, ServerState

_ATTEMPTS = 3
_LARGEST = float(np.finfo(np.float32).max)
_MEANS = ("loss", "accuracy", "brier", "mae")
"""Metrics whose value over all records is the mean of the hospitals' values, weighted by records."""

Leaves = list[np.ndarray]


class DeployedRuntime(base.Runtime):
    """Runs rounds at real hospitals.

    Args:
      composition: the composed plan.
      dataset: as the agreement describes it; no record is here.
      frozen: weights that do not travel.
      federation: the hospitals that presented themselves.
    """

    def __init__(self, composition: Composition, dataset: HospitalDataset, frozen: tuple, *, federation: Federation):
        super().__init__(frozen)
        self._parts, self._federation = composition, federation
        self._agreement = federation.agreement
        self._wire = wire.Wire(composition)
        self._server = ServerHalf(composition)
        self._receive = tf.function(composition.aggregator.received, autograph=False, reduce_retracing=True)
        self._tests, self._task = dataset.records(train=False), dataset.task
        self._whole_sum = self._wire.bits is not None and composition.aggregator.draws_at_hospital
        self._holds: dict[str, tuple[int, int]] = {}  # hospital: round of the model that it holds, and its arrival
        self._evaluations = 0
        self.overheads: list[float] = []
        if self._agreement.test_key:
            self.note("test mode: all noise and batches follow from a key that everybody has; it protects nobody")

    # -- rounds -----------------------------------------------------------------

    def run_rounds(self, state: ServerState, rounds: Sequence[RoundInput]) -> base.Result:
        """Runs the rounds one after the other and returns numpy state."""
        return base.one_after_the_other(self._round, state, rounds)

    def _round(self, state: ServerState, one: RoundInput) -> tuple[ServerState, RoundOutput]:
        started = time.perf_counter()
        opened = self._server.begin(state, one)
        fewest = min(len(one.cohort), self._agreement.fewest_hospitals)
        if self._whole_sum:
            fewest = len(one.cohort)
        found: dict[str, Leaves] = {}
        missing: dict[str, str] = {}
        total: Any = None
        answers: dict[str, body.Body] = {}
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                if self._wire.bits is not None and one.cohort:
                    total, answers, missing = self._summed_securely(opened, one)
                else:
                    found, answers, missing = self._gathered(opened, one)
            except Rejected as error:
                missing = {"the secure sum": str(error)}
                answers = {}
            if len(answers) >= fewest:
                break
            self._say_missing(one, missing, f"attempt {attempt} is not used")
        else:
            raise self._too_few(one, fewest, missing)
        self._say_missing(one, missing, "left out")
        if self._wire.bits is None:
            total = self._added(one, found)
        reports = [self._report(part, answers.get(part.hospital.hospital_id)) for part in one.cohort]
        after, output = self._server.finish(opened, one, total, reports)
        after = tf.nest.map_structure(np.asarray, after)
        took = time.perf_counter() - started
        # Whatever hospitals say, their work is within the round.
        work = max((_seconds(answer) for answer in answers.values()), default=0.0)
        self.overheads.append(took - min(took, work))
        return after, output

    def _bodies(
        self, opened: Opened, one: RoundInput, more: Mapping[str, dict[str, bytes]] | None = None
    ) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """What each hospital of a round is asked, and what it is asked if it comes back without its memory."""
        ids = [part.hospital.hospital_id for part in one.cohort]
        whole = self._wire.weights.pack(opened.broadcast.weights)
        common = {
            "parameters": self._wire.parameters.pack(opened.broadcast.parameters),
            "broadcast_key": wire.key_to_bytes(one.broadcast_key),
        }
        packed: dict[tuple[int | None, bytes], bytes] = {}  # what several are asked alike is packed and hashed once

        def asked(name: str, upload_key: bytes, held: int | None) -> bytes:
            own_sections = (more or {}).get(name, {})
            if not own_sections and (held, upload_key) in packed:
                return packed[held, upload_key]
            form = {"form": "whole"} if held is None else {"form": "payload", "held": held}
            weights = whole if held is None else opened.payload or b""
            sections = {"weights": weights, **common, "upload_key": upload_key, **own_sections}
            made = body.pack({"cohort": ids, **form}, sections)
            return made if own_sections else packed.setdefault((held, upload_key), made)

        first: dict[str, bytes] = {}
        again: dict[str, bytes] = {}
        for part in one.cohort:
            name = part.hospital.hospital_id
            upload_key = wire.key_to_bytes(part.upload_key if self._wire.encodes_upload else None)
            held = self._held_by(name)
            again[name] = first[name] = asked(name, upload_key, None)
            if opened.payload is not None and not (self._needs_reference and held is None):
                first[name] = asked(name, upload_key, -1 if held is None else held)
        return first, again

    @property
    def _needs_reference(self) -> bool:
        return self._wire.transfer is not None and self._wire.transfer.broadcast.needs_reference

    def _held_by(self, hospital: str) -> int | None:
        number, arrival = self._holds.get(hospital, (None, -1))
        return number if arrival == self._federation.arrivals.get(hospital, 0) else None

    def _note_holders(self, one: RoundInput, answered: Mapping[str, Any]) -> None:
        # Only who decoded the model of the round before can decode the next difference to it.
        self._holds = {name: (one.number, self._federation.arrivals.get(name, 0)) for name in answered}

    def _gathered(
        self, opened: Opened, one: RoundInput
    ) -> tuple[dict[str, Leaves], dict[str, body.Body], dict[str, str]]:
        """Every hospital's contribution as leaves."""
        parts = {part.hospital.hospital_id: part for part in one.cohort}
        found: dict[str, Leaves] = {}

        def check(name: str, answer: body.Body) -> None:
            found[name] = self._contribution(opened, parts[name], answer)

        answers = self._ask(opened, one, check)
        self._note_holders(one, answers.bodies)
        return found, answers.bodies, answers.missing

    def _ask(self, opened: Opened, one: RoundInput, check: Any, more: Any = None, only: Any = None) -> Answers:
        first, again = self._bodies(opened, one, more)
        if only is not None:
            first = {name: first[name] for name in only}
        return self._federation.ask(Kind.ROUND, one.number, first, check=check, when_back=again)

    def _contribution(self, opened: Opened, part: HospitalRound, answer: body.Body) -> Leaves:
        """The contribution in an answer, checked as everything that came from outside.

        Raises:
          Rejected: it is not one.
        """
        _seconds(answer), _training_metrics(answer)
        if self._parts.aggregator.bounded is False and answer.fields.get("not_finite"):
            raise Rejected("its update was not finite: smaller steps at that hospital, or look at its features")
        if not self._wire.encodes_upload or self._wire.transfer is None:
            return _leaves(self._wire.contribution.unpack(answer.section("contribution")))
        sent = answer.field("sent", bool)
        payload = answer.section("payload")
        if sent != bool(payload):
            raise Rejected("it says that it sent an update, and did not, or the other way round")
        try:
            decoded = self._wire.transfer.receive_upload(payload if sent else None, part.upload_key)
        except PayloadError as error:
            raise Rejected(f"its payload cannot be decoded: {error}") from error
        if not all(np.isfinite(array).all() for array in decoded):
            raise Rejected("its payload holds a value that is not finite")
        beside = self._wire.beside.unpack(answer.section("beside"))
        prepared = type(beside)((name, decoded if name == "delta" else beside[name]) for name in self._server.zero)
        constants = tf.nest.map_structure(tf.constant, (opened.broadcast.parameters, prepared, tuple(decoded)))
        return _leaves(self._receive(*constants, tf.constant(part.weight, tf.float32)))

    def _added(self, one: RoundInput, found: Mapping[str, Leaves]) -> Any:
        """The sum in the order of the compiled runtime: within chunks, then as a tree."""
        ids = [part.hospital.hospital_id for part in one.cohort]
        size = chunked.usual_size(len(ids)) if ids else 1
        tree: TreeSum[Leaves] = TreeSum(add_leaves)
        for start in range(0, len(ids), size):
            total: Leaves | None = None
            for name in ids[start : start + size]:
                if name in found:
                    total = found[name] if total is None else add_leaves(total, found[name])
            if total is not None:
                tree.append(total)
        return self._structured(tree.result())

    def _structured(self, leaves: Leaves | None) -> Any:
        if leaves is None:
            return None
        return tf.nest.pack_sequence_as(self._server.zero, [tf.constant(leaf) for leaf in leaves])

    def _report(self, part: HospitalRound, answer: body.Body | None) -> Report:
        """What is known of a hospital's part; who did not answer counts with its steps, which it may have charged."""
        name = part.hospital.hospital_id
        metrics = np.array([0.0, 0.0, part.schedule.steps, 0.0], np.float32)
        payload_bytes, norm = None, 0.0
        if answer is not None:
            told = _training_metrics(answer)
            if told is not None:
                metrics = np.array(told, np.float32)
                metrics[2] = part.schedule.steps
            if self._wire.encodes_upload and self._wire.transfer is not None and answer.fields.get("sent"):
                payload = answer.sections["payload"]
                payload_bytes = len(payload)
                norm = norm_of(self._wire.transfer.receive_upload(payload, part.upload_key))
        return Report(name, metrics, self._wire.encodes_upload, payload_bytes, norm)

    # -- the secure sum -----------------------------------------------------------

    def _summed_securely(self, opened: Opened, one: RoundInput) -> tuple[Any, dict[str, body.Body], dict[str, str]]:
        """The sum alone, by the four steps of `secure_sum`.

        Raises:
          Rejected: it could not be opened.
        """
        agreement, link, bits = self._agreement, self._wire, int(self._wire.bits or 0)
        name = os.urandom(16)
        context = b"|".join((agreement.identity_bytes, agreement.digest, str(one.number).encode(), name))
        ids = [part.hospital.hospital_id for part in one.cohort]
        missing: dict[str, str] = {}

        def ask(
            kind: Kind, bodies: Mapping[str, bytes], check: Callable[[str, body.Body], object]
        ) -> dict[str, body.Body]:
            answers = self._federation.ask(kind, one.number, bodies, check=check)
            missing.update(answers.missing)
            if len(answers.bodies) < agreement.threshold:
                said = "; ".join(f"{who}: {why}" for who, why in answers.missing.items())
                raise Rejected(
                    f"{len(answers.bodies)} of {agreement.threshold} hospitals took part in {kind.name}: {said}"
                )
            return answers.bodies

        own = {"session": name}
        statements: dict[str, bytes] = {}

        def check_statement(who: str, answer: body.Body) -> None:
            statement = {who: answer.section("statement", secure_sum.STATEMENT_BYTES)}
            secure_sum.check_statements(statement, context, agreement.hospital_keys)
            statements.update(statement)

        ask(Kind.KEYS, dict.fromkeys(ids, body.pack({}, own)), check_statement)

        def check_boxes(who: str, answer: body.Body) -> None:
            for other in set(statements) - {who}:
                answer.section(f"box:{other}", secure_sum.BOX_BYTES)

        told = body.pack({}, {**own, **{f"say:{who}": data for who, data in statements.items()}})
        shared = ask(Kind.SHARES, dict.fromkeys(statements, told), check_boxes)
        more: dict[str, dict[str, bytes]] = {}
        for who in shared:
            boxes = {f"box:{other}": answer.section(f"box:{who}") for other, answer in shared.items() if other != who}
            more[who] = {**own, **boxes}
        masked: dict[str, np.ndarray] = {}
        asked = wire.name_of_content(
            one.number,
            ids,
            link.weights.pack(opened.broadcast.weights),
            link.parameters.pack(opened.broadcast.parameters),
        )

        def check(who: str, answer: body.Body) -> None:
            _seconds(answer), _training_metrics(answer)
            if answer.field("asked", str) != asked.hex():
                raise Rejected("it decoded another model than the one that was sent")
            masked[who] = wire.unpack_words(answer.section("masked"), link.contribution.values, bits)

        answers = self._ask(opened, one, check, more, shared)
        self._note_holders(one, answers.bodies)
        missing.update(answers.missing)
        if len(masked) < (len(ids) if self._whole_sum else max(agreement.threshold, agreement.fewest_hospitals)):
            raise Rejected(f"{len(masked)} of {len(ids)} hospitals sent their numbers: {missing}")
        survivors = sorted(masked)
        wanted = body.pack({"survivors": survivors}, own)

        def check_shares(who: str, answer: body.Body) -> None:
            for other in shared:
                answer.section(f"share:{other}", secure_sum.SHARE_BYTES)

        opened_by = ask(Kind.UNMASK, dict.fromkeys(survivors, wanted), check_shares)
        given = {
            who: {other: answer.section(f"share:{other}") for other in shared} for who, answer in opened_by.items()
        }
        self._say_missing(one, {who: missing.pop(who) for who in survivors if who in missing}, "its numbers count")

        def on_liar(who: str) -> None:
            why = "helped with shares that fit to nobody else's"
            self._federation.journal.append("rejected", durable=False, connection=who, why=why)
            self.note(f"round {one.number + 1}: {who} {why} (the sum was opened without them)")

        words = secure_sum.open_sum(masked, given, statements, context, agreement.threshold, on_liar, asked)
        leaves = _leaves(link.contribution.from_words(words & np.uint32(2**bits - 1)))
        return self._structured(leaves), answers.bodies, missing

    # -- evaluation -----------------------------------------------------------------

    def evaluate(self, weights: tuple) -> dict[str, dict[str, float]]:
        """Metrics of weights at every hospital that tells them, and those of all records that follow from them."""
        blank = dict.fromkeys(METRICS, math.nan)
        found = {name: {**blank, "records": float(self._tests[name])} for name in self._agreement.ids}
        if self._agreement.share_test_metrics:
            asked = body.pack({}, {"weights": self._wire.weights.pack(tuple(np.asarray(one) for one in weights))})
            number = min(len(self.overheads), self._agreement.the_plan().rounds)
            answers = self._federation.ask(
                Kind.EVALUATE, number, dict.fromkeys(self._agreement.ids, asked), check=self._metrics
            )
            for name, answer in answers.bodies.items():
                found[name] = {**self._metrics(name, answer), "records": float(self._tests[name])}
            for name, why in answers.missing.items():
                self.note(f"the metrics of {name} are missing in at least one evaluation: it {why}")
        known = [one for one in found.values() if one["records"] and math.isfinite(one.get("loss", math.nan))]
        records = sum(one["records"] for one in known)
        pooled = dict.fromkeys(next(iter(found.values())), math.nan)
        for metric in _MEANS:
            if records and all(math.isfinite(one.get(metric, math.nan)) for one in known):
                pooled[metric] = sum(one[metric] * one["records"] for one in known) / records
        return {**found, POOLED: {**pooled, "records": float(sum(self._tests.values()))}}

    def summary_fields(self) -> dict[str, Any]:
        """The engine, and what a round takes beyond the work of its slowest hospital (median)."""
        settled = self.overheads[1:] or self.overheads
        return {
            "engine": self._federation.transport.engine,
            "overhead_seconds_per_round": statistics.median(settled) if settled else None,
        }

    def _metrics(self, name: str, answer: body.Body) -> dict[str, float]:
        """Metrics in an answer: those of the task, numbers or nothing.

        Raises:
          Rejected: others, or something else.
        """
        told = answer.field("metrics", dict)
        if set(told) - {"records"} != {metric.name for metric in metrics_of(self._task)}:
            raise Rejected("it tells other metrics than were asked for")
        return {metric: _number(value, "metrics") for metric, value in told.items() if metric != "records"}

    # -- words ----------------------------------------------------------------------

    def _say_missing(self, one: RoundInput, missing: Mapping[str, str], what: str) -> None:
        for name, why in missing.items():
            self.note(f"round {one.number + 1}: {name} {why} ({what})")

    def _too_few(self, one: RoundInput, fewest: int, missing: Mapping[str, str]) -> DeploymentError:
        said = "; ".join(f"{name} {why}" for name, why in missing.items())
        return DeploymentError(
            f"round {one.number + 1}: fewer than {fewest} of {len(one.cohort)} hospitals could be used in "
            f"{_ATTEMPTS} attempts ({said}). Nothing of this round was used. Remedy: mend the cause; the same command "
            "goes on from the last checkpoint, and what hospitals send again is charged once."
        )


def _leaves(structure: Any) -> Leaves:
    return [np.asarray(leaf) for leaf in tf.nest.flatten(structure)]


def _number(value: Any, what: str) -> float:
    """A number of an answer, NaN for none.

    Raises:
      Rejected: something else, or one that no float32 holds.
    """
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST:
        raise Rejected(f"it tells {what} that are no numbers")
    return float(value)


def _seconds(answer: body.Body) -> float:
    found = _number(answer.fields.get("seconds", 0.0), "seconds")
    if not found >= 0:
        raise Rejected("it tells seconds that are no numbers")
    return found


def _training_metrics(answer: body.Body) -> list[float] | None:
    told = answer.fields.get("metrics")
    if told is None:
        return None
    if not isinstance(told, list) or len(told) != len(TRAINING_METRICS):
        raise Rejected("it tells other metrics of its training than were asked for")
    return [_number(value, "metrics") for value in told]
