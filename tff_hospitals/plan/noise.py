"""How much noise a plan needs at each hospital, and which events its rounds emit.

The noise is calibrated on the *planned* number of steps; epsilon is never taken from here, it comes from the ledger
of the steps that were taken.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tff_hospitals.accounting import MechanismEvent
from tff_hospitals.accounting.epsilon import conversions_of
from tff_hospitals.accounting.events import REPLACE_SPECIAL
from tff_hospitals.foundations import files as records_lib
from tff_hospitals.foundations.signature import ModelSignature
from tff_hospitals.foundations.validation import InvalidInput, Problem, raise_if
from tff_hospitals.plan import mechanisms, schedules
from tff_hospitals.plan.calibration import Calibration, Spent, calibrated_by_round
from tff_hospitals.plan.mechanisms import counts
from tff_hospitals.plan.mechanisms.base import HospitalLevel, HospitalSetting, RecordLevel, RecordSetting
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.plan.planned_events import ByRound, Release, ReleaseAt

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset


@dataclasses.dataclass(frozen=True)
class NoisePlan:
    """Noise multipliers of a run.

    Attributes:
      unit: `record`, `hospital` or `none`.
      delta: of every (epsilon, delta) in this run.
      multipliers: noise standard deviation over clip norm, by hospital id (the same for all when the server adds it).
      releases: what steps or rounds release, by hospital id.
      adjacency: under which everything in this run is accounted.
      conversion: in which this unit's target, limit and epsilon are meant.
      second: the hospital-level mechanism around a record-level one, if any.
      records_per_patient: the most records of one patient, for the epsilon of a patient.
      settings: of a record-level mechanism by hospital id, with what the plan leaves to the planner.
      without_event: noise multiplier of an aggregator for whose noise nobody states an event.
    """

    unit: str
    delta: float
    multipliers: Mapping[str, float]
    releases: Mapping[str, Release]
    adjacency: str = REPLACE_SPECIAL
    second: NoisePlan | None = None
    conversion: str = "rdp"
    records_per_patient: int = 1
    settings: Mapping[str, RecordSetting] = dataclasses.field(default_factory=dict)
    without_event: float = 0.0

    @property
    def parts(self) -> tuple[NoisePlan, ...]:
        """The mechanisms with a unit of privacy, the inner one first."""
        own = (self,) if self.unit != "none" else ()
        return own if self.second is None else (*own, self.second)

    @property
    def hospital_level(self) -> NoisePlan | None:
        """The part whose unit is the hospital, if any."""
        return next((part for part in self.parts if part.unit == "hospital"), None)

    @property
    def server_multiplier(self) -> float:
        """Noise multiplier of the aggregator, 0 where it adds none."""
        level = self.hospital_level
        return next(iter(level.multipliers.values())) if level is not None else self.without_event


def steps_per_round(plan: Plan, train_records: int, number: int | None = None) -> int:
    """Optimiser steps of a hospital with that many training records in a round.

    Args:
      plan: a plan.
      train_records: of the hospital.
      number: of the round, 0-based; None: in the round that has the most of them.
    """
    if plan.client.local_steps is not None:
        return _in_round(plan, "local_steps", plan.client.local_steps, number)
    epochs = _in_round(plan, "local_epochs", int(plan.client.local_epochs or 1), number)
    return epochs * batches_per_epoch(plan, train_records)


def epochs_in_round(plan: Plan, number: int) -> int:
    """Passes over a hospital's own records in a round (0-based) of a plan with `local_epochs`."""
    return _in_round(plan, "local_epochs", int(plan.client.local_epochs or 1), number)


def _in_round(plan: Plan, name: str, value: int, number: int | None) -> int:
    """A whole number of the plan in a round (0-based), or the largest that it has in any."""
    if not schedules.changes(plan.by_round, name):
        return value
    if number is not None:
        return schedules.whole(value, schedules.factor(plan.by_round, name, plan.rounds, number))
    return schedules.whole(value, max(schedules.factors(plan.by_round, name, plan.rounds)))


