"""DP-FTRL inside each hospital: the noise of a binary tree over the steps of a round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tff_hospitals.accounting import MechanismEvent
from tff_hospitals.foundations.validation import Problem
from tff_hospitals.plan.clip_styles import ONE_NORM, norm_that_moves
from tff_hospitals.plan.mechanisms.base import PRIVATE_OPTIONS, RecordLevel, RecordSetting
from tff_hospitals.plan.mechanisms.dp_sgd import NOISED_INSIDE
from tff_hospitals.plan.mechanisms.registry import register
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.plan.planned_events import ReleaseAt, TreeOverSteps

if TYPE_CHECKING:
    import numpy as np

    from tff_hospitals.plan.plan import Plan


@register
class DpFtrlLocal(RecordLevel):
    """Kairouz et al. 2021, arXiv:2103.00039; a new tree every round, because a hospital keeps nothing between rounds.

    No random batches are assumed: passes go through the records in one order, so that a record comes back after a
    fixed number of steps.
    """

    name = "dp_ftrl_local"
    words = "DP-FTRL inside each hospital: per-record clipping, noise of a binary tree over the steps of a round"
    seen = NOISED_INSIDE
    options = (*PRIVATE_OPTIONS, "clip_style", "outer", "records_per_patient")
    batches = "same_order"
    clip_styles = ONE_NORM

    def problems(self, plan: Plan, privacy: PrivacyPlan) -> list[Problem | None]:
        """A clip norm that changes from step to step."""
        return [norm_that_moves(self.name, privacy.clip_style)]

    def release_at(self, setting: RecordSetting, *, counts: bool = True) -> ReleaseAt:
        """A tree over the steps of each round, in which a record comes back once in every pass."""
        comes_back = setting.steps > setting.steps_per_epoch
        period = setting.steps_per_epoch if comes_back else None  # None: at most once per tree

        def release(noise_multiplier: float) -> TreeOverSteps:
            event = MechanismEvent("tree", noise_multiplier=noise_multiplier, steps=setting.steps, period=period)
            return TreeOverSteps(event)

        return release

    def step_variance(self, steps: int, setting: RecordSetting) -> float:
        """The noise of a prefix of the tree."""
        from tff_hospitals.accounting import tree_noise  # numpy is not needed to show --help

        return tree_noise.prefix_variance(steps)

    def dependence(self, steps: int, setting: RecordSetting) -> np.ndarray:
        """What each step adds to the noise of its prefix."""
        from tff_hospitals.accounting import tree_noise

        return tree_noise.residual_matrix(steps).astype(float)
