"""Are the counts that clip norms and zeroing bounds follow noised as declared?

A count of unclipped hospitals is a release of its own. What was released can be told from how the norm moved, since
nobody is above or below it but those that the audit put there. (Counts of records: `noise_of_adaptive_steps`.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tff_hospitals.audits.self_tests import noise_of_rounds
from tff_hospitals.audits.self_tests.findings import NotTested
from tff_hospitals.audits.self_tests.noise_of_rounds import Played
from tff_hospitals.audits.self_tests.noises import Noise, Observed
from tff_hospitals.plan import mechanisms
from tff_hospitals.processes.aggregators import zeroing

if TYPE_CHECKING:
    from tff_hospitals.accounting import MechanismEvent
    from tff_hospitals.audits.self_tests.keys import Draws
    from tff_hospitals.audits.self_tests.rig import Rig
    from tff_hospitals.plan.plan import Plan

ONE_NUMBER = {"count": slice(0, 1)}
LOW_ZEROING_NORM = 1e-2  # of a round in which some updates are above and some below


def of_clipping(plan: Plan, hospitals: int, played: Sequence[Played], event: MechanismEvent) -> Observed | NotTested:
    """The noise on the count of hospitals below the clip norm, from rounds in which all of them are.

    Args:
      plan, hospitals, played: as for `noise_of_rounds.over_declared`.
      event: with the declared noise on all counts of a round together.
    """
    level, stddev = mechanisms.hospital_settings(plan.privacy), noise_of_rounds.count_stddev(plan, event)
    if not level.clip_learning_rate:
        return NotTested("counts: hospitals below the clip norm", None, "the clip norm never moves")
    noises = []
    for one in played:
        moved = math.log(float(one.after["clip_norm"]) / float(one.before["clip_norm"]))
        share = level.clip_quantile - moved / level.clip_learning_rate
        count = (share - 0.5) * noise_of_rounds.divisor(plan, hospitals, one.cohort)
        noises.append(noise_of_rounds.as_noise(None, one, np.array([(count - one.cohort / 2) / stddev])))
    return _observed("count of hospitals below the clip norm", noises, played)


def of_zeroing(
    plan: Plan, hospitals: int, frame: Rig, seeds: Sequence[Draws], rounds: Sequence[int], event: MechanismEvent
) -> Observed | NotTested:
    """The noise on the count of hospitals below the zeroing bound, from rounds in which about half of them are.

    A share is cut off at 0 and 1. What stays inside is normal noise of which the ends are missing, and is mapped back
    to whole normals.
    """
    from scipy import special

    stddev = noise_of_rounds.count_stddev(plan, event)
    played = noise_of_rounds.play(frame, seeds, rounds, active=True, zeroing_norm=LOW_ZEROING_NORM)
    noises: list[Noise] = []
    for one in played:
        moved = math.log(float(one.after["zeroing_norm"]) / float(one.before["zeroing_norm"]))
        share = zeroing.QUANTILE - moved / zeroing.LEARNING_RATE
        divisor = noise_of_rounds.divisor(plan, hospitals, one.cohort)
        above = one.cohort // 2
        silent = (one.cohort - above) / 2 - above / 2
        low, count, high = ((at - 0.5) * divisor - silent for at in (0.0, share, 1.0))
        inside = special.ndtr(np.array([low, count, high]) / stddev)
        if 1e-5 < share < 1 - 1e-5:
            whole = special.ndtri((inside[1] - inside[0]) / max(inside[2] - inside[0], 1e-300))
            noises.append(noise_of_rounds.as_noise(None, one, np.array([whole])))
    if len(noises) < len(played) / 4:
        reason = "the noise on the count is so loud that most counts are cut off"
        return NotTested("counts: hospitals below the zeroing bound", None, reason)
    return _observed("count of hospitals below the zeroing bound", noises, played)


def _observed(name: str, noises: Sequence[Noise], played: Sequence[Played]) -> Observed:
    return Observed(name, noises, ONE_NUMBER, played[0].draws.label)
