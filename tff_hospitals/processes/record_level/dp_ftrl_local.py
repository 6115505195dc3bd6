"""DP-FTRL inside a hospital (Kairouz et al. 2021, arXiv:2103.00039): DP-SGD's steps, the residual noise of a tree.

Each round begins anew, because a hospital keeps nothing between rounds.
"""

from __future__ import annotations

import numpy as np

from tff_hospitals.accounting import tree_noise
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.processes.record_level.correlated import CorrelatedSteps
from tff_hospitals.processes.record_level.registry import register


@register("dp_ftrl_local")
class TreeSteps(CorrelatedSteps):
    """The residual noise of a binary tree (Kairouz et al. 2021, arXiv:2103.00039)."""

    def matrix(self, privacy: PrivacyPlan, steps: int) -> np.ndarray:
        """Steps by nodes of the tree."""
        return tree_noise.residual_matrix(steps)
