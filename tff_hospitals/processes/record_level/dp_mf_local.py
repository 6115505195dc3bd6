"""Banded matrix factorisation inside a hospital: DP-SGD's steps, noise that the next steps take back in part.

Each round begins anew, because a hospital keeps nothing between rounds.
"""

from __future__ import annotations

import numpy as np

from tff_hospitals.plan.mechanisms.dp_mf_local import strategy_of
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.processes.record_level.correlated import CorrelatedSteps
from tff_hospitals.processes.record_level.registry import register


@register("dp_mf_local")
class BandedSteps(CorrelatedSteps):
    """The noise of a banded strategy (Choquette-Choo et al. 2023, arXiv:2306.08153)."""

    def matrix(self, privacy: PrivacyPlan, steps: int) -> np.ndarray:
        """C^-1, steps by steps."""
        return strategy_of(privacy.noise_bands, steps).inverse_matrix().astype(np.float32)
