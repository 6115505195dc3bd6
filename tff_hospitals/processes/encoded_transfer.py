"""What crosses between server and hospitals when it is encoded: real payloads, made and read by the numpy codec.

The same object serves every runtime. In this process it carries each payload from one end to the other, so the values
that train are those that were decoded from the bytes that are counted. TFF's worker cannot call it; there the twin in
`encoders` computes the values and `checked` holds them to the payloads.

The server's end of the broadcast keeps the model that hospitals hold (`held`): with `delta`, only the difference to it
is encoded, and what one payload leaves out the next one carries. In the first round there is nothing to differ from:
hospitals fetch the model as it is.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tff_hospitals.communication import Chain, Feedback, parse_chain
from tff_hospitals.plan import chains
from tff_hospitals.processes import encoder_draws

Arrays = tuple[np.ndarray, ...]
TWIN_TOLERANCE = 1e-2  # of the norm: a sum that differs in its last bit can move single values by one level


@dataclasses.dataclass(frozen=True)
class Broadcast:
    """One broadcast as hospitals see it.

    Attributes:
      weights: what they decode.
      held: the server's state after it.
      payload: the bytes; None in the first round of `delta`, where the model is fetched as it is.
    """

    weights: Arrays
    held: Arrays
    payload: bytes | None

    @property
    def payload_bytes(self) -> int | None:
        """Bytes of the payload."""
        return None if self.payload is None else len(self.payload)


@dataclasses.dataclass(frozen=True)
class Upload:
    """One hospital's upload as the server sees it.

    Attributes:
      update: what the server decodes (zeros when nothing was sent).
      payload: the bytes; None when the hospital sent nothing.
      residual: float32 [parameters], what waits at the hospital for its next upload; None without error feedback.
    """

    update: Arrays
    payload: bytes | None
    residual: np.ndarray | None

    @property
    def payload_bytes(self) -> int | None:
        """Bytes of the payload."""
        return None if self.payload is None else len(self.payload)


@dataclasses.dataclass(frozen=True)
class BytesSent:
    """What was sent in one round.

    Attributes:
      broadcast_bytes: payload of the encoded broadcast; None: the model as it is.
      upload_bytes: payload by hospital id, None where nothing was sent; empty when uploads are not encoded.
      norms: L2 norm of each decoded update.
    """

    broadcast_bytes: int | None = None
    upload_bytes: Mapping[str, int | None] = dataclasses.field(default_factory=dict)
    norms: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class EncodedTransfer:
    """Encoders of both directions.

    Args:
      broadcast, upload: chains; an empty one leaves float32 as it is.
      names: of the tensors that travel.
      shapes: of them.
      error_feedback: what an upload leaves out is added to the hospital's next one.
      skip_below: a hospital sends nothing when the L2 norm of what it would encode is below this.
      late: whether the server multiplies what it decodes of an upload, by the age of the model that it was made from.
      broadcasts, uploads: the chains of every round, where their bits change (see `at`).
    """

    broadcast: Chain
    upload: Chain
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    error_feedback: bool = False
    skip_below: float | None = None
    late: bool = False
    broadcasts: tuple[Chain, ...] = ()
    uploads: tuple[Chain, ...] = ()

    def at(self, round_number: Any) -> EncodedTransfer:
        """The encoders of a round (0-based); after the last one, those of the last."""
        if not self.broadcasts and not self.uploads:
            return self
        down, up = (
            of_rounds[min(int(round_number), len(of_rounds) - 1)] if of_rounds else always
            for of_rounds, always in ((self.broadcasts, self.broadcast), (self.uploads, self.upload))
        )
        return dataclasses.replace(self, broadcast=down, upload=up, broadcasts=(), uploads=())

    @property
    def encodes_broadcast(self) -> bool:
        """Whether the way down is encoded."""
        return bool(self.broadcast.stages)

    @property
    def encodes_upload(self) -> bool:
        """Whether the way up is encoded, or sometimes not taken at all."""
        return bool(self.upload.stages) or self.skip_below is not None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Values of each tensor."""
        return tuple(int(np.prod(shape)) for shape in self.shapes)

    def named(self, arrays: Sequence[Any]) -> list[tuple[str, np.ndarray]]:
        """Arrays with the names that messages use."""
        return [(name, np.asarray(array, np.float32)) for name, array in zip(self.names, arrays)]

    def no_broadcast(self) -> collections.OrderedDict:
        """The server's state before the first round."""
        if not self.encodes_broadcast:
            return collections.OrderedDict()
        return collections.OrderedDict(held=tuple(np.zeros(shape, np.float32) for shape in self.shapes))

    def send_broadcast(self, weights: Sequence[Any], held: Sequence[Any], first: bool, key: Any) -> Broadcast:
        """Encodes the server's model and decodes it as every hospital does.

        Args:
          weights: the server's model.
          held: the model that hospitals decoded last.
          first: whether this is the first round.
          key: int64 [2] of this round's broadcast.
        """
        whole = self.broadcast.needs_reference and first
        if not self.encodes_broadcast or whole:
            plain = tuple(np.asarray(weight, np.float32) for weight in weights)
            return Broadcast(plain, plain, None)
        reference = [np.asarray(array) for array in held] if self.broadcast.needs_reference else None
        named = self.named(weights)
        payload = self.broadcast.encode(named, key, reference=reference, want_decoded=False).payload
        decoded = self.receive_broadcast(payload, held, key)
        return Broadcast(decoded, decoded, payload)

    def receive_broadcast(self, payload: bytes, held: Sequence[Any], key: Any) -> Arrays:
        """The model that a hospital decodes from a payload, beside the one that it decoded last.

        Raises:
          PayloadError: the bytes are not such a payload.
        """
        reference = [np.asarray(array) for array in held] if self.broadcast.needs_reference else None
        return tuple(self.broadcast.decode(payload, self.shapes, key, reference))

    def receive_upload(self, payload: bytes | None, key: Any) -> Arrays:
        """The update that the server decodes from a payload; zeros where the hospital sent nothing.

        Raises:
          PayloadError: the bytes are not such a payload.
        """
        if payload is None:
            return tuple(np.zeros(shape, np.float32) for shape in self.shapes)
        return tuple(self.upload.decode(payload, self.shapes, key))

    def send_upload(self, update: Sequence[Any], key: Any, residual: np.ndarray | None) -> Upload:
        """Encodes a hospital's update and decodes it as the server does.

        Args:
          update: what the hospital would send (initial - final weights, clipped or noised where the plan says so).
          key: int64 [2] of this hospital and round.
          residual: what its last upload left out, with error feedback.
        """
        named = self.named(update)
        state = Feedback(np.asarray(residual, np.float32)) if self.error_feedback else None
        if self.skip_below is not None:
            waiting = np.zeros(sum(self.lengths), np.float32) if state is None else state.residual
            meant = Feedback(waiting).after_skip(named)
            if float(np.linalg.norm(meant.residual)) < self.skip_below:
                return Upload(self.receive_upload(None, key), None, meant.residual if state is not None else None)
        payload, _, state = self.upload.encode(named, key, state, want_decoded=False)
        return Upload(self.receive_upload(payload, key), payload, None if state is None else state.residual)

    # -- for runtimes that compute with the twin ---------------------------

    def upload_draws(self, key: Any) -> collections.OrderedDict:
        """What a graph needs to decode the same values as `send_upload`."""
        return encoder_draws.draw(self.upload, self.lengths, key)

    def broadcast_draws(self, key: Any) -> collections.OrderedDict:
        """What a graph needs to decode the same values as `send_broadcast`."""
        return encoder_draws.draw(self.broadcast, self.lengths, key)

    def differs(self, decoded: Sequence[Any], computed: Sequence[Any]) -> float | None:
        """How far computed values are from those of a payload, relative to their norm; None when they agree."""
        flat, other = (np.concatenate([np.ravel(array) for array in arrays]) for arrays in (decoded, computed))
        error = float(np.linalg.norm(flat - other)) / max(float(np.linalg.norm(flat)), 1e-30)
        return error if error > TWIN_TOLERANCE and not np.allclose(flat, other, atol=1e-7) else None


