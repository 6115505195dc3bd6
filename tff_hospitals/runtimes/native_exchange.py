"""Payloads of the native runtime: made on the host from what TFF's process reports, and held to what it computed.

TFF's executor moves tensors of its own, so no payload crosses it. Each payload of the round is made here by the codec
from the same values, decoded, and compared with what the process used; a difference ends the run.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from tff_hospitals.learning_process import ServerState
from tff_hospitals.processes.exchange import Exchange, Traffic, norm_of
from tff_hospitals.runtimes import base


class PayloadMismatch(RuntimeError):
    """What TFF's process computed is not what the payload decodes to; the message names round and hospital."""


def given_to_encoder(exchange: Exchange, one: base.HospitalRound, place: np.ndarray, residual: Any) -> Any:
    """The values of `tff_exchange.upload_spec` for one hospital."""
    given = exchange.upload_draws(one.upload_key)
    if exchange.error_feedback:
        given["residual"] = np.asarray(residual, np.float32)
    given["place"] = place
    return given


def distributor_state(exchange: Exchange, state: ServerState, one: base.RoundInput) -> Any:
    """The state of `tff_exchange.build_distributor` before a round."""
    return collections.OrderedDict(
        held=tuple(np.asarray(part, np.float32) for part in state.distributor["held"]),
        first=np.bool_(int(state.round_number) == 0),
        draws=exchange.broadcast_draws(one.broadcast_key),
    )


def settle(
    exchange: Exchange, before: ServerState, after: ServerState, one: base.RoundInput, held: Any, report: Any
) -> tuple[ServerState, Traffic]:
    """Makes the payloads of a finished round; returns the state with what each end keeps, and what was sent.

    Args:
      exchange: the encoders.
      before, after: the state around the round.
      one: the round.
      held: the model that TFF's distributor broadcast; None without an encoded broadcast.
      report: `encoded` and `decoded` values [hospitals, parameters]; None without encoded uploads.

    Raises:
      PayloadMismatch: a payload decodes to something else than TFF used.
    """
    broadcast_bytes, payloads, norms = None, {}, {}
    if held is not None:
        first = int(before.round_number) == 0
        sent = exchange.send_broadcast(before.weights, before.distributor["held"], first, one.broadcast_key)
        _compare(exchange, sent.weights, held, f"round {one.number + 1}: the broadcast")
        broadcast_bytes = sent.payload_bytes
        after = after._replace(distributor=collections.OrderedDict(held=sent.held))
    if report is not None:
        kept = dict(before.hospitals)
        for position, hospital in enumerate(one.cohort):
            name = hospital.hospital.hospital_id
            update = _split(exchange, np.asarray(report["encoded"])[position])
            upload = exchange.send_upload(update, hospital.upload_key, kept.get(name))
            used = _split(exchange, np.asarray(report["decoded"])[position])
            _compare(exchange, upload.update, used, f"round {one.number + 1}: the upload of {name!r}")
            payloads[name], norms[name] = upload.payload_bytes, norm_of(upload.update)
            if upload.residual is not None:
                kept[name] = upload.residual
        after = after._replace(hospitals=collections.OrderedDict((name, kept[name]) for name in before.hospitals))
    return after, Traffic(broadcast_bytes, payloads, norms)


def _split(exchange: Exchange, values: np.ndarray) -> list[np.ndarray]:
    pieces = np.split(np.asarray(values, np.float32), np.cumsum(exchange.lengths)[:-1])
    return [piece.reshape(shape) for piece, shape in zip(pieces, exchange.shapes)]


def _compare(exchange: Exchange, decoded: Sequence[np.ndarray], used: Sequence[Any], what: str) -> None:
    error = exchange.differs(decoded, [np.asarray(part) for part in used])
    if error is not None:
        raise PayloadMismatch(
            f"{what} decodes to values that differ by {error:.3g} of their norm from those that TFF computed. "
            "Remedy: take --runtime=compiled, and report this with the plan."
        )
