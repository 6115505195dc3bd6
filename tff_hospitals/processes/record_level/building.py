"""From a plan's privacy to the rule of its steps.

A rule of one's own is a class or function that `register` names after its mechanism (see `plan.mechanisms`).
"""

from __future__ import annotations

from tff_hospitals.models import FunctionalModel
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.processes import record_level
from tff_hospitals.processes.record_level.base import StepRule
from tff_hospitals.processes.record_level.plain import PlainSteps
from tff_hospitals.processes.record_level.registry import STEP_RULES, register

__all__ = ["build_step_rule", "register"]

mechanisms.discover(record_level.__name__, record_level.__path__)
STEP_RULES.check(name for name, one in mechanisms.MECHANISMS.items() if isinstance(one, mechanisms.RecordLevel))


def build_step_rule(model: FunctionalModel, privacy: PrivacyPlan, max_local_steps: int) -> StepRule:
    """The rule of the plan's record-level mechanism, or plain steps.

    Raises:
      InvalidInput: an unknown mechanism.
      LookupError: a mechanism whose module registers no step rule.
    """
    mechanism = mechanisms.record_level(privacy)
    if mechanism is None:
        return PlainSteps(model, privacy, max_local_steps)
    return STEP_RULES[mechanism.name](model, privacy, max_local_steps)
