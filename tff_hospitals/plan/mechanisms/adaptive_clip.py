"""Adaptive clipping: fixed clipping whose norm follows a noised quantile of the update norms."""

from __future__ import annotations

from tff_hospitals.plan.mechanisms.fixed_clip import FixedClip
from tff_hospitals.plan.mechanisms.registry import register


@register
class AdaptiveClip(FixedClip):
    """Andrew, Thakkar, McMahan and Ramaswamy 2021, arXiv:1905.03871."""

    name = "adaptive_clip"
    words = "as fixed clipping, with a norm that follows a noised quantile of the update norms"
    options = (*FixedClip.options, "clip_quantile", "clip_learning_rate", "clipped_count_stddev")
    counts = 1
