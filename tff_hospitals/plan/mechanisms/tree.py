"""DP-FTRL at the server: fixed clipping with the noise of a binary tree over the rounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tff_hospitals.accounting import MechanismEvent, tree_squared_sensitivity
from tff_hospitals.plan.mechanisms.base import PRIVATE_OPTIONS, HospitalLevel, HospitalSetting
from tff_hospitals.plan.mechanisms.fixed_clip import NOISED_BY_SERVER
from tff_hospitals.plan.mechanisms.registry import register
from tff_hospitals.plan.planned_events import ReleaseAt, TreeOverRounds

if TYPE_CHECKING:
    import numpy as np


@register
class Tree(HospitalLevel):
    """Kairouz et al. 2021, arXiv:2103.00039; no sampling of hospitals is assumed."""

    name = "tree"
    words = "as fixed clipping, with the noise of a binary tree over the rounds (DP-FTRL)"
    noise_by = "server"
    seen = NOISED_BY_SERVER
    options = (*PRIVATE_OPTIONS, "restart_every")
    spans_rounds = True

    def release_at(self, setting: HospitalSetting, *, counts: bool = True) -> ReleaseAt:
        """A tree over the rounds until the next one begins; the accountant knows when a hospital comes back."""
        per_tree, period = rounds_per_tree(setting), setting.period

        def release(noise_multiplier: float) -> TreeOverRounds:
            event = MechanismEvent("tree", noise_multiplier=noise_multiplier, steps=1, period=period)
            return TreeOverRounds(event, shared=True, rounds_per_tree=per_tree)

        return release

    def sum_variance(self, setting: HospitalSetting, round_number: int, cohort: float) -> float:
        """That of the residual which a round adds to its tree."""
        from tff_hospitals.accounting import tree_noise  # numpy is not needed to show --help

        per_tree = rounds_per_tree(setting)
        residual = tree_noise.residual_matrix(per_tree)[round_number % per_tree]
        return float((residual.astype(float) ** 2).sum())

    def warnings(self, setting: HospitalSetting, noise_multiplier: float) -> list[str]:
        """Where fixed clipping adds less noise."""
        per_tree = rounds_per_tree(setting)
        often = -(-per_tree // setting.period)
        ratio = math.sqrt(tree_squared_sensitivity(per_tree, setting.period) / often)
        if ratio < 2 or often == 1:
            return []
        return [
            f"tree noise: a hospital takes part in {often} of the {per_tree} rounds of a tree, so that a node needs "
            f"{ratio:.2g} times the noise that fixed_clip adds in a round. It pays where a hospital takes part rarely. "
            "Remedy: --cohort=cyclic, --restart_every, or fixed_clip."
        ]

    def dependence(self, setting: HospitalSetting, rounds: int) -> np.ndarray:
        """What each round adds to the noise of its tree, one tree after the other."""
        import numpy as np

        from tff_hospitals.accounting import tree_noise

        per_tree = rounds_per_tree(setting)
        one = tree_noise.residual_matrix(per_tree).astype(float)
        return np.kron(np.eye(-(-rounds // per_tree)), one)[:rounds]


def rounds_per_tree(setting: HospitalSetting) -> int:
    """Rounds of one tree: as many as the plan says, or all."""
    return min(setting.rounds, setting.privacy.restart_every or setting.rounds)
