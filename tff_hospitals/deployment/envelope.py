"""Signed messages: who says what, in which federation, under which agreement, in which round, as which message.

    magic 4 | version 1 | kind 1 | federation 16 | agreement 32 | round 4 | number 8 | answers 8
    | length of sender 1 | sender | body | signature 64

The signature covers head, sender and the hash of the body, which is made once for all who are sent it. Whatever engine
carries a message, nothing of its body is looked at before the signature was checked with the key that the agreement
gives the sender: a stranger reaches no parser. Numbers only grow; a request is answered by its number once, so that no
message counts twice and none of another run counts at all.

>>> from tff_hospitals.deployment.keys import SigningKey
>>> key = SigningKey.generate()
>>> sealed = seal(Envelope(Kind.ROUND, "server", bytes(16), bytes(32), 3, 7, 0, b"body"), key)
>>> len(sealed) - len("server") - len(b"body") == OVERHEAD_BYTES
True
>>> opened = unseal(sealed, {"server": key.public}, bytes(16), bytes(32))
>>> opened.kind.name, opened.sender, opened.round, opened.number, opened.body
('ROUND', 'server', 3, 7, b'body')
>>> unseal(sealed[:-1] + b"?", {"server": key.public}, bytes(16), bytes(32))
Traceback (most recent call last):
...
tff_hospitals.deployment.envelope.Rejected: the signature is not that of 'server'
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from collections.abc import Mapping

from tff_hospitals.deployment.keys import SIGNATURE_BYTES, SigningKey, sha512, verifies

MAGIC, VERSION = b"TFHm", 2
FEDERATION_BYTES, AGREEMENT_BYTES = 16, 32
_HEAD = struct.Struct("<4sBB16s32sIQQB")
OVERHEAD_BYTES = _HEAD.size + SIGNATURE_BYTES


REFUSALS = {
    "message": "the request is not whole, or none of this agreement",
    "plan": "the request is beyond the approved plan, or other than it",
    "limit": "the request is beyond a limit of this hospital",
    "over": "the agreement is over",
    "model": "this hospital does not hold the model before: send the whole model",
    "sum": "this step of the secure sum is not due, or too few hospitals are in it",
}
"""What a server learns of a refusal. The words themselves stay in the hospital's journal: they name its budget."""


class Rejected(ValueError):
    """A message that is not what may come here; the text says why. It changes nothing.

    Args:
      text: for those on whose machine it is raised.
      kind: what the other side learns, one of `REFUSALS`.
    """

    def __init__(self, text: str = "", kind: str = "message"):
        super().__init__(text)
        self.kind = kind


class Kind(enum.IntEnum):
    """What a message is for. Below 16 the server asks, above a hospital speaks."""

    ROUND = 1
    EVALUATE = 2
    KEYS = 3
    SHARES = 4
    UNMASK = 5
    END = 6
    HELLO = 16
    ANSWER = 17
    REFUSAL = 18


@dataclasses.dataclass(frozen=True)
class Envelope:
    """One message.

    Attributes:
      kind: what it is for.
      sender: "server" or a hospital's id.
      federation: 16 bytes that name it.
      agreement: 32 bytes, the digest of what all approved.
      round: 0-based.
      number: grows with every message of the sender.
      answers: the number of the request that is answered; 0 for a request.
      body: see `body`.
    """

    kind: Kind
    sender: str
    federation: bytes
    agreement: bytes
    round: int
    number: int
    answers: int
    body: bytes


def seal(message: Envelope, key: SigningKey, body_hash: bytes = b"") -> bytes:
    """The bytes of a message, signed.

    Args:
      message: to be sent.
      key: of its sender.
      body_hash: `sha512` of its body, where it is known already.
    """
    sender = message.sender.encode()
    head = _HEAD.pack(
        MAGIC,
        VERSION,
        message.kind,
        message.federation,
        message.agreement,
        message.round,
        message.number,
        message.answers,
        len(sender),
    )
    signature = key.sign(head + sender + (body_hash or sha512(message.body)))
    return b"".join((head, sender, message.body, signature))


def unseal(data: bytes, keys: Mapping[str, str], federation: bytes, agreement: bytes) -> Envelope:
    """The message in bytes that came from outside.

    Args:
      data: need not be trusted; its size was bounded by whoever took it in.
      keys: public keys by sender, of those who may speak here.
      federation, agreement: those that are meant here.

    Raises:
      Rejected: cut, changed, of a stranger, of another federation, agreement or version.
    """
    if len(data) < OVERHEAD_BYTES:
        raise Rejected(f"{len(data)} bytes are too few for a message")
    magic, version, kind, of_federation, of_agreement, number_of_round, number, answers, length = _HEAD.unpack(
        data[: _HEAD.size]
    )
    if magic != MAGIC:
        raise Rejected("these bytes are no message")
    if version != VERSION:
        raise Rejected(f"message format {version}, this program reads {VERSION}: update the older end")
    body_at = _HEAD.size + length
    if len(data) < body_at + SIGNATURE_BYTES:
        raise Rejected("cut off within the sender's name")
    name = data[_HEAD.size : body_at].decode(errors="replace")
    if name not in keys:
        raise Rejected(f"{name[:64]!r} is not in the roster")
    body = data[body_at:-SIGNATURE_BYTES]
    if not verifies(keys[name], data[-SIGNATURE_BYTES:], data[:body_at] + sha512(body)):
        raise Rejected(f"the signature is not that of {name!r}")
    if of_federation != federation:
        raise Rejected("a message of another federation")
    if of_agreement != agreement:
        raise Rejected("a message under another agreement than the one that was approved here")
    try:
        known = Kind(kind)
    except ValueError as error:
        raise Rejected(f"a message of unknown kind {kind}: update the older end") from error
    return Envelope(known, name, of_federation, of_agreement, number_of_round, number, answers, body)
