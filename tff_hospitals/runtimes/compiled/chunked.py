"""The one loop of all programs that run a round chunk by chunk: server, hospitals in chunks, server.

A program says how the hospitals of a chunk are run; what a chunk is, in which order results are added, and how a round
begins and ends is said here and in `server_half`, for this process and for the workers of a cluster alike.
Contributions are added within their chunk in its order and the chunks' sums as a tree. Chunks depend on the plan and
the cohort alone: the result has the same bits on any number of threads and machines.
"""

from __future__ import annotations

import abc
import concurrent.futures
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Callable

import numpy as np
import tensorflow as tf

from tff_hospitals.processes.aggregators.base import Structure
from tff_hospitals.processes.composition import Composition, ServerState
from tff_hospitals.processes.rounds import HospitalRound, RoundInput, RoundOutput
from tff_hospitals.runtimes import base
from tff_hospitals.runtimes.compiled import device_data
from tff_hospitals.runtimes.compiled.parallel_calls import ordered
from tff_hospitals.runtimes.compiled.server_half import Broadcast, Report, ServerHalf
from tff_hospitals.runtimes.compiled.tree_sum import TreeSum

if TYPE_CHECKING:
    pass

_FEW = 16  # below this many hospitals a round is cut in two, above it in eight or more
_LARGEST_CHUNK = 64
Found = tuple[Structure, Sequence[Report]]  # a sum of contributions, and a report of each hospital in it


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some hospitals of a round.

    Attributes:
      number: of the round.
      cohort: the hospitals, in the order in which they are added.
      sizes: to which the program pads; empty where it pads nothing. Equal sizes mean one compiled program.
    """

    number: int
    cohort: tuple[HospitalRound, ...]
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the hospitals."""
        return tuple(one.hospital.hospital_id for one in self.cohort)


class ChunkedProgram(abc.ABC):
    """Compiled pieces for all plans with the composition's signature.

    Args:
      composition: the composed plan.
      threads: how many hospitals or chunks run at once; as many as there are cores by default.
    """

    def __init__(self, composition: Composition, threads: int | None = None):
        self._parts = composition
        self._threads = threads or max(1, len(os.sched_getaffinity(0)))
        self._pool = concurrent.futures.ThreadPoolExecutor(self._threads, thread_name_prefix="hospitals")
        self._add = tf.function(lambda total, one: tf.nest.map_structure(tf.add, total, one), autograph=False)
        self.server = ServerHalf(composition)

    @abc.abstractmethod
    def units(
        self,
        broadcast: Broadcast,
        chunk: Chunk,
        data: device_data.Data,
        frozen: tuple,
        kept: Mapping[str, np.ndarray],
    ) -> Iterator[Callable[[], Found]]:
        """Calls that run the chunk's hospitals, in order, each with a part of the sum; they may run side by side."""

    def run(
        self, state: ServerState, rounds: Sequence[RoundInput], data: device_data.Data, frozen: tuple
    ) -> base.Result:
        """Runs the rounds one after the other."""

        def run_one(state: ServerState, one: RoundInput) -> tuple[ServerState, RoundOutput]:
            opened = self.server.begin(state, one)
            chunks = self.chunks(one, data.record_bytes)
            total: TreeSum[Structure] = TreeSum(self._add)
            reports: list[Report] = []
            for contribution, found in self.sums(opened.broadcast, chunks, data, frozen, opened.kept):
                total.append(contribution)
                reports.extend(found)
            return self.server.finish(opened, one, total.result(), reports)

        return base.one_after_the_other(run_one, state, rounds)

    def sums(
        self,
        broadcast: Broadcast,
        chunks: Iterable[Chunk],
        data: device_data.Data,
        frozen: tuple,
        kept: Mapping[str, np.ndarray],
    ) -> Iterator[Found]:
        """Every chunk's sum of contributions, and the reports of its hospitals.

        Args:
          broadcast: what the hospitals receive, as tensors.
          chunks: taken one by one while others run.
          data: in which their hospitals' records are.
          frozen: weights that do not travel.
          kept: what hospitals keep of their last rounds, by id.
        """
        numbers: list[int] = []  # of the chunk of every unit that was begun

        def calls() -> Iterator[Callable[[], Found]]:
            for number, chunk in enumerate(chunks):
                for call in self.units(broadcast, chunk, data, frozen, kept):
                    numbers.append(number)
                    yield call

        at = 0
        total: Structure | None = None
        reports: list[Report] = []
        for position, (contribution, found) in enumerate(ordered(self._pool, calls(), self._in_flight)):
            if total is not None and numbers[position] != at:
                yield total, reports
                total, reports = None, []
            at = numbers[position]
            total = contribution if total is None else self._add(total, contribution)
            reports.extend(found)
        if total is not None:
            yield total, reports

    @property
    def _in_flight(self) -> int:
        return self._threads

    def chunks(self, one: RoundInput, record_bytes: int, most: int | None = None) -> list[Chunk]:
        """The cohort in pieces that depend on the plan and the data alone, never on the machine.

        Args:
          one: the round.
          record_bytes: of one record.
          most: hospitals in a chunk; by default half of a small cohort, an eighth of a larger one, at most 64.
        """
        size = max(1, min(most or usual_size(len(one.cohort)), self._largest(one)))
        return [Chunk(one.number, piece) for piece in device_data.pieces(one.cohort, size, record_bytes)]

    def _largest(self, one: RoundInput) -> int:
        """The most hospitals of this round that one chunk may hold."""
        return _LARGEST_CHUNK


def usual_size(hospitals: int) -> int:
    """Hospitals in a chunk of a cohort of so many.

    >>> [usual_size(hospitals) for hospitals in (1, 4, 10, 100, 4_000)]
    [1, 2, 5, 13, 64]
    """
    return max(1, min(_LARGEST_CHUNK, -(-hospitals // (2 if hospitals < _FEW else 8))))
