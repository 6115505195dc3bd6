"""Noised counts beside the values: adaptive clipping and zeroing by a quantile pay for both out of one noise.

Each unit adds -1/2 or +1/2 to a count. Values and counts together cost as much as one Gaussian of the stated noise
multiplier (Andrew et al. 2021, arXiv:1905.03871, Theorem 1), so that the values get more noise.
"""

from __future__ import annotations

import math

from tff_hospitals.accounting import MechanismEvent, split_adaptive_noise
from tff_hospitals.foundations.validation import Problem
from tff_hospitals.plan.mechanisms.base import HospitalLevel, HospitalSetting
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.plan.zeroing import ZEROING


def with_counts(event: MechanismEvent, noise_multiplier: float, count_stddev: float) -> MechanismEvent:
    """An event whose noise is split between values and noised counts."""
    return MechanismEvent(
        "adaptive_clip",
        noise_multiplier=split_adaptive_noise(noise_multiplier, bit_noise_stddev=count_stddev),
        bit_noise_stddev=count_stddev,
        sampling_probability=event.sampling_probability,
    )


def counts_of(mechanism: HospitalLevel, privacy: PrivacyPlan) -> int:
    """Noised counts that a round of a hospital-level mechanism releases: for its clip norm, for zeroing."""
    return mechanism.counts + (ZEROING[privacy.zeroing].counts if mechanism.zeroing else 0)


def joint_stddev(mechanism: HospitalLevel, setting: HospitalSetting) -> float:
    """Deviation of one count that costs as much as all noised counts of a round together (0 without any)."""
    counts = counts_of(mechanism, setting.privacy)
    return setting.privacy.count_stddev(setting.expected) / math.sqrt(counts) if counts else 0.0


def problems(mechanism: HospitalLevel, setting: HospitalSetting, noise_multiplier: float) -> list[Problem]:
    """Why the counts leave nothing to the values."""
    counts = counts_of(mechanism, setting.privacy)
    limit = 2 * joint_stddev(mechanism, setting)
    if not counts or noise_multiplier < limit:
        return []
    what = " with ".join(
        [*(["adaptive clipping"] if mechanism.counts else []), *(["zeroing"] if counts > mechanism.counts else [])]
    )
    what = "zeroing by a quantile" if not mechanism.counts else what
    how = "2 * clipped_count_stddev" + ("" if counts == 1 else f" / sqrt({counts})")
    return [
        Problem(
            "noise_multiplier",
            round(noise_multiplier, 4),
            f"{what} splits the noise between updates and a count, and with {setting.expected:g} hospitals in a round "
            f"it must stay below {limit:g} ({how}, a twentieth of the cohort by default)",
            "choose fixed_clip, more hospitals, a larger epsilon, or a larger --clipped_count_stddev (the norm "
            "then follows its quantile less closely)",
        )
    ]


def warnings(mechanism: HospitalLevel, setting: HospitalSetting, noise_multiplier: float) -> list[str]:
    """Where the counts take most of the privacy."""
    if not counts_of(mechanism, setting.privacy) or noise_multiplier <= 0:
        return []
    for_updates = split_adaptive_noise(noise_multiplier, bit_noise_stddev=joint_stddev(mechanism, setting))
    if for_updates < 1.5 * noise_multiplier:
        return []
    return [
        "the noised count of unclipped hospitals takes most of the privacy: updates get "
        f"{for_updates / noise_multiplier:.2g} times the noise that fixed_clip would add. Remedy: "
        f"--clipped_count_stddev of {1.6 * noise_multiplier:.2g} or more, more hospitals, or fixed_clip."
    ]
