"""From a plan's privacy to its aggregator: the mechanism's own, behind a zeroing bound and under a secure sum if asked.

An aggregator of one's own is a class that `register` names after its mechanism (see `plan.mechanisms`).
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.parts import ClientPlan, CohortPlan, PrivacyPlan
from tff_hospitals.plan.zeroing import ZEROING
from tff_hospitals.processes import aggregators
from tff_hospitals.processes.aggregators.base import Aggregator, Setting
from tff_hospitals.processes.aggregators.by_round import ByRound
from tff_hospitals.processes.aggregators.registry import AGGREGATORS, register
from tff_hospitals.processes.aggregators.secure_sum import SecureSum
from tff_hospitals.processes.aggregators.zeroing import Zeroing
from tff_hospitals.processes.settings_by_round import Factors

__all__ = ["build_aggregator", "register"]

mechanisms.discover(aggregators.__name__, aggregators.__path__)
AGGREGATORS.check(name for name, one in mechanisms.MECHANISMS.items() if isinstance(one, mechanisms.HospitalLevel))


def build_aggregator(
    specs: Sequence[tf.TensorSpec],
    privacy: PrivacyPlan,
    cohort: CohortPlan,
    hospitals: int,
    *,
    rounds: int = 1,
    largest_weight: float = 1.0,
    noise_multiplier: float = 0.0,
    client: ClientPlan | None = None,
    by_round: Factors | None = None,
) -> Aggregator:
    """The aggregator that a plan's hospital-level mechanism asks for; hospital weights arrive with the updates.

    Args:
      specs: specs of the trainable weights.
      privacy: the plan's privacy.
      cohort: who takes part in a round, out of `hospitals`.
      hospitals: how many there are.
      rounds: of the whole run (sizes the tree).
      largest_weight: of any hospital in the mean.
      noise_multiplier: of what is built with it (see `Setting`).
      client: local training of the plan; None: with the defaults.
      by_round: factors of its `clip_norm` and `noise_multiplier` in every round, where they change.

    Raises:
      InvalidInput: an unknown mechanism.
      LookupError: a mechanism whose module registers no aggregator.
    """
    mechanism, own = mechanisms.hospital_level(privacy), mechanisms.hospital_settings(privacy)
    setting = Setting(
        tuple(specs), own, cohort, hospitals, rounds, largest_weight, noise_multiplier, client or ClientPlan()
    )
    made = AGGREGATORS[mechanism.computed_by or mechanism.name](setting)
    if by_round:
        made = ByRound(made, by_round)
    if mechanism.zeroing and ZEROING[own.zeroing].active:
        made = Zeroing(made)
    return SecureSum(made) if privacy.secure_sum and not mechanism.always_secure else made
