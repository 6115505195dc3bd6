"""When a run ends: at its round limit, on a plateau, or before its privacy budget is exceeded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from tff_hospitals.plan.plan import StoppingPlan

ROUND_LIMIT = "round limit reached"
BUDGET_SPENT = "privacy budget spent"


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
