"""Factors of settings by round as tensors: a constant of the program, looked up by the number of the round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tff_hospitals.plan import schedules
from tff_hospitals.plan.plan import Plan

Factors = Mapping[str, np.ndarray]
AT_HOSPITALS = {
    "client_learning_rate": "learning_rate",
    "proximal_mu": "proximal_mu",
    "clip_norm": "clip_norm",
}
"""Flags of settings that the steps of a hospital read, by their names in `LocalTraining.settings`."""


def at_round(factors: np.ndarray, round_number: Any) -> tf.Tensor:
    """The float64 factor of a round (0-based); after the last one, that of the last.

    >>> float(at_round(np.array([1.0, 0.5]), 7))
    0.5
    """
    return tf.gather(tf.constant(factors, tf.float64), tf.minimum(tf.cast(round_number, tf.int32), len(factors) - 1))


def factors_of(plan: Plan) -> dict[str, np.ndarray]:
    """Factors of every setting that changes by round inside programs, by flag."""
    inside = (*AT_HOSPITALS, "server_learning_rate", "outer_clip_norm", "noise_multiplier", "outer_noise_multiplier")
    return {
        name: np.asarray(schedules.factors(plan.by_round, name, plan.rounds))
        for name in inside
        if schedules.changes(plan.by_round, name)
    }
