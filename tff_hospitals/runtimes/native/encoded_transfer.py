"""Payloads of the native runtime: made on the host from what TFF's process reports, and held to what it computed.

TFF's executor moves tensors of its own, so no payload crosses it. Each payload of the round is made here by the codec
from the same values, decoded, and compared with what the process used; a difference ends the run.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from tff_hospitals.processes.composition import ServerState
from tff_hospitals.processes.encoded_transfer import BytesSent, EncodedTransfer, norm_of
from tff_hospitals.processes.rounds import HospitalRound, RoundInput


class PayloadMismatch(RuntimeError):
    """What TFF's process computed is not what the payload decodes to; the message names round and hospital."""


def given_to_encoder(
    transfer: EncodedTransfer, one: HospitalRound, place: np.ndarray, residual: np.ndarray | None
) -> collections.OrderedDict:
    """The values of `tff_encoded_transfer.upload_spec` for one hospital."""
    given = transfer.upload_draws(one.upload_key)
    if transfer.error_feedback:
        given["residual"] = np.asarray(residual, np.float32)
    if transfer.late:
        given["late"] = np.float32(one.late)
    given["place"] = place
    return given


def distributor_state(transfer: EncodedTransfer, state: ServerState, one: RoundInput) -> collections.OrderedDict:
    """The state of `tff_encoded_transfer.build_distributor` before a round."""
    return collections.OrderedDict(
        held=tuple(np.asarray(part, np.float32) for part in state.distributor["held"]),
        first=np.bool_(int(state.round_number) == 0),
        draws=transfer.broadcast_draws(one.broadcast_key),
    )


def settle(
    transfer: EncodedTransfer,
    before: ServerState,
    after: ServerState,
    one: RoundInput,
    held: Sequence[np.ndarray] | None,
    report: Mapping[str, np.ndarray] | None,
) -> tuple[ServerState, BytesSent]:
    """Makes the payloads of a finished round; returns the state with what each end keeps, and what was sent.

    Args:
      transfer: the encoders.
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
        sent = transfer.send_broadcast(before.weights, before.distributor["held"], first, one.broadcast_key)
        _compare(transfer, sent.weights, held, f"round {one.number + 1}: the broadcast")
        broadcast_bytes = sent.payload_bytes
        after = after._replace(distributor=collections.OrderedDict(held=sent.held))
    if report is not None:
        kept = dict(after.hospitals)
        for position, hospital in enumerate(one.cohort):
            name = hospital.hospital.hospital_id
            update = _split(transfer, np.asarray(report["encoded"])[position])
            upload = transfer.send_upload(update, hospital.upload_key, kept.get(name))
            used = _split(transfer, np.asarray(report["decoded"])[position])
            _compare(transfer, upload.update, used, f"round {one.number + 1}: the upload of {name!r}")
            payloads[name] = upload.payload_bytes
            norms[name] = norm_of(upload.update) * (1.0 if hospital.late is None else hospital.late)
            if upload.residual is not None:
                kept[name] = upload.residual
        after = after._replace(hospitals=collections.OrderedDict((name, kept[name]) for name in before.hospitals))
    return after, BytesSent(broadcast_bytes, payloads, norms)


def _split(transfer: EncodedTransfer, values: np.ndarray) -> list[np.ndarray]:
    pieces = np.split(np.asarray(values, np.float32), np.cumsum(transfer.lengths)[:-1])
    return [piece.reshape(shape) for piece, shape in zip(pieces, transfer.shapes)]


def _compare(transfer: EncodedTransfer, decoded: Sequence[np.ndarray], used: Sequence[np.ndarray], what: str) -> None:
    error = transfer.differs(decoded, [np.asarray(part) for part in used])
    if error is not None:
        raise PayloadMismatch(
            f"{what} decodes to values that differ by {error:.3g} of their norm from those that TFF computed. "
            "Remedy: take --runtime=compiled, and report this with the plan."
        )
