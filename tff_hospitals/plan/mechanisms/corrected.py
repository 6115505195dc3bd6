"""Algorithms that correct local steps, or send more than the update, all without noise; `processes.corrections`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from tff_hospitals.foundations.validation import Problem
from tff_hospitals.plan.mechanisms.base import Seen, Unprotected
from tff_hospitals.plan.mechanisms.registry import register
from tff_hospitals.plan.parts import PrivacyPlan

if TYPE_CHECKING:
    from tff_hospitals.plan.plan import Plan


class Corrected(Unprotected):
    """What these algorithms have in common.

    Attributes:
      carries: what crosses the wire beside the update, or of earlier rounds within it, in words after "it".
      takes: settings that its formulas hold and that must be above 0: what each is in them, and a usual value.
      plain_steps: whether local steps must be those of plain gradient descent.
      by_records: whether the server's memory is a mean over all hospitals, those away too, which weights by records
        allow only where none is away.
    """

    corrects = True
    carries: str
    takes: ClassVar[Mapping[str, tuple[str, str]]] = {}
    plain_steps = True
    by_records = True

    def problems(self, plan: Plan, privacy: PrivacyPlan) -> list[Problem | None]:
        """What hides or protects single updates; steps and cohorts that its formulas do not hold for."""
        found: list[Problem | None] = []
        if plan.privacy.mechanism != self.name:
            bound = f"{self.carries}: a release that the ledger has no entry for"
            remedy = "take another rule around a record-level mechanism, such as none or fixed_clip"
            found.append(Problem("outer", self.name, bound, remedy))
        for name, value in (
            ("upload", plan.upload),
            ("skip_below", plan.skip_below),
            ("secure_sum", privacy.secure_sum),
        ):
            if value:
                bound = f"is not offered together with {self.name}, which {self.carries}"
                found.append(Problem(name, value, bound, f"drop --{name}, or take another algorithm"))
        return [*found, *self._cohort(plan), *self._steps(plan)]

    def _cohort(self, plan: Plan) -> list[Problem | None]:
        if not self.by_records or plan.weighting == "equal" or plan.cohort.kind == "all":
            return []
        bound = f"must be equal under {self.name} where some are away: its memory is a mean over all hospitals"
        return [Problem("weighting", plan.weighting, bound, "set --weighting=equal, or --cohort=all")]

    def _steps(self, plan: Plan) -> list[Problem | None]:
        found: list[Problem | None] = []
        client = plan.client
        if self.plain_steps and client.optimizer != "sgd":
            bound = f"must be sgd under {self.name}, whose formulas are those of plain steps"
            found.append(Problem("client_optimizer", client.optimizer, bound, "set --client_optimizer=sgd"))
        for name, value in (("client_momentum", client.momentum), ("proximal_mu", client.proximal_mu)):
            if self.plain_steps and value and name not in self.takes:
                bound = f"must be 0 under {self.name}, whose formulas are those of plain steps"
                found.append(Problem(name, value, bound, f"drop --{name}"))
            if name in self.takes and not value:
                role, usual = self.takes[name]
                bound = f"must be above 0 under {self.name}: it is {role}"
                found.append(Problem(name, value, bound, f"give --{name}={usual}"))
        return found


def _seen(beside: str) -> Seen:
    return Seen(
        server=f"every hospital's update as it is, and {beside}",
        hospitals="the mean of the updates as it is, in every round",
        readers="a model that was made of the updates as they are",
    )


@register
class Scaffold(Corrected):
    """Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1 with option II."""

    name = "scaffold"
    words = "local steps are corrected by how far a hospital's gradients were from all hospitals', two models each way"
    seen = _seen("how the mean of its gradients changed")
    carries = "sends the change of a hospital's variate, which it keeps from round to round, beside the update"


@register
class FedDyn(Corrected):
    """Acar et al. 2021, arXiv:2111.04263, algorithm 1; alpha is `proximal_mu`."""

    name = "feddyn"
    words = "every hospital's loss is bent by its earlier updates, so that what is best for each agrees in the end"
    seen = _seen("all earlier ones within it")
    carries = "keeps the sum of a hospital's updates, which is in every later one"
    takes: ClassVar = {"proximal_mu": ("alpha, the weight of the distance to the broadcast model", "0.1")}


@register
class MimeLite(Corrected):
    """Karimireddy et al. 2021, arXiv:2008.03606: MimeLite with momentum; its decay is `client_momentum`."""

    name = "mime_lite"
    words = "local steps take the server's momentum, which follows the gradients of the broadcast model"
    seen = _seen("the gradient of all its records")
    carries = "sends the gradient of a hospital's records beside the update"
    by_records = False
    takes: ClassVar = {"client_momentum": ("the decay of the server's momentum", "0.9")}


@register
class AdaptiveFedProx(Corrected):
    """Li et al. 2020, arXiv:1812.06127, section 5.3: `proximal_mu` is where the weight starts."""

    name = "fedprox_adaptive"
    words = "FedProx whose weight rises while the loss rises, and falls after rounds of falling loss"
    seen = _seen("its exact loss")
    carries = "sends a hospital's exact loss beside the update"
    by_records = plain_steps = False


@register
class Agnostic(Corrected):
    """Mohri, Sivek and Suresh 2019, arXiv:1902.00146."""

    name = "agnostic"
    words = "hospitals count by weights that move towards those of the highest loss"
    tells = "place"
    seen = _seen("its exact loss")
    carries = "sends a hospital's exact loss beside the update"
    by_records = plain_steps = False
    options = ("agnostic_learning_rate",)

    def _cohort(self, plan: Plan) -> list[Problem | None]:
        found: list[Problem | None] = []
        if plan.weighting != "equal":
            bound = "must be equal under agnostic, whose weights follow from the losses"
            found.append(Problem("weighting", plan.weighting, bound, "set --weighting=equal"))
        if plan.cohort.kind != "all":
            bound = "must be all under agnostic: whoever is away would keep a weight of a loss that nobody knows"
            found.append(Problem("cohort", plan.cohort.kind, bound, "set --cohort=all"))
        return found
