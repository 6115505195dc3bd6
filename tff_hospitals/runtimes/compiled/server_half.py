"""The server's half of a round: what it sends, and what it makes of the sum of the contributions.

One definition for all runtimes that run a round as server, hospitals, server: in this process, whatever the strategy,
and on a cluster. Where something is encoded, the payloads of the broadcast are made here, and what hospitals report of
theirs is entered here.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tff_hospitals.processes.aggregators.base import Structure
from tff_hospitals.processes.composition import Composition, ServerState
from tff_hospitals.processes.encoded_transfer import BytesSent
from tff_hospitals.processes.rounds import RoundInput, RoundOutput, metrics_by_name


class Broadcast(NamedTuple):
    """What all hospitals receive in a round: weights, the round's number (0-based), the aggregator's parameters.

    The settings of local training, which they know from the plan, are beside them for the compiled program.
    """

    weights: tuple
    round_number: tf.Tensor
    parameters: Structure
    client: Structure

    @property
    def state(self) -> ServerState:
        """As the hospitals' functions take it: nothing else of the server's state crosses the wire."""
        nothing: Structure = collections.OrderedDict()
        return ServerState(self.weights, self.round_number, nothing, nothing, client=self.client)


@dataclasses.dataclass(frozen=True)
class Report:
    """What is known of one hospital's part.

    Attributes:
      hospital_id: which hospital.
      metrics: float32 [len(METRICS)], see `rounds.METRICS`.
      encoded: whether its upload was encoded (or was encoded and not sent).
      payload_bytes: of its upload; None where nothing was sent.
      norm: L2 norm of what the server decoded.
      kept: float32 [numbers], what the hospital keeps for its next round; None where it keeps nothing.
    """

    hospital_id: str
    metrics: np.ndarray
    encoded: bool = False
    payload_bytes: int | None = None
    norm: float = 0.0
    kept: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Opened:
    """A round that was begun: what hospitals receive, and what the server keeps to finish it.

    `payload` holds the bytes of an encoded broadcast; None: the model is sent as it is.
    """

    broadcast: Broadcast
    at_server: ServerState
    distributor: collections.OrderedDict
    kept: Mapping[str, np.ndarray]
    payload: bytes | None


class ServerHalf:
    """Begins and finishes the rounds of a composed plan."""

    def __init__(self, composition: Composition):
        self._parts, self._exchange = composition, composition.transfer
        self._finish = tf.function(self._finish_round, autograph=False)
        self._zero: Structure | None = None

    @property
    def zero(self) -> Structure:
        """The sum of no contributions."""
        if self._zero is None:
            self._zero = self._parts.zero_contribution()
        return self._zero

    def begin(self, state: ServerState, one: RoundInput) -> Opened:
        """What the hospitals of the round receive; with an encoded broadcast, what they decode."""
        # What hospitals keep, and the model that they hold, stay on the host: neither takes part in the arithmetic.
        bare = state._replace(distributor=collections.OrderedDict(), hospitals=collections.OrderedDict())
        at_server = tf.nest.map_structure(tf.convert_to_tensor, bare)
        weights, distributor, payload = at_server.weights, state.distributor, None
        if self._exchange is not None and self._exchange.encodes_broadcast:
            held = distributor.get("held", ())
            number = int(state.round_number)
            sent = self._exchange.at(number).send_broadcast(state.weights, held, number == 0, one.broadcast_key)
            weights, payload = tuple(tf.constant(weight) for weight in sent.weights), sent.payload
            distributor = collections.OrderedDict(held=sent.held)
        parameters = self._parts.aggregator.parameters(at_server.aggregator)
        broadcast = Broadcast(weights, at_server.round_number, parameters, at_server.client)
        return Opened(broadcast, at_server, distributor, state.hospitals, payload)

    def finish(
        self, opened: Opened, one: RoundInput, total: Structure | None, reports: Sequence[Report]
    ) -> tuple[ServerState, RoundOutput]:
        """The state after the round, and what is known of it.

        Args:
          opened: what `begin` gave.
          one: the round.
          total: the sum of the contributions; None without hospitals.
          reports: of all hospitals of the round, in any order.
        """
        state, measurements = self._finish(opened.at_server, self.zero if total is None else total)
        found = {report.hospital_id: report for report in reports}
        in_order = [found[hospital.hospital.hospital_id] for hospital in one.cohort]
        kept = {**opened.kept, **{r.hospital_id: r.kept for r in in_order if r.kept is not None}}
        kept.update(self._parts.fetched(opened.at_server.weights, state.weights, one))
        state = state._replace(
            distributor=opened.distributor,
            hospitals=collections.OrderedDict((name, kept[name]) for name in opened.kept),
        )
        metrics = {report.hospital_id: metrics_by_name(report.metrics) for report in in_order}
        server = {name: float(value) for name, value in measurements.items()}
        return state, RoundOutput(one.number, metrics, server, self._bytes_sent(opened, in_order))

    def _bytes_sent(self, opened: Opened, reports: Sequence[Report]) -> BytesSent | None:
        if self._exchange is None:
            return None
        encoded = [report for report in reports if report.encoded]
        payloads = {report.hospital_id: report.payload_bytes for report in encoded}
        sent = None if opened.payload is None else len(opened.payload)
        return BytesSent(sent, payloads, {report.hospital_id: report.norm for report in encoded})

    def _finish_round(self, state: ServerState, total: Structure) -> tuple[ServerState, Structure]:
        return self._parts.finish_round(state, total, self._parts.aggregator.server_noise(state.aggregator))
