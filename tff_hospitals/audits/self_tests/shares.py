"""Do the shares of noise that hospitals add before a sum add up to what the ledger declares, each of them its own?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tff_hospitals.audits.self_tests.findings import Finding
from tff_hospitals.audits.self_tests.measures import AtMost

if TYPE_CHECKING:
    from tff_hospitals.audits.self_tests.noise_of_rounds import Played

_TOLERANCE = 1e-3


def add_up(whole: Sequence[Played], alone: Mapping[str, Sequence[Played]]) -> Finding:
    """Whether the noise of whole rounds is the sum of the shares that the hospitals of their cohorts add alone.

    Args:
      whole: rounds of the run.
      alone: rounds of single hospitals, with the same keys and those of other seeds.
    """
    by_round: dict[int, list[Played]] = {}
    for played in alone.values():
        for one in played:
            if one.draws.label == whole[0].draws.label:
                by_round.setdefault(one.round, []).append(one)
    worst, scale = 0.0, 1e-30
    for one in whole:
        shares = by_round.get(one.round, [])
        total = np.sum([share.update for share in shares], axis=0)
        off = one.update * one.cohort - total if len(shares) == one.cohort else np.array([np.inf])
        worst = max(worst, float(np.abs(off).max()))
        scale = max(scale, *(float(np.abs(share.update).max()) for share in shares)) if shares else scale
    words = f"{len(whole)} rounds, off by {worst / scale:.2g} of the largest number of a share"
    measure = AtMost(worst / scale, _TOLERANCE, "a round whose noise is not the sum of its shares")
    return Finding("shares", "add up", None, measure, words)
