"""How far hospitals pull apart in a round: sizes of their updates, their directions, and gradient diversity.

All of it is computed from updates of single hospitals without noise. Under any mechanism that would be a release which
no event covers, and under a secure sum nobody holds them: there it is not shown (`why_not_shown`).

Source: gradient diversity, Yin et al. 2018, arXiv:1706.05699: the sum of squared norms over the squared norm of the
sum. Times the number of hospitals it is 1 where all updates are equal and that number where they are orthogonal.

>>> one, other = (np.array([1.0, 0.0]),), (np.array([0.0, 1.0]),)
>>> rows, together = measured(StoredRound(1, (), {"north": one, "south": other}), {"north": 1.0, "south": 1.0})
>>> [(row["hospital"], round(row["cosine_to_mean"], 3)) for row in rows], together["times_diversity"]
([('north', 0.707), ('south', 0.707)], 2.0)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.checks.asynchronous import stored_updates_problems
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.published_table import is_private
from tff_hospitals.training.updates import StoredRound

HOSPITAL_COLUMNS = ("round", "hospital", "update_norm", "cosine_to_mean", "distance_to_mean")
ROUND_COLUMNS = ("round", "hospitals", "gradient_diversity", "times_diversity")


def why_not_shown(plan: Plan) -> str | None:
    """Why updates of single hospitals are not looked at under a plan; None where they may be."""
    if is_private(plan):
        return (
            "not shown: the plan protects its hospitals' records, and figures of single updates would be a release "
            "that no epsilon covers"
        )
    if mechanisms.summed_securely(plan.privacy):
        return "not shown: updates are summed securely, so that nobody holds those of single hospitals"
    if stored_updates_problems(plan, 1):
        return "not shown: hospitals do not wait for each other, so that updates of a round start from different models"
    return None


def measured(stored: StoredRound, weights: Mapping[str, float]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Figures of one round: a row for each hospital, and those of all together; None where an update is zero.

    Args:
      stored: the updates of a round.
      weights: of the hospitals in the mean.
    """
    flat = {name: np.concatenate([np.ravel(part) for part in delta]) for name, delta in stored.deltas.items()}
    updates = np.stack(list(flat.values())).astype(np.float64)
    share = np.array([weights[name] for name in flat])
    mean = share @ updates / share.sum()
    norms, length = np.linalg.norm(updates, axis=1), float(np.linalg.norm(mean))
    rows = [
        {
            "round": stored.number,
            "hospital": name,
            "update_norm": float(norm),
            "cosine_to_mean": _ratio(float(update @ mean), float(norm) * length),
            "distance_to_mean": float(np.linalg.norm(update - mean)),
        }
        for name, update, norm in zip(flat, updates, norms)
    ]
    diversity = _ratio(float((norms**2).sum()), float((updates.sum(axis=0) ** 2).sum()))
    together = {
        "round": stored.number,
        "hospitals": len(rows),
        "gradient_diversity": diversity,
        "times_diversity": None if diversity is None else len(rows) * diversity,
    }
    return rows, together


def _ratio(above: float, below: float) -> float | None:
    return above / below if below > 0 and math.isfinite(above) else None
