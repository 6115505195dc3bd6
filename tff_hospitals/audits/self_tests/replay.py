"""Is the model that the run published the one that this mechanism makes?

The whole run is run again from its plan, by the program of today. What the other tests see is then what really
happened.
"""

from __future__ import annotations

import dataclasses
import uuid
from typing import TYPE_CHECKING

import numpy as np

from tff_hospitals.audits.self_tests.findings import Finding, NotTested
from tff_hospitals.audits.self_tests.measures import AtMost
from tff_hospitals.audits.self_tests.recount import cohorts_of
from tff_hospitals.audits.self_tests.rig import flat
from tff_hospitals.runtimes import build_runtime

if TYPE_CHECKING:
    from tff_hospitals.audits.loading import LoadedRun
    from tff_hospitals.audits.self_tests.keys import Draws

MOST_SECONDS = 30.0
_NAME = "replay: the published model"
_TOLERANCE = 1e-3


def check(run: LoadedRun, draws: Draws) -> Finding | NotTested:
    """Compares the final weights (processors differ in their last bits, noise in its first).

    Args:
      run: with its final weights.
      draws: of the run, all hospitals.
    """
    seconds = float(run.summary.get("seconds_per_round") or 0.0) * run.rounds
    if run.plan.privacy.secure_noise:
        return NotTested(_NAME, None, "its noise came from the operating system: nobody can repeat it")
    if run.drawn_elsewhere:
        return NotTested(_NAME, None, f"{run.drawn_elsewhere}: nobody can repeat it")
    if run.extension is not None:
        return NotTested(_NAME, None, "it goes on from the model of another run")
    if seconds > MOST_SECONDS:
        return NotTested(_NAME, None, f"training again would take {seconds:.0f} s, more than {MOST_SECONDS:g}")
    parts = dataclasses.replace(run.composition, signature=f"audit {uuid.uuid4()}")  # compiled anew
    runtime = build_runtime("compiled", parts, run.dataset, run.frozen)
    state = draws.start
    try:
        for number, cohort in enumerate(cohorts_of(run, draws)):
            one = dataclasses.replace(draws.whole_round(number), cohort=tuple(cohort.values()))
            state, _ = runtime.run_rounds(state, [one])
    finally:
        runtime.close()
    ours, theirs = flat(state.weights), flat(run.weights)
    off = float(np.linalg.norm(ours - theirs)) / max(1e-30, float(np.linalg.norm(theirs)))
    words = f"run again, the weights are off by {off:.2g} of their norm"
    measure = AtMost(off, _TOLERANCE, "a model that was made with other noise, batches or clipping")
    return Finding("replay", "the published model", None, measure, words)