def norm_of(arrays: Sequence[np.ndarray]) -> float:
    """L2 norm over all arrays together."""
    return float(np.sqrt(sum(float(np.sum(np.square(array, dtype=np.float64))) for array in arrays)))


def build_encoded_transfer(
    broadcast: str,
    upload: str,
    names: Sequence[str],
    shapes: Sequence[Sequence[int]],
    *,
    error_feedback: bool = False,
    skip_below: float | None = None,
    late: bool = False,
    by_round: str = "",
    rounds: int = 1,
) -> EncodedTransfer | None:
    """The transfer that a plan's texts ask for; None when nothing is encoded and nothing skipped.

    >>> transfer = build_encoded_transfer("", "topk:0.5", ["kernel"], [[4]])
    >>> sent = transfer.send_upload([np.array([1, -3, 2, 0.5], np.float32)], None, None)
    >>> sent.update[0].tolist(), sent.payload_bytes
    ([0.0, -3.0, 2.0, 0.0], 20)
    """
    down, up = (
        chains.of_rounds(parse_chain(text, name=direction), direction, by_round, rounds)
        for direction, text in (("broadcast", broadcast), ("upload", upload))
    )
    found = EncodedTransfer(
        down[0],
        up[0],
        tuple(names),
        tuple(tuple(int(size) for size in shape) for shape in shapes),
        error_feedback,
        skip_below,
        late,
        down if len(down) > 1 else (),
        up if len(up) > 1 else (),
    )
    return found if found.encodes_broadcast or found.encodes_upload else None
