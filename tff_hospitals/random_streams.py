"""One root seed to named, independent random streams.

A stream is a 256-bit secret; a child is SHA-256 over the parent's secret and the child's name. So

* the same root seed and the same names always give the same stream, on every machine;
* streams of different names are independent for every practical purpose;
* who holds one hospital's stream can derive that hospital's children but neither its parent nor a sibling (SHA-256 is
one-way):
  a stolen seed of one hospital tells nothing of another's.

The root seed of a *simulation* is public. A real deployment gives each hospital `Streams.from_operating_system()`.

>>> hospital = Streams.from_seed(42).child("hospital", "cleveland")
>>> int(hospital.child("round", 3, "batches").generator().integers(1000))
398
>>> hospital.child("round", 3, "noise").key().shape
(2,)
"""

from __future__ import annotations

import hashlib
import secrets

import numpy as np

_DOMAIN = b"tff_hospitals/random_streams/1"


class Streams:
    """A node in the tree of random streams.

    Args:
      secret: 32 bytes. Use `from_seed` or `from_operating_system` rather than this constructor.

    Raises:
      ValueError: if `secret` is not 32 bytes long.
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes):
        if len(secret) != 32:
            raise ValueError(f"secret has {len(secret)} bytes: must be 32. Remedy: use Streams.from_seed(seed).")
        self._secret = secret

    @classmethod
    def from_seed(cls, seed: int) -> Streams:
        """The root of a reproducible tree; `seed` is any whole number."""
        return cls(hashlib.sha256(_DOMAIN + b"/root/" + str(int(seed)).encode()).digest())

    @classmethod
    def from_operating_system(cls) -> Streams:
        """A root that nobody can reproduce, from the operating system's cryptographic source."""
        return cls(secrets.token_bytes(32))

    def child(self, *names: str | int) -> Streams:
        """The stream named by a path of strings and whole numbers (each name keeps its type and length)."""
        secret = self._secret
        for name in names:
            if isinstance(name, str):
                part = b"s" + name.encode()
            else:
                part = b"i" + str(int(name)).encode()
            secret = hashlib.sha256(_DOMAIN + secret + part).digest()
        return Streams(secret)

    def generator(self) -> np.random.Generator:
        """A numpy generator (Philox, counter-based) at the start of this stream."""
        words = np.frombuffer(self._secret, dtype="<u8")
        return np.random.Generator(np.random.Philox(key=words[:2], counter=np.array([0, 0, *words[2:]], np.uint64)))

    def key(self) -> np.ndarray:
        """An int64 array of shape [2]: a seed for TensorFlow's stateless random operations."""
        return np.frombuffer(self._secret[:16], dtype="<i8").copy()

    def __repr__(self) -> str:  # the secret itself must never reach a log
        return f"Streams(fingerprint={hashlib.sha256(b'fingerprint' + self._secret).hexdigest()[:12]})"
