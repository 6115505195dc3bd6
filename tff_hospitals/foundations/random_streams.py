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
import os
import secrets
from typing import Any, Union, cast

import numpy as np

Size = Union[int, tuple[int, ...], None]
_DOMAIN = b"tff_hospitals/random_streams/1"


class SystemGenerator:
    """Numbers from the operating system's cryptographic source: each from fresh bytes, none from a seed.

    It has those methods of a numpy generator that batches and noise need.

    >>> draws = SystemGenerator().random((2, 3))
    >>> draws.shape, bool(((draws >= 0) & (draws < 1)).all())
    ((2, 3), True)
    """

    def random(self, size: Size = None) -> Any:
        """float64 multiples of 2**-53 in [0, 1)."""
        count = int(np.prod(size)) if size is not None else 1
        drawn = (np.frombuffer(os.urandom(8 * count), np.uint64) >> np.uint64(11)) * 2.0**-53
        return float(drawn[0]) if size is None else drawn.reshape(size)

    def normal(self, loc: float = 0.0, scale: float = 1.0, size: Size = None) -> Any:
        """float64 normals (Box and Muller 1958): two for each pair of uniform numbers."""
        count = int(np.prod(size)) if size is not None else 1
        half = -(-count // 2)
        turns, depths = self.random((2, half))
        radii = np.sqrt(-2.0 * np.log(1.0 - depths))  # the argument is in (0, 1]
        angles = 2.0 * np.pi * turns
        drawn = loc + scale * np.concatenate([radii * np.cos(angles), radii * np.sin(angles)])[:count]
        return float(drawn[0]) if size is None else drawn.reshape(size)


class Streams:
    """A node in the tree of random streams.

    Args:
      secret: 32 bytes. Use `from_seed` or `from_operating_system` rather than this constructor.
      live: generators draw from the operating system and not from the secret.

    Raises:
      ValueError: if `secret` is not 32 bytes long.
    """

    __slots__ = ("_live", "_secret")

    def __init__(self, secret: bytes, *, live: bool = False):
        if len(secret) != 32:
            raise ValueError(f"secret has {len(secret)} bytes: must be 32. Remedy: use Streams.from_seed(seed).")
        self._secret = secret
        self._live = live

    @classmethod
    def from_seed(cls, seed: int) -> Streams:
        """The root of a reproducible tree; `seed` is any whole number."""
        return cls(hashlib.sha256(_DOMAIN + b"/root/" + str(int(seed)).encode()).digest())

    @classmethod
    def from_operating_system(cls) -> Streams:
        """A root that nobody can reproduce, from the operating system's cryptographic source; so are its generators."""
        return cls(secrets.token_bytes(32), live=True)

    def child(self, *names: str | int) -> Streams:
        """The stream named by a path of strings and whole numbers (each name keeps its type and length)."""
        secret = self._secret
        for name in names:
            if isinstance(name, str):
                part = b"s" + name.encode()
            else:
                part = b"i" + str(int(name)).encode()
            secret = hashlib.sha256(_DOMAIN + secret + part).digest()
        return Streams(secret, live=self._live)

    def generator(self) -> np.random.Generator:
        """A numpy generator (Philox, counter-based) at the start of this stream, or the operating system's."""
        if self._live:
            return cast(np.random.Generator, SystemGenerator())  # those of its methods that private runs need
        words = np.frombuffer(self._secret, dtype="<u8")
        return np.random.Generator(np.random.Philox(key=words[:2], counter=np.array([0, 0, *words[2:]], np.uint64)))

    def key(self) -> np.ndarray:
        """An int64 array of shape [2]: a seed for TensorFlow's stateless random operations."""
        return np.frombuffer(self._secret[:16], dtype="<i8").copy()

    def __repr__(self) -> str:  # the secret itself must never reach a log
        return f"Streams(fingerprint={hashlib.sha256(b'fingerprint' + self._secret).hexdigest()[:12]})"
