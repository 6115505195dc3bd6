"""What does not go together with a model of each hospital's own: layers that it keeps, or what it makes at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.plan import mechanisms, poison, schedules
from tff_hospitals.plan import noise as noise_plan

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.plan.plan import Plan


def head_steps(share: float, steps: int) -> int:
    """Steps of a round that train the local layers alone: the nearest whole number.

    >>> head_steps(0.5, 7), head_steps(0.1, 4)
    (4, 0)
    """
    return int(share * steps + 0.5)


def problems(plan: Plan, dataset: HospitalDataset | None) -> list[Problem]:
    """Clashes of a plan; with `dataset` also with its hospitals."""
    return [*_of_local_layers(plan, dataset), *_of_personalisation(plan, dataset)]


def _of_personalisation(plan: Plan, dataset: HospitalDataset | None) -> list[Problem]:
    kind = plan.personal.kind
    if kind == "none":
        return []
    found = []
    rate, pull = plan.client.learning_rate * _largest_factor(plan), plan.personal.pull
    if kind == "ditto" and plan.client.optimizer == "sgd" and rate * pull >= 1:
        bound = f"times --client_learning_rate={rate:g} must stay below 1: a step would leap over the finished model"
        found.append(Problem("ditto_pull", pull, bound, f"give less than {1 / rate:.3g}"))
    if plan.model.local_layers:
        bound = "makes a model of one of all hospitals, and with local_layers there is none"
        found.append(Problem("personalisation", kind, bound, "drop one of the two"))
    if dataset is not None:
        found += without_records("personalisation", kind, dataset)
        few = [one for one, records in dataset.records().items() if records == 1]
        if kind == "interpolate" and few:
            bound = f"needs a record to train on and another to choose by, and there is one at {', '.join(few)}"
            found.append(
                Problem("personalisation", kind, bound, "take fine_tune or ditto, or leave these hospitals out")
            )
        held = {one: f"{one} ({records})" for one, records in dataset.records().items() if records > 1}
        share = plan.personal.validation_share
        none_left = [held[one] for one, records in dataset.records().items() if round(share * records) >= records > 1]
        if kind == "interpolate" and none_left:
            bound = f"would hold out every training record of {', '.join(none_left[:5])}, and leave none to train on"
            found.append(Problem("personal_validation_share", share, bound, "give a smaller share, such as 0.2"))
    return found


def _largest_factor(plan: Plan) -> float:
    """Of the rate by round: any round may be the last one. What is wrong with a schedule is said elsewhere."""
    try:
        return max(schedules.factors(plan.by_round, "client_learning_rate", max(1, plan.rounds)))
    except InvalidInput:
        return 1.0


def _of_local_layers(plan: Plan, dataset: HospitalDataset | None) -> list[Problem]:
    layers = plan.model.local_layers
    if not layers:
        return []
    cases = [
        ("upload", plan.upload, "its memory would be that of the hospital's layers, too", "drop --upload"),
        ("skip_below", plan.skip_below, "a hospital that sends nothing would still change", "drop --skip_below"),
    ]
    found = [
        Problem(name, value, f"is not offered together with local_layers: {why}", remedy)
        for name, value, why, remedy in cases
        if value
    ]
    if mechanisms.understood(plan.privacy) and mechanisms.hospital_level(plan.privacy).corrects:
        around = mechanisms.hospital_level(plan.privacy).name
        bound = f"cannot be combined with {around}, whose corrections reckon with one model of all hospitals"
        found.append(Problem("local_layers", layers, bound, "take weighted_mean or mean, or drop --local_layers"))
    if not poison.problems(plan.poison) and any(one.kind == "backdoor" for one in poison.parse(plan.poison)):
        bound = "cannot be measured where no model of all hospitals exists (local_layers)"
        found.append(Problem("poison", plan.poison, bound, "take another attack, or drop --local_layers"))
    if dataset is not None:
        found += without_records("local_layers", layers, dataset)
        found += _of_shares(plan, dataset)
    return found


def asked_for(plan: Plan) -> tuple[str, str] | None:
    """Option and value by which hospitals get models of their own; None where there is one model for all."""
    if plan.model.local_layers:
        return "local_layers", plan.model.local_layers
    return None if plan.personal.kind == "none" else ("personalisation", plan.personal.kind)


def nobodys(plan: Plan, others: Sequence[str]) -> list[Problem]:
    """Somebody who is tested, and does not train.

    Args:
      plan: says whether hospitals have models of their own.
      others: who that is, in words.
    """
    asked = asked_for(plan)
    if asked is None or not others:
        return []
    bound = f"gives a model of its own to every hospital that trains, and {', '.join(others[:3])} would have none"
    return [Problem(*asked, bound, f"drop --{asked[0]}, or test at the hospitals that train")]


def without_records(option: str, value: object, dataset: HospitalDataset) -> list[Problem]:
    """Hospitals whose own model nothing would train or measure.

    Args:
      option, value: what asks for a model of each hospital's own.
      dataset: the hospitals.
    """
    found = []
    for part, train in (("test", False), ("training", True)):
        empty = [one for one, records in dataset.records(train=train).items() if not records]
        if empty:
            bound = f"needs {part} records at every hospital, and there are none at {', '.join(empty)}"
            remedy = f"leave --{option} out, or these hospitals, or divide the records another way"
            found.append(Problem(option, value, bound, remedy))
    return found


def _of_shares(plan: Plan, dataset: HospitalDataset) -> list[Problem]:
    """Rounds in which one of the two halves has no step."""
    share, client = plan.client.head_share, plan.client
    if (
        not isinstance(share, float)
        or not 0 < share < 1
        or (client.local_epochs is None) == (client.local_steps is None)
    ):
        return []
    steps = {one: noise_plan.steps_per_round(plan, records) for one, records in dataset.records().items()}
    bad = [f"{one} ({number})" for one, number in steps.items() if not 0 < head_steps(share, number) < number]
    if not bad:
        return []
    bound = f"leaves no step to one of the two halves of a round; steps of a round: {', '.join(bad)}"
    return [Problem("head_share", share, bound, "give a share nearer to 0.5, or more --local_steps or --local_epochs")]
