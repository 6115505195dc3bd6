"""What every mechanism says of itself: one object that checks, calibration, ledger, processes, audits and words ask.

A mechanism belongs to one of two levels. A *record-level* one changes the steps inside each hospital; a
*hospital-level* one is how the hospitals' updates become one, with noise or without. Its half that computes is in
`processes` under the same name; nothing here needs TensorFlow.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Collection
from typing import TYPE_CHECKING

from tff_hospitals.accounting import ADJACENCIES, CONVERSIONS
from tff_hospitals.accounting.events import REPLACE_SPECIAL
from tff_hospitals.foundations.validation import Problem
from tff_hospitals.plan.calibration import Calibration, calibrated
from tff_hospitals.plan.parts import CohortPlan, PrivacyPlan
from tff_hospitals.plan.planned_events import ReleaseAt

if TYPE_CHECKING:
    import numpy as np

    from tff_hospitals.plan.plan import Plan

NOISE_BY = ("nobody", "hospital", "server", "shares")
BATCHES = ("shuffled", "poisson", "cyclic_poisson", "same_order")
PRIVATE_OPTIONS = (
    "clip_norm",
    "noise_multiplier",
    "target_epsilon",
    "delta",
    "conversion",
    "selected_from",
    "secure_noise",
)
"""Fields of `PrivacyPlan` that every private mechanism reads."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """What others see of a hospital's data in a round; each text completes "sees ...".

    Attributes:
      server: the one who adds up.
      hospitals: the other hospitals.
      readers: whoever reads the released model.
    """

    server: str
    hospitals: str
    readers: str


@dataclasses.dataclass(frozen=True)
class RecordSetting:
    """One hospital's rounds, as a record-level mechanism is planned for them.

    Attributes:
      privacy: the mechanism's settings.
      rounds: of the whole run.
      steps: of one round.
      steps_per_epoch: steps after which a record comes back.
      longest: steps of the hospital that takes the most of them in a round.
    """

    privacy: PrivacyPlan
    rounds: int
    steps: int
    steps_per_epoch: int
    longest: int = 0

    @property
    def sampling_probability(self) -> float:
        """Chance of each record to be in a Poisson batch."""
        return 1.0 / self.steps_per_epoch


@dataclasses.dataclass(frozen=True)
class HospitalSetting:
    """The rounds of a federation, as a hospital-level mechanism is planned for them.

    Attributes:
      privacy: the mechanism's settings (those of the outer one around a record-level one).
      rounds: of the whole run.
      cohort: who takes part, out of `hospitals`.
      parameters: of the model; 1 where the mechanism does not ask for them.
      shown: whether others learn who takes part in a round, as from the ledger of a record-level mechanism inside.
    """

    privacy: PrivacyPlan
    rounds: int
    cohort: CohortPlan
    hospitals: int
    parameters: int = 1
    shown: bool = False

    steps = 1

    @property
    def expected(self) -> float:
        """Mean number of hospitals in a round."""
        return self.cohort.expected_size(self.hospitals)

    @property
    def sampled(self) -> bool:
        """Whether nobody knows who takes part: only then does Poisson sampling amplify a guarantee."""
        return self.cohort.kind == "poisson" and not self.shown

    @property
    def period(self) -> int:
        """A hospital takes part at most once in so many rounds in a row."""
        return self.cohort.period(self.hospitals)


class Mechanism(abc.ABC):
    """The contract of both levels; what has no value here must be given by every mechanism.

    Attributes:
      name: as plans say it.
      level: `record` or `hospital`: where it acts.
      private: whether it adds noise that is accounted for. What is not private has no events and no guarantee.
      words: one sentence for tables and reports.
      noise_by: who adds the noise, one of `NOISE_BY`; decides who must be trusted.
      seen: what others see.
      options: fields of `PrivacyPlan` that it reads; one that no mechanism of a plan reads is refused.
      adjacency: what neighbouring data sets differ in. Everything here accounts for one unit that is blanked out,
        because the number of units is public: steps, sampling probability and divisors follow from it.
      conversion: in which its epsilon is meant unless the plan names another.
      runs_on: the only runtime that can run it; empty for any.
      seeded: whether all of its noise follows from a key, so that a run can be drawn again and resumed bit-equal.
      computed_by: the name that its half that computes is registered under; empty for its own.
      by_round: settings that may change from round to round (see `plan.schedules`), its releases following; a class
        that is derived from this one says for itself which.
    """

    name: str
    level: str
    private: bool = True
    runs_on: str = ""
    seeded: bool = True
    computed_by: str = ""
    by_round: tuple[str, ...] = ()
    words: str
    noise_by: str
    seen: Seen
    options: tuple[str, ...]
    adjacency: str = REPLACE_SPECIAL
    conversion: str = "rdp"

    @property
    def unit(self) -> str:
        """The unit of privacy: `record`, `hospital`, or `none` without privacy."""
        return self.level if self.private else "none"

    @property
    def noisy(self) -> bool:
        """Whether its noise is given or calibrated; noise without an event (`HospitalLevel.noise_of`) too."""
        return self.private

    def options_read(self, privacy: PrivacyPlan) -> tuple[str, ...]:
        """`options`, and those that depend on the others' values."""
        return self.options

    @property
    def own_by_round(self) -> tuple[str, ...]:
        """`by_round` as its own class says it: what is derived may account or compute in another way."""
        return tuple(vars(type(self)).get("by_round", ()))

    def conversions(self, cohort: CohortPlan) -> tuple[str, ...]:
        """The conversions that have an analysis of its releases, `rdp` always among them."""
        return ("rdp", "pld") if cohort.kind == "poisson" else ("rdp", "pld", "gaussian_exact")

    def problems(self, plan: Plan, privacy: PrivacyPlan) -> list[Problem | None]:
        """What of a plan this mechanism cannot do, beside the bounds of its options.

        Args:
          plan: the whole plan.
          privacy: the mechanism's own settings.
        """
        return []


