"""Buffered linear Toeplitz noise at the server: later rounds take noise back through a few buffers (BLT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tff_hospitals.plan.mechanisms.base import PRIVATE_OPTIONS
from tff_hospitals.plan.mechanisms.correlated_rounds import CorrelatedRounds
from tff_hospitals.plan.mechanisms.registry import register
from tff_hospitals.plan.parts import PrivacyPlan

if TYPE_CHECKING:
    from tff_hospitals.accounting.strategies import Strategy


@register
class Blt(CorrelatedRounds):
    """McMahan, Xu and Zhang 2024, arXiv:2408.08868; the buffers are optimised for the rounds and the separation."""

    name = "blt"
    words = "as fixed clipping, with noise that later rounds take back in part through a few buffers (BLT)"
    options = (*PRIVATE_OPTIONS, "noise_buffers")

    def strategy(self, privacy: PrivacyPlan, rounds: int, period: int) -> Strategy:
        """The buffers of least largest error."""
        from tff_hospitals.accounting.strategies import optimised_buffers

        often = -(-rounds // period)
        return optimised_buffers(rounds, privacy.noise_buffers, participations=often, min_separation=period)
