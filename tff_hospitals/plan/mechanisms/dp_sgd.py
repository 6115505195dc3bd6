"""DP-SGD: every step's gradients are clipped record by record and noised, batches are Poisson samples."""

from __future__ import annotations

from tff_hospitals.accounting import MechanismEvent
from tff_hospitals.foundations.validation import Problem
from tff_hospitals.plan.clip_styles import CLIP_STYLES
from tff_hospitals.plan.mechanisms.base import PRIVATE_OPTIONS, RecordLevel, RecordSetting, Seen
from tff_hospitals.plan.mechanisms.counts import with_counts
from tff_hospitals.plan.mechanisms.registry import register
from tff_hospitals.plan.parts import CohortPlan, PrivacyPlan
from tff_hospitals.plan.planned_events import EveryStep, ReleaseAt

NOISED_INSIDE = Seen(
    server="updates that carry noise in every step already",
    hospitals="models that were made of noised updates",
    readers="a model that was made of noised updates",
)


@register
class DpSgd(RecordLevel):
    """Abadi et al. 2016, arXiv:1607.00133, with the clip styles of `clip_styles`."""

    name = "dp_sgd"
    words = "DP-SGD inside each hospital: per-record clipping, noise in every step"
    seen = NOISED_INSIDE
    options: tuple[str, ...] = (*PRIVATE_OPTIONS, "clip_style", "outer", "records_per_patient")
    batches = "poisson"
    by_round = ("clip_norm", "noise_multiplier", "local_steps")
    clip_styles = tuple(CLIP_STYLES)

    def options_read(self, privacy: PrivacyPlan) -> tuple[str, ...]:
        """Also those of the clip style."""
        return (*self.options, *CLIP_STYLES[privacy.clip_style].options)

    def conversions(self, cohort: CohortPlan) -> tuple[str, ...]:
        """Sampling has no closed form."""
        return ("rdp", "pld")

    def release_at(self, setting: RecordSetting, *, counts: bool = True) -> ReleaseAt:
        """One Poisson-sampled Gaussian a step; where the norm follows a count, that count with it."""
        privacy, chance = setting.privacy, setting.sampling_probability
        counts = counts and CLIP_STYLES[privacy.clip_style].follows

        def release(noise_multiplier: float) -> EveryStep:
            event = MechanismEvent("poisson_gaussian", noise_multiplier=noise_multiplier, sampling_probability=chance)
            if counts and noise_multiplier > 0:
                event = with_counts(event, noise_multiplier, privacy.record_count_stddev(noise_multiplier))
            return EveryStep(event)

        return release

    def step_variance(self, steps: int, setting: RecordSetting) -> float:
        """Every step has noise of its own."""
        return float(steps)

    def noise_problems(self, setting: RecordSetting, noise_multiplier: float, hospital: str) -> list[Problem]:
        """Noise on the count that leaves nothing to the gradients."""
        given = setting.privacy.clipped_count_stddev
        if not CLIP_STYLES[setting.privacy.clip_style].follows or given is None or noise_multiplier < 2 * given:
            return []
        return [
            Problem(
                f"noise_multiplier of {hospital}",
                round(noise_multiplier, 4),
                f"adaptive clipping splits the noise between gradients and a count, and must stay below {2 * given:g} "
                "(2 * clipped_count_stddev)",
                f"give --clipped_count_stddev above {noise_multiplier / 2:.3g}, or leave it out: a tenth of the "
                "privacy then goes to the count",
            )
        ]
