"""The batches of one hospital in one round, drawn at the hospital from its own stream.

A schedule is indices and a mask of fixed shape [steps, capacity], so that a compiled loop can run over it. What the
accountant may assume of it is its `sampling`:

| function | a step's batch | `sampling` |
|---|---|---|
| `shuffled_epochs` | the next records of a shuffled pass, `local_epochs` passes | `shuffled` |
| `shuffled_steps` | the same, for an exact number of steps | `shuffled` |
| `poisson` | every record on its own with probability q, in every step anew | `poisson` |
| `cyclic_poisson` | in turn, one of p groups of records: each on its own with probability p q | `cyclic_poisson` |
| `fixed_size` | a random subset of batch_size records, in every step anew | `fixed_size_without_replacement` |

>>> schedule = shuffled_epochs(Streams.from_seed(1), 5, batch_size=2, local_epochs=1)
>>> schedule.indices.shape, schedule.mask.tolist(), sorted(schedule.indices[schedule.mask > 0].tolist())
((3, 2), [[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]], [0, 1, 2, 3, 4])
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import cast

import numpy as np

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import Problem, in_range, raise_if, whole_number

KINDS = ("shuffled_epochs", "shuffled_steps", "poisson", "cyclic_poisson", "fixed_size")

_CHUNK = 4_000_000  # random numbers that are held at a time (32 MB)
_CAPACITY_STEP = 8


@dataclasses.dataclass(frozen=True, eq=False)
class BatchSchedule:
    """Which records each local step uses.

    Attributes:
      indices: int32 of shape [steps, capacity]; 0 where `mask` is 0.
      mask: float32 of shape [steps, capacity]; 1 for a record, 0 for padding.
      records: number of the hospital's training records.
      expected_batch: mean number of records in a step: what a sum of per-record gradients is divided by under DP.
      sampling: "shuffled", "poisson", "cyclic_poisson" or "fixed_size_without_replacement".
    """

    indices: np.ndarray
    mask: np.ndarray
    records: int
    expected_batch: float
    sampling: str

    @property
    def steps(self) -> int:
        """Number of local steps, empty ones included."""
        return self.indices.shape[0]

    @property
    def capacity(self) -> int:
        """Places for records in a step."""
        return self.indices.shape[1]

    @property
    def examples(self) -> int:
        """Records used in all steps together."""
        return int(self.mask.sum())


class ShuffledLater(BatchSchedule):
    """Passes over shuffled records whose shape is known and whose positions are drawn when they are first asked for.

    Args:
      draw: the schedule itself.
      records: of the hospital.
      batch_size: records per step.
      steps: of the round.
    """

    def __init__(self, draw: Callable[[], BatchSchedule], records: int, batch_size: int, steps: int):
        known = {
            "_draw": draw,
            "_shape": (steps, _places(records, batch_size)),
            "records": records,
            "expected_batch": records / -(-records // batch_size),
            "sampling": "shuffled",
        }
        self.__dict__.update(known)  # as the fields of what is frozen

    @property
    def steps(self) -> int:
        """Number of local steps."""
        return int(self.__dict__["_shape"][0])

    @property
    def capacity(self) -> int:
        """Places for records in a step."""
        return int(self.__dict__["_shape"][1])

    @property
    def indices(self) -> np.ndarray:
        """int32 [steps, capacity]."""
        return self._drawn.indices

    @property
    def mask(self) -> np.ndarray:
        """float32 [steps, capacity]."""
        return self._drawn.mask

    @functools.cached_property
    def _drawn(self) -> BatchSchedule:
        return cast("BatchSchedule", self.__dict__["_draw"]())


def shuffled_epochs(streams: Streams, records: int, *, batch_size: int, local_epochs: int) -> BatchSchedule:
    """`local_epochs` passes over all records, each in a new random order; a pass's last batch may be smaller.

    Args:
      streams: the hospital's stream for this round.
      records: number of training records.
      batch_size: records per step.
      local_epochs: number of passes.
    """
    _check(records, batch_size=batch_size, local_epochs=local_epochs)
    return _padded(_orders(streams, local_epochs, records), records, batch_size)


def shuffled_steps(
    streams: Streams, records: int, *, batch_size: int, local_steps: int, first_step: int = 0
) -> BatchSchedule:
    """Exactly `local_steps` steps through passes in new random orders: a data loader that starts again at its end.

    Args:
      streams: the hospital's stream; of this round, or (with `first_step`) of the whole run.
      records: number of training records.
      batch_size: records per step; a pass's last batch may be smaller.
      local_steps: number of steps.
      first_step: steps that were already taken from this stream: a pass then goes on where the last round stopped.
    """
    _check(records, batch_size=batch_size, local_steps=local_steps)
    raise_if([whole_number("first_step", first_step, low=0, remedy="give the steps taken so far")])
    per_epoch = -(-records // batch_size)
    first, last = first_step // per_epoch, (first_step + local_steps - 1) // per_epoch
    whole = _padded(_orders(streams, last + 1, records)[first:], records, batch_size)
    start = first_step - first * per_epoch
    rows = slice(start, start + local_steps)
    return dataclasses.replace(whole, indices=whole.indices[rows], mask=whole.mask[rows])


def poisson(
    streams: Streams, records: int, *, sampling_probability: float, local_steps: int, capacity: int | None = None
) -> BatchSchedule:
    """True Poisson sampling: in every step every record is in the batch with one probability, independently of all
    else.

    A step may be empty. No batch is ever cut to fit: `capacity` doubles until the largest one has room.

    Args:
      streams: the hospital's stream for this round.
      records: number of training records.
      sampling_probability: of each record in each step, 0 < . <= 1.
      local_steps: number of steps.
      capacity: places per step; default `poisson_capacity`.

    Source: Abadi et al. 2016, "Deep Learning with Differential Privacy", arXiv:1607.00133 (sampling); Mironov, Talwar
    and Zhang 2019, arXiv:1908.10530 (its accounting).
    """
    _check(records, local_steps=local_steps)
    remedy = "give expected batch over records"
    raise_if(
        [
            in_range("sampling_probability", sampling_probability, low=0.0, high=1.0, low_open=True, remedy=remedy),
            None if capacity is None else whole_number("capacity", capacity, low=1, remedy="give 1 or more places"),
        ]
    )
    return _sampled(streams, records, sampling_probability, local_steps, capacity)


def cyclic_poisson(
    streams: Streams, records: int, *, sampling_probability: float, groups: int, local_steps: int
) -> BatchSchedule:
    """Poisson sampling of one group of records after the other, so that a record can only come back in its own turn.

    The record at position i belongs to group i mod `groups`, and step t is the turn of group t mod `groups`: each of
    its records joins with probability groups * q, independently of all else. Steps hold as many records as with
    `poisson`. A record keeps its group in all rounds, because its position among the hospital's records does not move.

    Args:
      streams: the hospital's stream for this round.
      records: number of training records.
      sampling_probability: q, of each record in a step on average; groups * q is at most 1.
      groups: p, one or more.
      local_steps: number of steps.

    Source: Choquette-Choo et al. 2023, "(Amplified) banded matrix factorization", arXiv:2306.08153, section 5.
    """
    _check(records, local_steps=local_steps, groups=groups)
    remedy = "take fewer groups: a group must hold all records of a step"
    chance = groups * sampling_probability
    raise_if([in_range("groups * sampling_probability", chance, low=0.0, low_open=True, high=1 + 1e-9, remedy=remedy)])
    return _sampled(streams, records, min(1.0, chance), local_steps, None, groups)


def _sampled(
    streams: Streams, records: int, chance: float, local_steps: int, capacity: int | None, groups: int = 1
) -> BatchSchedule:
    """Poisson batches: each record of a step's group with probability `chance`."""
    generator = streams.generator()
    chunk = max(1, _CHUNK // records)
    group = np.arange(records) % groups
    steps, chosen = [], []
    for start in range(0, local_steps, chunk):
        rows = np.arange(start, min(start + chunk, local_steps))
        joins = generator.random((len(rows), records)) < chance
        if groups > 1:
            joins &= group == rows[:, np.newaxis] % groups
        hits = np.flatnonzero(joins)
        steps.append(hits // records + start)
        chosen.append(hits % records)
    step, record = np.concatenate(steps), np.concatenate(chosen)
    sizes = np.bincount(step, minlength=local_steps)
    room = capacity or poisson_capacity(-(-records // groups), chance)
    while room < sizes.max():
        room *= 2
    place = np.arange(len(step)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    indices = np.zeros((local_steps, room), np.int32)
    mask = np.zeros((local_steps, room), np.float32)
    indices[step, place] = record
    mask[step, place] = 1.0
    sampling = "poisson" if groups == 1 else "cyclic_poisson"
    return BatchSchedule(indices, mask, records, records * chance / groups, sampling)


def poisson_capacity(records: int, sampling_probability: float) -> int:
    """Places that a Poisson batch rarely exceeds: mean + 5 deviations, rounded up to a multiple of 8.

    >>> poisson_capacity(199, 1 / 50)
    16
    """
    mean = records * sampling_probability
    places = min(mean + 5 * math.sqrt(mean * (1 - sampling_probability)) + 0.5, records)
    return max(1, math.ceil(places / _CAPACITY_STEP)) * _CAPACITY_STEP


def fixed_size(streams: Streams, records: int, *, batch_size: int, local_steps: int) -> BatchSchedule:
    """In every step a uniformly random subset of exactly `batch_size` records, without replacement.

    Args:
      streams: the hospital's stream for this round.
      records: number of training records.
      batch_size: records per step, at most `records`.
      local_steps: number of steps.
    """
    _check(records, batch_size=batch_size, local_steps=local_steps)
    if batch_size > records:
        remedy = "take a smaller batch or leave the hospital out"
        raise_if([Problem("batch_size", batch_size, f"must be <= {records}, the training records", remedy)])
    generator = streams.generator()
    chunk = max(1, _CHUNK // records)
    parts = []
    for start in range(0, local_steps, chunk):
        draws = generator.random((min(chunk, local_steps - start), records))
        smallest = np.argpartition(draws, batch_size - 1, axis=1)[:, :batch_size]
        parts.append(np.sort(smallest, axis=1))  # which of them come first depends on the library: sorted, it does not
    indices = np.concatenate(parts).astype(np.int32)
    mask = np.ones(indices.shape, np.float32)
    return BatchSchedule(indices, mask, records, float(batch_size), "fixed_size_without_replacement")


def _orders(streams: Streams, epochs: int, records: int) -> np.ndarray:
    """The orders of the first passes, [epochs, records]: float64 draws sorted stably, the same on every platform."""
    return np.argsort(streams.generator().random((epochs, records)), axis=1, kind="stable")


def _padded(order: np.ndarray, records: int, batch_size: int) -> BatchSchedule:
    """Passes of shape [epochs, records] as steps; each pass's last step is padded.

    A hospital with fewer records than a batch has no places for the others: it would compute on padding.
    """
    epochs = len(order)
    per_epoch = -(-records // batch_size)
    capacity = _places(records, batch_size)
    shape = (epochs, per_epoch * capacity)
    indices = np.zeros(shape, np.int32)
    mask = np.zeros(shape, np.float32)
    indices[:, :records] = order
    mask[:, :records] = 1.0
    return BatchSchedule(
        indices.reshape(-1, capacity),
        mask.reshape(-1, capacity),
        records,
        records / per_epoch,
        "shuffled",
    )


def _places(records: int, batch_size: int) -> int:
    """Places of a step of a shuffled pass."""
    return min(batch_size, -(-records // _CAPACITY_STEP) * _CAPACITY_STEP)


def _check(records: int, **counts: int) -> None:
    raise_if(
        [
            whole_number("records", records, low=1, remedy="leave a hospital without records out"),
            *(whole_number(name, value, low=1, remedy="give 1 or more") for name, value in counts.items()),
        ]
    )