def hospitals_in_round(plan: Plan, number: int) -> int | None:
    """Size of a fixed-size or cyclic cohort in a round (0-based); None for others."""
    size = plan.cohort.hospitals_per_round
    return None if size is None else _in_round(plan, "hospitals_per_round", size, number)


def multiplier_factor(plan: Plan, unit: str, number: int) -> float:
    """What the noise multiplier of a unit of privacy is multiplied by in a round (0-based)."""
    return schedules.factor(plan.by_round, _noise_of(plan, unit), plan.rounds, number)


def clip_factor(plan: Plan, unit: str, number: int) -> float:
    """What the clip norm of a unit of privacy is multiplied by in a round (0-based)."""
    return schedules.factor(plan.by_round, prefix_of(plan, unit) + "clip_norm", plan.rounds, number)


def noise_changes(plan: Plan, unit: str) -> bool:
    """Whether the noise multiplier of a unit of privacy changes by round."""
    return schedules.changes(plan.by_round, _noise_of(plan, unit))


def prefix_of(plan: Plan, unit: str) -> str:
    """What the settings of a unit's mechanism begin with in `by_round`."""
    return "outer_" if unit == "hospital" and mechanisms.record_level(plan.privacy) is not None else ""


def _noise_of(plan: Plan, unit: str) -> str:
    """The name of a unit's noise in `by_round`."""
    return prefix_of(plan, unit) + "noise_multiplier"


def sampling_probability(plan: Plan, train_records: int) -> float:
    """Chance of each record to be in a DP-SGD step: one over the number of batches in an epoch."""
    return 1.0 / batches_per_epoch(plan, train_records)


def batches_per_epoch(plan: Plan, train_records: int) -> int:
    """Steps in which a hospital with that many training records goes through them once."""
    return math.ceil(train_records / plan.client.batch_size)


def default_delta(dataset: HospitalDataset) -> float:
    """The largest power of ten below one over the largest number of protected units.

    A delta of 1 / records or more would allow publishing a whole record with that probability.
    """
    units = max(max(dataset.records().values()), len(dataset.hospitals))
    return 10.0 ** (math.ceil(-math.log10(units)) - 1)


def delta_of(plan: Plan, dataset: HospitalDataset) -> float:
    """The plan's delta, or the default for its hospitals."""
    return default_delta(dataset) if plan.privacy.delta is None else plan.privacy.delta


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
    if privacy.selected_from > 1 and privacy.target_epsilon is not None and dataset.preprocessing.events:
        bound = "has no calibration together with noised preprocessing, whose releases belong to every run of the sweep"
        remedy = "give --noise_multiplier and read epsilon from the ledger, or take --scaling=fixed_bounds"
        raise InvalidInput([Problem("selected_from", privacy.selected_from, bound, remedy)])
    delta, adjacency = delta_of(plan, dataset), adjacency_of(privacy)
    around = None
    if mechanisms.hospital_level(privacy).private:
        around = _hospital_part(plan, dataset, delta, adjacency)
    if mechanisms.record_level(privacy) is not None:
        return _record_part(plan, dataset, delta, adjacency, around)
    nothing = NoisePlan("none", delta, dict.fromkeys(dataset.records(), 0.0), {})
    twin = mechanisms.hospital_level(privacy).noise_of
    if around is None and twin:
        of_twin = _hospital_part(plan.replace(privacy={"mechanism": twin}), dataset, delta, adjacency)
        return dataclasses.replace(nothing, without_event=of_twin.server_multiplier)
    return around or nothing


def adjacency_of(privacy: PrivacyPlan) -> str:
    """Which data sets count as neighbours: one ledger has one answer, also for a plan with two units.

    >>> adjacency_of(PrivacyPlan(mechanism="dp_sgd", outer="fixed_clip"))
    'replace_special'
    """
    found = [mechanism.adjacency for mechanism, _ in mechanisms.layers(privacy) if mechanism.private]
    return found[0] if len(set(found)) == 1 else REPLACE_SPECIAL


