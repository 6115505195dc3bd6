"""The mechanisms: one object each, which everything else asks.

To add one, write a file here that registers a class, and its half that computes in `processes/aggregators` (what
becomes of updates) or `processes/record_level` (steps inside a hospital). From outside, one module registers both and
is named in the plan as `package.module:name`.

>>> named("tree").unit, named("tree").noise_by
('hospital', 'server')
"""

from __future__ import annotations

from tff_hospitals.plan.mechanisms.base import HospitalLevel, Mechanism, RecordLevel, Seen, Unprotected
from tff_hospitals.plan.mechanisms.lookup import (
    hospital_level,
    hospital_settings,
    layers,
    meant_in,
    name_problems,
    of,
    options_read,
    readers,
    reads,
    record_level,
    repeatable,
    stated_event,
    summed_securely,
    understood,
)
from tff_hospitals.plan.mechanisms.registry import MECHANISMS, discover, name_problem, named, register

__all__ = [
    "MECHANISMS",
    "HospitalLevel",
    "Mechanism",
    "RecordLevel",
    "Seen",
    "Unprotected",
    "hospital_level",
    "hospital_settings",
    "layers",
    "meant_in",
    "name_problem",
    "name_problems",
    "named",
    "of",
    "options_read",
    "readers",
    "reads",
    "record_level",
    "register",
    "repeatable",
    "stated_event",
    "summed_securely",
    "understood",
]

discover(__name__, __path__)
