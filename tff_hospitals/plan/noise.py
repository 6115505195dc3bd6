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
from typing import TYPE_CHECKING

from tff_hospitals.accounting import MechanismEvent
from tff_hospitals.accounting.epsilon import conversions_of
from tff_hospitals.foundations import files as records_lib
from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.plan import planned_events as releases
from tff_hospitals.plan.calibration import Calibration, Spent, calibrated, calibrated_grid
from tff_hospitals.plan.parts import DISTRIBUTED, PrivacyPlan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.plan.planned_events import Release

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
      releases: what steps or rounds release, by hospital id.
      adjacency: under which everything in this run is accounted.
      conversion: in which this unit's target, limit and epsilon are meant.
      second: the hospital-level mechanism around a record-level one, if any.
    """

    unit: str
    delta: float
    multipliers: Mapping[str, float]
    releases: Mapping[str, Release]
    adjacency: str = ADJACENCY["record"]
    second: NoisePlan | None = None
    conversion: str = "rdp"

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
        """Noise multiplier of the aggregator, 0 where it has no mechanism."""
        level = self.hospital_level
        return next(iter(level.multipliers.values())) if level is not None else 0.0


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
    delta = delta_of(plan, dataset)
    sizes = dataset.records()
    if privacy.unit == "none":
        return NoisePlan("none", delta, dict.fromkeys(sizes, 0.0), {})
    adjacency = adjacency_of(privacy)
    if privacy.unit == "hospital":
        return _hospital_part(plan, privacy, dataset, delta, adjacency)
    second = None
    if privacy.outer != "none":
        second = _hospital_part(plan, privacy.hospital_level(), dataset, delta, adjacency)
    return _record_part(plan, dataset, delta, adjacency, second)


def adjacency_of(privacy: PrivacyPlan) -> str:
    """Which data sets count as neighbours: one ledger has one answer, also for a plan with two units.

    >>> adjacency_of(PrivacyPlan(mechanism="dp_sgd")), adjacency_of(PrivacyPlan(mechanism="dp_sgd", outer="fixed_clip"))
    ('add_or_remove_one', 'replace_special')
    """
    if privacy.mechanism == "dp_ftrl_local" or privacy.outer != "none":
        return ADJACENCY["hospital"]  # a tree has no guarantee when a unit more would move the others
    return ADJACENCY.get(privacy.unit, ADJACENCY["record"])


def _record_part(
    plan: Plan, dataset: HospitalDataset, delta: float, adjacency: str, second: NoisePlan | None
) -> NoisePlan:
    privacy, multipliers, made = plan.privacy, {}, {}
    released = preprocessing_events(dataset, "record")
    conversion = _conversion(privacy, released, adjacency)
    for hospital, records in dataset.records().items():
        steps, chance = steps_per_round(plan, records), sampling_probability(plan, records)
        release_at = releases.record_release(
            privacy, sampling_probability=chance, steps_per_epoch=round(1 / chance), steps=steps
        )
        if privacy.noise_multiplier is not None:
            multipliers[hospital] = float(privacy.noise_multiplier)
        else:
            spent = (*released.get(None, ()), *released.get(hospital, ()))
            plain = releases.record_release(  # values and count together cost one Gaussian
                dataclasses.replace(privacy, clip_style="flat"),
                sampling_probability=chance,
                steps_per_epoch=round(1 / chance),
                steps=steps,
            )
            calibration = _calibration(privacy, delta, adjacency, spent, conversion)
            multipliers[hospital] = calibrated(plain(1.0).whole_run(plan.rounds, steps), calibration)
        _check_count(privacy, multipliers[hospital], hospital)
        made[hospital] = release_at(multipliers[hospital])
    return NoisePlan("record", delta, multipliers, made, adjacency, second, conversion)


def _calibration(privacy: PrivacyPlan, delta: float, adjacency: str, spent: Spent, conversion: str) -> Calibration:
    target = float(privacy.target_epsilon or 0.0)
    return target, delta, adjacency, conversion, spent, float(privacy.selected_from)


def _conversion(privacy: PrivacyPlan, released: Mapping[str | None, Spent], adjacency: str) -> str:
    """The conversion that was named, or the mechanism's own where everything else that was released allows it."""
    own = privacy.meant_in
    if privacy.conversion is not None:
        return own
    fits = all(own in conversions_of(spent, adjacency=adjacency) for spent in released.values())
    return own if fits else "rdp"


