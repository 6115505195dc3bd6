"""What a plan may not say where the server steps after the first answers, and hospitals train on models of other ages.

A hospital answers at most once in a step of the server, with one local training under a key of its own: the ledger of
record-level mechanisms counts exactly these answers, and so they may be used. All that rests on everybody training on
one model, or on who takes part being known beforehand at the server, is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tff_hospitals.foundations.validation import Problem
from tff_hospitals.plan import mechanisms, speeds
from tff_hospitals.plan.known_hospitals import hospital_ids
from tff_hospitals.plan.mechanisms.base import HospitalLevel

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.plan.plan import Plan

ROUND_UNKNOWN = "cannot follow the round with cohort=buffered: a hospital begins before it is known in which it answers"
_SYNCHRONOUS = "set --cohort=all"
_WHY_NOT = {
    "broadcast": "hospitals fetch models of different ages, and none of them all holds what a difference is made from",
    "error_feedback": "what an upload left out belongs to a model of an age that the next one no longer has",
    "skip_below": "a server that steps after so many answers waits for one that is not sent",
    "local_layers": "what a hospital keeps is the model that it fetched",
}


def problems(plan: Plan, dataset: HospitalDataset | None) -> list[Problem]:
    """Speeds that nobody can read, and what a buffered cohort cannot be combined with."""
    found = speeds.problems(plan.speeds, hospital_ids(plan, dataset))
    if not plan.cohort.asynchronous:
        return found
    if not plan.speeds.strip():
        bound = "must be given with cohort=buffered: who answers first follows from them"
        found.append(
            Problem(
                "speeds",
                plan.speeds,
                bound,
                "give --speeds=lognormal:MEDIAN:SIGMA such as lognormal:0.01:1, or HOSPITAL:SECONDS for every hospital",
            )
        )
    if mechanisms.understood(plan.privacy):
        found += _mechanism(mechanisms.hospital_level(plan.privacy))
        if mechanisms.summed_securely(plan.privacy):
            bound = (
                "needs to know whose masks are in a sum before anybody masks: in a buffer those answer together who "
                "began at different times, and each counts by its own age"
            )
            found.append(Problem("secure_sum", True, bound, f"drop --secure_sum, or {_SYNCHRONOUS}"))
    return [*found, *_memories(plan), *_schedule(plan), *_budgets(plan)]


def _mechanism(around: HospitalLevel) -> list[Problem]:
    """Ways to make updates one that are laid out for updates of one model, or for hospitals that are protected."""
    if around.private or around.noise_of:
        bound = (
            f"{around.name} accounts for hospitals that all begin a round with its model; which step a hospital's "
            "answer falls into, and how old it is, tells of the hospital, and no event covers that"
        )
        remedy = f"protect records instead (dp_sgd), or {_SYNCHRONOUS}"
        return [Problem("cohort", "buffered", bound, remedy)]
    if around.corrects or around.tells not in ("weight", "place") or around.runs_on:
        bound = f"{around.name} reckons with updates that were all made from the model of the round"
        return [Problem("cohort", "buffered", bound, f"take weighted_mean, mean or a robust rule, or {_SYNCHRONOUS}")]
    return []


def _memories(plan: Plan) -> list[Problem]:
    """Payloads for hospitals that all hold one model, and what takes the place of the model that a hospital holds."""
    given: tuple[tuple[str, object], ...] = (
        ("broadcast", plan.broadcast),
        ("error_feedback", plan.error_feedback),
        ("skip_below", plan.skip_below),
        ("local_layers", plan.model.local_layers),
    )
    bound = "is not offered with cohort=buffered: "
    return [
        Problem(name, value, bound + _WHY_NOT[name], f"drop --{name}, or {_SYNCHRONOUS}")
        for name, value in given
        if value
    ]


def _schedule(plan: Plan) -> list[Problem]:
    """A rate that follows the round; so may no other setting of the hospitals (see `by_round`)."""
    schedule = plan.client.learning_rate_schedule
    if schedule == "constant":
        return []
    remedy = f"set --client_learning_rate_schedule=constant, or {_SYNCHRONOUS}"
    return [Problem("client_learning_rate_schedule", schedule, ROUND_UNKNOWN, remedy)]


def _budgets(plan: Plan) -> list[Problem]:
    """Hospitals that leave when their budget is spent: without them others would have answered first."""
    bound = "lets hospitals leave, and the order of all answers was found with them"
    instead = f"give --target_epsilon, which holds for every hospital, or {_SYNCHRONOUS}"
    return [Problem(name, limit, bound, f"drop --{name} and {instead}") for name, limit in plan.stopping.limits.items()]


def stored_updates_problems(plan: Plan, store_updates: int | None) -> list[Problem]:
    """Updates that an audit would read as made from the model of their round."""
    if store_updates is None or not plan.cohort.asynchronous:
        return []
    bound = "keeps one model for all updates of a round, and with cohort=buffered each was made from another one"
    return [Problem("store_updates", store_updates, bound, f"drop it, or {_SYNCHRONOUS}")]
