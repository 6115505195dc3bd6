"""The noise that a hospital's client work adds, step by step, over its declared size: record-level mechanisms.

No record is in any batch, so that an update is noise alone. A round that is cut off after k steps uses the same keys
and shows the noise of its first k steps; what is new from one cut to the next belongs to the steps between. Where steps
depend on each other (a tree), the declared dependence is taken out. What is left should be independent unit normals.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tff_hospitals.audits.self_tests import declared, looks, rig
from tff_hospitals.audits.self_tests.noises import Noise
from tff_hospitals.plan.noise import clip_factor

if TYPE_CHECKING:
    from tff_hospitals.audits.loading import LoadedRun
    from tff_hospitals.audits.self_tests.keys import Draws
    from tff_hospitals.processes.rounds import HospitalRound


def observe(
    run: LoadedRun, frame: rig.Rig, seeds: Sequence[Draws], hospitals: Sequence[str], look: looks.Looks
) -> list[Noise]:
    """The noise of every hospital in every round that is looked at, and that the ledger declares noise for.

    Args:
      run: whose ledger declares the noise.
      frame: around its client work.
      seeds: draws of the run and of other seeds.
      hospitals: ids.
      look: rounds and cuts; hospitals with fewer steps are cut at as many of their own.
    """
    deviation = functools.cache(functools.partial(_deviation, run))
    cells: list[tuple[Draws, HospitalRound, int, tuple[int, ...]]] = []
    for draws in seeds:
        for number in look.rounds:
            for one in draws.round(number).cohort:
                name = one.hospital.hospital_id
                if name in hospitals and deviation(name, number) is not None:
                    cuts = cuts_of(one.schedule.steps, look.steps, run.plan.privacy.secure_noise)
                    cells.append((draws, one, number, cuts))
    inputs = [
        rig.one_hospital(number, rig.silent(one, cut), draws) for draws, one, number, cuts in cells for cut in cuts
    ]
    states = [frame.state(one.number) for one in inputs]
    updates, _ = frame.updates(states, inputs)
    sizes = {(one.hospital.hospital_id, one.schedule.steps) for _, one, _, _ in cells}
    rows = {(name, count): seeds[0].dependence(count, name) for name, count in sizes}
    found, start = [], 0
    for draws, one, number, cuts in cells:
        name = one.hospital.hospital_id
        sums = updates[start : start + len(cuts)] * one.schedule.expected_batch
        values = whitened(sums, cuts, rows[name, one.schedule.steps]) / deviation(name, number)
        found.append(Noise(name, number + 1, draws.label, values))
        start += len(cuts)
    return found


def cuts_of(steps: int, wanted: tuple[int, ...], fresh: bool) -> tuple[int, ...]:
    """After which of a hospital's steps its round is cut off; noise that is drawn afresh shows whole rounds only."""
    if fresh:
        return (steps,)
    return wanted if wanted[-1] == steps else tuple(one + 1 for one in looks.spread(steps, min(steps, len(wanted))))


def whitened(sums: np.ndarray, cuts: tuple[int, ...], dependence: np.ndarray | None) -> np.ndarray:
    """Independent parts out of the noise of the first steps of a round.

    Args:
      sums: float64 [cuts, parameters], noise on the sum of the first so many steps.
      cuts: how many.
      dependence: see `Mechanism.dependence`, which is taken out.
    """
    ends = np.array(cuts)
    if dependence is None:
        covariance = np.minimum.outer(ends, ends).astype(np.float64)
    else:
        prefixes = np.cumsum(dependence, axis=0)[ends - 1]
        covariance = prefixes @ prefixes.T
    return np.linalg.solve(np.linalg.cholesky(covariance), sums)


def _deviation(run: LoadedRun, hospital: str, number: int) -> float | None:
    """What the ledger declares for a step of a round (0-based); None where it declares nothing."""
    event = declared.of_round(run, "record", hospital, number + 1)
    if event is None:
        return None
    multiplier = float(event.noise_multiplier or 0.0)
    return max(multiplier * run.plan.privacy.clip_norm * clip_factor(run.plan, "record", number), 1e-30)