def _hospital_part(
    plan: Plan, privacy: PrivacyPlan, dataset: HospitalDataset, delta: float, adjacency: str
) -> NoisePlan:
    sizes = dataset.records()
    size = parameters(plan, dataset) if privacy.mechanism in DISTRIBUTED else 1
    options = {"rounds": plan.rounds, "parameters": size}
    release_at = releases.hospital_release(privacy, plan.cohort, len(sizes), **options)
    released = preprocessing_events(dataset, "hospital")
    conversion = _conversion(privacy, released, adjacency)
    if privacy.noise_multiplier is not None:
        multiplier = float(privacy.noise_multiplier)
    else:
        calibration = _calibration(privacy, delta, adjacency, released.get(None, ()), conversion)
        if privacy.mechanism in DISTRIBUTED:
            multiplier = calibrated_grid(release_at, plan.rounds, calibration)
        else:
            simple = dataclasses.replace(privacy, zeroing="none")
            if privacy.mechanism == "adaptive_clip":  # values and counts together cost one Gaussian
                simple = dataclasses.replace(simple, mechanism="fixed_clip")
            plain = releases.hospital_release(simple, plan.cohort, len(sizes), **options)
            multiplier = calibrated(plain(1.0).whole_run(plan.rounds, 1), calibration)
    _check_counts(plan, privacy, dataset, multiplier)
    made = release_at(multiplier)
    multipliers, made_for = dict.fromkeys(sizes, multiplier), dict.fromkeys(sizes, made)
    return NoisePlan("hospital", delta, multipliers, made_for, adjacency, conversion=conversion)


def parameters(plan: Plan, dataset: HospitalDataset) -> int:
    """How many parameters travel; the sensitivity of rounded updates depends on it (builds the model once)."""
    options = json.dumps(records_lib.plain(dict(plan.model.options)), sort_keys=True)
    return _counted(plan.model.name, options, tuple(dataset.feature_shape), dataset.num_classes, dataset.task)


def size_problem(plan: Plan, dataset: HospitalDataset, trained: int) -> Problem | None:
    """A model of another size than the plan's: rounded updates would be more sensitive than the ledger says."""
    if plan.privacy.hospital_level().mechanism not in DISTRIBUTED:
        return None
    planned = parameters(plan, dataset)
    if planned == trained:
        return None
    bound = f"must be {planned:,}, those of the plan's model: the sensitivity of rounded updates depends on them"
    return Problem("parameters of the model", trained, bound, "name the model that is trained in the plan")


@functools.lru_cache(maxsize=64)
def _counted(name: str, options: str, shape: tuple[int, ...], classes: int, task: str) -> int:
    from tff_hospitals import models

    model = models.build_model(name, models.ModelSignature(shape, classes, task), **json.loads(options))
    return sum(spec.shape.num_elements() for spec in model.trainable_specs)


def _check_count(privacy: PrivacyPlan, noise_multiplier: float, hospital: str) -> None:
    """Adaptive clipping of records with a given noise on the count."""
    given = privacy.clipped_count_stddev
    if privacy.clip_style != "adaptive" or given is None or noise_multiplier < 2 * given:
        return
    raise InvalidInput(
        [
            Problem(
                f"noise_multiplier of {hospital}",
                round(noise_multiplier, 4),
                f"adaptive clipping splits the noise between gradients and a count, and must stay below {2 * given:g} "
                "(2 * clipped_count_stddev)",
                f"give --clipped_count_stddev above {noise_multiplier / 2:.3g}, or leave it out: a tenth of the "
                "privacy then goes to the count",
            )
        ]
    )


def _check_counts(plan: Plan, privacy: PrivacyPlan, dataset: HospitalDataset, noise_multiplier: float) -> None:
    """Adaptive clipping and zeroing over few hospitals."""
    if not privacy.counts:
        return
    expected = plan.cohort.expected_size(len(dataset.hospitals))
    limit = 2 * privacy.joint_count_stddev(expected)
    if noise_multiplier >= limit:
        what = "adaptive clipping" if privacy.mechanism == "adaptive_clip" else "zeroing by a quantile"
        if privacy.counts > 1:
            what = "adaptive clipping with zeroing"
        how = "2 * clipped_count_stddev" + ("" if privacy.counts == 1 else " / sqrt(2)")
        raise InvalidInput(
            [
                Problem(
                    "noise_multiplier",
                    round(noise_multiplier, 4),
                    f"{what} splits the noise between updates and a count, and with {expected:g} hospitals in a round "
                    f"it must stay below {limit:g} ({how}, a twentieth of the cohort by default)",
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
