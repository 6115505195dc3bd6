"""Do whole rounds of the run's own program hold what single hospitals and rounds were seen to add?

Everything else is seen one hospital or one round at a time. Here the program that trained runs all rounds in one call,
every hospital silent, and must end where the sum of what was seen ends.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tff_hospitals.audits.self_tests import rig
from tff_hospitals.audits.self_tests.findings import Finding
from tff_hospitals.audits.self_tests.measures import AtMost
from tff_hospitals.runtimes.compiled.runtime import CompiledRuntime

if TYPE_CHECKING:
    from tff_hospitals.audits.loading import LoadedRun
    from tff_hospitals.audits.self_tests.keys import Draws
    from tff_hospitals.audits.self_tests.noise_of_rounds import Played
    from tff_hospitals.processes.composition import ServerState
    from tff_hospitals.processes.rounds import RoundInput

_TOLERANCE = 1e-3


def of_steps(run: LoadedRun, frame: rig.Rig, draws: Draws, rounds: Sequence[int]) -> Finding:
    """Record level: the mean of what the hospitals add alone, round after round.

    Args:
      run: the run.
      frame: around the client work.
      draws: keys of the run.
      rounds: 0-based.
    """
    if run.plan.by_round:  # the program counts rounds by itself, and reads their settings by that
        rounds = [number for at, number in enumerate(rounds) if number == rounds[0] + at]
    chosen = [(number, one) for number in rounds for one in draws.round(number).cohort]
    alone, _ = frame.updates(
        [frame.state(number) for number, _ in chosen],
        [rig.one_hospital(number, rig.silent(one), draws) for number, one in chosen],
    )
    totals = {number: sum(one.weight for one in draws.round(number).cohort) for number in rounds}
    shares = np.array([one.weight / totals[number] for number, one in chosen])
    inputs = [
        dataclasses.replace(draws.round(number), cohort=tuple(map(rig.silent, draws.round(number).cohort)))
        for number in rounds
    ]
    moved = _together(run, frame, frame.state(rounds[0]), inputs)
    return _finding("noise on records", moved, (shares[:, np.newaxis] * alone).sum(axis=0), alone, len(rounds))


def of_rounds(run: LoadedRun, frame: rig.Rig, draws: Draws, played: Sequence[Played]) -> Finding:
    """Hospital level: what the rounds add one by one, each from the state that the one before left.

    Args:
      run: the run.
      frame: around the aggregator.
      draws: keys of the run.
      played: its first rounds, in order.
    """
    rounds = len(played)
    inputs = [
        dataclasses.replace(draws.round(number), cohort=tuple(rig.silent(one, 1) for one in draws.round(number).cohort))
        for number in range(rounds)
    ]
    moved = _together(run, frame, frame.state(0, draws.aggregator), inputs)
    each = np.array([one.update for one in played])
    return _finding("noise on updates", moved, each.sum(axis=0), each, rounds)


def _together(run: LoadedRun, frame: rig.Rig, state: ServerState, inputs: Sequence[RoundInput]) -> np.ndarray:
    """What the run's own program subtracts from the weights in all rounds, called as it is called in training."""
    parts = dataclasses.replace(frame.composition, signature=f"audit {uuid.uuid4()}")  # compiled anew
    runtime = CompiledRuntime(parts, run.dataset, run.frozen, strategy=run.strategy)
    try:
        after, _ = runtime.run_rounds(state, inputs)
    finally:
        runtime.close()
    return rig.flat(state.weights) - rig.flat(after.weights)


def _finding(what: str, moved: np.ndarray, expected: np.ndarray, each: np.ndarray, rounds: int) -> Finding:
    scale = float(np.abs(each).max(initial=0.0)) or 1.0
    off = float(np.abs(moved - expected).max()) / scale
    words = f"{rounds} rounds in one call, off by {off:.2g} of the largest number in one"
    measure = AtMost(off, _TOLERANCE, "a whole round with other noise than its hospitals have alone")
    return Finding("whole rounds", what, None, measure, words)
