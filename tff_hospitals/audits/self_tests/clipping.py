"""Can one unit move a sum further than the noise is scaled for?

A record, or a hospital, is put beside others and left out again, all else being the same: the difference of the two
sums is its contribution, whatever was clipped how. The records are the hospital's own with some blown up, so that a
bound that holds for tame ones alone is found.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tff_hospitals.audits.self_tests import noise_of_rounds, rig
from tff_hospitals.audits.self_tests.findings import Finding, NotTested
from tff_hospitals.audits.self_tests.measures import AtMost
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.noise import clip_factor
from tff_hospitals.processes.rounds import RoundInput

if TYPE_CHECKING:
    from tff_hospitals.accounting import MechanismEvent
    from tff_hospitals.audits.loading import LoadedRun
    from tff_hospitals.audits.self_tests.keys import Draws
    from tff_hospitals.processes.rounds import HospitalRound

TOLERANCE = 1e-3  # relative: float32 sums of noise and contributions
FAR = 6  # records of a hospital that are tried one by one; some reach too far where a bound zeroes what it meets
REACHED = 0.5  # a clip norm that no probe comes near was not tested
Places = dict[str, tuple[int, ...]]


def records(
    run: LoadedRun, frame: rig.Rig, draws: Draws, hospitals: Sequence[str], rounds: Sequence[int], places: Places
) -> list[Finding | NotTested]:
    """Contributions of single records to one step's sum, beside other records of their hospital.

    Args:
      run: of whose model `frame` starts every step.
      frame: around the client work, over hospitals with blown-up records.
      draws: keys of the run.
      hospitals: ids.
      rounds: 0-based.
      places: which records are blown up.
    """
    others = run.plan.client.batch_size
    found: list[Finding | NotTested] = []
    for name in hospitals:
        probes = places[name]
        size = run.dataset.hospital(name).train.records
        beside = range(len(probes), min(size, len(probes) + others))
        inputs, scales = [], []
        for number in rounds:
            one = next((h for h in draws.round(number).cohort if h.hospital.hospital_id == name), None)
            if one is None:
                continue
            for batch in (beside, *((place, *beside) for place in probes)):
                inputs.append(rig.one_hospital(number, rig.with_batches(one, [batch]), draws))
            scales.append((one.schedule.expected_batch, one.noise_multiplier, clip_factor(run.plan, "record", number)))
        if not scales:
            found.append(NotTested("clipping: records", name, "it takes part in no round that is looked at"))
            continue
        updates, _ = frame.updates([frame.state(one.number) for one in inputs], inputs)
        groups = updates.reshape(len(scales), 1 + len(probes), -1)
        batches, multipliers, factors = (np.array(column)[:, np.newaxis] for column in zip(*scales))
        # Over the factor of its round, so that all rounds have one limit.
        norms = np.linalg.norm(groups[:, 1:] - groups[:, :1], axis=2) * batches / factors
        clip_norm = run.plan.privacy.clip_norm
        loudest = multipliers.max() * clip_norm + frame.largest_weight * (batches / factors).max()
        found.append(_finding(name, "records", norms, clip_norm, loudest, frame.parameters))
    return found


def updates(
    run: LoadedRun, frame: rig.Rig, draws: Draws, event: MechanismEvent, rounds: Sequence[int], places: Places
) -> list[Finding | NotTested]:
    """Contributions of single hospitals to a round's sum, beside other hospitals.

    Args:
      run: the run.
      frame: around the aggregator, over hospitals with blown-up records.
      draws: keys of the run.
      event: whose sensitivity the ledger declares.
      rounds: 0-based.
      places: which records are blown up.
    """
    hospitals = len(run.dataset.hospitals)
    # hospital, where it is, where the round without it is, cohort, the clip norm's factor of the round
    cases: list[tuple[str, int, int, int, float]] = []
    inputs: list[RoundInput] = []
    for number in rounds:
        drawn, factor = draws.round(number), clip_factor(run.plan, "hospital", number)
        for at, one in enumerate(drawn.cohort):
            name = one.hospital.hospital_id
            for place in places[name][:FAR]:
                for others in (False, True):
                    rest = [_still(h, places, others) for h in drawn.cohort]
                    alone = rig.silent(one, 1)
                    without = [*rest[:at], alone, *rest[at + 1 :]]
                    within = [*rest[:at], rig.with_batches(one, [(place,)]), *rest[at + 1 :]]
                    cases.append((name, len(inputs) + 1, len(inputs), len(drawn.cohort), factor))
                    inputs += [dataclasses.replace(drawn, cohort=tuple(these)) for these in (without, within)]
    states = [frame.state(one.number, draws.aggregator) for one in inputs]
    moved, _ = frame.updates(states, inputs)
    before = states[0].aggregator if states else {}
    limit = mechanisms.hospital_settings(run.plan.privacy).clip_norm
    if event.l2_sensitivity is not None:  # whole numbers
        limit = event.l2_sensitivity / float(before["scale"])
    divisor = functools.partial(noise_of_rounds.divisor, run.plan, hospitals)
    norms: dict[str, list[float]] = {name: [] for name in run.dataset.ids}
    for name, present, absent, cohort, factor in cases:
        norms[name].append(float(np.linalg.norm(moved[present] - moved[absent])) * divisor(cohort) / factor)
    largest = float(np.abs(moved).max(initial=0.0))
    found: list[Finding | NotTested] = []
    for name, values in norms.items():
        if not values:
            found.append(NotTested("clipping: updates", name, "it takes part in no round that is looked at"))
            continue
        widest = max(divisor(cohort) / factor for _, _, _, cohort, factor in cases)
        spread = (largest + frame.largest_weight) * widest
        found.append(_finding(name, "updates", np.array(values), limit, spread, frame.parameters))
    return found


def _still(one: HospitalRound, places: Places, active: bool) -> HospitalRound:
    """Another hospital of the round: it sends nothing, or an update of its own that is far too long."""
    if not active:
        return rig.silent(one, 1)
    return rig.with_batches(one, [(places[one.hospital.hospital_id][0],)])


def _finding(
    hospital: str, what: str, norms: np.ndarray, limit: float, loudest: float, parameters: int
) -> Finding | NotTested:
    """The largest contribution against the limit; not a number is beyond it.

    Args:
      norms: of all contributions that were tried.
      limit: of a contribution.
      loudest: size of the largest numbers that they were taken the difference of.
      parameters: of the model.
    """
    largest = float(norms.max()) if np.isfinite(norms).all() else float("inf")
    rounding = 4e-7 * loudest * float(np.sqrt(parameters))
    words = f"largest of {norms.size} contributions: {largest:.6g}, bound {limit:.6g}"
    if largest < REACHED * limit:
        return NotTested(f"clipping: {what}", hospital, f"no probe came near the clip norm ({words})")
    allowed = limit * (1 + TOLERANCE) + rounding
    return Finding("clipping", what, hospital, AtMost(largest, allowed, f"a contribution above {allowed:.6g}"), words)
