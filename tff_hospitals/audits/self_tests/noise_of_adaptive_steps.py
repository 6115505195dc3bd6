"""Noise of record-level adaptive clipping: on the gradients, and on the count that its clip norm follows.

The norm of a step follows from the noised count of the step before. A record with a far-reaching gradient, put into the
last step of a round that is cut off there, contributes exactly that norm; the same round without it has the same noise,
so that their difference shows the norm. From one step's norm to the next follows the noised count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tff_hospitals.audits.self_tests import declared, rig
from tff_hospitals.audits.self_tests.looks import spread
from tff_hospitals.audits.self_tests.noises import Noise

if TYPE_CHECKING:
    from tff_hospitals.accounting import MechanismEvent
    from tff_hospitals.audits.loading import LoadedRun
    from tff_hospitals.audits.self_tests.keys import Draws
    from tff_hospitals.plan.plan import Plan
    from tff_hospitals.processes.rounds import HospitalRound

STEPS = 9  # of a round that are looked at
LIMIT = 50.0  # factor from the first norm beyond which a norm may have been held back


def observe(
    run: LoadedRun,
    frame: rig.Rig,
    seeds: Sequence[Draws],
    hospitals: Sequence[str],
    rounds: Sequence[int],
    places: dict[str, tuple[int, ...]],
) -> tuple[list[Noise], list[Noise]]:
    """The noise on gradients, and on counts, of every hospital in every round that is looked at.

    Args:
      run: whose ledger declares the noise.
      frame: around its client work, over hospitals with blown-up records.
      seeds: draws of the run and of other seeds.
      hospitals: ids.
      rounds: 0-based.
      places: which records are blown up: two of different labels.
    """
    cells: list[tuple[Draws, int, HospitalRound]] = [
        (draws, number, one)
        for draws in seeds
        for number in rounds
        for one in draws.round(number).cohort
        if one.hospital.hospital_id in hospitals
    ]
    inputs = []
    for draws, number, one in cells:
        for cut in _cuts(one):
            for batch in ((), *((place,) for place in places[one.hospital.hospital_id][:2])):
                inputs.append(rig.one_hospital(number, rig.with_batches(one, [()] * (cut - 1) + [batch]), draws))
    updates, _ = frame.updates([frame.state(one.number) for one in inputs], inputs)
    gradients, counts, start = [], [], 0
    for draws, number, one in cells:
        name, cuts = one.hospital.hospital_id, len(_cuts(one))
        probes = len(places[name][:2])
        groups = updates[start : start + cuts * (1 + probes)].reshape(cuts, 1 + probes, -1)
        start += cuts * (1 + probes)
        groups = groups * one.schedule.expected_batch
        event = declared.loudest(run.ledger, run.dataset, "record", name)
        norms = np.linalg.norm(groups[:, 1:] - groups[:, :1], axis=2).max(axis=1)
        steps = np.diff(groups[:, 0], axis=0, prepend=0.0)
        scale = max(1e-30, float((event and event.noise_multiplier) or 0.0)) * norms[:, np.newaxis]
        gradients.append(Noise(name, number + 1, draws.label, steps / np.maximum(scale, 1e-30)))
        if event is not None and cuts > 1:
            noise = _counts(run.plan, event, norms, one.schedule.expected_batch)
            counts.append(Noise(name, number + 1, draws.label, noise[:, np.newaxis]))
    return gradients, counts


def _cuts(one: HospitalRound) -> tuple[int, ...]:
    return tuple(step + 1 for step in spread(min(STEPS, one.schedule.steps), min(STEPS, one.schedule.steps)))


def _counts(plan: Plan, event: MechanismEvent, norms: np.ndarray, expected_batch: float) -> np.ndarray:
    """The noise on the counts between successive norms, over its declared deviation; no record is above or below."""
    privacy = plan.privacy
    inside = np.abs(np.log(norms / privacy.clip_norm)) < math.log(LIMIT)
    kept = inside[1:] & inside[:-1]
    share = privacy.clip_quantile - np.diff(np.log(norms)) / privacy.clip_learning_rate
    return np.asarray((share[kept] - 0.5) * expected_batch / (event.bit_noise_stddev or 1e-30))
