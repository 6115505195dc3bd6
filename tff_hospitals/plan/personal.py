"""The part of a plan about each hospital's own model; what it computes is in `training.personalisation`."""

from __future__ import annotations

import dataclasses

from tff_hospitals.plan.options import POSITIVE, Use, option
from tff_hospitals.plan.parts import MOST_ROUNDS

PERSONALISATIONS = ("none", "fine_tune", "ditto", "interpolate")
_OWN_MODELS = Use("personalisation", lambda plan: plan.personal.kind != "none")


@dataclasses.dataclass(frozen=True)
class PersonalPlan:
    """What every hospital makes of the finished model for itself, after the last round; nothing of it is sent."""

    kind: str = option(
        "none",
        "each hospital's own model, made of the finished one on its own records",
        flag="personalisation",
        choices=lambda: PERSONALISATIONS,
    )
    epochs: int = option(
        5,
        "epochs of a hospital over its own records",
        flag="personal_epochs",
        low=1,
        high=MOST_ROUNDS,
        unit="epochs",
        used=_OWN_MODELS,
    )
    pull: float = option(
        0.1,
        "weight of Ditto's distance to the finished model (lambda of Li et al. 2021, arXiv:2012.04221)",
        flag="ditto_pull",
        **POSITIVE,
        used=Use("personalisation=ditto", lambda plan: plan.personal.kind == "ditto"),
    )
    validation_share: float = option(
        0.2,
        "share of a hospital's training records that its own model is not trained on and its weight is chosen by",
        flag="personal_validation_share",
        **POSITIVE,
        high=1.0,
        high_open=True,
        used=Use("personalisation=interpolate", lambda plan: plan.personal.kind == "interpolate"),
    )
