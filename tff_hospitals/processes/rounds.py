"""What goes into a round and what comes out of it, as plain values that drawing, runtimes and books share.

Free of TensorFlow. `element` is the one builder of what `LocalTraining` takes: native execution gives it a hospital's
own records, the compiled runtime the rows of many hospitals and the first of this one.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tff_hospitals.hospitals import Hospital
    from tff_hospitals.hospitals.batches import BatchSchedule
    from tff_hospitals.processes.encoded_transfer import BytesSent
    from tff_hospitals.processes.hospital_draws import RunStreams

METRICS = ("loss_sum", "records", "steps", "update_norm")
DRAWN = ("indices", "mask", "steps", "expected_batch", "noise_multiplier", "key", "weight")


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
      factor: what it multiplies its update by, where a plan has attacking, normalised or late hospitals.
      late: what the server multiplies the update by that it decodes; None where nothing late is encoded.
      staleness: steps that the server took since it fetched the model that it trained on; None where all train on the
        model of the round.
      groups: of its records, where they take turns in its batches.
      waits: whether the next model that it trains on is the one that this round makes; else it is the one before.
    """

    hospital: Hospital
    schedule: BatchSchedule
    key: np.ndarray
    noise_multiplier: float
    weight: float
    upload_key: np.ndarray | None = None
    factor: float | None = None
    late: float | None = None
    staleness: int | None = None
    waits: bool = True
    groups: int = 1


@dataclasses.dataclass(frozen=True)
class RoundInput:
    """One round's cohort, in the data set's order of hospitals; `broadcast_key` is shared by all of them.

    `seconds`: that it takes at the plan's speeds, simulated; None where the plan has none. `streams`: of the run, where
    hospitals' draws are left to those who train them; None: all is drawn.
    """

    number: int
    cohort: tuple[HospitalRound, ...]
    broadcast_key: np.ndarray | None = None
    seconds: float | None = None
    streams: RunStreams | None = None


@dataclasses.dataclass(frozen=True)
class RoundOutput:
    """What is known of a round.

    Attributes:
      number: 0-based.
      metrics: by hospital id, see `METRICS`.
      server: the server's measurements.
      bytes_sent: what was sent when something is encoded; None for dense float32.
      wire_bytes: (down, up) of one hospital in the runtime's own form; None where payloads travel as they are.
    """

    number: int
    metrics: Mapping[str, Mapping[str, float]]
    server: Mapping[str, float]
    bytes_sent: BytesSent | None = None
    wire_bytes: tuple[int, int] | None = None


def metrics_by_name(values: npt.ArrayLike) -> dict[str, float]:
    """A row of metrics as a dict of Python floats.

    >>> metrics_by_name([1.5, 8.0, 2.0, 0.25])
    {'loss_sum': 1.5, 'records': 8.0, 'steps': 2.0, 'update_norm': 0.25}
    """
    return {name: float(value) for name, value in zip(METRICS, np.asarray(values))}


def label_type(task: str) -> type[np.generic]:
    """The numpy type of a task's labels: real numbers, or classes.

    >>> label_type("regression").__name__, label_type("binary").__name__
    ('float32', 'int64')
    """
    return np.float32 if task == "regression" else np.int64


def drawn_values(one: HospitalRound, first_row: int = 0) -> collections.OrderedDict[str, np.ndarray]:
    """What a hospital drew for a round and was told of it, by the names of `DRAWN` (and `factor`, where it has one).

    Args:
      one: the hospital in the round.
      first_row: where its records begin; its schedule counts from there.
    """
    schedule = one.schedule
    values: collections.OrderedDict[str, np.ndarray] = collections.OrderedDict(
        indices=np.asarray(schedule.indices + first_row, np.int32),
        mask=np.asarray(schedule.mask, np.float32),
        steps=np.asarray(schedule.steps, np.int32),
        expected_batch=np.asarray(schedule.expected_batch, np.float32),
        noise_multiplier=np.asarray(one.noise_multiplier, np.float32),
        key=np.asarray(one.key, np.int64),
        weight=np.asarray(one.weight, np.float32),
    )
    if one.factor is not None:
        values["factor"] = np.asarray(one.factor, np.float32)
    return values


def element(
    one: HospitalRound, features: npt.ArrayLike, labels: npt.ArrayLike, frozen: tuple, first_row: int = 0
) -> collections.OrderedDict:
    """The values of `LocalTraining.element_spec` for one hospital and round.

    Args:
      one: the hospital in the round.
      features: [rows, ...], its records or those of many hospitals; tensors stay what they are.
      labels: [rows], of `label_type`.
      frozen: weights that do not travel.
      first_row: of this hospital among the rows.
    """
    records = collections.OrderedDict(features=features, labels=labels)
    return collections.OrderedDict(**records, **drawn_values(one, first_row), frozen=tuple(frozen))


def own_element(one: HospitalRound, task: str, frozen: tuple) -> collections.OrderedDict:
    """`element` of numpy values over the hospital's own records alone."""
    part = one.hospital.train
    features = np.asarray(part.features, np.float32)
    return element(one, features, np.asarray(part.labels, label_type(task)), frozen)
