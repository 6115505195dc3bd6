"""When a run ends: at its round limit, on a plateau, or before its privacy budget is exceeded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from tff_hospitals.foundations.validation import Problem
from tff_hospitals.plan.plan import Plan, StoppingPlan

ROUND_LIMIT = "round limit reached"
BUDGET_SPENT = "privacy budget spent"
DIVERGED = "diverged"
_SENSELESS = 1e9  # a loss of classes, or errors over the target's spread, that no noise and no weights of classes make


@dataclasses.dataclass
class PlateauRule:
    """Stops when a metric has not improved by `threshold` for `patience` evaluations.

    >>> rule = PlateauRule(StoppingPlan(metric="loss", patience=2, threshold=0.01))
    >>> [rule.reason([0.5]), rule.reason([0.5, 0.495]), rule.reason([0.5, 0.495, 0.494])]
    [None, None, 'plateau: loss did not improve by 0.01 in 2 evaluations (best 0.5)']
    """

    plan: StoppingPlan

    def reason(self, history: Sequence[float]) -> str | None:
        """Why to stop, given the metric at every evaluation so far, or None to go on."""
        patience = self.plan.patience
        if patience is None or len(history) <= patience:
            return None
        sign = 1.0 if self.plan.metric == "loss" else -1.0
        best, since = math.inf, 0
        for value in history:
            cost = sign * value
            if cost < best - self.plan.threshold:
                best, since = cost, 0
            else:
                since += 1
        if since < patience:
            return None
        return (
            f"plateau: {self.plan.metric} did not improve by {self.plan.threshold:g} in {patience} evaluations "
            f"(best {sign * best:.6g})"
        )


def nothing_to_look_at(plan: StoppingPlan, test_records: int) -> Problem | None:
    """A plateau rule without any test record; whether the task has its metric is the plan's own check."""
    if plan.patience is None or test_records:
        return None
    bound = "needs test records to look at, and no hospital has one"
    return Problem("--patience", plan.patience, bound, "leave it out, or give more records or a test part")


def final_warnings(plan: Plan, pooled: Mapping[str, float]) -> list[str]:
    """What must be said of the last evaluation: that nothing was measured, or that the model is of no use."""
    if not pooled.get("records"):
        return ["no hospital has a test record: nothing was measured. Remedy: more records, or a larger test part."]
    loss = pooled.get("loss", math.nan)
    senseless = ("accuracy" in pooled and loss > _SENSELESS) or pooled.get("r2", 0.0) < -_SENSELESS
    if math.isfinite(loss) and not senseless:
        return []
    return [
        f"{DIVERGED}: the loss on the test records is {loss:.3g}, and the model of no use. Remedy: "
        f"{smaller_steps(plan, 1)}."
    ]


def smaller_steps(plan: Plan, round_number: int) -> str:
    """Which rate to lower: after the first round a server that takes more than plain means is suspected first."""
    client = f"lower --client_learning_rate (now {plan.client.learning_rate:g})"
    if round_number == 0 or (plan.server.optimizer == "sgd" and plan.server.learning_rate <= 1.0):
        return client
    return f"lower --server_learning_rate (now {plan.server.learning_rate:g}), then {client.removeprefix('lower ')}"