def _record_part(
    plan: Plan, dataset: HospitalDataset, delta: float, adjacency: str, second: NoisePlan | None
) -> NoisePlan:
    mechanism, privacy = mechanisms.record_level(plan.privacy), completed(plan, dataset)
    if mechanism is None:
        raise ValueError(f"{privacy.mechanism} is no record-level mechanism")
    released = preprocessing_events(dataset, "record")
    conversion = _conversion(privacy, released, adjacency)
    multipliers, made, settings = {}, {}, {}
    for hospital, records in dataset.records().items():
        setting = settings[hospital] = _record_setting(plan, dataset, privacy, records)
        multiplier = privacy.noise_multiplier
        own = mechanism.release_at(setting)
        release_at = _by_round(plan, "record", own, records)
        if multiplier is None:
            spent = (*released.get(None, ()), *released.get(hospital, ()))
            calibration = _calibration(privacy, delta, adjacency, spent, conversion)
            values = _by_round(plan, "record", mechanism.release_at(setting, counts=False), records)
            multiplier = _calibrated(mechanism, setting, None if release_at is own else values, calibration)
        raise_if(mechanism.noise_problems(setting, multiplier, hospital))
        multipliers[hospital] = float(multiplier)
        made[hospital] = release_at(float(multiplier))
    of_patient = privacy.records_per_patient or dataset.records_per_patient
    return NoisePlan("record", delta, multipliers, made, adjacency, second, conversion, of_patient, settings)


def _record_setting(plan: Plan, dataset: HospitalDataset, privacy: PrivacyPlan, train_records: int) -> RecordSetting:
    steps, longest = steps_per_round(plan, train_records), steps_per_round(plan, max(dataset.records().values()))
    return RecordSetting(privacy, plan.rounds, steps, batches_per_epoch(plan, train_records), longest)


def completed(plan: Plan, dataset: HospitalDataset) -> PrivacyPlan:
    """A plan's privacy, with what a record-level mechanism leaves to the planner.

    Raises:
      validation.InvalidInput: when no noise reaches the target.
    """
    mechanism, privacy = mechanisms.record_level(plan.privacy), plan.privacy
    if mechanism is None:
        return privacy
    sizes = sorted(set(dataset.records().values()))
    settings = tuple(_record_setting(plan, dataset, privacy, records) for records in sizes)
    return mechanism.completed(privacy, settings, delta_of(plan, dataset))


def _by_round(plan: Plan, unit: str, release_at: ReleaseAt, train_records: int | None = None) -> ReleaseAt:
    """The releases of a mechanism with the noise and the steps of every round; its own where neither changes.

    Args:
      plan: a plan.
      unit: of the mechanism.
      release_at: its releases in a round like all others.
      train_records: of the hospital whose steps they are about; None: they are about whole updates.
    """
    if not plan.by_round:
        return release_at
    steps = tuple(
        1 if train_records is None else steps_per_round(plan, train_records, number) for number in range(plan.rounds)
    )
    if not schedules.changes(plan.by_round, _noise_of(plan, unit)) and len(set(steps)) == 1:
        return release_at
    by = [multiplier_factor(plan, unit, number) for number in range(plan.rounds)]

    def release(noise_multiplier: float) -> Release:
        made = {factor: release_at(noise_multiplier * factor) for factor in set(by)}
        first = made[by[0]]
        return ByRound(first.event, first.shared, first.every, tuple(made[factor] for factor in by), steps)

    return release


def _calibrated(
    mechanism: RecordLevel | HospitalLevel, setting: Any, by_round: ReleaseAt | None, calibration: Calibration
) -> float:
    """The least noise multiplier that keeps the target, at factor 1 where releases change by round.

    Those are without noised counts, as for `RecordLevel.calibrate`: counts come out of the same noise.
    """
    if by_round is None:
        return mechanism.calibrate(setting, calibration)
    return calibrated_by_round(by_round(1.0).whole_run(setting.rounds, setting.steps), calibration)


