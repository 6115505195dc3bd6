"""How much noise a plan needs at each hospital, and which events its rounds emit.

The noise is calibrated on the *planned* number of steps; epsilon is never taken from here, it comes from the ledger
of the steps that were taken.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tff_hospitals.accounting import MechanismEvent, calibrate_noise
from tff_hospitals.plan import Plan
from tff_hospitals.validation import InvalidInput, Problem

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset

ADJACENCY = {"record": "add_or_remove_one", "hospital": "replace_special"}


@dataclasses.dataclass(frozen=True)
class NoisePlan:
    """Noise multipliers of a run.

    Attributes:
      unit: `record`, `hospital` or `none`.
      delta: of every (epsilon, delta) in this run.
      multipliers: noise standard deviation over clip norm, by hospital id (the same for all when the server adds it).
      events: what one step (unit record) or one round (unit hospital) releases, by hospital id.
    """

    unit: str
    delta: float
    multipliers: Mapping[str, float]
    events: Mapping[str, MechanismEvent]

    @property
    def server_multiplier(self) -> float:
        """Noise multiplier at the server, 0 where hospitals add the noise."""
        return next(iter(self.multipliers.values())) if self.unit == "hospital" else 0.0


def steps_per_round(plan: Plan, train_records: int) -> int:
    """Optimiser steps of a hospital with that many training records in one round."""
    if plan.client.local_steps is not None:
        return plan.client.local_steps
    return int(plan.client.local_epochs or 1) * math.ceil(train_records / plan.client.batch_size)


def sampling_probability(plan: Plan, train_records: int) -> float:
    """Chance of each record to be in a DP-SGD step: one over the number of batches in an epoch."""
    return 1.0 / math.ceil(train_records / plan.client.batch_size)


def default_delta(dataset: HospitalDataset) -> float:
    """The largest power of ten below one over the largest number of protected units.

    A delta of 1 / records or more would allow publishing a whole record with that probability.
    """
    units = max(max(dataset.records().values()), len(dataset.hospitals))
    return 10.0 ** (math.ceil(-math.log10(units)) - 1)


def delta_of(plan: Plan, dataset: HospitalDataset) -> float:
    """The plan's delta, or the default for its hospitals."""
    return default_delta(dataset) if plan.privacy.delta is None else plan.privacy.delta


def hospital_event(plan: Plan, noise_multiplier: float) -> MechanismEvent:
    """What one round of a hospital-level mechanism releases."""
    if plan.cohort.kind == "poisson":
        return MechanismEvent(
            kind="poisson_gaussian",
            noise_multiplier=noise_multiplier,
            sampling_probability=plan.cohort.sampling_probability,
        )
    return MechanismEvent(kind="gaussian", noise_multiplier=noise_multiplier)


def record_event(plan: Plan, noise_multiplier: float, train_records: int) -> MechanismEvent:
    """What one step of DP-SGD at a hospital releases."""
    return MechanismEvent(
        kind="poisson_gaussian",
        noise_multiplier=noise_multiplier,
        sampling_probability=sampling_probability(plan, train_records),
    )


Spent = tuple[tuple[MechanismEvent, int], ...]


@functools.lru_cache(maxsize=4096)
def _calibrated(target: float, delta: float, steps: int, probability: float, conversion: str, spent: Spent) -> float:
    return calibrate_noise(target, delta, steps, probability, conversion=conversion, spent=spent)


def preprocessing_events(dataset: HospitalDataset, unit: str) -> dict[str | None, Spent]:
    """What the preprocessing released under noise, by hospital id (None: every hospital); it comes out of the same
    budget.
    """
    found: dict[str | None, Spent] = {}
    for released in dataset.preprocessing.events:
        event = dict(released)
        of, hospital, count = event.pop("unit", "record"), event.pop("hospital_id", None), int(event.pop("count", 1))
        if of == unit:
            found[hospital] = (*found.get(hospital, ()), (MechanismEvent(**event), count))
    return found


