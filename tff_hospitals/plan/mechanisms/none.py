"""No mechanism: the plain (weighted) mean of the updates."""

from __future__ import annotations

from tff_hospitals.plan.mechanisms.base import Seen, Unprotected
from tff_hospitals.plan.mechanisms.registry import register
from tff_hospitals.plan.parts import PrivacyPlan


@register
class PlainMean(Unprotected):
    """Federated averaging as it is (McMahan et al. 2017, arXiv:1602.05629)."""

    name = "none"
    words = "no noise: data stay at the hospitals, but there is no differential privacy"
    seen = Seen(
        server="every hospital's update as it is",
        hospitals="the mean of the updates as it is, in every round",
        readers="a model that was made of the updates as they are",
    )

    def options_read(self, privacy: PrivacyPlan) -> tuple[str, ...]:
        """Nothing bounds an update, so that a secure sum needs a bound of its own."""
        return ("secure_sum_bound",) if privacy.secure_sum else ()