def _calibration(privacy: PrivacyPlan, delta: float, adjacency: str, spent: Spent, conversion: str) -> Calibration:
    target = float(privacy.target_epsilon or 0.0)
    return target, delta, adjacency, conversion, spent, float(privacy.selected_from)


def _conversion(privacy: PrivacyPlan, released: Mapping[str | None, Spent], adjacency: str) -> str:
    """The conversion that was named, or the mechanism's own where everything else that was released allows it."""
    own = mechanisms.meant_in(privacy)
    if privacy.conversion is not None:
        return own
    fits = all(own in conversions_of(spent, adjacency=adjacency) for spent in released.values())
    return own if fits else "rdp"


def hospital_setting(plan: Plan, dataset: HospitalDataset) -> HospitalSetting:
    """What a plan's hospital-level mechanism is planned for."""
    size = parameters(plan, dataset) if mechanisms.hospital_level(plan.privacy).needs_size else 1
    privacy = mechanisms.hospital_settings(plan.privacy)
    shown = mechanisms.record_level(plan.privacy) is not None  # whose ledger names the rounds of every hospital
    return HospitalSetting(privacy, plan.rounds, plan.cohort, len(dataset.hospitals), size, shown)


def _hospital_part(plan: Plan, dataset: HospitalDataset, delta: float, adjacency: str) -> NoisePlan:
    mechanism, setting = mechanisms.hospital_level(plan.privacy), hospital_setting(plan, dataset)
    privacy = setting.privacy
    raise_if(mechanism.setting_problems(setting))
    released = preprocessing_events(dataset, "hospital")
    conversion = _conversion(privacy, released, adjacency)
    multiplier = privacy.noise_multiplier
    own = mechanism.release_at(setting)
    release_at = _by_round(plan, "hospital", own) if mechanism.private else own
    if multiplier is None:
        calibration = _calibration(privacy, delta, adjacency, released.get(None, ()), conversion)
        values = None if release_at is own else _by_round(plan, "hospital", mechanism.release_at(setting, counts=False))
        multiplier = _calibrated(mechanism, setting, values, calibration)
    multiplier = float(multiplier)
    raise_if(counts.problems(mechanism, setting, multiplier))
    ids, made = list(dataset.records()), release_at(multiplier)
    return NoisePlan(
        "hospital",
        delta,
        dict.fromkeys(ids, multiplier),
        dict.fromkeys(ids, made),
        adjacency,
        conversion=conversion,
    )


def parameters(plan: Plan, dataset: HospitalDataset) -> int:
    """How many parameters travel; the sensitivity of rounded updates depends on it (builds the model once)."""
    options = json.dumps(records_lib.plain(plan.model.settings), sort_keys=True)
    return _counted(plan.model.name, options, ModelSignature.of(dataset))


def size_problem(plan: Plan, dataset: HospitalDataset, trained: int) -> Problem | None:
    """A model of another size than the plan's: rounded updates would be more sensitive than the ledger says."""
    if not mechanisms.hospital_level(plan.privacy).needs_size:
        return None
    planned = parameters(plan, dataset)
    if planned == trained:
        return None
    bound = f"must be {planned:,}, those of the plan's model: the sensitivity of rounded updates depends on them"
    return Problem("parameters of the model", trained, bound, "name the model that is trained in the plan")


@functools.lru_cache(maxsize=64)
def _counted(name: str, options: str, signature: ModelSignature) -> int:
    from tff_hospitals import models

    model = models.build_model(name, signature, **json.loads(options))
    return sum(spec.shape.num_elements() for spec in model.trainable_specs)


def problems(plan: Plan, dataset: HospitalDataset) -> tuple[Problem, ...]:
    """Why no noise fits, if so."""
    try:
        make(plan, dataset)
    except InvalidInput as error:
        return error.problems
    return ()
