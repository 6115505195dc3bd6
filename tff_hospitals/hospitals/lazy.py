"""Hospitals whose records are made or read when they are needed, so that there may be more than memory holds.

What is known beforehand is each hospital's id and number of records; arrays are made on access and kept while they are
among the last used ones, up to a bound in bytes.

>>> import numpy as np
>>> def north() -> Part:
...     print("reading north")
...     return Part(np.ones((4, 2), np.float32), np.array([0, 1, 0, 1]))
>>> part = LazyPart("train part of north", 4, north)
>>> part.records
4
>>> part.features.shape
reading north
(4, 2)
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable

import numpy as np

from tff_hospitals.foundations.signature import ModelSignature
from tff_hospitals.foundations.validation import InvalidInput, Problem, raise_if
from tff_hospitals.hospitals.checks import part_problems
from tff_hospitals.hospitals.hospital import Hospital, Part

KEPT_BYTES = 4 * 2**20


class PartStore:
    """The parts that were used last, up to a bound in bytes; one store serves a whole data set.

    Args:
      bound_bytes: most that is kept; the part in use is kept whatever its size.
    """

    def __init__(self, bound_bytes: int = KEPT_BYTES):
        self.bound_bytes = bound_bytes
        self._parts: collections.OrderedDict[str, Part] = collections.OrderedDict()
        self._lock = threading.Lock()

    @property
    def kept_bytes(self) -> int:
        """Bytes of the arrays that are held now."""
        return sum(part_bytes(part) for part in self._parts.values())

    def get(self, name: str, make: Callable[[], Part]) -> Part:
        """The part of that name, made if it is not held."""
        with self._lock:
            if name in self._parts:
                self._parts.move_to_end(name)
                return self._parts[name]
        made = make()  # outside the lock: several threads read different hospitals at once
        with self._lock:
            self._parts[name] = made
            while len(self._parts) > 1 and self.kept_bytes > self.bound_bytes:
                self._parts.popitem(last=False)
        return made


class LazyPart(Part):
    """A part whose arrays are made on access.

    Args:
      name: unique in its store, and what an error message calls it.
      records: number of records.
      make: gives the arrays; always the same ones.
      store: keeps the arrays for a while; None: a store of its own.
      signature: what the arrays must fit; None: only their number is compared.
    """

    def __init__(
        self,
        name: str,
        records: int,
        make: Callable[[], Part],
        store: PartStore | None = None,
        signature: ModelSignature | None = None,
    ):
        # The parent is a frozen dataclass: its fields are properties here.
        for field, value in (("name", name), ("_records", records), ("_make", make), ("_signature", signature)):
            object.__setattr__(self, field, value)
        object.__setattr__(self, "_store", PartStore() if store is None else store)

    name: str
    _records: int
    _make: Callable[[], Part]
    _signature: ModelSignature | None
    _store: PartStore

    @property
    def records(self) -> int:
        """Number of records, known without reading any."""
        return self._records

    @property
    def features(self) -> np.ndarray:
        """float32 of shape [records, *feature_shape]."""
        return self.load().features

    @property
    def labels(self) -> np.ndarray:
        """Labels of shape [records]."""
        return self.load().labels

    def load(self) -> Part:
        """The arrays; features and labels of one call belong together.

        Raises:
          InvalidInput: when there are more or fewer records than was said, or they do not fit the signature.
        """
        return self._store.get(self.name, self._made)

    def _made(self) -> Part:
        made = self._make()
        if made.records != self._records:
            bound = f"must be {self._records}, as was said before they were read"
            raise InvalidInput([Problem(f"records in {self.name}", made.records, bound, "leave the data as it was")])
        if self._signature is not None:
            raise_if(part_problems(self.name, made, self._signature))
        return made


def lazy_hospital(
    hospital_id: str,
    train_records: int,
    test_records: int,
    make: Callable[[str, str], Part],
    store: PartStore,
    signature: ModelSignature,
) -> Hospital:
    """A hospital whose arrays are made on access.

    Args:
      hospital_id: its id.
      train_records, test_records: how many it has.
      make: gives the arrays for (hospital_id, "train" or "test"); always the same ones.
      store: shared by the hospitals of a data set; bounds what is kept.
      signature: what the arrays must fit; they are refused by name when they are read and do not.
    """

    def part(word: str, records: int) -> LazyPart:
        name = f"{word} part of {hospital_id}"
        return LazyPart(name, records, lambda: make(hospital_id, word), store, signature)

    return Hospital(hospital_id, part("train", train_records), part("test", test_records))


def part_bytes(part: Part) -> int:
    """Bytes of a part's arrays."""
    return int(part.features.nbytes + part.labels.nbytes)


def load_part(part: Part) -> Part:
    """The arrays of a part that may be lazy."""
    return part.load() if isinstance(part, LazyPart) else part
