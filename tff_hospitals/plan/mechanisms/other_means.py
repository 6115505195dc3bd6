"""Other means of the updates, without noise: by their steps (FedNova), by the loss at each hospital (q-FedAvg)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tff_hospitals.foundations.validation import Problem
from tff_hospitals.plan.mechanisms.base import Unprotected
from tff_hospitals.plan.mechanisms.none import PlainMean
from tff_hospitals.plan.mechanisms.registry import register
from tff_hospitals.plan.parts import PrivacyPlan

if TYPE_CHECKING:
    from tff_hospitals.plan.plan import Plan


@register
class FedNova(PlainMean):
    """Wang et al. 2020, arXiv:2007.07481: each update over its steps, then the mean, times the mean number of steps."""

    name = "fednova"
    words = "every update is divided by its local steps, so that the model does not drift to those who take many"
    tells = "factor"

    def problems(self, plan: Plan, privacy: PrivacyPlan) -> list[Problem | None]:
        """Local steps whose part in the update is not known beforehand."""
        found: list[Problem | None] = []
        if plan.privacy.mechanism != self.name:
            bound = "would scale the noise of each hospital differently, which no check of that noise expects"
            found.append(Problem("outer", self.name, bound, "take another rule around a record-level mechanism"))
        if plan.client.optimizer != "sgd":
            bound = "must be sgd under fednova: what a step of another optimiser adds is not known beforehand"
            found.append(Problem("client_optimizer", plan.client.optimizer, bound, "set --client_optimizer=sgd"))
        if plan.client.proximal_mu:
            bound = "is not offered together with fednova, which normalises plain steps"
            found.append(
                Problem("proximal_mu", plan.client.proximal_mu, bound, "drop it, or take --aggregator=fedprox")
            )
        return found


@register
class QFedAvg(Unprotected):
    """Li, Sanjabi, Beirami and Smith 2020, arXiv:1905.10497, algorithm 2, with L one over the clients' learning rate.

    Its limit for large q is the agnostic mean of Mohri, Sivek and Suresh 2019 (arXiv:1902.00146): the hospital that is
    served worst counts alone.
    """

    name = "q_fedavg"
    words = "hospitals where the model's loss is high count more"
    tells = "loss"
    seen = PlainMean.seen
    options = ("fairness",)

    def problems(self, plan: Plan, privacy: PrivacyPlan) -> list[Problem | None]:
        """What hides, changes or protects single updates: a hospital's loss would leave beside them."""
        found: list[Problem | None] = []
        if plan.privacy.mechanism != self.name:
            bound = "tells the server each hospital's exact loss, which no guarantee for records covers"
            found.append(Problem("outer", self.name, bound, "take another rule around a record-level mechanism"))
        if plan.weighting != "equal":
            bound = "must be equal under q_fedavg, whose weights follow from the loss"
            found.append(Problem("weighting", plan.weighting, bound, "set --weighting=equal"))
        for name, value in (
            ("upload", plan.upload),
            ("skip_below", plan.skip_below),
            ("secure_sum", privacy.secure_sum),
        ):
            if value:
                bound = "is not offered together with q_fedavg, whose weights depend on the exact update and loss"
                found.append(Problem(name, value, bound, f"drop --{name}, or take another mean"))
        return found
