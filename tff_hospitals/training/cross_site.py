"""Every hospital's own model on every hospital's test records: whose model serves whom.

A simulation's figure: own models never leave their hospitals, so that at real ones nobody could draw it up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tff_hospitals.training.evaluation import POOLED, Evaluator, OwnWeights
from tff_hospitals.training.metrics import METRICS

FEDERATED = "federated"
"""The row of the model of all hospitals."""
MOST_SITES = 64
"""Of more hospitals no table is made: it grows with their square."""
COLUMNS = ("model", "tested_on", "records", *METRICS)


def rows(evaluator: Evaluator, own: OwnWeights, federated: tuple[tuple, tuple] | None = None) -> list[dict[str, Any]]:
    """The rows of `cross_site.csv`; none without own models, or of too many hospitals.

    Args:
      evaluator: of the hospitals.
      own: every hospital's own model.
      federated: the model of all hospitals, where there is one.
    """
    if not 0 < len(own) <= MOST_SITES:
        return []
    models: Mapping[str, tuple[tuple, tuple]] = {**own, **({} if federated is None else {FEDERATED: federated})}
    return [
        {"model": name, "tested_on": hospital, **found}
        for name, weights in models.items()
        for hospital, found in evaluator(*weights).items()
        if hospital != POOLED and hospital in own
    ]
