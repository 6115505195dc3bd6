"""What of a plan may change by round, and what the accounting of its mechanisms cannot follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tff_hospitals.accounting.sampling import LEAST_NOISE, MOST_NOISE
from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.plan import mechanisms, schedules
from tff_hospitals.plan.checks.asynchronous import ROUND_UNKNOWN
from tff_hospitals.plan.clip_styles import CLIP_STYLES
from tff_hospitals.plan.known_hospitals import hospital_count
from tff_hospitals.plan.mechanisms.base import Mechanism
from tff_hospitals.plan.options import options_of
from tff_hospitals.plan.plan import Plan
from tff_hospitals.plan.zeroing import ZEROING

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.plan.parts import PrivacyPlan

_DROP = "take it out of --by_round"


def problems(plan: Plan, dataset: HospitalDataset | None) -> list[Problem]:
    """Shapes that nobody can read, and settings that cannot change in this plan."""
    try:
        shapes = schedules.parse(plan.by_round)
    except InvalidInput as error:
        return list(error.problems)
    found: list[Problem] = []
    for name, shape in shapes.items():
        try:
            schedules.table(shape, max(1, plan.rounds))
        except InvalidInput as error:
            found += error.problems
        else:
            found += _of_setting(plan, dataset, name)
    return found


def _of_setting(plan: Plan, dataset: HospitalDataset | None, name: str) -> list[Problem]:
    """Why a setting cannot change by round in this plan."""
    client = plan.client
    cases: dict[str, tuple[bool, str, str]] = {
        "client_learning_rate": (
            client.learning_rate_schedule != "constant",
            "has a schedule already (client_learning_rate_schedule)",
            "give one of the two",
        ),
        "proximal_mu": (
            not client.proximal_mu,
            "is 0, whatever it is multiplied by",
            "give --proximal_mu",
        ),
        "local_steps": (client.local_steps is None, "is not given in this plan", "change local_epochs by round"),
        "local_epochs": (client.local_epochs is None, "is not given in this plan", "change local_steps by round"),
    }
    found = []
    around = mechanisms.hospital_level(plan.privacy)
    if around.corrects and name != "server_learning_rate":
        bound = f"cannot change by round under {around.name}, whose corrections reckon with one value of it"
        found.append(Problem("by_round", name, bound, f"{_DROP}, or take weighted_mean or mean"))
    if plan.cohort.asynchronous and name != "server_learning_rate":
        found.append(Problem("by_round", name, ROUND_UNKNOWN, f"{_DROP}, or set --cohort=all"))
    if name in cases and cases[name][0]:
        _, bound, remedy = cases[name]
        found.append(Problem("by_round", name, bound, remedy))
    if name in ("local_steps", "local_epochs"):
        found += _refused(mechanisms.record_level(plan.privacy), "local_steps", name)
    if name == "hospitals_per_round":
        found += _of_cohort(plan, dataset)
    if name in schedules.BITS:
        found += _of_bits(plan, name)
    found += _beyond(plan, name)
    for mechanism, settings in mechanisms.layers(plan.privacy):
        prefix = "" if settings is plan.privacy else "outer_"
        for own in ("clip_norm", "noise_multiplier"):
            if name == prefix + own and mechanism.private:
                found += _refused(mechanism, own, name) or _of_mechanism(plan, settings, own, name)
    if name.endswith(("clip_norm", "noise_multiplier")) and not _belongs(plan, name):
        found.append(Problem("by_round", name, "belongs to no mechanism of this plan", _DROP))
    return found


def _beyond(plan: Plan, name: str) -> list[Problem]:
    """A setting that some round would take beyond the bounds of its option."""
    option = next((one for one in options_of(Plan) if one.flag == name), None)
    value = None if option is None else option.of(plan)
    if option is None or value is None or not value:
        return []
    by = schedules.factors(plan.by_round, name, plan.rounds)
    ends = [schedules.whole(value, one) if option.kind is int else value * one for one in (min(by), max(by))]
    wrong = [problem for one in ends if (problem := option.problem(one)) is not None]
    return [
        Problem("by_round", f"{name} ({one.value} in some round)", one.bound, "take factors nearer to 1")
        for one in wrong
    ]


def _belongs(plan: Plan, name: str) -> bool:
    """Whether a private mechanism of the plan has the setting: nothing else clips to it, or adds its noise."""
    of_outer = name.startswith("outer_")
    return any(
        mechanism.private and (settings is not plan.privacy) == of_outer
        for mechanism, settings in mechanisms.layers(plan.privacy)
    )


def _refused(mechanism: Mechanism | None, setting: str, name: str) -> list[Problem]:
    """That a mechanism's noise or process is laid out for one value of the setting."""
    if mechanism is None or not mechanism.private or setting in mechanism.own_by_round:
        return []
    able = ", ".join(one for one, of in mechanisms.MECHANISMS.items() if setting in of.own_by_round)
    bound = f"cannot change by round under {mechanism.name}, whose noise is laid out for one value of it"
    return [Problem("by_round", name, bound, f"{_DROP}, or take {able}")]


