"""Distributed discrete Gaussian noise."""

from __future__ import annotations

from tff_hospitals.plan.mechanisms.registry import register
from tff_hospitals.plan.mechanisms.shares import NoiseInShares


@register
class DiscreteGaussian(NoiseInShares):
    """Kairouz, Liu and Steinke 2021, arXiv:2102.06387."""

    name = "discrete_gaussian"
    words = "each hospital adds a share of discrete Gaussian noise before a secure sum"
