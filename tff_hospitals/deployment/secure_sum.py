"""A sum that shows nothing of its parts, with drop-outs (Bonawitz et al. 2017, "Practical Secure Aggregation").

Four steps of one session, all through the server, which is trusted with availability alone:

1. every member states two fresh public keys and a hash that binds to its own mask, signed by its key in the roster;
2. every member hands each other one, encrypted, a share of its two secrets (Shamir);
3. every member sends its numbers under a mask of its own and one mask with each other member: those cancel in the sum;
4. the members who are left give the server what opens the sum: for each member *either* the share of its own mask (it
   is in the sum) *or* that of its key (it is not), never both, and once in a session.

Masks between members also follow from what the members were asked: numbers that were made of different models do not
add up to anything.

The threshold is more than two thirds of the members, so that no server that tells different members different stories
collects both, as long as fewer than a third of the members work with it. Arithmetic is modulo 2**32; a smaller power of
two divides it.

    X25519 and HKDF-SHA256 for keys, AES-256 in counter mode for masks, AES-256-GCM for shares, Shamir over 2**521 - 1

>>> from tff_hospitals.deployment.keys import SigningKey
>>> signing = {name: SigningKey.generate() for name in ("a", "b", "c")}
>>> roster = {name: key.public for name, key in signing.items()}
>>> members = {name: Member(name, key, b"session 1", roster, threshold=2) for name, key in signing.items()}
>>> statements = {name: member.statement() for name, member in members.items()}
>>> handed = {name: member.shares(statements) for name, member in members.items()}
>>> def masked(name):
...     box = {sender: shares[name] for sender, shares in handed.items() if sender != name}
...     return members[name].masked(np.array([1, 2], np.uint32), box)
>>> sent = {name: masked(name) for name in ("a", "b")}  # c is lost
>>> given = {name: members[name].unmask(["a", "b"]) for name in ("a", "b")}
>>> bool((sent["a"] == [1, 2]).any()), open_sum(sent, given, statements, b"session 1", threshold=2).tolist()
(False, [2, 4])
"""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tff_hospitals.deployment.envelope import Rejected
from tff_hospitals.deployment.keys import SIGNATURE_BYTES, SigningKey, sha512, verifies

_PRIME = 2**521 - 1
_KEY_BYTES, SHARE_BYTES, _NONCE_BYTES, _TAG_BYTES = 32, 66, 12, 16
_STATED_BYTES = 3 * _KEY_BYTES  # two public keys, and the hash that binds to the seed of the own mask
STATEMENT_BYTES = _STATED_BYTES + SIGNATURE_BYTES
BOX_BYTES = _NONCE_BYTES + 2 * SHARE_BYTES + _TAG_BYTES