def _of_mechanism(plan: Plan, privacy: PrivacyPlan, setting: str, name: str) -> list[Problem]:
    """What beside a mechanism follows one value of its clip norm or noise."""
    found = []
    if CLIP_STYLES[privacy.clip_style].follows:
        bound = "cannot change by round beside an adaptive clip norm, which follows the records"
        found.append(Problem("by_round", name, bound, "set --clip_style=flat"))
    if ZEROING[privacy.zeroing].follows:
        bound = "cannot change by round beside zeroing by a noised quantile, which shares the noise"
        found.append(Problem("by_round", name, bound, "set --zeroing=fixed or none"))
    if setting == "noise_multiplier":
        if plan.cohort.kind == "cyclic":
            bound = "cannot change by round in a cyclic cohort: hospitals would pay by their place in the cycle"
            found.append(Problem("by_round", name, bound, "set --cohort=all, fixed_size or poisson"))
        if privacy.noise_multiplier == 0:
            found.append(Problem("by_round", name, "is 0, whatever it is multiplied by", _DROP))
        by = schedules.factors(plan.by_round, name, plan.rounds)
        low, high = (float(privacy.noise_multiplier or 0.0) * one for one in (min(by), max(by)))
        if privacy.noise_multiplier and not (low >= LEAST_NOISE and high <= MOST_NOISE):
            bound = f"would be {low:g} to {high:g}, beyond {LEAST_NOISE:g} to {MOST_NOISE:g}"
            found.append(Problem("by_round", name, bound, "take factors nearer to 1"))
        if privacy.selected_from > 1:
            bound = "has no calibration together with --selected_from"
            found.append(Problem("by_round", name, bound, "drop one of the two"))
    return found


def _of_bits(plan: Plan, name: str) -> list[Problem]:
    """Bits of a chain that has none, that it does not take in some round, or that a secure sum must hold alike."""
    from tff_hospitals.communication import parse_chain  # numpy is not needed to show --help
    from tff_hospitals.plan.chains import of_rounds

    direction = name.removesuffix("_bits")
    if direction == "upload" and mechanisms.summed_securely(plan.privacy):
        bound = "cannot change by round under a secure sum: what it adds up are whole numbers of one ring"
        return [Problem("by_round", name, bound, f"{_DROP}; --modulus_bits are the bits of all rounds")]
    try:
        chain = parse_chain(getattr(plan, direction), name=direction)
    except InvalidInput:
        return []  # said of the chain itself
    try:
        found = of_rounds(chain, direction, plan.by_round, plan.rounds)
    except InvalidInput as error:
        return list(error.problems)
    feedback = direction == "upload" and plan.error_feedback
    return [
        problem
        for one in dict.fromkeys(found)
        if one != chain
        for problem in one.usage_problems(direction=direction, error_feedback=feedback)
    ]


def _of_cohort(plan: Plan, dataset: HospitalDataset | None) -> list[Problem]:
    """A cohort whose size is not the plan's to choose, or that a mechanism reckons with."""
    if plan.cohort.kind != "fixed_size":
        bound = f"cannot change by round with cohort={plan.cohort.kind}"
        return [Problem("by_round", "hospitals_per_round", bound, "set --cohort=fixed_size")]
    around = mechanisms.hospital_level(plan.privacy)
    if not around.private and (around.tells != "weight" or around.noise_of or around.runs_on):
        bound = f"cannot change by round under {around.name}, which reckons with one number of hospitals"
        return [Problem("by_round", "hospitals_per_round", bound, _DROP)]
    found = _refused(around, "hospitals_per_round", "hospitals_per_round")
    hospitals = hospital_count(plan, dataset)
    if hospitals is not None:
        by = schedules.factors(plan.by_round, "hospitals_per_round", plan.rounds)
        most = max(schedules.whole(int(plan.cohort.hospitals_per_round or 1), one) for one in by)
        if most > hospitals:
            bound = f"would be {most} of {hospitals} hospitals in some round"
            found.append(Problem("by_round", "hospitals_per_round", bound, "take smaller factors"))
    return found
