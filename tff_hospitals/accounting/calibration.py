"""The noise that a promised epsilon needs.

Every search ends with a check: the noise that is returned was accounted for, by the conversion that was asked for,
and its epsilon is at most the target. A target that no noise reaches is refused with the smallest epsilon that can be
had.

>>> noise = calibrate_noise(1.0, delta=1e-3, steps=1500, sampling_probability=1 / 50)
>>> round(noise, 3)
2.387
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from tff_hospitals.accounting import epsilon as epsilon_lib
from tff_hospitals.accounting import gaussian, loss_shapes
from tff_hospitals.accounting.events import REPLACE_SPECIAL, MechanismEvent
from tff_hospitals.accounting.sampling import adjacency_of, sampled_events, sampling_probability_of, sampling_problems
from tff_hospitals.foundations import validation
from tff_hospitals.foundations.validation import InvalidInput, Problem

LARGEST_NOISE = 1e6
"""Noise multiplier at which a search gives up; no model survives a millionth of it."""
SMALLEST_NOISE = 1e-2
_PRECISION = 1e-7  # relative, of the returned noise

Number = TypeVar("Number", int, float)
Spent = Sequence[tuple[MechanismEvent, int]]


def calibrate_noise(
    target_epsilon: float,
    delta: float,
    steps: int,
    sampling_probability: float = 1.0,
    sampling: str = "poisson",
    conversion: str = "rdp",
    *,
    adjacency: str | None = None,
    records: int | None = None,
    batch: int | None = None,
    spent: Spent = (),
) -> float:
    """The least noise multiplier of DP-SGD whose epsilon is at most the target.

    Args:
      target_epsilon: > 0.
      delta: in (0, 1).
      steps: steps that will be taken.
      sampling_probability, sampling, records, batch: as in `sampled_events`.
      conversion: a key of `epsilon.CONVERSIONS`.
      adjacency: default: `adjacency_of(sampling)`.
      spent: releases that come out of the same target, as noised preprocessing: (event, count) pairs.

    Raises:
      InvalidInput: for values out of bounds, and for a target below what `spent` or the conversion leave reachable.
    """
    validation.raise_if(
        [
            *sampling_problems(sampling, steps, sampling_probability),
            *_target_problems(target_epsilon, delta, conversion),
        ]
    )
    template, count = sampled_events(
        1.0,
        steps=steps,
        sampling=sampling,
        sampling_probability=sampling_probability,
        records=records,
        batch=batch,
    )
    event = calibrate_event(
        template,
        target_epsilon,
        delta,
        count=count,
        adjacency=adjacency or adjacency_of(sampling),
        conversion=conversion,
        spent=spent,
    )
    return event.noise_multiplier or 0.0


def calibrate_event(
    template: MechanismEvent,
    target_epsilon: float,
    delta: float,
    *,
    count: int = 1,
    adjacency: str = REPLACE_SPECIAL,
    conversion: str = "rdp",
    spent: Spent = (),
) -> MechanismEvent:
    """`template` with the least noise whose epsilon is at most the target; for every kind of mechanism.

    Args:
      template: everything but its noise counts. adaptive_clip keeps `bit_noise_stddev`, and the values get what is
        left; discrete mechanisms change `local_stddev`; a selection changes the noise of all its base events in
        proportion.
      target_epsilon, delta, adjacency, conversion, spent: as in `calibrate_noise`.
      count: how often the event will happen.

    Raises:
      InvalidInput: as in `calibrate_noise`.

    >>> tree = MechanismEvent("tree", noise_multiplier=1.0, steps=1600)
    >>> found = calibrate_event(tree, 2.0, 1e-6, adjacency="replace_special")
    >>> round(found.noise_multiplier, 3)
    7.902
    """
    count_problem = validation.whole_number("count", count, low=1, remedy="give how often the event will happen")
    validation.raise_if([*_target_problems(target_epsilon, delta, conversion), count_problem])
    if template.kind == "non_private":
        bound = "has no noise to calibrate"
        raise InvalidInput([Problem("event.kind", template.kind, bound, "choose a mechanism with noise")])

    def epsilon_at(scale: float) -> float:
        pairs = [*spent, (with_noise(template, scale), count)]
        if conversion == "pld" and epsilon_lib.size_problem(loss_shapes.compose(pairs, adjacency)) is not None:
            return math.inf  # a loss too wide for memory is beyond every target
        return epsilon_lib.epsilon_of(pairs, delta, adjacency=adjacency, conversion=conversion)

    least = epsilon_at(LARGEST_NOISE)
    if not least <= target_epsilon:
        raise InvalidInput([_unreachable(template, target_epsilon, least, conversion, bool(spent))])
    return with_noise(template, _least_noise(epsilon_at, target_epsilon))


def _target_problems(target_epsilon: float, delta: float, conversion: str) -> list[Problem | None]:
    remedy = "give a positive target epsilon"
    return [
        validation.in_range("target_epsilon", target_epsilon, low=0.0, low_open=True, remedy=remedy),
        epsilon_lib.delta_problem(delta),
        validation.one_of("conversion", conversion, epsilon_lib.CONVERSIONS),
    ]


def with_noise(event: MechanismEvent, scale: float) -> MechanismEvent:
    """The event with its noise set to `scale` (for discrete kinds: times the L2 sensitivity, over all shares)."""
    if event.kind in ("discrete_gaussian", "skellam"):
        total = scale * (event.l2_sensitivity or 1.0)
        return dataclasses.replace(event, local_stddev=total / math.sqrt(event.shares or 1))
    if event.base is not None:
        return dataclasses.replace(event, base=tuple((_scaled(inner, scale), count) for inner, count in event.base))
    return dataclasses.replace(event, noise_multiplier=scale)


def _scaled(event: MechanismEvent, factor: float) -> MechanismEvent:
    if event.kind == "non_private":
        return event
    if event.local_stddev is not None:
        return dataclasses.replace(event, local_stddev=event.local_stddev * factor)
    return with_noise(event, factor if event.base is not None else (event.noise_multiplier or 0.0) * factor)


def _least_noise(epsilon_at: Callable[[float], float], target: float) -> float:
    """The smallest scale with epsilon <= target, from above: a bracket, then regula falsi in logarithms with bisection.

    `epsilon_at` must not increase and be <= target at LARGEST_NOISE. It may jump (to 0 for tiny losses), so that every
    third step bisects; what is returned has been evaluated and keeps the target.
    """
    low, high = 1.0, 1.0
    at_low = at_high = epsilon_at(1.0)
    while at_high > target:
        low, at_low = high, at_high
        high = min(high * 4, LARGEST_NOISE)
        at_high = epsilon_at(high)
    while at_low <= target:
        if low <= SMALLEST_NOISE:
            return low
        high, at_high = low, at_low
        low = max(low / 4, SMALLEST_NOISE)
        at_low = epsilon_at(low)
    for round_number in range(200):
        if high <= low * (1 + _PRECISION):
            break
        middle = math.sqrt(low * high)
        if round_number % 3 != 2 and at_high > 0 and math.isfinite(at_low):
            share = math.log(at_low / target) / math.log(at_low / at_high)
            margin = 0.2 * _PRECISION / math.log(high / low)  # just beyond the guess, so that both ends close in
            share += margin if round_number % 3 == 0 else -margin
            middle = low * (high / low) ** min(max(share, 1e-9), 1 - 1e-9)
        at_middle = epsilon_at(middle)
        if at_middle <= target:
            high, at_high = middle, at_middle
        else:
            low, at_low = middle, at_middle
    return high


def _unreachable(template: MechanismEvent, target: float, least: float, conversion: str, spent: bool) -> Problem:
    reasons = []
    if template.kind == "adaptive_clip":
        total = gaussian.join_adaptive_noise(math.inf, bit_noise_stddev=template.bit_noise_stddev or 0.0)
        reasons.append(
            f"the noise on the clipping bits limits the noise multiplier of both together to {total:g} (units / 10 by "
            "default): take fixed clipping, more units per round, or more noise on the bits"
        )
    if spent:
        reasons.append("give less of the target to the releases that come before, or leave them out")
    if conversion == "rdp_classical":
        reasons.append("use conversion='rdp' or 'pld', which have no such floor")
    reasons.append("take a larger target_epsilon, a larger delta, or fewer steps")
    bound = f"must be >= {least:.6g}, the smallest epsilon that any noise reaches here ({conversion})"
    return Problem("target_epsilon", target, bound, "; or ".join(reasons))


def calibrate_hospitals(
    target_epsilon: float | Mapping[str, float],
    delta: float | Mapping[str, float],
    *,
    records: Mapping[str, int],
    batch_size: int | Mapping[str, int],
    steps: int | Mapping[str, int],
    sampling: str = "poisson",
    conversion: str = "rdp",
    adjacency: str | None = None,
    spent: Mapping[str, Spent] | None = None,
) -> dict[str, float]:
    """The noise multiplier of every hospital for record-level DP-SGD; a smaller hospital needs more noise.

    Args:
      target_epsilon, delta, batch_size, steps: one value for all, or one per hospital id.
      records: training records per hospital id.
      sampling, conversion, adjacency: as in `calibrate_noise`; the probability is `sampling_probability_of`.
      spent: per hospital id, releases that come out of the same target.

    Returns:
      {hospital id: noise multiplier}.

    Raises:
      InvalidInput: all problems of all hospitals, each naming its hospital.
    """
    noise: dict[str, float] = {}
    problems: list[Problem | None] = []
    for hospital_id, size in records.items():
        try:
            batch = _of(batch_size, hospital_id)
            noise[hospital_id] = calibrate_noise(
                _of(target_epsilon, hospital_id),
                _of(delta, hospital_id),
                _of(steps, hospital_id),
                sampling_probability_of(size, batch),
                sampling,
                conversion,
                adjacency=adjacency,
                records=size if sampling == "fixed_size" else None,
                batch=min(batch, size) if sampling == "fixed_size" else None,
                spent=(spent or {}).get(hospital_id, ()),
            )
        except InvalidInput as error:
            problems += [dataclasses.replace(item, name=f"{item.name} of {hospital_id}") for item in error.problems]
    validation.raise_if(problems)
    return noise


def _of(value: Number | Mapping[str, Number], hospital_id: str) -> Number:
    return value[hospital_id] if isinstance(value, Mapping) else value