class Member:
    """One hospital in one session; its secrets live as long as the object.

    Args:
      name: its id.
      key: that the roster knows.
      session: bytes that name federation, agreement, round and attempt: keys of another session fit nowhere.
      roster: public keys by id.
      threshold: members that it takes to open the sum.
    """

    def __init__(self, name: str, key: SigningKey, session: bytes, roster: Mapping[str, str], threshold: int):
        self._name, self._key, self._session, self._roster = name, key, session, dict(roster)
        self._threshold = threshold
        self._mask_key, self._box_key = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._seed = secrets.token_bytes(_KEY_BYTES)
        self._statements: dict[str, bytes] = {}
        self._received: dict[str, tuple[int, int]] = {}
        self._opened = False

    def statement(self) -> bytes:
        """Step 1: two public keys, what binds to the own mask, and the signature of all three."""
        public = b"".join(one.public_key().public_bytes_raw() for one in (self._mask_key, self._box_key))
        public += _committed(self._seed)
        return public + self._key.sign(_stated(self._session, self._name, public))

    def shares(self, statements: Mapping[str, bytes]) -> dict[str, bytes]:
        """Step 2: for each other member a share of both secrets, encrypted to it.

        Args:
          statements: of all members, this one's included.

        Raises:
          Rejected: fewer than the threshold, a stranger, a wrong signature, or shares were given before.
        """
        if self._statements:
            raise Rejected("shares were given in this session already", "sum")
        if len(statements) < self._threshold:
            raise Rejected(f"{len(statements)} members: a sum of fewer than {self._threshold} is not opened", "sum")
        if statements.get(self._name) != self.statement():
            raise Rejected("this hospital's own keys are missing or were changed", "sum")
        check_statements(statements, self._session, self._roster)
        self._statements = dict(statements)
        names = sorted(statements)
        of_seed = _split(self._seed, self._threshold, len(names))
        of_key = _split(self._mask_key.private_bytes_raw(), self._threshold, len(names))
        sealed = {}
        for place, name in enumerate(names):
            both = of_seed[place], of_key[place]
            if name == self._name:
                self._received[name] = both
                continue
            nonce = os.urandom(_NONCE_BYTES)
            text = b"".join(share.to_bytes(SHARE_BYTES, "big") for share in both)
            sealed[name] = nonce + self._box(name).encrypt(nonce, text, self._way(self._name, name))
        return sealed

    def masked(self, words: np.ndarray, boxes: Mapping[str, bytes], asked: bytes = b"") -> np.ndarray:
        """Step 3: the numbers under all masks.

        Args:
          words: uint32 numbers of this member.
          boxes: the shares that the other members encrypted to this one; who sent none is out of the session.
          asked: names what the numbers were made of. The masks of members who were asked different things do not
            cancel: else a server would send one of them the model, all others one that makes their updates zero, and
            read that member's update off the sum (Pasquini et al. 2022, arXiv:2111.07380).

        Raises:
          Rejected: fewer than the threshold, or shares that are not from whom they claim to be.
        """
        if len(self._received) > 1:
            raise Rejected("numbers were masked in this session already", "sum")
        for name, box in boxes.items():
            if name not in self._statements or name == self._name or len(box) != BOX_BYTES:
                raise Rejected(f"shares of {name[:64]!r} do not belong here", "sum")
            try:
                text = self._box(name).decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], self._way(name, self._name))
            except InvalidTag as error:
                raise Rejected(f"shares of {name!r} were changed on the way", "sum") from error
            both = int.from_bytes(text[:SHARE_BYTES], "big"), int.from_bytes(text[SHARE_BYTES:], "big")
            self._received[name] = both
        if len(self._received) < self._threshold:
            raise Rejected(f"{len(self._received)} members: a sum of fewer than {self._threshold} is not opened", "sum")
        total = words + _expand(self._seed, len(words))
        for name in boxes:
            mask = _pair_mask(self._mask_key, self._statements[name], self._session + asked, len(words))
            total = total + mask if self._name < name else total - mask
        return total

    def unmask(self, survivors: Iterable[str]) -> dict[str, bytes]:
        """Step 4: a share for each member: of its own mask if its numbers are in the sum, else of its key.

        Args:
          survivors: whose numbers are in the sum.

        Raises:
          Rejected: asked twice, fewer than the threshold, strangers, or without this member.
        """
        inside = set(survivors)
        if self._opened:
            raise Rejected("this session was opened already: one unmasking, never both shares of anybody", "sum")
        if self._name not in inside or not inside <= set(self._received):
            raise Rejected("the survivors are not members who masked their numbers in this session", "sum")
        if len(inside) < self._threshold:
            raise Rejected(f"{len(inside)} survivors: a sum of fewer than {self._threshold} is not opened", "sum")
        self._opened = True
        return {
            name: (of_seed if name in inside else of_key).to_bytes(SHARE_BYTES, "big")
            for name, (of_seed, of_key) in self._received.items()
        }

    def _box(self, name: str) -> AESGCM:
        public = self._statements[name][_KEY_BYTES : 2 * _KEY_BYTES]
        return AESGCM(_agree(self._box_key, public, self._session + b"box"))

    def _way(self, sender: str, receiver: str) -> bytes:
        return self._session + b"\0" + sender.encode() + b"\0" + receiver.encode()


def check_statements(statements: Mapping[str, bytes], session: bytes, roster: Mapping[str, str]) -> None:
    """Refuses keys that a member of the roster did not sign for this session.

    Raises:
      Rejected: names the first one.
    """
    for name, statement in statements.items():
        if name not in roster or len(statement) != STATEMENT_BYTES:
            raise Rejected(f"{name[:64]!r} is not in the roster, or its keys are cut")
        public, signature = statement[:_STATED_BYTES], statement[_STATED_BYTES:]
        if not verifies(roster[name], signature, _stated(session, name, public)):
            raise Rejected(f"the keys of {name!r} are not signed by {name!r} for this session")


def open_sum(
    masked: Mapping[str, np.ndarray],
    given: Mapping[str, Mapping[str, bytes]],
    statements: Mapping[str, bytes],
    session: bytes,
    threshold: int,
    on_liar: Callable[[str], object] = str,
    asked: bytes = b"",
) -> np.ndarray:
    """The server's part: the sum of the survivors' numbers, uint32.

    Args:
      masked: what each survivor sent.
      given: what each member that helps gave in step 4.
      statements: of all members of step 2.
      session: as the members have it.
      threshold: members that it takes.
      on_liar: told who gave shares that fit to nobody else's; the sum is opened without them, if one more helped.
      asked: as the members have it.

    Raises:
      Rejected: fewer than the threshold helped, a share of somebody is missing, or shares do not fit together.
    """
    names, helpers = sorted(statements), sorted(given)
    if len(helpers) < threshold:
        raise Rejected(f"{len(helpers)} members helped to open the sum: it takes {threshold}")
    members = set(given[helpers[0]])
    if any(set(given[one]) != members for one in helpers) or not set(masked) <= members <= set(names):
        raise Rejected("the members who help do not agree who took part")

    def fits(name: str, secret: bytes) -> bool:
        if len(secret) != _KEY_BYTES:
            return False
        stated = statements[name]
        if name in masked:
            return _committed(secret) == stated[2 * _KEY_BYTES : _STATED_BYTES]
        return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw() == stated[:_KEY_BYTES]

    checks = {name: functools.partial(fits, name) for name in sorted(members)}
    secrets_of, liars = _secrets(checks, given, names, threshold)
    for name in liars:
        on_liar(name)
    length = len(next(iter(masked.values())))
    total = np.zeros(length, np.uint32)
    for numbers in masked.values():
        total += numbers
    for name in members:
        if name in masked:
            total -= _expand(secrets_of[name], length)
            continue
        key = X25519PrivateKey.from_private_bytes(secrets_of[name])
        for other in masked:
            mask = _pair_mask(key, statements[other], session + asked, length)
            total = total + mask if name < other else total - mask
    return total


