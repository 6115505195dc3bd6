"""What a hospital computes: the plan's client work over its own records, with noise and batches of its own.

The process is composed here from the agreement; nothing that the server sends decides more than the weights, the
round, the cohort and the keys of shared bits. In test mode all streams follow from the agreement's key; otherwise from
the secret beside the hospital's data, the agreement, and the whole content of the request: other weights, other noise.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_hospitals import models
from tff_hospitals.deployment.agreement import Agreement, no_records
from tff_hospitals.deployment.envelope import Rejected
from tff_hospitals.deployment.keys import sha512
from tff_hospitals.deployment.wire import Wire
from tff_hospitals.foundations.validation import Problem, raise_if
from tff_hospitals.hospitals import DataSecret, Hospital, Part
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.processes import composition
from tff_hospitals.processes.composition import Composition
from tff_hospitals.processes.rounds import HospitalRound, RoundInput
from tff_hospitals.runtimes.compiled import device_data
from tff_hospitals.runtimes.compiled import runtime as compiled
from tff_hospitals.runtimes.compiled.server_half import Broadcast
from tff_hospitals.training.evaluation import Evaluator
from tff_hospitals.training.round_inputs import RoundDrawer
from tff_hospitals.training.run_streams import run_streams

_PIECE = 1024  # records that are read at once
_SAME = 1e-5
"""Relative: two machines may calibrate noise to other last digits; each hospital's noise is by its own."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What a hospital made of a round.

    Attributes:
      contribution: what is added up; with an encoded upload what goes beside the payload.
      payload: of the encoded upload; None where nothing is encoded, or nothing is sent.
      residual: what waits for the next upload, with error feedback.
      metrics: float32, see `rounds.METRICS`.
      seconds: that it took.
    """

    contribution: Any
    payload: bytes | None
    residual: np.ndarray | None
    metrics: np.ndarray
    seconds: float


class SiteWork:
    """The composed plan at one hospital.

    Args:
      agreement: that was approved.
      hospital: the records of this hospital, under its id.
      secret: of its data.
      parts: the composed plan, where several hospitals of one process share it.

    Raises:
      InvalidInput: the records are not those that the agreement describes.
    """

    def __init__(self, agreement: Agreement, hospital: Hospital, secret: DataSecret, parts: Composition | None = None):
        raise_if(_data_problems(agreement, hospital))
        self.agreement, self.own, self.secret = agreement, hospital.hospital_id, secret
        self.plan = agreement.the_plan()

        def read(name: str, word: str) -> Part:
            if name != self.own:
                return no_records(name, word)
            return hospital.train if word == "train" else hospital.test

        self.dataset = agreement.dataset(secret, read)
        if parts is None:
            model = models.build_model(self.plan.model.name, self.dataset, **dict(self.plan.model.options))
            parts = composition.compose(self.plan, self.dataset, model)
        self.parts, self.model = parts, parts.model
        self.private = any(mechanism.private for mechanism, _ in mechanisms.layers(self.plan.privacy))
        raise_if(self.model.problems(under_dp=self.private, records=hospital.train.features[:64]))
        for word, part in (("train", hospital.train), ("test", hospital.test)):
            raise_if(self.model.token_problems(part.features, self.dataset.feature_names, f"{word} part of {self.own}"))
        self.noise = noise_plan.make(self.plan, self.dataset)
        self.records = _content(hospital.train)
        self.repeatable = mechanisms.repeatable(self.plan.privacy)
        self.wire = Wire(self.parts)
        self.steps = {
            name: noise_plan.steps_per_round(self.plan, size) for name, size in self.dataset.records().items()
        }
        # Drop-outs take their share of the noise with them: such a sum is opened whole or not at all.
        self.needs_everyone = self.wire.bits is not None and self.parts.aggregator.draws_at_hospital
        self._streams = run_streams(self.plan, self.dataset, self.model)
        _, frozen = self.model.initial_weights(self._streams.weights())
        self._frozen = tuple(tf.constant(weight) for weight in frozen)
        own = dataclasses.replace(self.dataset, hospitals=(self.dataset.hospital(self.own),))
        # Rates and clip norms are those of the plan that was agreed, whatever a server sends.
        self._settings = self.parts.client_work.settings()
        aggregator = self.parts.aggregator
        begun = aggregator.initial_state(np.zeros([2], np.int64), self.noise.server_multiplier)
        self._planned = dict(aggregator.parameters(begun))
        self._data = device_data.StreamedData(own)
        self._record_bytes = device_data.record_bytes(own)
        self._evaluate = Evaluator(self.model, own)
        # Without XLA: one hospital's program is traced once and ready in a second, and several may share a process.
        self._execute = compiled.Executor(self.parts, "side_by_side", threads=1)
        self._prepare = tf.function(self._prepared, autograph=False, reduce_retracing=True)

    @property
    def tells_metrics(self) -> bool:
        """Whether figures of training records leave: where nothing is protected, or in test mode."""
        return bool(self.agreement.test_key) or not (self.private or self.wire.bits is not None)

    def parameters_of_plan(self, asked: Any) -> Any:
        """The aggregator's parameters in a request: noise and norms are the plan's, whatever the server says.

        Args:
          asked: as the request has them.

        Raises:
          Rejected: one that follows from the plan is another there.
        """
        told, found = self.parts.aggregator.told, {}
        for name, value in asked.items():
            own = value if name in told else tf.nest.map_structure(_as, self._planned[name], value)
            for mine, theirs in zip(tf.nest.flatten(own), tf.nest.flatten(value)):
                if not np.allclose(mine, theirs, rtol=_SAME, atol=0.0):
                    raise Rejected(f"{name} is {theirs}, and the approved plan has {mine}", "plan")
            found[name] = own
        return type(asked)(found)

    def train(
        self,
        number: int,
        cohort: Sequence[str],
        weights: Sequence[np.ndarray],
        parameters: Any,
        upload_key: np.ndarray | None,
        residual: np.ndarray | None,
        request: str,
    ) -> Work:
        """This hospital's part of a round.

        Args:
          number: of the round, 0-based.
          cohort: ids of the hospitals in it, in order: a rule that sees single updates knows them by their places.
          weights: that the hospital received.
          parameters: of the aggregator.
          upload_key: of the bits that its encoder shares with the server.
          residual: what its last upload left out.
          request: digest of everything that was asked; outside of test mode noise follows from it.
        """
        started = time.perf_counter()
        one = self._draw(number, cohort, request)
        constants = tf.nest.map_structure(tf.constant, (tuple(weights), np.int32(number), parameters, self._settings))
        broadcast = Broadcast(*constants)
        payload = None
        if self.wire.encodes_upload and self.wire.transfer is not None:
            prepared, metrics = self._prepare(broadcast, device_data.element(one, self._data, self._frozen))
            update = [part.numpy() for part in prepared["delta"]]
            if self.wire.transfer.error_feedback and residual is None:
                residual = np.zeros([self.wire.weights.values], np.float32)
            upload = self.wire.transfer.send_upload(update, upload_key, residual)
            payload, residual = upload.payload, upload.residual
            contribution = {name: value for name, value in prepared.items() if name != "delta"}
            contribution = type(prepared)(contribution)
        else:

            def run(program: compiled.Program) -> Any:
                by_chunk = compiled.chunk_by_chunk(program)
                chunks = by_chunk.chunks(RoundInput(number, (one,)), self._record_bytes)
                return list(by_chunk.sums(broadcast, chunks, self._data, self._frozen, {}))

            ((contribution, (report,)),) = self._execute(run)
            metrics = report.metrics
        contribution = tf.nest.map_structure(np.asarray, contribution)
        return Work(contribution, payload, residual, np.asarray(metrics), time.perf_counter() - started)

    def evaluate(self, weights: Sequence[np.ndarray]) -> dict[str, float]:
        """Metrics of weights on the hospital's own test records."""
        return self._evaluate(tuple(tf.constant(one) for one in weights), self._frozen)[self.own]

    def _draw(self, number: int, cohort: Sequence[str], request: str) -> HospitalRound:
        streams = self._streams
        if not self.agreement.test_key:
            own = streams.own.child("agreement", self.agreement.digest.hex(), "request", request)
            streams = dataclasses.replace(streams, own=own)
        drawer = RoundDrawer(self.plan, self.dataset, self.noise, streams)
        drawn = drawer.draw(number, tuple(cohort)).cohort
        return drawn[list(cohort).index(self.own)]

    def _prepared(self, broadcast: Broadcast, element: Any) -> Any:
        return self.parts.prepared_upload(broadcast.state, broadcast.parameters, element)


