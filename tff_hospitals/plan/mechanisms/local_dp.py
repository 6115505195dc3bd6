"""Local DP: every hospital clips its update and adds all the noise itself, so that nobody has to be trusted."""

from __future__ import annotations

import math

from tff_hospitals.accounting import MechanismEvent
from tff_hospitals.plan.mechanisms.base import PRIVATE_OPTIONS, HospitalLevel, HospitalSetting, Seen
from tff_hospitals.plan.mechanisms.registry import register
from tff_hospitals.plan.parts import CohortPlan
from tff_hospitals.plan.planned_events import Release, ReleaseAt


@register
class LocalDp(HospitalLevel):
    """Gaussian noise at every hospital; its rounds are one Gaussian, accounted for exactly (Balle and Wang 2018)."""

    name = "local_dp"
    words = "each hospital clips its own update and adds all the noise itself (local DP)"
    noise_by = "hospital"
    seen = Seen(
        server="every hospital's update with all of its noise on it",
        hospitals="models that were made of noised updates",
        readers="a model that was made of noised updates",
    )
    options = PRIVATE_OPTIONS
    conversion = "gaussian_exact"

    def conversions(self, cohort: CohortPlan) -> tuple[str, ...]:
        """Whoever sends an update shows that it takes part: nothing is amplified, whatever the cohort."""
        return ("rdp", "pld", "gaussian_exact")

    def release_at(self, setting: HospitalSetting, *, counts: bool = True) -> ReleaseAt:
        """One Gaussian for each round that a hospital takes part in."""

        def release(noise_multiplier: float) -> Release:
            return Release(MechanismEvent("gaussian", noise_multiplier=noise_multiplier), every=setting.period)

        return release

    def sum_variance(self, setting: HospitalSetting, round_number: int, cohort: float) -> float:
        """The noise of every hospital that takes part."""
        return float(cohort)

    def warnings(self, setting: HospitalSetting, noise_multiplier: float) -> list[str]:
        """What the absence of trust costs."""
        return [
            f"local DP: the noise of {setting.expected:g} hospitals adds up to {math.sqrt(setting.expected):.3g} times "
            "what a trusted server would add for the same guarantee"
        ]
