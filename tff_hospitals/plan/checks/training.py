"""What a plan may not say about its training, beside the bounds of its options."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tff_hospitals.foundations.validation import Problem, in_range, one_of
from tff_hospitals.plan import mechanisms, poison
from tff_hospitals.plan.checks import asynchronous, by_round
from tff_hospitals.plan.known_hospitals import hospital_count, hospital_ids
from tff_hospitals.plan.parts import STOPPING_METRICS

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.plan.plan import Plan


def problems(plan: Plan, dataset: HospitalDataset | None) -> list[Problem | None]:
    """Clashes of a plan's training; with `dataset` also with its hospitals."""
    return [
        *_client(plan),
        *_cohort(plan, dataset),
        *_stopping(plan, dataset),
        *(by_round.problems(plan, dataset) if mechanisms.understood(plan.privacy) else ()),
        *_options_of_their_own(plan),
        *asynchronous.problems(plan, dataset),
        *poison.problems(plan.poison, hospital_ids(plan, dataset)),
    ]


def _stopping(plan: Plan, dataset: HospitalDataset | None) -> list[Problem | None]:
    """A metric that the hospitals' task does not have."""
    metric = plan.stopping.metric
    if plan.stopping.patience is None or dataset is None or dataset.task in STOPPING_METRICS.get(metric, ()):
        return []
    names = [name for name, tasks in STOPPING_METRICS.items() if dataset.task in tasks]
    bound = f"does not exist for {dataset.task}"
    return [Problem("stopping_metric", metric, bound, f"set --stopping_metric={' or '.join(names)}")]


def _options_of_their_own(plan: Plan) -> list[Problem | None]:
    """Options of data set or model under the name of what the plan itself says."""
    found: list[Problem | None] = []
    for part, options, taken in (
        (
            "data",
            plan.data.options,
            {"name": "dataset", "partition": "partition", "sites": "sites", "seed": "data_seed"},
        ),
        ("model", plan.model.options, dict.fromkeys(("name_or_path", "dataset_signature", "signature"), "model")),
    ):
        for name in sorted(taken.keys() & options.keys()):
            bound, remedy = "is what a flag of its own says", f"write --{taken[name]}=..."
            found.append(Problem(f"{part}_option {name}", options[name], bound, remedy))
    return found


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
    size, hospitals = plan.cohort.hospitals_per_round, hospital_count(plan, dataset)
    if size is None or hospitals is None:
        return []
    return [in_range("hospitals_per_round", size, high=hospitals, remedy="take at most all hospitals")]
