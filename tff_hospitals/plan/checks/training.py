"""What a plan may not say, and what it should not: the checks behind `Plan.problems` and `Plan.warnings`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tff_hospitals.foundations.validation import Problem, in_range, one_of, whole_number
from tff_hospitals.plan.checks import encoders as encoding_checks
from tff_hospitals.plan.checks import privacy as privacy_checks

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.plan.plan import Plan


SERVER_OPTIMIZERS = ("sgd", "adam", "adagrad", "yogi")
CLIENT_OPTIMIZERS = ("sgd", "adam")
STOPPING_METRICS = ("loss", "accuracy", "auc")


def problems(plan: Plan, dataset: HospitalDataset | None) -> list[Problem]:
    """All clashes of a plan; see `Plan.problems`."""
    found = [
        *_client(plan),
        *_cohort(plan, dataset),
        *privacy_checks.privacy_problems(plan, dataset),
        *encoding_checks.problems(plan),
        *_server(plan),
        one_of("weighting", plan.weighting, ("records", "equal")),
        whole_number("rounds", plan.rounds, low=1, remedy="train at least one round"),
        whole_number("evaluate_every", plan.evaluate_every, low=1, remedy="evaluate every 1 or more rounds"),
        whole_number("checkpoint_every", plan.checkpoint_every, low=1, remedy="checkpoint every 1 or more rounds"),
        whole_number("seed", plan.seed, low=0, remedy="give a whole number of 0 or more"),
        one_of("stopping_metric", plan.stopping.metric, STOPPING_METRICS),
        in_range("stopping_threshold", plan.stopping.threshold, low=0.0, remedy="give 0 or a small positive number"),
    ]
    if plan.stopping.patience is not None:
        found.append(whole_number("patience", plan.stopping.patience, low=1, remedy="wait for 1 or more evaluations"))
    return [problem for problem in [*found, *_limits(plan)] if problem is not None]


def _limits(plan: Plan) -> list[Problem | None]:
    """The privacy budgets of a run."""
    limit, outer = plan.stopping.max_epsilon, plan.stopping.outer_max_epsilon
    found = [
        in_range(name, value, low=0.0, low_open=True, remedy="give a positive budget")
        for name, value in (("max_epsilon", limit), ("outer_max_epsilon", outer))
        if value is not None
    ]
    if limit is not None and plan.privacy.mechanism == "none":
        bound = "needs a private mechanism: without noise epsilon is infinite from the first round"
        remedy = "choose a mechanism such as dp_sgd, or drop --max_epsilon"
        found.append(Problem("max_epsilon", limit, bound, remedy))
    if outer is not None and plan.privacy.outer == "none":
        found.append(privacy_checks.unused("outer_max_epsilon", outer, "an outer mechanism such as outer=fixed_clip"))
    return found


def _client(plan: Plan) -> list[Problem | None]:
    client = plan.client
    found = [
        one_of("client_optimizer", client.optimizer, CLIENT_OPTIMIZERS),
        in_range(
            "client_learning_rate", client.learning_rate, low=0.0, low_open=True, remedy="give a rate such as 0.01"
        ),
        in_range("client_momentum", client.momentum, low=0.0, high=1.0, high_open=True, remedy="give 0 to 0.99"),
        whole_number("batch_size", client.batch_size, low=1, remedy="give 1 or more records per step"),
        in_range("proximal_mu", client.proximal_mu, low=0.0, remedy="give 0 (FedAvg) or a small positive number"),
        schedule_problem(client.learning_rate_schedule),
    ]
    if (client.local_epochs is None) == (client.local_steps is None):
        found.append(
            Problem(
                "local_epochs, local_steps",
                (client.local_epochs, client.local_steps),
                "exactly one of the two must be given",
                "give --local_epochs or --local_steps",
            )
        )
    for name in ("local_epochs", "local_steps"):
        if getattr(client, name) is not None:
            found.append(whole_number(name, getattr(client, name), low=1, remedy=f"give 1 or more {name}"))
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
    cohort = plan.cohort
    found = [one_of("cohort", cohort.kind, ("all", "fixed_size", "cyclic", "poisson"))]
    hospitals = len(dataset.hospitals) if dataset is not None else None
    if cohort.kind in ("fixed_size", "cyclic"):
        found.append(
            whole_number(
                "hospitals_per_round",
                cohort.hospitals_per_round,
                low=1,
                high=hospitals,
                remedy="give --hospitals_per_round, at most the number of hospitals",
            )
        )
    elif cohort.hospitals_per_round is not None:
        size = cohort.hospitals_per_round
        found.append(privacy_checks.unused("hospitals_per_round", size, "cohort=fixed_size or cyclic"))
    if cohort.kind == "poisson":
        found.append(
            in_range(
                "hospital_sampling_probability",
                cohort.sampling_probability,
                low=0.0,
                low_open=True,
                high=1.0,
                remedy="give --hospital_sampling_probability, the chance of each hospital to take part in a round",
            )
        )
    elif cohort.sampling_probability is not None:
        given = cohort.sampling_probability
        found.append(privacy_checks.unused("hospital_sampling_probability", given, "cohort=poisson"))
    return found


def _server(plan: Plan) -> list[Problem | None]:
    server = plan.server
    return [
        one_of("server_optimizer", server.optimizer, SERVER_OPTIMIZERS),
        in_range(
            "server_learning_rate", server.learning_rate, low=0.0, low_open=True, remedy="give a rate such as 1.0"
        ),
        in_range("server_momentum", server.momentum, low=0.0, high=1.0, high_open=True, remedy="give 0 to 0.99"),
        in_range("server_beta_1", server.beta_1, low=0.0, high=1.0, high_open=True, remedy="give 0 to 0.999"),
        in_range("server_beta_2", server.beta_2, low=0.0, high=1.0, high_open=True, remedy="give 0 to 0.9999"),
        in_range("server_epsilon", server.epsilon, low=0.0, low_open=True, remedy="give a small positive number"),
    ]


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
