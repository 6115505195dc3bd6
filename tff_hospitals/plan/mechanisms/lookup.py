"""What a plan's privacy means: the mechanisms that it names, at both levels."""

from __future__ import annotations

import dataclasses
from typing import cast

from tff_hospitals.foundations.validation import Problem, raise_if
from tff_hospitals.plan.clip_styles import CLIP_STYLES
from tff_hospitals.plan.mechanisms import secure_sum
from tff_hospitals.plan.mechanisms.base import HospitalLevel, Mechanism, RecordLevel
from tff_hospitals.plan.mechanisms.registry import MECHANISMS, name_problem, named
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.plan.zeroing import ZEROING

OUTER_OPTIONS = {  # what the outer mechanism's own settings are called
    "clip_norm": "outer_clip_norm",
    "noise_multiplier": "outer_noise_multiplier",
    "target_epsilon": "outer_target_epsilon",
}


def of(privacy: PrivacyPlan) -> Mechanism:
    """The mechanism that a plan names.

    Raises:
      InvalidInput: an unknown name.

    >>> of(PrivacyPlan(mechanism="dp_sgd")).unit, of(PrivacyPlan()).unit
    ('record', 'none')
    """
    return named(privacy.mechanism)


def record_level(privacy: PrivacyPlan) -> RecordLevel | None:
    """The mechanism inside the hospitals, if any."""
    found = of(privacy)
    return found if isinstance(found, RecordLevel) else None


def hospital_settings(privacy: PrivacyPlan) -> PrivacyPlan:
    """The settings of what happens to the updates: the plan's own, or those of the outer mechanism.

    >>> both = PrivacyPlan(mechanism="dp_sgd", clip_norm=0.5, outer="tree", outer_clip_norm=2.0)
    >>> hospital_settings(both).mechanism, hospital_settings(both).clip_norm
    ('tree', 2.0)
    """
    if record_level(privacy) is None:
        return privacy
    follows = CLIP_STYLES[privacy.clip_style].follows
    return dataclasses.replace(
        privacy,
        mechanism=privacy.outer,
        clip_norm=privacy.outer_clip_norm,
        noise_multiplier=privacy.outer_noise_multiplier,
        target_epsilon=privacy.outer_target_epsilon,
        outer="none",
        clip_style="flat",
        clipped_count_stddev=None if follows else privacy.clipped_count_stddev,
    )


def hospital_level(privacy: PrivacyPlan) -> HospitalLevel:
    """The mechanism that makes the updates one; the plain mean where nothing else is named.

    Raises:
      InvalidInput: an unknown name, or a record-level mechanism as `outer`.
    """
    found = of(privacy)
    if isinstance(found, HospitalLevel):
        return found
    raise_if([name_problem("outer", privacy.outer, "hospital")])
    return cast(HospitalLevel, named(privacy.outer))


def layers(privacy: PrivacyPlan) -> tuple[tuple[Mechanism, PrivacyPlan], ...]:
    """Every mechanism of a plan with its own settings, the inner one first."""
    inner, around = of(privacy), hospital_level(privacy)
    if inner is around:
        return ((inner, privacy),)
    return ((inner, privacy), (around, hospital_settings(privacy)))


def repeatable(privacy: PrivacyPlan) -> bool:
    """Whether every number of a run follows from keys, so that it can be drawn again and resumed bit-equal.

    >>> repeatable(PrivacyPlan(mechanism="fixed_clip")), repeatable(PrivacyPlan(mechanism="tff_gaussian_fixed"))
    (True, False)
    """
    return not privacy.secure_noise and all(mechanism.seeded for mechanism, _ in layers(privacy))


def stated_event(privacy: PrivacyPlan) -> bool:
    """Whether all that may be noise in a plan has an event, or there is none because nothing foreign is run."""
    return all(mechanism.private or not mechanism.runs_on for mechanism, _ in layers(privacy))


def name_problems(privacy: PrivacyPlan) -> list[Problem]:
    """Names of mechanisms that nobody knows."""
    found = (
        name_problem("mechanism", privacy.mechanism),
        name_problem("outer", privacy.outer, "hospital"),
    )
    return [problem for problem in found if problem is not None]


def understood(privacy: PrivacyPlan) -> bool:
    """Whether every name in a plan's privacy is known; without that, nothing else here has an answer."""
    return not name_problems(privacy) and privacy.clip_style in CLIP_STYLES and privacy.zeroing in ZEROING


def meant_in(privacy: PrivacyPlan) -> str:
    """The conversion that target, limit and epsilon are meant in; the choice of a winner has Renyi DP alone."""
    own = of(privacy).conversion if privacy.selected_from <= 1 else "rdp"
    return privacy.conversion or own


def summed_securely(privacy: PrivacyPlan) -> bool:
    """Whether contributions are added up under a (simulated) secure sum."""
    return secure_sum.used(hospital_level(privacy), privacy)


def options_read(privacy: PrivacyPlan) -> frozenset[str]:
    """The fields of `PrivacyPlan` that something in the plan reads; what is not among them is ignored.

    >>> sorted(options_read(PrivacyPlan(secure_sum=True)))
    ['mechanism', 'secure_sum', 'secure_sum_bound']
    """
    read = {"mechanism", "secure_sum", *ZEROING[privacy.zeroing].options}
    for mechanism, settings in layers(privacy):
        renamed = OUTER_OPTIONS if settings is not privacy else {}
        read.update(renamed.get(name, name) for name in mechanism.options_read(settings))
    return frozenset(read)


def reads(privacy: PrivacyPlan, option: str) -> bool:
    """Whether something in the plan reads a field of `PrivacyPlan`; true of names that are refused anyway."""
    return not understood(privacy) or option in options_read(privacy)


def readers(option: str) -> tuple[str, ...]:
    """Names of the mechanisms that read a field of `PrivacyPlan`.

    >>> readers("restart_every")
    ('tree',)
    """
    return tuple(name for name, mechanism in MECHANISMS.items() if option in mechanism.options)
