"""The noise multiplier that keeps a target epsilon over a whole planned run, for every kind of release."""

from __future__ import annotations

import functools
import math
from typing import Any

from tff_hospitals.accounting import MechanismEvent, calibrate_event, epsilon_of, loss_shapes
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


_ONE_GAUSSIAN = MechanismEvent("gaussian", noise_multiplier=1.0)


def _relative_noise(event: MechanismEvent, at_one: MechanismEvent) -> float:
    if event.local_stddev is not None:
        return event.local_stddev / (at_one.local_stddev or 1.0)
    return (event.noise_multiplier or 0.0) / (at_one.noise_multiplier or 1.0)


def calibrated_grid(release_at: ReleaseAt, rounds: int, calibration: Calibration) -> float:
    """The noise multiplier of a distributed mechanism, whose grid depends on its noise: a few steps to a fixed point.

    What is returned has been accounted for and keeps the target.
    """
    target, delta, adjacency, conversion, spent, _ = calibration
    multiplier = 1.0
    for _ in range(4):
        whole_run = release_at(multiplier).whole_run(rounds, 1)
        multiplier *= calibrated(whole_run, calibration)
    for _ in range(100):
        pairs = [*spent, *release_at(multiplier).whole_run(rounds, 1)]
        if calibration[-1] > 1 or epsilon_of(pairs, delta, adjacency=adjacency, conversion=conversion) <= target:
            break
        multiplier *= 1.0005
    return multiplier