class RecordLevel(Mechanism):
    """A mechanism inside each hospital: what the steps of local training release about single records.

    Attributes:
      batches: how batches are drawn, one of `BATCHES`.
      clip_styles: names in `clip_styles.CLIP_STYLES` that it takes.
    """

    level = "record"
    noise_by = "hospital"
    batches: str
    clip_styles: tuple[str, ...]

    @abc.abstractmethod
    def release_at(self, setting: RecordSetting, *, counts: bool = True) -> ReleaseAt:
        """What one hospital releases about its records.

        Args:
          setting: the hospital's rounds.
          counts: False leaves noised counts out: values and counts together cost as much as one Gaussian, so that the
            noise is calibrated without them.
        """

    @abc.abstractmethod
    def step_variance(self, steps: int, setting: RecordSetting) -> float:
        """Variance of the noise in the sum of `steps` steps, over (noise_multiplier * clip_norm)**2.

        Args:
          steps: that were taken in a round.
          setting: the hospital's rounds.
        """

    def batches_of(self, privacy: PrivacyPlan) -> str:
        """How batches are drawn with these settings, one of `BATCHES`."""
        return self.batches

    def completed(self, privacy: PrivacyPlan, settings: tuple[RecordSetting, ...], delta: float) -> PrivacyPlan:
        """The settings with what they leave to the planner, the same for all hospitals.

        Args:
          privacy: as the plan gives them.
          settings: every hospital's rounds.
          delta: of every (epsilon, delta) in the run.
        """
        return privacy

    def error_by_bands(self, settings: tuple[RecordSetting, ...], delta: float) -> dict[str, float]:
        """Expected error of every number of bands that the planner could have chosen; empty where it had no choice.

        Args:
          settings: every hospital's rounds, completed.
          delta: of every (epsilon, delta) in the run.
        """
        return {}

    def dependence(self, steps: int, setting: RecordSetting) -> np.ndarray | None:
        """How the noises of a round's steps hang together, for audits: they are taken apart again by it.

        Args:
          steps: that are taken in a round.
          setting: the hospital's rounds.

        Returns:
          float64 [steps, draws], whose rows make the noise of each step out of independent unit normals; None where
          every step has noise of its own.
        """
        return None

    def calibrate(self, setting: RecordSetting, calibration: Calibration) -> float:
        """The least noise multiplier that keeps the target."""
        whole_run = self.release_at(setting, counts=False)(1.0).whole_run(setting.rounds, setting.steps)
        return calibrated(whole_run, calibration)

    def noise_problems(self, setting: RecordSetting, noise_multiplier: float, hospital: str) -> list[Problem]:
        """Why a noise multiplier cannot be used at a hospital."""
        return []


