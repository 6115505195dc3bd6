"""The hospitals' training records as tensors: all of them in memory, or a chunk of hospitals at a time.

Hospitals stand one after the other without padding; a batch schedule addresses a hospital's records by adding the
hospital's first row. So ragged sites waste nothing, and one compiled program serves all of them.

What is too large for that, or lazy by itself, is *streamed*: only the hospitals that are trained now are in memory, and
the last chunks are kept up to a bound in bytes. Memory then does not grow with the number of hospitals.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Union

import numpy as np
import tensorflow as tf

from tff_hospitals.foundations.validation import Problem, raise_if
from tff_hospitals.hospitals.lazy import load_part
from tff_hospitals.processes import rounds

if TYPE_CHECKING:
    from tff_hospitals.hospitals import Hospital, HospitalDataset
    from tff_hospitals.processes.rounds import HospitalRound

RESIDENT_BYTES = 2 * 2**30
CHUNK_BYTES = 8 * 2**20
KEPT_BYTES = 16 * 2**20
MOST_PADDING = 4  # sizes that differ by more go into different chunks, and into rooms of different sizes
_SMALLEST_ROOM = 64  # rows


@dataclasses.dataclass(frozen=True)
class ResidentData:
    """`features` float32 [records, ...], `labels` [records], `first_row` of each hospital by id.

    `record_bytes`: of one record.
    """

    features: tf.Tensor
    labels: tf.Tensor
    first_row: Mapping[str, int]
    record_bytes: int

    def of(self, hospitals: Sequence[Hospital], *, padded: bool = False) -> ResidentData:
        """The data in which these hospitals are: this one."""
        return self

    @property
    def bytes(self) -> int:
        """Size of features and labels."""
        return int(self.labels.shape[0]) * self.record_bytes


class StreamedData:
    """Records that come into memory by chunks of hospitals.

    Args:
      dataset: the hospitals; lazy ones are made or read when they are needed.
      kept_bytes: most that is kept of chunks that are not in use.
    """

    def __init__(self, dataset: HospitalDataset, kept_bytes: int | None = None):
        self.record_bytes = record_bytes(dataset)
        sizes = dataset.records().values()
        self._most_rows = min(sum(sizes), max(CHUNK_BYTES // self.record_bytes, *sizes, 1))
        self._label_type = rounds.label_type(dataset.task)
        self._kept_bytes = KEPT_BYTES if kept_bytes is None else kept_bytes
        self._chunks: collections.OrderedDict[tuple[str, ...], ResidentData] = collections.OrderedDict()
        self._lock = threading.Lock()

    @property
    def kept_bytes(self) -> int:
        """Bytes of the chunks that are held now."""
        return sum(chunk.bytes for chunk in self._chunks.values())

    def of(self, hospitals: Sequence[Hospital], *, padded: bool = False) -> ResidentData:
        """The records of these hospitals.

        Args:
          hospitals: in which order their records stand.
          padded: round the number of rows up to one of few sizes, so that few programs are compiled.
        """
        key = tuple(hospital.hospital_id for hospital in hospitals)
        with self._lock:
            if key in self._chunks:
                self._chunks.move_to_end(key)
                return self._chunks[key]
        rows = sum(hospital.train.records for hospital in hospitals)
        room = room_for(rows, self._most_rows) if padded else rows
        chunk = _together(hospitals, self._label_type, room, self.record_bytes)
        with self._lock:
            self._chunks[key] = chunk
            while self._chunks and self.kept_bytes > self._kept_bytes:
                self._chunks.popitem(last=False)
        return chunk


Data = Union[ResidentData, StreamedData]


def all_resident(data: Data) -> ResidentData:
    """The same data, for a program that needs all records at once.

    Raises:
      TypeError: streamed data.
    """
    if not isinstance(data, ResidentData):
        raise TypeError("whole rounds need all records in memory: run streamed data in chunks")
    return data


def element(one: HospitalRound, data: Data, frozen: tuple, *, few_sizes: bool = False) -> collections.OrderedDict:
    """One hospital's input to a round (`LocalTraining.element_spec`), its records addressed where they are.

    Args:
      one: the hospital in the round.
      data: the records.
      frozen: weights that do not travel.
      few_sizes: fill steps, records of a step and rows up to one of few sizes, so that a program for each serves
        hospitals of any size.
    """
    held = data.of((one.hospital,), padded=few_sizes)
    found = rounds.element(one, held.features, held.labels, frozen, held.first_row[one.hospital.hospital_id])
    if few_sizes:
        steps, places = found["indices"].shape
        more = [(0, _power_of_two(steps) - steps), (0, _half_step(places) - places)]
        found.update((name, np.pad(found[name], more)) for name in ("indices", "mask"))
    return found


def _power_of_two(size: int) -> int:
    """The smallest of 1, 2, 4, 8, ... that is not below; a loop does not run the steps that are added."""
    return 1 << max(0, size - 1).bit_length()


def _half_step(size: int) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, ... that is not below, since what is added is computed.

    >>> [_half_step(size) for size in (0, 1, 2, 3, 4, 5, 6, 7, 9, 13)]
    [1, 1, 2, 3, 4, 6, 6, 8, 12, 16]
    """
    above = _power_of_two(size)
    return above * 3 // 4 if above > 2 and size <= above * 3 // 4 else above


