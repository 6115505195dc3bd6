"""What a plan may not say about privacy: the checks behind `plan_checks.problems`, without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tff_hospitals.foundations.validation import Problem, in_range, one_of, whole_number
from tff_hospitals.plan.discretisation import LARGEST_BITS, SMALLEST_BITS
from tff_hospitals.plan.parts import CLIP_STYLES, DISTRIBUTED, MECHANISMS, ZEROING, ZEROING_MECHANISMS

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


def unused(name: str, value: object, needs: str) -> Problem:
    """A setting that the rest of the plan ignores."""
    return Problem(name, value, f"is only used with {needs}", f"drop it or choose {needs}")


def privacy_problems(plan: Plan, dataset: HospitalDataset | None) -> list[Problem | None]:
    """All clashes of a plan's privacy; with `dataset` also whether any noise reaches the target there."""
    privacy = plan.privacy
    found = [
        known_name("mechanism", privacy.mechanism, MECHANISMS),
        one_of("clip_style", privacy.clip_style, CLIP_STYLES),
        one_of("conversion", privacy.meant_in, ("rdp", "pld", "gaussian_exact")),
        *_shared_settings(plan),
    ]
    if privacy.delta is not None:
        found.append(
            in_range(
                "delta", privacy.delta, low=0.0, low_open=True, high=1.0, high_open=True, remedy="give 1e-3 or smaller"
            )
        )
    if privacy.target_epsilon is not None:
        found.append(
            in_range("target_epsilon", privacy.target_epsilon, low=0.0, low_open=True, remedy="give a positive epsilon")
        )
    if privacy.mechanism == "none":
        for name in ("noise_multiplier", "target_epsilon"):
            if getattr(privacy, name) is not None:
                found.append(unused(name, getattr(privacy, name), "a private mechanism such as dp_sgd"))
        return found
    found += _mechanism_settings(plan)
    found.append(
        in_range(
            "clip_norm",
            privacy.clip_norm,
            low=0.0,
            low_open=True,
            remedy="give a finite positive clip norm: noise is scaled by it",
        )
    )
    if (privacy.noise_multiplier is None) == (privacy.target_epsilon is None):
        found.append(
            Problem(
                "noise_multiplier, target_epsilon",
                (privacy.noise_multiplier, privacy.target_epsilon),
                "exactly one of the two decides the noise",
                "give --target_epsilon, or --noise_multiplier and read epsilon from the ledger",
            )
        )
    if privacy.noise_multiplier is not None:
        found.append(
            in_range("noise_multiplier", privacy.noise_multiplier, low=0.0, remedy="give 0 (clipping alone) or more")
        )
    adaptive = privacy.mechanism == "adaptive_clip" or privacy.clip_style == "adaptive"
    if adaptive or privacy.zeroing == "quantile" or privacy.outer == "adaptive_clip":
        found.append(
            in_range("clip_quantile", privacy.clip_quantile, low=0.0, high=1.0, remedy="give a quantile such as 0.5")
        )
        found.append(
            in_range("clip_learning_rate", privacy.clip_learning_rate, low=0.0, remedy="give a rate such as 0.2")
        )
    elif privacy.clipped_count_stddev is not None:
        found.append(unused("clipped_count_stddev", privacy.clipped_count_stddev, "adaptive clipping or zeroing"))
    if privacy.unit != "record" and privacy.clip_style != "flat":
        found.append(unused("clip_style", privacy.clip_style, "mechanism=dp_sgd"))
    if privacy.hospital_level().unit == "hospital" and plan.weighting == "records":
        found.append(
            Problem(
                "weighting",
                plan.weighting,
                "hospital-level privacy needs equal weights: a mean weighted by records lets one large hospital move "
                "the "
                "result further than the noise is scaled for",
                "set --weighting=equal",
            )
        )
    if dataset is not None:
        found.extend(_feasible(plan, dataset))
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


