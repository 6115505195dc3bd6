"""The accountant's answer for correlated noise: what a strategy costs, and the noise that it needs."""

from __future__ import annotations

import math
from typing import Any

from absl import flags

from tff_hospitals.foundations.validation import Problem, in_range, one_of, raise_if

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Flags of a question about a strategy."""
    flags.DEFINE_string("strategy", None, "of correlated noise: identity, tree, sqrt, bsr, bisr, banded or blt")
    flags.DEFINE_integer("min_separation", None, "least steps between two participations of a unit (with --strategy)")
    flags.DEFINE_integer("participations", 1, "the most times that a unit takes part (with --strategy)")
    flags.DEFINE_integer(
        "bands",
        None,
        "non-zero diagonals of bsr, bisr or banded; default: the separation, or the best with --amplified",
    )
    flags.DEFINE_integer("buffers", None, "buffers of blt, 1 to 4 (default 3)")
    flags.DEFINE_bool(
        "amplified",
        False,
        "with --strategy=banded and --sampling_probability: cyclic Poisson sampling, one group a band",
    )


def answer_flags() -> dict[str, Any]:
    """The answer to what the flags ask."""
    return answer(
        FLAGS.strategy,
        steps=FLAGS.steps,
        participations=FLAGS.participations,
        min_separation=FLAGS.min_separation,
        bands=FLAGS.bands,
        buffers=FLAGS.buffers,
        sampling_probability=FLAGS.sampling_probability,
        amplified=FLAGS.amplified,
        target_epsilon=FLAGS.target_epsilon,
        noise_multiplier=FLAGS.noise_multiplier,
        delta=FLAGS.delta,
        conversion=FLAGS.conversion,
    )


def answer(
    strategy: str,
    *,
    steps: int | None,
    participations: int = 1,
    min_separation: int | None = None,
    bands: int | None = None,
    buffers: int | None = None,
    sampling_probability: str | float | None = None,
    amplified: bool = False,
    target_epsilon: float | None = None,
    noise_multiplier: float | None = None,
    delta: float | None = None,
    conversion: str = "rdp",
) -> dict[str, Any]:
    """Sensitivity and expected errors of a strategy, and with a target the noise multiplier that keeps it.

    Args:
      strategy: a name in `accounting.strategies.STRATEGIES`.
      steps, participations, min_separation, bands, buffers: see `accounting.strategies.Wanted`.
      sampling_probability, amplified: cyclic Poisson sampling of a banded strategy, see `amplification`.
      target_epsilon, noise_multiplier: at most one of them, with `delta`.
      conversion: in which the target is meant: `rdp` or `pld`.

    Returns:
      Plain types. `coefficients_checked` says that the sensitivity rests on what the coefficients were checked for,
      `sensitivity_exact` that a unit can reach it (else it is an upper bound). `noise_multiplier` is over the clip norm
      and multiplies unit normals: with columns of the length `sensitivity`, or of length 1 where `amplified`. Errors
      are for a noise multiplier of 1 and sensitivity included; `noise_rmse` and `noise_max_error` are those at the
      noise multiplier.

    Raises:
      InvalidInput: every problem of the input at once.

    >>> found = answer("banded", steps=1000, participations=10, min_separation=100)
    >>> round(found["sensitivity"], 6), round(found["rmse"], 4), found["coefficients_checked"]
    (3.162278, 11.5727, True)
    """
    from tff_hospitals.accounting.strategies.building import STRATEGIES, Wanted, error_of
    from tff_hospitals.accounting.strategies.sensitivity import OVERLAPS

    raise_if(
        [
            one_of("strategy", strategy, STRATEGIES),
            Problem("--steps", None, "must be given", "add it, for example --steps=1500") if steps is None else None,
            *_target_problems(target_epsilon, noise_multiplier, delta),
            *_amplification_problems(strategy, amplified, sampling_probability),
        ]
    )
    wanted = Wanted(int(steps or 0), participations, min_separation, bands, buffers)
    plans: list[dict[str, Any]] = []
    if amplified and bands is None and target_epsilon is not None and strategy == "banded":
        plans = _plans(wanted.steps, number(sampling_probability), target_epsilon, float(delta or 0.0), conversion)
        bands = min(plans, key=lambda plan: plan["rmse"])["bands"]
    if amplified:
        wanted = Wanted(
            wanted.steps, bands=1 if bands is None and STRATEGIES[strategy].banded else bands, buffers=buffers
        )
    error = error_of(strategy, wanted)
    found: dict[str, Any] = {
        "strategy": strategy,
        "steps": wanted.steps,
        "participations": participations,
        "min_separation": min_separation,
        "bands": wanted.default_bands if STRATEGIES[strategy].banded else None,
        "buffers": wanted.default_buffers if STRATEGIES[strategy].buffered else None,
        "sensitivity": error.sensitivity.value,
        "sensitivity_rests_on": error.sensitivity.condition,
        "coefficients_checked": error.sensitivity.exact or error.sensitivity.condition == OVERLAPS,
        "sensitivity_exact": error.sensitivity.exact,
        "rmse": error.rmse,
        "max_error": error.max_error,
        "last_error": error.last_error,
        "amplified": amplified,
        "delta": delta,
    }
    if delta is None:
        return found
    if amplified:
        found = {**found, "choices": plans} if plans else found
        return {**found, **_amplified(found, sampling_probability, target_epsilon, noise_multiplier, conversion)}
    return {**found, **_whole(found, target_epsilon, noise_multiplier, conversion)}


def _plans(steps: int, chance: float, target: float, delta: float, conversion: str) -> list[dict[str, Any]]:
    """What 1, 2, 4, ... bands cost at the target, for the one who has to choose."""
    import dataclasses

    from tff_hospitals.accounting.strategies import amplified_plans

    found = amplified_plans(
        steps=steps, sampling_probability=chance, target_epsilon=target, delta=delta, conversion=conversion
    )
    return [dataclasses.asdict(plan) for plan in found]


def _whole(found: dict[str, Any], target: float | None, given: float | None, conversion: str) -> dict[str, Any]:
    """Noise and epsilon of the strategy as one Gaussian mechanism."""
    from tff_hospitals.accounting import MechanismEvent, calibrate_event
    from tff_hospitals.accounting.event_kinds import REPLACE_SPECIAL

    event = MechanismEvent(
        "matrix", noise_multiplier=given or 1.0, sensitivity=found["sensitivity"], steps=found["steps"]
    )
    if target is not None:
        event = calibrate_event(event, target, found["delta"], adjacency=REPLACE_SPECIAL, conversion=conversion)
    return {
        **_noise(found, float(event.noise_multiplier or 0.0), found["sensitivity"], target),
        **_epsilons([(event, 1)], found["delta"]),
    }


def _amplified(
    found: dict[str, Any],
    sampling_probability: str | float | None,
    target: float | None,
    given: float | None,
    conversion: str,
) -> dict[str, Any]:
    """Noise and epsilon under cyclic Poisson sampling, for columns of length 1."""
    from tff_hospitals.accounting import MechanismEvent
    from tff_hospitals.accounting.strategies import amplified_noise

    chance, bands, steps = number(sampling_probability), found["bands"] or 1, found["steps"]
    noise = given
    if noise is None:
        noise = amplified_noise(
            steps=steps,
            sampling_probability=chance,
            bands=bands,
            target_epsilon=float(target or 0.0),
            delta=found["delta"],
            conversion=conversion,
        )
    in_group = min(1.0, bands * chance)
    event = MechanismEvent("poisson_gaussian", noise_multiplier=noise, sampling_probability=in_group)
    return {
        **_noise(found, noise, 1.0, target),
        **_epsilons([(event, math.ceil(steps / bands))], found["delta"]),
        "sampling_probability": chance,
        "sampling_probability_in_group": in_group,
    }


def _noise(found: dict[str, Any], noise: float, sensitivity: float, target: float | None) -> dict[str, Any]:
    """Noise over the clip norm, and the errors that it makes."""
    ratio = noise / sensitivity
    return {
        "noise_multiplier": noise,
        "noise_over_sensitivity": ratio,
        "noise_rmse": found["rmse"] * ratio,
        "noise_max_error": found["max_error"] * ratio,
        "target_epsilon": target,
    }


def _epsilons(events: list[tuple[Any, int]], delta: float) -> dict[str, Any]:
    from tff_hospitals.accounting import epsilon_of
    from tff_hospitals.accounting.event_kinds import REPLACE_SPECIAL

    by_conversion = {
        f"epsilon_{name}": epsilon_of(events, delta, adjacency=REPLACE_SPECIAL, conversion=name)
        for name in ("rdp", "pld")
    }
    return {"adjacency": REPLACE_SPECIAL, "unit": "record or hospital: whoever takes part", **by_conversion}


def number(given: str | float | None) -> float:
    """A number that may be written as a fraction; 0 where none was given.

    >>> number("1/4")
    0.25
    """
    import fractions

    return float(fractions.Fraction(given)) if isinstance(given, str) else float(given or 0.0)


def _target_problems(target: float | None, given: float | None, delta: float | None) -> list[Problem | None]:
    from tff_hospitals.accounting.epsilon import delta_problem

    found: list[Problem | None] = []
    if target is not None and given is not None:
        bound = "at most one of them may be given"
        found.append(Problem("--target_epsilon, --noise_multiplier", (target, given), bound, "drop one"))
    for name, value in (("--target_epsilon", target), ("--noise_multiplier", given)):
        if value is not None:
            found.append(in_range(name, value, low=0.0, low_open=True, remedy=f"give a positive {name}"))
    if (target is None and given is None) != (delta is None):
        bound = "must be given together with --target_epsilon or --noise_multiplier"
        found.append(Problem("--delta", delta, bound, "give both, or neither to learn the errors alone"))
    if delta is not None:
        found.append(delta_problem(delta))
    return found


def _amplification_problems(strategy: str, amplified: bool, chance: str | float | None) -> list[Problem | None]:
    if not amplified:
        if chance is None:
            return []
        bound = "amplifies a banded strategy only under cyclic Poisson sampling"
        return [Problem("--sampling_probability", chance, bound, "add --amplified, or drop it")]
    found: list[Problem | None] = []
    if strategy not in ("banded", "identity"):
        bound = "needs bands that separate the groups"
        found.append(Problem("--amplified", strategy, bound, "take --strategy=banded with --bands"))
    try:
        share = number(chance)
    except (ValueError, ZeroDivisionError):
        return [
            *found,
            Problem("--sampling_probability", chance, "must be a number or a fraction", "write 0.02 or 4/199"),
        ]
    remedy = "give the share of all records in a step, such as 4/199"
    return [*found, in_range("--sampling_probability", share, low=0.0, low_open=True, high=1.0, remedy=remedy)]


def text(found: dict[str, Any]) -> str:
    """An answer for a terminal."""
    from tff_hospitals.accounting.strategies.building import STRATEGIES

    exact = "exact" if found["coefficients_checked"] else "an upper bound"
    lines = [
        f"strategy          {found['strategy']}: {STRATEGIES[found['strategy']].words}",
        f"sensitivity       {found['sensitivity']:.6f} ({exact}: {found['sensitivity_rests_on']})",
        f"RMSE              {found['rmse']:.6f}, over {found['steps']} steps, for noise of 1 times the sensitivity",
        f"largest error     {found['max_error']:.6f}",
        f"error at the end  {found['last_error']:.6f}",
    ]
    if "noise_multiplier" in found:
        lines += [
            f"noise multiplier  {found['noise_multiplier']:.6f} over the clip norm "
            f"({found['noise_over_sensitivity']:.6f} over the sensitivity)",
            f"epsilon           {found['epsilon_rdp']:.6g} by rdp, {found['epsilon_pld']:.6g} by pld, at delta "
            f"{found['delta']:g}",
            f"RMSE with it      {found['noise_rmse']:.6g}, largest {found['noise_max_error']:.6g}",
        ]
    if "choices" in found:
        lines.append(f"chosen            {found['bands']} bands, of the least RMSE:")
        lines += [
            f"{plan['bands']:>8} bands    RMSE {plan['rmse']:.6g}, noise multiplier {plan['noise_multiplier']:.6g}, in "
            f"its group's turn a record joins with {plan['sampling_probability']:.6g}"
            for plan in found["choices"]
        ]
    return "\n".join(lines)