def _secrets(
    members: Mapping[str, Callable[[bytes], bool]],
    given: Mapping[str, Mapping[str, bytes]],
    names: Sequence[str],
    threshold: int,
) -> tuple[dict[str, bytes], list[str]]:
    """The secrets of members, each held against what it stated of it, and the helpers whose shares are wrong.

    Raises:
      Rejected: too few right shares; it names whose are wrong, as far as that can be told.
    """
    first = sorted(given)[: threshold + 1]
    never = set(members)

    def joined(owner: str, helpers: Sequence[str]) -> bytes:
        try:
            return _join([(names.index(one) + 1, int.from_bytes(given[one][owner], "big")) for one in helpers])
        except Rejected:
            return b""

    for left_out in ("", *first[:-1]):
        used = [one for one in first if one != left_out][:threshold]
        if len(used) < threshold:
            continue
        found = {owner: joined(owner, used) for owner in members}
        right = {owner for owner, fits in members.items() if fits(found[owner])}
        never -= right
        if len(right) == len(members):
            spare = [one for one in first if one not in used]
            liars = [one for one in spare if any(joined(o, [*used[:-1], one]) != found[o] for o in members)]
            return found, liars
    told = 0 < len(never) < len(members)
    whose = f"those that {', '.join(map(repr, sorted(never)))} gave out, or those of" if told else "those of"
    raise Rejected(f"shares do not fit together: {whose} one of {', '.join(map(repr, first))}")


def _pair_mask(own: X25519PrivateKey, statement: bytes, session: bytes, length: int) -> np.ndarray:
    return _expand(_agree(own, statement[:_KEY_BYTES], session + b"mask"), length)


def _agree(own: X25519PrivateKey, public: bytes, purpose: bytes) -> bytes:
    try:
        common = own.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise Rejected("a public key of a small order") from error
    return HKDF(hashes.SHA256(), _KEY_BYTES, None, purpose).derive(common)


def _expand(seed: bytes, length: int) -> np.ndarray:
    """uint32 numbers that nobody tells from random ones without the seed, which is used for one vector alone."""
    encryptor = Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(encryptor.update(bytes(4 * length)), "<u4").astype(np.uint32)


def _committed(seed: bytes) -> bytes:
    """Binds to a seed and tells nothing of it: nobody guesses 32 random bytes."""
    return sha512(b"secure sum: seed\0", seed)[:_KEY_BYTES]


def _stated(session: bytes, name: str, public: bytes) -> bytes:
    return b"secure sum\0" + session + b"\0" + name.encode() + b"\0" + public


def _split(secret: bytes, threshold: int, members: int) -> list[int]:
    """Shamir's shares for the members 1, 2, ..: any `threshold` of them give the secret, fewer tell nothing."""
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(_PRIME) for _ in range(threshold - 1))]
    found = []
    for place in range(1, members + 1):
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * place + coefficient) % _PRIME
        found.append(value)
    return found


def _join(points: Sequence[tuple[int, int]]) -> bytes:
    """The secret behind shares.

    Raises:
      Rejected: they belong to no secret of 32 bytes.
    """
    factors = _at_zero(tuple(place for place, _ in points))
    total = sum(factor * value for factor, (_, value) in zip(factors, points)) % _PRIME
    try:
        return total.to_bytes(_KEY_BYTES, "big")
    except OverflowError as error:
        raise Rejected("shares that do not fit together") from error


@functools.lru_cache(maxsize=256)
def _at_zero(places: tuple[int, ...]) -> tuple[int, ...]:
    """What values at these places are multiplied by to give the curve's value at zero (Lagrange)."""
    found = []
    for place in places:
        above = below = 1
        for other in places:
            if other != place:
                above = above * other % _PRIME
                below = below * (other - place) % _PRIME
        found.append(above * pow(below, -1, _PRIME) % _PRIME)
    return tuple(found)
