"""The step rules by the name of their mechanism: a function of model, privacy and the most steps of a round."""

from __future__ import annotations

from collections.abc import Callable

from tff_hospitals.models import FunctionalModel
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.processes.record_level.base import StepRule
from tff_hospitals.processes.registry import Registry

STEP_RULES: Registry[Callable[[FunctionalModel, PrivacyPlan, int], StepRule]] = Registry("step rule")
register = STEP_RULES.register