def _as(value: Any, like: np.ndarray) -> np.ndarray:
    return np.asarray(value, like.dtype).reshape(like.shape)


def _content(part: Part) -> bytes:
    """32 bytes that name training records; read in pieces, as pictures that lie on the disk are."""
    pieces = [repr((part.records, tuple(part.features.shape))).encode()]
    for start in range(0, part.records, _PIECE):
        for array in (part.features[start : start + _PIECE], part.labels[start : start + _PIECE]):
            pieces.append(sha512(np.ascontiguousarray(array).tobytes()))
    return sha512(*pieces)[:32]


def _data_problems(agreement: Agreement, hospital: Hospital) -> list[Problem]:
    """Where a hospital's records are not what was agreed on."""
    described = {one["id"]: one for one in agreement.data["hospitals"]}
    if hospital.hospital_id not in described:
        names = ", ".join(sorted(described)[:10])
        bound = f"is none of the agreement's hospitals ({names})"
        return [Problem("hospital", hospital.hospital_id, bound, "take the id that the federation gave this hospital")]
    found, own = [], described[hospital.hospital_id]
    for word, part in (("train", hospital.train), ("test", hospital.test)):
        if part.records != own[f"{word}_records"]:
            bound = f"must be {own[f'{word}_records']}, as the agreement says"
            found.append(Problem(f"{word} records", part.records, bound, "take those data, or agree anew"))
        shape = list(part.features.shape[1:])
        if shape != list(agreement.data["feature_shape"]):
            names = ", ".join(agreement.data["feature_names"]) or str(agreement.data["feature_shape"])
            bound = f"must be {agreement.data['feature_shape']}: {names[:400]}"
            found.append(Problem(f"features of the {word} records", shape, bound, "prepare them by the same schema"))
    return found
