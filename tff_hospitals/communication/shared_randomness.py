"""Random bits that both ends of a channel derive from one key, so that none of them has to travel.

The bits come from Philox (counter-based) in its raw form, whose stream numpy promises never to change; numpy's derived
distributions carry no such promise and are not used, because a hospital and a server may run different versions of it.

>>> key = np.array([1, 2], np.int64)
>>> a, b = raw_generator(key, SIGNS).random_raw(2), raw_generator(key, SIGNS).random_raw(2)
>>> bool((a == b).all()), bool((a == raw_generator(key, DITHER).random_raw(2)).any())
(True, False)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tff_hospitals.foundations import validation

SIGNS, POSITIONS, DITHER = 1, 2, 3  # purposes: each has its own stream under one key


def checked_key(key: Any) -> np.ndarray:
    """`key` as uint64 [2].

    Args:
      key: int64 [2], as `random_streams.Streams.key()` gives it. Use another key for every hospital, round and
        direction: under one key the errors of all hospitals point the same way and do not average out.

    Raises:
      InvalidInput: if it is not two whole numbers.
    """
    array = np.asarray(key)
    if array.shape != (2,) or array.dtype.kind not in "iu":
        raise validation.InvalidInput(
            [validation.Problem("key", key, "must be two whole numbers", "pass streams.child(...).key()")]
        )
    return array.astype(np.int64).view(np.uint64)


def raw_generator(key: np.ndarray, purpose: int) -> np.random.Philox:
    """The raw generator of one purpose under `key` (uint64 or int64 [2]); draw with `random_raw`."""
    return np.random.Philox(key=key.view(np.uint64), counter=np.array([0, 0, 0, purpose], np.uint64))


def private_generator(key: np.ndarray, purpose: int) -> np.random.SFC64:
    """A generator twice as fast for random bits that only the encoder needs; draw with `random_raw`."""
    return np.random.SFC64(np.random.SeedSequence([purpose, *(int(word) for word in key.view(np.uint64))]))