def load(dataset: HospitalDataset, resident_bytes: int = RESIDENT_BYTES) -> Data:
    """The training parts of all hospitals in memory, or a stream of them.

    Args:
      dataset: the hospitals.
      resident_bytes: more than this is streamed; lazy data always are.
    """
    if is_streamed(dataset, resident_bytes):
        return StreamedData(dataset)
    labels = rounds.label_type(dataset.task)
    return _together(dataset.hospitals, labels, sum(dataset.records().values()), record_bytes(dataset))


def is_streamed(dataset: HospitalDataset, resident_bytes: int = RESIDENT_BYTES) -> bool:
    """Whether `load` would stream these hospitals."""
    return bool(dataset.recipe) or sum(dataset.records().values()) * record_bytes(dataset) > resident_bytes


def record_bytes(dataset: HospitalDataset) -> int:
    """Bytes of one record: float32 features and a label."""
    return 4 * int(np.prod(dataset.feature_shape)) + np.dtype(rounds.label_type(dataset.task)).itemsize


def is_uneven(dataset: HospitalDataset) -> bool:
    """Whether padding every hospital to the largest one would waste more than is allowed."""
    sizes = dataset.records().values()
    return max(sizes) * len(sizes) > MOST_PADDING * sum(sizes)


def pieces(cohort: Sequence[HospitalRound], most: int, record_bytes: int) -> Iterator[tuple[HospitalRound, ...]]:
    """The cohort in chunks: at most so many hospitals, `CHUNK_BYTES` (or one hospital) and alike in steps and records.

    Where sizes differ by more than `MOST_PADDING`, hospitals are taken in the order of their sizes. The chunks depend
    on the cohort alone, so that sums are the same on every machine.
    """
    ordered = list(cohort)
    if ordered and max(map(_size, ordered)) > MOST_PADDING * min(map(_size, ordered)):
        ordered.sort(key=_size)  # stable: equals stay in the cohort's order
    piece: list[HospitalRound] = []
    held = 0
    for one in ordered:
        size = one.schedule.records * record_bytes
        uneven = piece and _size(one) > MOST_PADDING * _size(piece[0])
        if piece and (len(piece) == most or held + size > CHUNK_BYTES or uneven):
            yield tuple(piece)
            piece, held = [], 0
        piece.append(one)
        held += size
    if piece:
        yield tuple(piece)


def _size(one: HospitalRound) -> int:
    return max(1, one.schedule.steps * one.schedule.capacity)


def size_class(piece: Sequence[HospitalRound]) -> tuple[int, int]:
    """Chunks of one class are padded to the same number of steps, and steps to the same number of records."""
    sizes = (max(one.schedule.steps for one in piece), max(one.schedule.capacity for one in piece))
    steps, capacity = (int(math.log(max(1, size), MOST_PADDING) + 1e-9) for size in sizes)
    return steps, capacity


def room_for(rows: int, most: int) -> int:
    """The smallest of `most`, `most` / 4, `most` / 16, ... that has room.

    >>> [room_for(rows, 1000) for rows in (1000, 251, 250, 20)]
    [1000, 1000, 250, 64]
    """
    room = max(rows, most)
    while room // MOST_PADDING >= rows and room > _SMALLEST_ROOM:
        room = max(room // MOST_PADDING, _SMALLEST_ROOM)
    return room


def _together(hospitals: Sequence[Hospital], label_type: type, room: int, record_bytes: int) -> ResidentData:
    first_row: dict[str, int] = {}
    features: np.ndarray | None = None
    labels: np.ndarray = np.zeros([room], label_type)
    position = 0
    for hospital in hospitals:
        part = load_part(hospital.train)
        if features is None:
            features = _zeros((room, *part.features.shape[1:]), hospital.hospital_id)
        features[position : position + part.records] = part.features
        labels[position : position + part.records] = part.labels
        first_row[hospital.hospital_id] = position
        position += part.records
    return ResidentData(tf.constant(features), tf.constant(labels), first_row, record_bytes)


def _zeros(shape: tuple[int, ...], hospital_id: str) -> np.ndarray:
    try:
        return np.zeros(shape, np.float32)
    except MemoryError:
        problem = Problem(
            f"training records of {hospital_id} and those beside it",
            f"{4 * np.prod([float(n) for n in shape]) / 2**30:.3g} GiB",
            "must fit into memory",
            "split the hospital's records, use a machine with more memory, or --runtime=cluster",
        )
        raise_if([problem])
        raise
