"""Fixed clipping: every hospital's update is clipped to a public norm, the server adds Gaussian noise to their sum."""

from __future__ import annotations

from tff_hospitals.accounting import MechanismEvent
from tff_hospitals.plan.mechanisms import counts as noised_counts
from tff_hospitals.plan.mechanisms.base import PRIVATE_OPTIONS, HospitalLevel, HospitalSetting, Seen
from tff_hospitals.plan.mechanisms.registry import register
from tff_hospitals.plan.planned_events import Release, ReleaseAt

NOISED_BY_SERVER = Seen(
    server="every hospital's clipped update before there is noise on it",
    hospitals="models that were made of noised sums of updates",
    readers="a model that was made of noised sums of updates",
)


@register
class FixedClip(HospitalLevel):
    """DP-FedAvg (McMahan et al. 2018, arXiv:1710.06963)."""

    name = "fixed_clip"
    words = "each hospital's update is clipped to a fixed norm, the server adds noise"
    noise_by = "server"
    seen = NOISED_BY_SERVER
    options: tuple[str, ...] = (*PRIVATE_OPTIONS, "zeroing")
    zeroing = True
    by_round = ("clip_norm", "noise_multiplier", "hospitals_per_round")

    def release_at(self, setting: HospitalSetting, *, counts: bool = True) -> ReleaseAt:
        """One Gaussian a round, sampled where hospitals are in secret; noised counts with it.

        In a cyclic cohort a round is nothing to those whose turn it is not.
        """
        joint, cohort = noised_counts.joint_stddev(self, setting) if counts else 0.0, setting.cohort

        def release(noise_multiplier: float) -> Release:
            if setting.sampled:
                event = MechanismEvent(
                    "poisson_gaussian",
                    noise_multiplier=noise_multiplier,
                    sampling_probability=cohort.sampling_probability,
                )
            else:
                event = MechanismEvent("gaussian", noise_multiplier=noise_multiplier)
            if 0 < noise_multiplier < 2 * joint:
                event = noised_counts.with_counts(event, noise_multiplier, joint)
            return Release(event, shared=setting.period == 1, every=setting.period)

        return release

    def sum_variance(self, setting: HospitalSetting, round_number: int, cohort: float) -> float:
        """Noise of its own in every round."""
        return 1.0
