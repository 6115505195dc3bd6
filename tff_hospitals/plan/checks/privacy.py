"""What a plan may not say about privacy; what single mechanisms cannot do, they say themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tff_hospitals.foundations.validation import Problem
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.checks import options
from tff_hospitals.plan.mechanisms import secure_sum
from tff_hospitals.plan.parts import PrivacyPlan

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.plan.plan import Plan

_ANALYSES = {
    "pld": "has no analysis of the choice of a winner among runs of a plan",
    "gaussian_exact": "is the exact analysis of Gaussian noise without sampling, selection or rounding",
}


def problems(plan: Plan, dataset: HospitalDataset | None) -> list[Problem | None]:
    """All clashes of a plan's privacy, beside the bounds of its options.

    Args:
      plan: any plan.
      dataset: its hospitals: whether any noise reaches the target there; None leaves this out.
    """
    if not mechanisms.understood(plan.privacy):
        return [*mechanisms.name_problems(plan.privacy)]
    found = [*_mechanisms(plan), *_selection(plan)]
    steps_known = (plan.client.local_epochs is None) != (plan.client.local_steps is None)
    if dataset is not None and steps_known and not any([*found, *options.problems(plan)]):
        found += noise_plan.problems(plan, dataset)
    if dataset is not None:
        around, own = mechanisms.hospital_level(plan.privacy), mechanisms.hospital_settings(plan.privacy)
        found += around.cohort_problems(own, plan.cohort, len(dataset.hospitals))
    return [*found, *_weights(plan), *_patients(plan, dataset)]


def secure_noise_problems(
    plan: Plan, runtime: str, draws_system_noise: bool, store_updates: int | None
) -> list[Problem]:
    """What cannot be done with noise that nobody can draw again; `draws_system_noise` is the runtime's."""
    if not plan.privacy.secure_noise:
        return []
    found = []
    if not draws_system_noise:
        bound = "cannot take its noise from the operating system: its processes draw from keys alone"
        found.append(Problem("runtime", runtime, bound, "use --runtime=compiled or --runtime=cluster, or drop it"))
    if store_updates is not None:
        bound = "computes updates a second time, which noise that nobody can repeat does not allow (--secure_noise)"
        found.append(Problem("store_updates", store_updates, bound, "store updates of a run without --secure_noise"))
    return found


def only_elsewhere(privacy: PrivacyPlan, runtime: str) -> list[Problem]:
    """Mechanisms that another runtime alone can run."""
    own = [(one.name, one.runs_on) for one, _ in mechanisms.layers(privacy) if one.runs_on not in ("", runtime)]
    bound = "is run by TFF's own executor alone: {} is what TFF or TensorFlow Privacy wrote"
    return [Problem("runtime", runtime, bound.format(name), f"take --runtime={where}") for name, where in own]


def _mechanisms(plan: Plan) -> list[Problem | None]:
    """What the mechanisms of a plan need and cannot do, each by itself and beside the rest of the plan."""
    privacy, around = plan.privacy, mechanisms.hospital_level(plan.privacy)
    found: list[Problem | None] = [*secure_sum.problems(around, privacy)]
    for mechanism, settings in mechanisms.layers(privacy):
        found += mechanism.problems(plan, settings)
        if mechanism.noisy:
            found.append(_undecided_noise(settings, outer=settings is not privacy))
    analysed = [set(one.conversions(plan.cohort)) for one, _ in mechanisms.layers(privacy) if one.private]
    if privacy.conversion in _ANALYSES and not all(privacy.conversion in one for one in analysed):
        found.append(_no_analysis(privacy.conversion))
    if around.known_cohort and plan.cohort.kind == "poisson":
        remedy = "set --cohort=all or fixed_size, or take fixed_clip"
        found.append(Problem("cohort", plan.cohort.kind, f"{around.name} {around.known_cohort}", remedy))
    return found


def _no_analysis(conversion: str) -> Problem:
    return Problem("conversion", conversion, _ANALYSES[conversion], "set --conversion=rdp")


def _undecided_noise(settings: PrivacyPlan, *, outer: bool) -> Problem | None:
    """Noise that is given twice or not at all."""
    if (settings.noise_multiplier is None) != (settings.target_epsilon is None):
        return None
    prefix, words = ("outer_", "the outer noise") if outer else ("", "the noise")
    return Problem(
        f"{prefix}noise_multiplier, {prefix}target_epsilon",
        "neither" if settings.noise_multiplier is None else "both",
        f"exactly one of the two decides {words}",
        f"give --{prefix}target_epsilon, or --{prefix}noise_multiplier and read epsilon from the ledger",
    )


def _selection(plan: Plan) -> list[Problem | None]:
    """What the choice of a winner does not allow."""
    privacy = plan.privacy
    if privacy.selected_from <= 1:
        return []
    found: list[Problem | None] = []
    if privacy.conversion in _ANALYSES and mechanisms.of(privacy).private:
        found.append(_no_analysis(privacy.conversion))
    bound = "a budget cannot be kept for the winner of a sweep: the loser's rounds count too"
    instead = "or --selected_from; --target_epsilon covers the selection"
    limits = plan.stopping.limits
    return found + [Problem(name, limit, bound, f"drop --{name} {instead}") for name, limit in limits.items()]


def _patients(plan: Plan, dataset: HospitalDataset | None) -> list[Problem]:
    """Fewer records of one patient than the data set says there may be."""
    given = plan.privacy.records_per_patient
    if given is None or dataset is None or not 1 <= given < dataset.records_per_patient:
        return []
    bound = f"must be >= {dataset.records_per_patient}, what the data set's schema states"
    return [Problem("records_per_patient", given, bound, "drop it, or state a smaller bound in the schema")]


def _weights(plan: Plan) -> list[Problem | None]:
    """A mean whose weights are not covered by the noise."""
    if plan.weighting != "records" or not mechanisms.hospital_level(plan.privacy).private:
        return []
    return [
        Problem(
            "weighting",
            plan.weighting,
            "hospital-level privacy needs equal weights: a mean weighted by records lets one large hospital move the "
            "result further than the noise is scaled for",
            "set --weighting=equal",
        )
    ]
