"""Noise in shares: whole-number noise of which every hospital adds a part before a secure sum; see `discretisation`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tff_hospitals.accounting import MechanismEvent
from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.plan.calibration import Calibration, calibrated_grid
from tff_hospitals.plan.discretisation import LARGEST_BITS, Grid, discretise, enough_bits
from tff_hospitals.plan.mechanisms.base import PRIVATE_OPTIONS, HospitalLevel, HospitalSetting, Seen
from tff_hospitals.plan.parts import CohortPlan, PrivacyPlan
from tff_hospitals.plan.planned_events import InShares, ReleaseAt

if TYPE_CHECKING:
    from tff_hospitals.plan.plan import Plan


class NoiseInShares(HospitalLevel):
    """The base of both: the distribution of the noise is all that they differ in."""

    noise_by = "shares"
    seen = Seen(
        server="under a real secure sum, the sum of all whole-number updates with the noise of all shares",
        hospitals="models that were made of noised sums of updates",
        readers="a model that was made of noised sums of updates",
    )
    options = (*PRIVATE_OPTIONS, "modulus_bits")
    always_secure = True
    needs_size = True
    known_cohort = "divides its noise into one share per hospital, so their number must be known before the round"

    def problems(self, plan: Plan, privacy: PrivacyPlan) -> list[Problem | None]:
        """A calibrated target beside budgets by which single hospitals leave, each with its share of the noise."""
        limits = plan.stopping.limits
        leave_alone = privacy is not plan.privacy or plan.cohort.kind == "cyclic"
        if privacy.target_epsilon is None or not limits or not leave_alone:
            return []
        name, limit = next(iter(limits.items()))
        prefix = "" if privacy is plan.privacy else "outer_"
        return [
            Problem(
                name,
                limit,
                "lets single hospitals leave, and each takes its share of the noise with it: those that stay would "
                f"exceed {prefix}target_epsilon={privacy.target_epsilon:g}",
                f"drop --{name}, or give --{prefix}noise_multiplier and let the budget count the shares that are there",
            )
        ]

    def conversions(self, cohort: CohortPlan) -> tuple[str, ...]:
        """Renyi bounds, and loss distributions by their nearness to Gaussian noise."""
        return ("rdp", "pld")

    def event(self, grid: Grid) -> MechanismEvent:
        """The event of one round on a grid of whole numbers."""
        return MechanismEvent(
            self.name,
            local_stddev=grid.local_stddev,
            shares=grid.shares,
            l2_sensitivity=grid.l2_sensitivity,
            l1_sensitivity=grid.l1_sensitivity,
            dimension=grid.dimension,
        )

    def release_at(self, setting: HospitalSetting, *, counts: bool = True) -> ReleaseAt:
        """One event a round, with as many shares as hospitals take part.

        The release raises InvalidInput where the modulus is too small for sum and noise.
        """

        def release(noise_multiplier: float) -> InShares:
            grid = grid_of(setting, noise_multiplier)
            if grid is None:
                raise InvalidInput([overflow_problem(setting, noise_multiplier)])
            return InShares(self.event(grid), shared=setting.period == 1, every=setting.period)

        return release

    def calibrate(self, setting: HospitalSetting, calibration: Calibration) -> float:
        """The grid depends on its noise: a few steps to a fixed point."""
        return calibrated_grid(self.release_at(setting), setting.rounds, calibration)

    def sum_variance(self, setting: HospitalSetting, round_number: int, cohort: float) -> float:
        """As many shares as hospitals take part, over as many as are counted on, after rounding."""
        return cohort / shares_of(setting)

    def warnings(self, setting: HospitalSetting, noise_multiplier: float) -> list[str]:
        """What rounding costs, and how rarely a sum overflows."""
        grid = grid_of(setting, noise_multiplier)
        if grid is None:  # refused before
            return []
        stretched = grid.l2_sensitivity / (setting.privacy.clip_norm * grid.scale)
        return [
            f"{setting.privacy.modulus_bits} bits per value: a sum leaves the modulus with odds of at most "
            f"{grid.overflow_odds:.2g} per round; rounding makes the sensitivity {stretched:.4g} times the clip "
            "norm, which the noise covers"
        ]


def shares_of(setting: HospitalSetting) -> int:
    """Hospitals whose shares are counted on in a round: those of the smallest cohort, whose noise has to suffice."""
    return max(1, setting.cohort.smallest_size(setting.hospitals))


def grid_of(setting: HospitalSetting, noise_multiplier: float) -> Grid | None:
    """The whole numbers in use; None where the modulus is too small."""
    return discretise(
        clip_norm=setting.privacy.clip_norm,
        noise_multiplier=noise_multiplier,
        modulus_bits=setting.privacy.modulus_bits,
        shares=shares_of(setting),
        parameters=setting.parameters,
        most=round(setting.expected),
    )


def overflow_problem(setting: HospitalSetting, noise_multiplier: float) -> Problem:
    """Why a modulus is too small, and the smallest that would do."""
    privacy, most = setting.privacy, round(setting.expected)
    enough = enough_bits(
        clip_norm=privacy.clip_norm,
        noise_multiplier=noise_multiplier,
        shares=shares_of(setting),
        parameters=setting.parameters,
        most=most,
    )
    remedy = f"set --modulus_bits={enough} or more" if enough else "take fewer hospitals per round or less noise"
    return Problem(
        "modulus_bits",
        privacy.modulus_bits,
        f"overflows: the sum of {most} hospitals with its noise (multiplier {noise_multiplier:.3g}) needs "
        + (f"at least {enough} bits" if enough else f"more than {LARGEST_BITS} bits")
        + f" for {setting.parameters:,} parameters",
        remedy,
    )