def _shared_settings(plan: Plan) -> list[Problem | None]:
    """Settings that also mean something without a mechanism."""
    privacy = plan.privacy
    found = [
        one_of("zeroing", privacy.zeroing, ZEROING),
        known_name("outer", privacy.outer, OUTER),
        whole_number("records_per_patient", privacy.records_per_patient, low=1, remedy="give the most per patient"),
        in_range("selected_from", privacy.selected_from, low=1.0, remedy="give the mean number of runs of the sweep"),
    ]
    if privacy.summed_securely:
        found.append(
            in_range(
                "secure_sum_bound",
                privacy.secure_sum_bound,
                low=0.0,
                low_open=True,
                remedy="give the largest coordinate that an update may have",
            )
        )
    if privacy.zeroing in ZEROING and privacy.zeroing != "none":
        if privacy.hospital_level().mechanism not in ZEROING_MECHANISMS:
            found.append(unused("zeroing", privacy.zeroing, "mechanism=" + " or ".join(ZEROING_MECHANISMS)))
        found.append(
            in_range("zeroing_norm", privacy.zeroing_norm, low=0.0, low_open=True, remedy="give a positive bound")
        )
    if privacy.outer in OUTER and privacy.outer != "none" and privacy.unit != "record":
        found.append(unused("outer", privacy.outer, "a record-level mechanism such as dp_sgd"))
    return found


def _mechanism_settings(plan: Plan) -> list[Problem | None]:
    """What single mechanisms need or cannot do."""
    privacy, cohort = plan.privacy, plan.cohort
    level = privacy.hospital_level()
    found: list[Problem | None] = []
    if level.mechanism in DISTRIBUTED:
        remedy = f"give {SMALLEST_BITS} to {LARGEST_BITS} bits"
        bits = privacy.modulus_bits
        found.append(whole_number("modulus_bits", bits, low=SMALLEST_BITS, high=LARGEST_BITS, remedy=remedy))
        if cohort.kind == "poisson":
            found.append(
                Problem(
                    "cohort",
                    cohort.kind,
                    f"{level.mechanism} divides its noise into one share per hospital, so their number must be known "
                    "before the round",
                    "set --cohort=all or fixed_size, or take fixed_clip",
                )
            )
    if level.mechanism == "tree" and privacy.restart_every is not None:
        found.append(
            whole_number("restart_every", privacy.restart_every, low=1, remedy="give the rounds of one tree, 1 or more")
        )
    elif privacy.restart_every is not None:
        found.append(unused("restart_every", privacy.restart_every, "mechanism=tree"))
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
            found.append(unused("selected_from", privacy.selected_from, "conversion=rdp"))
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
    if level.mechanism != "none" and privacy.outer != "none":
        found.append(
            in_range(
                "outer_clip_norm",
                privacy.outer_clip_norm,
                low=0.0,
                low_open=True,
                remedy="give a finite positive clip norm: noise is scaled by it",
            )
        )
        if (privacy.outer_noise_multiplier is None) == (privacy.outer_target_epsilon is None):
            found.append(
                Problem(
                    "outer_noise_multiplier, outer_target_epsilon",
                    (privacy.outer_noise_multiplier, privacy.outer_target_epsilon),
                    "exactly one of the two decides the noise around the hospitals",
                    "give --outer_target_epsilon or --outer_noise_multiplier",
                )
            )
        for name in ("outer_noise_multiplier", "outer_target_epsilon"):
            if getattr(privacy, name) is not None:
                low_open = name == "outer_target_epsilon"
                found.append(
                    in_range(name, getattr(privacy, name), low=0.0, low_open=low_open, remedy="give a positive number")
                )
    return found


def _feasible(plan: Plan, dataset: HospitalDataset) -> list[Problem | None]:
    """Whether any noise reaches the target with these hospitals."""
    from tff_hospitals.plan import noise as noise_plan

    if any(value is not None for value in (*_basic_ranges(plan), *_shared_settings(plan), *_mechanism_settings(plan))):
        return []
    return list(noise_plan.problems(plan, dataset))


def _basic_ranges(plan: Plan) -> list[Problem | None]:
    privacy = plan.privacy
    return [
        whole_number("rounds", plan.rounds, low=1, remedy=""),
        whole_number("batch_size", plan.client.batch_size, low=1, remedy=""),
        in_range("clip_norm", privacy.clip_norm, low=0.0, low_open=True, remedy=""),
        None
        if privacy.target_epsilon is None
        else in_range("target_epsilon", privacy.target_epsilon, low=0.0, low_open=True, remedy=""),
        None
        if privacy.delta is None
        else in_range("delta", privacy.delta, low=0.0, high=1.0, low_open=True, remedy=""),
        Problem("noise", None, "", "") if privacy.noise_multiplier is None and privacy.target_epsilon is None else None,
        Problem("steps", None, "", "")
        if plan.client.local_epochs is None and plan.client.local_steps is None
        else None,
    ]
