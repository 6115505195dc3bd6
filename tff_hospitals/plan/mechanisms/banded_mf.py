"""Banded matrix factorisation at the server: the next rounds take back in part what a round adds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tff_hospitals.foundations.validation import Problem
from tff_hospitals.plan.mechanisms.base import PRIVATE_OPTIONS, HospitalSetting
from tff_hospitals.plan.mechanisms.correlated_rounds import CorrelatedRounds
from tff_hospitals.plan.mechanisms.registry import register
from tff_hospitals.plan.parts import PrivacyPlan

if TYPE_CHECKING:
    from tff_hospitals.accounting.strategies import Strategy

MOST_BANDS = 32
"""More bands gain little, and the server keeps the noise of as many rounds less one."""


@register
class BandedMf(CorrelatedRounds):
    """Choquette-Choo et al. 2023, arXiv:2306.08153; at most as many bands as rounds between two participations."""

    name = "banded_mf"
    words = "as fixed clipping, with noise that the next rounds take back in part (banded matrix factorisation)"
    options = (*PRIVATE_OPTIONS, "noise_bands")

    def strategy(self, privacy: PrivacyPlan, rounds: int, period: int) -> Strategy:
        """The bands of least expected error."""
        from tff_hospitals.accounting.strategies import optimised_banded

        return optimised_banded(rounds, min(rounds, privacy.noise_bands or min(period, MOST_BANDS)))

    def setting_problems(self, setting: HospitalSetting) -> list[Problem]:
        """Bands beyond the separation, so that a hospital's participations would overlap."""
        bands, period = setting.privacy.noise_bands, setting.period
        if bands is None or bands <= period:
            return []
        bound = f"must be at most {period}, the rounds between two participations of a hospital"
        remedy = f"give --noise_bands={period} or fewer, a larger cycle (--hospitals_per_round), or take blt"
        return [Problem("noise_bands", bands, bound, remedy)]