class HospitalLevel(Mechanism):
    """How the hospitals' updates become one, and what that releases about single hospitals.

    Attributes:
      counts: noised counts that a round releases beside the update.
      linear: whether the server needs no more than the sum of the hospitals' contributions. What is not linear sees
        every single one, and so cannot stand behind a secure sum.
      always_secure: whether its noise means nothing without a secure sum.
      zeroing: whether a zeroing bound may stand before it.
      spans_rounds: whether its process depends on the number of rounds.
      needs_size: whether its sensitivity depends on the number of parameters.
      known_cohort: why it must know the number of hospitals before a round; empty if it need not.
      tells: what stands beside an update: its `weight`; its `place` in the round, for rules that see every update; the
        `loss` of the broadcast model at the hospital; or a `factor` that it was multiplied by, which follows from the
        steps of all hospitals in the round. Only the first needs nothing of a simulation.
      corrects: whether local steps are corrected by what server or hospitals remember of earlier rounds, and more than
        the update is sent (`processes.corrections`).
      noise_of: the mechanism whose noise it adds although nobody states an event for it: then it is not private, and
        its noise is calibrated as if it were that one. Empty for all others.
    """

    level = "hospital"
    noise_of: str = ""
    counts: int = 0
    linear: bool = True
    tells: str = "weight"
    corrects: bool = False
    always_secure: bool = False
    zeroing: bool = False
    spans_rounds: bool = False
    needs_size: bool = False
    known_cohort: str = ""

    @property
    def noisy(self) -> bool:
        """Private, or with the noise of another mechanism."""
        return self.private or bool(self.noise_of)

    @abc.abstractmethod
    def release_at(self, setting: HospitalSetting, *, counts: bool = True) -> ReleaseAt:
        """What a round releases about the hospitals; `counts` as for `RecordLevel`."""

    @abc.abstractmethod
    def sum_variance(self, setting: HospitalSetting, round_number: int, cohort: float) -> float:
        """Variance of the noise in the sum of a round's updates, over (noise multiplier of values * clip norm)**2.

        Args:
          setting: the federation's rounds.
          round_number: 0-based.
          cohort: hospitals that take part.
        """

    def dependence(self, setting: HospitalSetting, rounds: int) -> np.ndarray | None:
        """How the noises of the first rounds hang together: float64 [rounds, draws], as for `RecordLevel`."""
        return None

    def calibrate(self, setting: HospitalSetting, calibration: Calibration) -> float:
        """The least noise multiplier that keeps the target."""
        whole_run = self.release_at(setting, counts=False)(1.0).whole_run(setting.rounds, setting.steps)
        return calibrated(whole_run, calibration)

    def setting_problems(self, setting: HospitalSetting) -> list[Problem]:
        """Why it cannot be used with these hospitals and rounds, whatever the noise."""
        return []

    def cohort_problems(self, privacy: PrivacyPlan, cohort: CohortPlan, hospitals: int) -> list[Problem]:
        """Why it cannot be used with these hospitals at all."""
        return []

    def cohort_warnings(self, privacy: PrivacyPlan, cohort: CohortPlan, hospitals: int) -> list[str]:
        """Where these hospitals are too few for what it is meant to do."""
        return []

    def warnings(self, setting: HospitalSetting, noise_multiplier: float) -> list[str]:
        """What of it will disappoint with these hospitals, in words for the table."""
        return []


class Unprotected(HospitalLevel):
    """A way to make the updates one that adds no noise: nothing is accounted for, and nothing is promised."""

    private = False
    noise_by = "nobody"
    options: tuple[str, ...] = ()

    def release_at(self, setting: HospitalSetting, *, counts: bool = True) -> ReleaseAt:
        """Refused: what is released without noise has no event.

        Raises:
          ValueError: always.
        """
        raise ValueError(f"{self.name} adds no noise: there is no release to account for")

    def sum_variance(self, setting: HospitalSetting, round_number: int, cohort: float) -> float:
        """No noise."""
        return 0.0


_REQUIRED = {
    Mechanism: ("name", "level", "words", "noise_by", "seen", "options"),
    RecordLevel: ("batches", "clip_styles"),
}


def missing_parts(mechanism: Mechanism) -> list[str]:
    """What a mechanism fails to say, or says in words that nobody knows; an empty list for a whole one."""
    found = []
    for owner, names in _REQUIRED.items():
        if isinstance(mechanism, owner):
            found += [name for name in names if getattr(mechanism, name, None) is None]
    if found:
        return found
    fields = {field.name for field in dataclasses.fields(PrivacyPlan)}
    found += [f"options: {name!r} is no field of PrivacyPlan" for name in mechanism.options if name not in fields]
    if not isinstance(mechanism, (RecordLevel, HospitalLevel)):
        found.append("level: take RecordLevel or HospitalLevel as the base")
    known: dict[str, Collection[str]] = {"noise_by": NOISE_BY, "adjacency": ADJACENCIES, "conversion": CONVERSIONS}
    if isinstance(mechanism, RecordLevel):
        known["batches"] = BATCHES
    for name, allowed in known.items():
        if getattr(mechanism, name) not in allowed:
            found.append(f"{name}: {getattr(mechanism, name)!r} is none of {', '.join(allowed)}")
    if mechanism.private == (mechanism.noise_by == "nobody"):
        found.append("noise_by: a private mechanism has noise, and no other has")
    return found
