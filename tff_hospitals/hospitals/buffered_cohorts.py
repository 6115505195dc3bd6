"""Whose answers a server counts that steps after so many of them (FedBuff, Nguyen et al. 2022, arXiv:2106.06639).

Every hospital trains at its own speed. The server steps as soon as its buffer holds the answers of `buffer` hospitals;
an answer was trained from the model that its hospital had fetched, which may be older than the one that it changes. A
round is one step of the server: its cohort are the hospitals in the buffer.

A hospital trains once on a model, and counts once in a step:

* One that answers starts again at once if the server has a newer model than the one it trained on; else it waits for
  the next step. So with a buffer of all hospitals rounds are those of federated averaging.
* One that answers again before the server has stepped waits with its answer, which is the first of the next buffer.

Nothing here depends on weights: the whole order of events follows from the hospitals' seconds.

>>> arrivals = Arrivals({"fast": 1.0, "medium": 2.0, "slow": 5.0}, buffer=2)
>>> [[(one.hospital, one.staleness) for one in arrivals(number).answers] for number in range(3)]
[[('fast', 0), ('medium', 0)], [('fast', 0), ('medium', 0)], [('fast', 0), ('slow', 2)]]
>>> [arrivals(number).at for number in range(3)]
[2.0, 4.0, 5.0]
"""

from __future__ import annotations

import dataclasses
import heapq
import threading
from collections.abc import Mapping

from tff_hospitals.foundations.validation import in_range, raise_if, whole_number


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one hospital brings to a step of the server.

    Attributes:
      hospital: its id.
      staleness: steps that the server took after the hospital had fetched the model that it trained on.
      waits: whether it trains next on the model that this step makes; else on the one before, which it fetched with
        its answer.
    """

    hospital: str
    staleness: int
    waits: bool


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of the server: its answers in the order of all hospitals, and the seconds at which it is taken."""

    answers: tuple[Answer, ...]
    at: float


class Arrivals:
    """The steps of a server, by their numbers (0-based).

    Args:
      seconds: that each hospital takes from fetching a model to its answer, by id.
      buffer: answers after which the server steps.

    Raises:
      InvalidInput: seconds that are not above 0, a buffer of none or of more hospitals than there are.
    """

    def __init__(self, seconds: Mapping[str, float], buffer: int):
        remedy = "give seconds above 0"
        found = [
            in_range(f"seconds of {name}", value, low=0.0, low_open=True, remedy=remedy)
            for name, value in seconds.items()
        ]
        most = len(seconds)
        found.append(
            whole_number("hospitals_per_round", buffer, low=1, high=most, remedy=f"give 1 to {most}, the hospitals")
        )
        raise_if(found)
        self._names, self._seconds = tuple(seconds), tuple(seconds.values())
        self._buffer = buffer
        # Of each hospital in training: when it ends, its place, and the model that it trains on.
        self._training = [(value, place, 0) for place, value in enumerate(self._seconds)]
        heapq.heapify(self._training)
        self._waiting: list[tuple[int, int]] = []  # answers of the next buffer: place and model
        self._now = 0.0
        self._steps: list[Step] = []
        self._lock = threading.Lock()  # rounds are drawn ahead in another thread

    def __call__(self, number: int) -> Step:
        """A step of the server; those before it are found on the way."""
        with self._lock:
            while len(self._steps) <= number:
                self._steps.append(self._next())
            return self._steps[number]

    def _next(self) -> Step:
        """Fills the buffer once."""
        version = len(self._steps)
        staleness: dict[int, int] = {}  # of the answers in the buffer, by place
        started: set[int] = set()  # those that trained on an older model have begun again
        held, self._waiting = self._waiting, []
        while len(staleness) < self._buffer:
            if held:
                place, model = held.pop(0)
            else:
                self._now, place, model = heapq.heappop(self._training)
            if place in staleness:
                self._waiting.append((place, model))
                continue
            staleness[place] = version - model
            if len(staleness) < self._buffer and model < version:
                started.add(place)
                self._start(place, version)
        for place in sorted(staleness.keys() - started):
            self._start(place, version + 1)
        answers = (Answer(self._names[place], staleness[place], place not in started) for place in sorted(staleness))
        return Step(tuple(answers), self._now)

    def _start(self, place: int, model: int) -> None:
        heapq.heappush(self._training, (self._now + self._seconds[place], place, model))
