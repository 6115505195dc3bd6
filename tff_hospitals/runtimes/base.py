"""What a runtime is given and what it gives back; native, compiled and cluster agree on it."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from tff_hospitals.hospitals import Hospital
    from tff_hospitals.hospitals.batches import BatchSchedule
    from tff_hospitals.processes.composition import Composition, ServerState
    from tff_hospitals.processes.encoded_transfer import BytesSent


@dataclasses.dataclass(frozen=True)
class HospitalRound:
    """What one hospital brings to one round, beside its records.

    Attributes:
      hospital: the hospital and its training part.
      schedule: the batches that it drew for this round.
      key: int64 [2], its noise key of this round.
      noise_multiplier: of the noise that it adds itself.
      weight: its weight in the mean.
      upload_key: int64 [2], shared with the server for the random bits of its encoder.
    """

    hospital: Hospital
    schedule: BatchSchedule
    key: np.ndarray
    noise_multiplier: float
    weight: float
    upload_key: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class RoundInput:
    """One round's cohort, in the data set's order of hospitals; `broadcast_key` is shared by all of them."""

    number: int
    cohort: tuple[HospitalRound, ...]
    broadcast_key: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class RoundOutput:
    """What is known of a round.

    Attributes:
      number: 0-based.
      metrics: by hospital id, see `local_training.METRICS`.
      server: the server's measurements.
      bytes_sent: what was sent when something is encoded; None for dense float32.
      wire_bytes: (down, up) of one hospital in this runtime's own form; None where payloads travel as they are.
    """

    number: int
    metrics: Mapping[str, Mapping[str, float]]
    server: Mapping[str, float]
    bytes_sent: BytesSent | None = None
    wire_bytes: tuple[int, int] | None = None


class Runtime(Protocol):
    """Executes a composed plan; `close` frees what it started.

    Attributes:
      notes: what a reader of the run should know of how it was executed; sentences, each of them once.
    """

    name: str
    notes: list[str]

    def run_rounds(self, state: ServerState, rounds: Sequence[RoundInput]) -> tuple[ServerState, list[RoundOutput]]: ...

    def close(self) -> None: ...


def one_after_the_other(
    run_one: Callable[[ServerState, RoundInput], tuple[ServerState, RoundOutput]],
    state: ServerState,
    rounds: Sequence[RoundInput],
) -> tuple[ServerState, list[RoundOutput]]:
    """Runs rounds in order, each from the state that the one before left: the last state and all outputs."""
    outputs = []
    for one in rounds:
        state, output = run_one(state, one)
        outputs.append(output)
    return state, outputs


def element(composition: Composition, one: HospitalRound, frozen: tuple) -> collections.OrderedDict:
    """The numpy values of `LocalTraining.element_spec` for one hospital and round."""
    part = one.hospital.train
    schedule = one.schedule
    labels = part.labels
    return collections.OrderedDict(
        features=np.asarray(part.features, np.float32),
        labels=np.asarray(labels, np.float32 if composition.model.task == "regression" else np.int64),
        indices=np.asarray(schedule.indices, np.int32),
        mask=np.asarray(schedule.mask, np.float32),
        steps=np.int32(schedule.indices.shape[0]),
        expected_batch=np.float32(schedule.expected_batch),
        noise_multiplier=np.float32(one.noise_multiplier),
        key=np.asarray(one.key, np.int64),
        weight=np.float32(one.weight),
        frozen=tuple(frozen),
    )


def metrics_by_name(values: np.ndarray) -> dict[str, float]:
    """A row of metrics as a dict of Python floats."""
    from tff_hospitals.processes.local_training import METRICS

    return {name: float(value) for name, value in zip(METRICS, values)}
