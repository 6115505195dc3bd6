"""Privacy accounting: what was released, what it costs, how much noise a promise needs.

Light to import: numpy, scipy and dp_accounting are loaded when a number is computed.

>>> from tff_hospitals.accounting import Ledger, MechanismEvent
>>> ledger = Ledger(delta=1e-5)
>>> step = MechanismEvent("poisson_gaussian", noise_multiplier=1.1, sampling_probability=256 / 60000)
>>> ledger.record("record", "cleveland", round_number=1, event=step, count=14062)
>>> [round(ledger.epsilon("record", "cleveland", name), 2) for name in ("rdp_classical", "rdp", "pld")]
[3.01, 2.6, 2.38]
"""

from __future__ import annotations

from tff_hospitals.accounting.budget import Budget, Decision
from tff_hospitals.accounting.calibration import calibrate_event, calibrate_hospitals, calibrate_noise
from tff_hospitals.accounting.cautions import (
    adaptive_clip_problem,
    delta_warning,
    hospital_level_warning,
    largest_adaptive_noise,
    noise_to_signal,
)
from tff_hospitals.accounting.dp_events import compose_dp_event, from_dp_event, to_dp_event
from tff_hospitals.accounting.epsilon import CONVERSIONS, delta_of, epsilon_of
from tff_hospitals.accounting.events import ADJACENCIES, KINDS, UNITS, MechanismEvent
from tff_hospitals.accounting.gaussian import join_adaptive_noise, split_adaptive_noise
from tff_hospitals.accounting.group import group_epsilon
from tff_hospitals.accounting.joint import joint_ledger
from tff_hospitals.accounting.ledger import Ledger
from tff_hospitals.accounting.matrix import toeplitz_sensitivity, tree_squared_sensitivity
from tff_hospitals.accounting.sampling import SAMPLINGS, adjacency_of, sampled_events, sampling_probability_of
from tff_hospitals.accounting.statements import Guarantee, guarantee, no_guarantee
from tff_hospitals.accounting.tuning import after_selection, draw_runs

__all__ = [
    "ADJACENCIES",
    "CONVERSIONS",
    "KINDS",
    "SAMPLINGS",
    "UNITS",
    "Budget",
    "Decision",
    "Guarantee",
    "Ledger",
    "MechanismEvent",
    "adaptive_clip_problem",
    "adjacency_of",
    "after_selection",
    "calibrate_event",
    "calibrate_hospitals",
    "calibrate_noise",
    "compose_dp_event",
    "delta_of",
    "delta_warning",
    "draw_runs",
    "epsilon_of",
    "from_dp_event",
    "group_epsilon",
    "guarantee",
    "hospital_level_warning",
    "join_adaptive_noise",
    "joint_ledger",
    "largest_adaptive_noise",
    "no_guarantee",
    "noise_to_signal",
    "sampled_events",
    "sampling_probability_of",
    "split_adaptive_noise",
    "to_dp_event",
    "toeplitz_sensitivity",
    "tree_squared_sensitivity",
]
