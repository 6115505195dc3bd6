"""What is wrong with a plan, and what of it will disappoint: the one place that asks all checks.

>>> from tff_hospitals.plan.plan import Plan
>>> problems(Plan())
[]
>>> problems(Plan().replace(client={"learning_rate": -1.0}))[0].bound
'must be > 0.0'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tff_hospitals.foundations.validation import Problem
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan import warnings as privacy_warnings
from tff_hospitals.plan.checks import encoders, options, own_models, privacy, training
from tff_hospitals.plan.plan import Plan

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset


def problems(plan: Plan, dataset: HospitalDataset | None = None) -> list[Problem]:
    """Every clash in a plan, each with the value, the bound and the remedy; a plan with problems does not train.

    Args:
      plan: any plan.
      dataset: its hospitals; without them only what the plan itself says is checked.
    """
    found = [
        *options.problems(plan),
        *training.problems(plan, dataset),
        *own_models.problems(plan, dataset),
        *privacy.problems(plan, dataset),
        *encoders.problems(plan),
    ]
    return [problem for problem in found if problem is not None]


def warnings(plan: Plan, dataset: HospitalDataset) -> list[str]:
    """What is allowed but will disappoint, in words for the table.

    Args:
      plan: a plan without problems.
      dataset: its hospitals.
    """
    # What is exact about records stays inside, unless the records are public or nothing is promised for them.
    open_to_all = dataset.secret.public or not any(one.private for one, _ in mechanisms.layers(plan.privacy))
    return [
        *dataset.warnings,
        *(dataset.inside_warnings if open_to_all else ()),
        *privacy_warnings.warnings(plan, dataset),
        *encoders.warnings(plan),
    ]
