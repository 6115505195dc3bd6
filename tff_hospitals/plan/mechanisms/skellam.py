"""Distributed Skellam noise."""

from __future__ import annotations

from tff_hospitals.plan.mechanisms.registry import register
from tff_hospitals.plan.mechanisms.shares import NoiseInShares


@register
class Skellam(NoiseInShares):
    """Agarwal, Kairouz and Liu 2021, arXiv:2110.04995."""

    name = "skellam"
    words = "each hospital adds a share of Skellam noise before a secure sum"
