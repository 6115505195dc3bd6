"""What a plan may not say, and what it should not: the checks behind `Plan.problems` and `Plan.warnings`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tff_hospitals.foundations.validation import Problem, in_range, one_of
from tff_hospitals.plan import options
from tff_hospitals.plan.checks import encoders as encoding_checks
from tff_hospitals.plan.checks import privacy as privacy_checks

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.plan.plan import Plan


def problems(plan: Plan, dataset: HospitalDataset | None) -> list[Problem]:
    """All clashes of a plan; see `Plan.problems`."""
    found = [
        *options.problems(plan),
        *_client(plan),
        *_cohort(plan, dataset),
        *privacy_checks.privacy_problems(plan, dataset),
        *encoding_checks.problems(plan),
    ]
    return [problem for problem in found if problem is not None]


def _client(plan: Plan) -> list[Problem | None]:
    client = plan.client
    found = [schedule_problem(str(client.learning_rate_schedule))]
    if (client.local_epochs is None) == (client.local_steps is None):
        found.append(
            Problem(
                "local_epochs, local_steps",
                (client.local_epochs, client.local_steps),
                "exactly one of the two must be given",
                "give --local_epochs or --local_steps",
            )
        )
    return found


def schedule_problem(schedule: str) -> Problem | None:
    """Checks the text of a learning-rate schedule.

    >>> schedule_problem("exponential:0.99") is None
    True
    >>> schedule_problem("step:10").remedy
    'write step:EVERY:FACTOR, for example step:10:0.5'
    """
    kind, _, rest = schedule.partition(":")
    forms = {
        "constant": (0, "constant"),
        "inverse_sqrt": (0, "inverse_sqrt"),
        "exponential": (1, "exponential:RATE, for example exponential:0.99"),
        "step": (2, "step:EVERY:FACTOR, for example step:10:0.5"),
    }
    if kind not in forms:
        return one_of("learning_rate_schedule", kind, forms)
    numbers = rest.split(":") if rest else []
    count, form = forms[kind]
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        values = []
        count = -1
    if len(values) != count or any(not (math.isfinite(value) and value > 0) for value in values):
        return Problem(
            "learning_rate_schedule", schedule, "must have positive numbers in their places", f"write {form}"
        )
    return None


def _cohort(plan: Plan, dataset: HospitalDataset | None) -> list[Problem | None]:
    size = plan.cohort.hospitals_per_round
    if size is None or dataset is None:
        return []
    return [in_range("hospitals_per_round", size, high=len(dataset.hospitals), remedy="take at most all hospitals")]


def warnings(plan: Plan, dataset: HospitalDataset) -> list[str]:
    """What is allowed but will disappoint; see `Plan.warnings`."""
    from tff_hospitals.plan import warnings as plan_warnings

    words = [str(warning) for warning in getattr(dataset, "warnings", ())]
    preprocessing = dataset.preprocessing
    if plan.privacy.mechanism != "none" and preprocessing.private is False and preprocessing.kind != "none":
        words.append(
            f"epsilon covers training, not the preprocessing ({preprocessing.kind}): means and deviations were taken "
            "from "
            "hospital data without noise. Remedy: --scaling=fixed_bounds or --scaling=dp_moments."
        )
    return [*words, *plan_warnings.privacy_warnings(plan, dataset), *encoding_checks.warnings(plan)]
