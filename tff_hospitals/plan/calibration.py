"""The noise multiplier that keeps a target epsilon over a whole planned run, for every kind of release."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

from tff_hospitals.accounting import MechanismEvent, calibrate_event, epsilon_of, loss_shapes
from tff_hospitals.accounting.sampling import LEAST_NOISE, MOST_NOISE
from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.plan.planned_events import Events, ReleaseAt

Spent = tuple[tuple[MechanismEvent, int], ...]
Calibration = tuple[float, float, str, str, Spent, float]  # target, delta, adjacency, conversion, spent, mean runs


@functools.lru_cache(maxsize=4096)
def calibrated(whole_run: Events, calibration: Calibration) -> float:
    """The noise multiplier for a whole run that is given at multiplier 1."""
    target, delta, adjacency, conversion, spent, mean_runs = calibration
    options: dict[str, Any] = {"adjacency": adjacency, "conversion": conversion, "spent": spent}
    if mean_runs > 1:
        sweep = MechanismEvent("selection", mean_runs=mean_runs, shape=1.0, base=whole_run)
        base = calibrate_event(sweep, target, delta, **options).base or whole_run
        return _relative_noise(base[0][0], whole_run[0][0])
    if len(whole_run) == 1:
        event, count = whole_run[0]
        return _relative_noise(calibrate_event(event, target, delta, count=count, **options), event)
    # Trees of several sizes: all Gaussian, so that they add up to one.
    ((together, _),) = loss_shapes.compose(whole_run, adjacency)
    mu_squared = together.mu_squared  # type: ignore[union-attr]
    reach = math.sqrt(loss_shapes.parts_of(_ONE_GAUSSIAN, adjacency)[0].mu_squared)  # type: ignore[union-attr]
    found = calibrate_event(_ONE_GAUSSIAN, target, delta, **options).noise_multiplier or 0.0
    return found * math.sqrt(mu_squared) / reach


@functools.lru_cache(maxsize=1024)
def calibrated_by_round(whole_run: Events, calibration: Calibration) -> float:
    """The noise multiplier for a whole run of rounds that differ in noise or steps, given at multiplier 1.

    Every event keeps its ratio to the others, and a choice among runs is part of what is released. What is returned has
    been accounted for and keeps the target; it exceeds the least that would by a thousandth at most.

    Raises:
      InvalidInput: no noise that can be told reaches the target.
    """

    def keeps(multiplier: float) -> bool:
        events = (
            (dataclasses.replace(event, noise_multiplier=multiplier * (event.noise_multiplier or 0.0)), count)
            for event, count in whole_run
        )
        return _keeps(tuple(events), calibration)

    quietest = min(event.noise_multiplier or 0.0 for event, _ in whole_run)
    loudest = max(event.noise_multiplier or 0.0 for event, _ in whole_run)
    low, high = LEAST_NOISE / quietest, MOST_NOISE / loudest
    if not high > low or not keeps(high):
        bound = "is out of reach with noise that changes by round like this"
        raise InvalidInput([Problem("target_epsilon", calibration[0], bound, "raise it, or take factors nearer to 1")])
    at = max(low, min(high, 1.0))
    while not keeps(at):
        low, at = at, min(high, 2 * at)
    high = at
    while low < high and keeps(at := max(low, high / 2)):
        high = at
        if at == low:
            return at
    low = max(low, at)
    while high > low * 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high


_ONE_GAUSSIAN = MechanismEvent("gaussian", noise_multiplier=1.0)


def _relative_noise(event: MechanismEvent, at_one: MechanismEvent) -> float:
    if event.local_stddev is not None:
        return event.local_stddev / (at_one.local_stddev or 1.0)
    return (event.noise_multiplier or 0.0) / (at_one.noise_multiplier or 1.0)


def calibrated_grid(release_at: ReleaseAt, rounds: int, calibration: Calibration) -> float:
    """The noise multiplier of a distributed mechanism, whose grid depends on its noise: a few steps to a fixed point.

    What is returned has been accounted for and keeps the target.

    Raises:
      InvalidInput: there is no fixed point that does.
    """
    multiplier = 1.0
    for _ in range(4):
        whole_run = release_at(multiplier).whole_run(rounds, 1)
        multiplier *= calibrated(whole_run, calibration)
    for _ in range(100):
        if _keeps(release_at(multiplier).whole_run(rounds, 1), calibration):
            return multiplier
        multiplier *= 1.0005
    bound = "is out of reach: more noise makes the whole numbers coarser, and these need more noise in turn"
    raise InvalidInput([Problem("target_epsilon", calibration[0], bound, "raise it, or raise modulus_bits")])


def _keeps(whole_run: Events, calibration: Calibration) -> bool:
    """Whether a run, or the winner of several ones, keeps the target beside what is spent already."""
    target, delta, adjacency, conversion, spent, mean_runs = calibration
    if mean_runs > 1:
        whole_run = ((MechanismEvent("selection", mean_runs=mean_runs, shape=1.0, base=whole_run), 1),)
    return epsilon_of([*spent, *whole_run], delta, adjacency=adjacency, conversion=conversion) <= target
