"""What one hospital draws in one round, wherever that happens: with the loop, or at the worker that trains it.

Every draw comes from a stream that root, hospital and round name. So whoever has the root's streams and the plan draws
the same batches and the same keys, and a driver need not send them. Free of TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.hospitals import batches
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.plan import Plan

if TYPE_CHECKING:
    from tff_hospitals.hospitals.batches import BatchSchedule


@dataclasses.dataclass(frozen=True)
class RunStreams:
    """The streams of one run.

    Attributes:
      common: shared by all plans of one seed.
      own: of this run alone.
      secret_batches: whether the guarantee rests on nobody knowing who is in a batch.
      secret_cohorts: the same of the hospitals in a round.
    """

    common: Streams
    own: Streams
    secret_batches: bool = True
    secret_cohorts: bool = True
    _rounds: dict[tuple[int, str], tuple[int, Streams, Streams]] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )

    @classmethod
    def from_root(cls, root: Streams) -> RunStreams:
        """All streams from one root, for draws that belong to no run."""
        return cls(root, root)

    def __reduce__(self) -> tuple[type[RunStreams], tuple[Any, ...]]:
        """A copy in another process remembers nothing: streams are known there by other addresses."""
        return type(self), (self.common, self.own, self.secret_batches, self.secret_cohorts)

    def weights(self) -> np.ndarray:
        """Key of the initial weights, int64 [2]."""
        return self.common.child("model").key()

    def cohorts(self) -> Streams:
        """Whom a round's cohort is drawn from."""
        return (self.own if self.secret_cohorts else self.common).child("server")

    def batches(self, hospital_id: str, round_number: int) -> Streams:
        """Of a hospital's batches in a round."""
        return self._of(self.own if self.secret_batches else self.common, hospital_id, round_number).child("batches")

    def hospital_noise(self, hospital_id: str, round_number: int) -> np.ndarray:
        """Key of all noise that a hospital draws in a round, int64 [2]."""
        return self._of(self.own, hospital_id, round_number).child("noise").key()

    def upload(self, hospital_id: str, round_number: int) -> np.ndarray:
        """Key of the bits that a hospital's encoder shares with the server, int64 [2]."""
        return self._of(self.own, hospital_id, round_number).child("upload").key()

    def broadcast(self, round_number: int) -> np.ndarray:
        """Key of the bits that the server's encoder shares with all hospitals, int64 [2]."""
        return self.own.child("broadcast", round_number).key()

    def server_noise(self) -> np.ndarray:
        """Key of the server's noise (and of a rotation that all agree on), int64 [2]."""
        return self.own.child("server", "noise").key()

    def _of(self, root: Streams, hospital_id: str, round_number: int) -> Streams:
        """A hospital's stream in a round; what its draws of one round have in common is hashed once."""
        key = (id(root), hospital_id)
        last, rounds, found = self._rounds.get(key) or (-1, root.child("hospital", hospital_id, "round"), root)
        if last != round_number:
            found = rounds.child(round_number)
            self._rounds[key] = (round_number, rounds, found)
        return found


class BatchRule:
    """How the hospitals of a plan draw their batches.

    Args:
      plan: a plan without problems.

    >>> rule, streams = BatchRule(Plan()), RunStreams.from_root(Streams.from_seed(1))
    >>> here, later = rule.draw(streams, "north", 40, 3), rule.later(streams, "north", 40, 3)
    >>> (here.indices == later.indices).all(), (here.steps, here.capacity) == (later.steps, later.capacity)
    (True, True)
    """

    def __init__(self, plan: Plan):
        self._plan = plan
        mechanism = mechanisms.record_level(plan.privacy)
        self._kind = "shuffled" if mechanism is None else mechanism.batches_of(plan.privacy)

    @property
    def in_groups(self) -> bool:
        """Whether the records of a hospital stand in groups that take turns."""
        return self._kind == "cyclic_poisson"

    def draw(
        self, streams: RunStreams, hospital_id: str, records: int, round_number: int, groups: int = 1
    ) -> BatchSchedule:
        """A hospital's batches of a round.

        Args:
          streams: of the run.
          hospital_id: of the hospital.
          records: that it has for training.
          round_number: 0-based.
          groups: of its records, where they stand in groups.
        """
        plan, size = self._plan, self._plan.client.batch_size
        steps = noise_plan.steps_per_round(plan, records, round_number)
        stream = streams.batches(hospital_id, round_number)
        if self._kind == "same_order":
            return _same_order(stream, records, size, steps)
        if self._kind == "cyclic_poisson":
            chance = noise_plan.sampling_probability(plan, records)
            return batches.cyclic_poisson(
                stream, records, sampling_probability=chance, groups=groups, local_steps=steps
            )
        if self._kind == "poisson":
            chance = noise_plan.sampling_probability(plan, records)
            return batches.poisson(stream, records, sampling_probability=chance, local_steps=steps)
        if plan.client.local_steps is not None:
            return batches.shuffled_steps(stream, records, batch_size=size, local_steps=steps)
        epochs = noise_plan.epochs_in_round(plan, round_number)
        return batches.shuffled_epochs(stream, records, batch_size=size, local_epochs=epochs)

    def later(
        self, streams: RunStreams, hospital_id: str, records: int, round_number: int, groups: int = 1
    ) -> BatchSchedule:
        """As `draw`, but drawn only when a position is asked for, where the shape is known without.

        How many places Poisson batches take, the draw itself says: it is made at once.
        """
        draw = functools.partial(self.draw, streams, hospital_id, records, round_number, groups)
        if self._kind in ("poisson", "cyclic_poisson"):
            return draw()
        steps = noise_plan.steps_per_round(self._plan, records, round_number)
        return batches.ShuffledLater(draw, records, self._plan.client.batch_size, steps)


def _same_order(stream: Streams, records: int, batch_size: int, steps: int) -> BatchSchedule:
    """Passes in one shuffled order: a record comes back after exactly as many steps as a pass has (DP-FTRL)."""
    one_pass = batches.shuffled_epochs(stream, records, batch_size=batch_size, local_epochs=1)
    rows = np.arange(steps) % one_pass.steps
    return dataclasses.replace(one_pass, indices=one_pass.indices[rows], mask=one_pass.mask[rows])
