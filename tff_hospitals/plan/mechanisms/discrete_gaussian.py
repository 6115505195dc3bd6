"""Distributed discrete Gaussian noise."""

from __future__ import annotations

from tff_hospitals.accounting import MechanismEvent
from tff_hospitals.plan.discretisation import Grid
from tff_hospitals.plan.mechanisms.registry import register
from tff_hospitals.plan.mechanisms.shares import NoiseInShares


@register
class DiscreteGaussian(NoiseInShares):
    """Kairouz, Liu and Steinke 2021, arXiv:2102.06387."""

    name = "discrete_gaussian"
    words = "each hospital adds a share of discrete Gaussian noise before a secure sum"

    def event(self, grid: Grid) -> MechanismEvent:
        """Its sum is no discrete Gaussian, by a little that grows with the dimension."""
        return MechanismEvent(
            self.name,
            local_stddev=grid.local_stddev,
            shares=grid.shares,
            l2_sensitivity=grid.l2_sensitivity,
            l1_sensitivity=grid.l1_sensitivity,
            dimension=grid.dimension,
        )
