"""What a plan may not say about privacy: the checks behind `plan_checks.problems`, without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tff_hospitals.foundations.validation import Problem, one_of
from tff_hospitals.plan import options
from tff_hospitals.plan.parts import DISTRIBUTED, MECHANISMS

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.plan.plan import Plan

OUTER = ("none", *(name for name, mechanism in MECHANISMS.items() if mechanism.unit == "hospital"))


_FACTORISATIONS = ("mf", "dp_mf", "banded", "banded_mf", "dp_banded_mf")
_WHY_NO_FACTORISATION = (
    "banded matrix factorisation is not offered, because no well-kept library that runs beside TensorFlow Federated "
    "computes its strategies (jax-privacy 2 needs JAX 0.7 and Python 3.11, TensorFlow Federated 0.87 JAX 0.4.20), and "
    "its optimisation is not made here a second time"
)


def known_name(name: str, value: object, known: Iterable[str]) -> Problem | None:
    """Checks the name of a mechanism or method; one that the field knows and this package leaves out is told why.

    >>> known_name("mechanism", "banded_mf", MECHANISMS).remedy.split(":")[0]
    'take tree'
    """
    text = str(value).lower().replace("-", "_").replace("factoris", "factoriz")
    if text not in _FACTORISATIONS and "matrix_factoriz" not in text:
        return one_of(name, value, known)
    remedy = (
        "take tree: the noise of a binary tree over the rounds is the special case of a matrix factorisation that is "
        "offered; or account for your own strategy with accounting.MechanismEvent('matrix', ...)"
    )
    return Problem(name, value, f"must be one of {', '.join(sorted(known))}: {_WHY_NO_FACTORISATION}", remedy)


def privacy_problems(plan: Plan, dataset: HospitalDataset | None) -> list[Problem]:
    """All clashes of a plan's privacy; with `dataset` also whether any noise reaches the target there."""
    privacy = plan.privacy
    found = [known_name("mechanism", privacy.mechanism, MECHANISMS), known_name("outer", privacy.outer, OUTER)]
    if privacy.mechanism != "none":
        found += [*_undecided_noise(plan), *_mechanism_settings(plan)]
        steps_known = (plan.client.local_epochs is None) != (plan.client.local_steps is None)
        settled = steps_known and not any(found) and not options.problems(plan)
        if privacy.hospital_level().unit == "hospital" and plan.weighting == "records":
            found.append(
                Problem(
                    "weighting",
                    plan.weighting,
                    "hospital-level privacy needs equal weights: a mean weighted by records lets one large hospital "
                    "move the result further than the noise is scaled for",
                    "set --weighting=equal",
                )
            )
        if settled and dataset is not None:
            from tff_hospitals.plan import noise as noise_plan

            found += noise_plan.problems(plan, dataset)
    return [problem for problem in found if problem is not None]


def _undecided_noise(plan: Plan) -> list[Problem]:
    """Noise that is given twice or not at all."""
    found = []
    for prefix, needed, words in (("", True, "the noise"), ("outer_", plan.privacy.outer != "none", "the outer noise")):
        names = f"{prefix}noise_multiplier", f"{prefix}target_epsilon"
        values = tuple(getattr(plan.privacy, name) for name in names)
        if needed and (values[0] is None) == (values[1] is None):
            bound = f"exactly one of the two decides {words}"
            remedy = f"give --{names[1]}, or --{names[0]} and read epsilon from the ledger"
            found.append(Problem(", ".join(names), values, bound, remedy))
    return found


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


def _mechanism_settings(plan: Plan) -> list[Problem | None]:
    """What single mechanisms need or cannot do."""
    privacy, cohort = plan.privacy, plan.cohort
    level = privacy.hospital_level()
    found: list[Problem | None] = []
    if level.mechanism in DISTRIBUTED and cohort.kind == "poisson":
        found.append(
            Problem(
                "cohort",
                cohort.kind,
                f"{level.mechanism} divides its noise into one share per hospital, so their number must be known "
                "before the round",
                "set --cohort=all or fixed_size, or take fixed_clip",
            )
        )
    if privacy.mechanism == "dp_ftrl_local":
        if privacy.clip_style == "adaptive":
            found.append(
                Problem(
                    "clip_style",
                    privacy.clip_style,
                    "dp_ftrl_local adds noise that later steps take back, which needs one clip norm for all steps",
                    "set --clip_style=flat, per_layer or automatic, or take dp_sgd",
                )
            )
        if privacy.conversion == "pld" and privacy.selected_from > 1:
            bound = "has no analysis of the choice of a winner by pld"
            found.append(Problem("selected_from", privacy.selected_from, bound, "drop it or set --conversion=rdp"))
    if privacy.conversion == "gaussian_exact":
        sampled = privacy.mechanism == "dp_sgd" or (cohort.kind == "poisson" and privacy.mechanism != "local_dp")
        if sampled or level.mechanism in DISTRIBUTED or privacy.selected_from > 1:
            found.append(
                Problem(
                    "conversion",
                    privacy.conversion,
                    "is the exact analysis of Gaussian noise without sampling, selection or rounding",
                    "set --conversion=rdp",
                )
            )
    if privacy.conversion == "pld" and (level.mechanism in DISTRIBUTED or privacy.selected_from > 1):
        found.append(
            Problem(
                "conversion",
                privacy.conversion,
                "has no analysis of discrete noise in shares, nor of the choice of a winner",
                "set --conversion=rdp",
            )
        )
    for name in ("max_epsilon", "outer_max_epsilon"):
        limit = getattr(plan.stopping, name)
        if privacy.selected_from > 1 and limit is not None:
            bound = "a budget cannot be kept for the winner of a sweep: the loser's rounds count too"
            remedy = f"drop --{name} or --selected_from; --target_epsilon covers the selection"
            found.append(Problem(name, limit, bound, remedy))
    return found