def make(plan: Plan, dataset: HospitalDataset) -> NoisePlan:
    """The noise of a plan that has no other problems.

    Raises:
      validation.InvalidInput: when no noise reaches the target, or the mechanism does not allow it here.
    """
    privacy = plan.privacy
    delta = delta_of(plan, dataset)
    sizes = dataset.records()
    if privacy.unit == "none":
        return NoisePlan("none", delta, dict.fromkeys(sizes, 0.0), {})

    released = preprocessing_events(dataset, privacy.unit)

    def multiplier(steps: int, probability: float, hospital: str | None = None) -> float:
        if privacy.noise_multiplier is not None:
            return float(privacy.noise_multiplier)
        spent = (*released.get(None, ()), *released.get(hospital, ()))
        target = float(privacy.target_epsilon or 0.0)
        return _calibrated(target, delta, steps, probability, privacy.conversion, spent)

    if privacy.unit == "record":
        multipliers = {
            hospital: multiplier(
                plan.rounds * steps_per_round(plan, records), sampling_probability(plan, records), hospital
            )
            for hospital, records in sizes.items()
        }
        events = {hospital: record_event(plan, multipliers[hospital], sizes[hospital]) for hospital in sizes}
        return NoisePlan("record", delta, multipliers, events)
    probability = float(plan.cohort.sampling_probability or 1.0) if plan.cohort.kind == "poisson" else 1.0
    one = multiplier(plan.rounds, probability)
    if privacy.mechanism == "adaptive_clip":
        _check_adaptive(plan, dataset, one)
    return NoisePlan("hospital", delta, dict.fromkeys(sizes, one), dict.fromkeys(sizes, hospital_event(plan, one)))


def _check_adaptive(plan: Plan, dataset: HospitalDataset, noise_multiplier: float) -> None:
    expected = plan.cohort.expected_size(len(dataset.hospitals))
    limit = 2 * plan.privacy.count_stddev(expected)
    if noise_multiplier >= limit:
        raise InvalidInput(
            [
                Problem(
                    "noise_multiplier",
                    round(noise_multiplier, 4),
                    f"adaptive clipping splits the noise between updates and a count, and with {expected:g} "
                    "hospitals in a "
                    f"round it must stay below {limit:g} (2 * clipped_count_stddev, a twentieth of the cohort by "
                    "default)",
                    "choose fixed_clip, more hospitals, a larger epsilon, or a larger --clipped_count_stddev (the norm "
                    "then follows its quantile less closely)",
                )
            ]
        )


def problems(plan: Plan, dataset: HospitalDataset) -> tuple[Problem, ...]:
    """Why no noise fits, if so."""
    try:
        make(plan, dataset)
    except InvalidInput as error:
        return error.problems
    return ()


def warnings(plan: Plan, dataset: HospitalDataset) -> list[str]:
    """Where the promise is valid but means little, in words for the table."""
    words = []
    sizes = dataset.records()
    delta = delta_of(plan, dataset)
    unit = plan.privacy.unit
    units = len(sizes) if unit == "hospital" else max(sizes.values())
    if delta >= 1 / units:
        words.append(
            f"delta {delta:g} is not below 1 / {units} {unit}s: it would allow giving one {unit} away whole. "
            f"Remedy: --delta below {1 / units:.2g}."
        )
    if unit == "hospital":
        noise = make(plan, dataset).server_multiplier
        expected = plan.cohort.expected_size(len(sizes))
        if noise / expected > 0.1:
            words.append(
                f"hospital-level noise is {noise / expected:.2g} clip norms in every coordinate of the mean of "
                f"{expected:g} "
                f"hospitals, and the update's own norm is at most 1: few hospitals cannot hide one of them. "
                "Record-level privacy (dp_sgd) protects patients here."
            )
    if plan.privacy.noise_multiplier == 0:
        words.append("noise_multiplier is 0: clipping alone gives no differential privacy, epsilon is infinite")
    return words
