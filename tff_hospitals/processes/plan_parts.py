"""The parts of a plan: what the processes are built from.

They live beside the processes, below the plan that names them, and import nothing heavy, so that a plan can be written,
read and checked on a machine without TensorFlow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

Options = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """A privacy mechanism as a plan names it: the unit it protects and who adds the noise."""

    unit: str
    noise_by: str
    words: str


MECHANISMS = {
    "none": Mechanism("none", "nobody", "no noise: data stay at the hospitals, but there is no differential privacy"),
    "dp_sgd": Mechanism("record", "hospital", "DP-SGD inside each hospital: per-record clipping, noise in every step"),
    "fixed_clip": Mechanism(
        "hospital", "server", "each hospital's update is clipped to a fixed norm, the server adds noise"
    ),
    "adaptive_clip": Mechanism(
        "hospital", "server", "as fixed clipping, with a norm that follows a noised quantile of the update norms"
    ),
}


@dataclasses.dataclass(frozen=True)
class DataPlan:
    """Which hospitals: a named data set or a path, and how its records are spread over them."""

    name: str = "heart_disease"
    partition: str = "natural"
    sites: int | None = None
    seed: int = 0
    options: Options = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ModelPlan:
    """Which Keras model: a built-in name or `package.module:function`, and which layers travel."""

    name: str = "logistic_regression"
    options: Options = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class CohortPlan:
    """Who takes part in a round: `all`, `fixed_size` (hospitals_per_round) or `poisson` (sampling_probability)."""

    kind: str = "all"
    hospitals_per_round: int | None = None
    sampling_probability: float | None = None

    def expected_size(self, hospitals: int) -> float:
        """Expected number of hospitals in a round, out of `hospitals`."""
        if self.kind == "fixed_size":
            return float(self.hospitals_per_round or hospitals)
        if self.kind == "poisson":
            return hospitals * float(self.sampling_probability or 1.0)
        return float(hospitals)


@dataclasses.dataclass(frozen=True)
class ClientPlan:
    """What a hospital does in a round.

    Attributes:
      optimizer: `sgd` (with `momentum`) or `adam`, restarted every round.
      learning_rate: step size, > 0.
      learning_rate_schedule: by round: `constant`, `inverse_sqrt`, `exponential:RATE` or `step:EVERY:FACTOR`.
      local_epochs, local_steps: exactly one of them; epochs over the hospital's own records, or optimiser steps.
      batch_size: records per step; under DP-SGD the *expected* number (Poisson sampling).
      proximal_mu: weight of FedProx's proximal term (Li et al. 2020, arXiv:1812.06127); 0 is FedAvg.
    """

    optimizer: str = "sgd"
    learning_rate: float = 0.01
    learning_rate_schedule: str = "constant"
    momentum: float = 0.0
    local_epochs: int | None = None
    local_steps: int | None = 100
    batch_size: int = 4
    proximal_mu: float = 0.0


@dataclasses.dataclass(frozen=True)
class PrivacyPlan:
    """Mechanism, clip, noise, sampling and target: chosen together, changed together.

    Attributes:
      mechanism: a name in `MECHANISMS`.
      clip_norm: L2 bound on one unit's contribution (initial bound for adaptive clipping).
      noise_multiplier: noise standard deviation over clip norm; or None with `target_epsilon`.
      target_epsilon: calibrate the noise so that the whole run stays below it, at every hospital.
      delta: None takes the largest power of ten below 1 / (largest number of protected units).
      clip_style: `flat`, `per_layer` or `automatic` (DP-SGD only).
      clip_quantile, clip_learning_rate, clipped_count_stddev: adaptive clipping (Andrew et al. 2021, arXiv:1905.03871).
    """

    mechanism: str = "none"
    clip_norm: float = 1.1
    noise_multiplier: float | None = None
    target_epsilon: float | None = None
    delta: float | None = None
    clip_style: str = "flat"
    clip_quantile: float = 0.5
    clip_learning_rate: float = 0.2
    clipped_count_stddev: float | None = None
    conversion: str = "rdp"

    def count_stddev(self, expected_cohort: float) -> float:
        """Deviation of the noise on the count of unclipped hospitals; a twentieth of the cohort unless given."""
        return float(expected_cohort / 20 if self.clipped_count_stddev is None else self.clipped_count_stddev)

    @property
    def unit(self) -> str:
        """`record`, `hospital` or `none`."""
        return MECHANISMS.get(self.mechanism, MECHANISMS["none"]).unit


@dataclasses.dataclass(frozen=True)
class ServerPlan:
    """The finalizer: `sgd` (momentum), `adam`, `adagrad` or `yogi` on the aggregated update (Reddi et al. 2021)."""

    optimizer: str = "sgd"
    learning_rate: float = 1.0
    momentum: float = 0.0
    beta_1: float = 0.9
    beta_2: float = 0.99
    epsilon: float = 1e-3


@dataclasses.dataclass(frozen=True)
class StoppingPlan:
    """When a run ends before its last round: a plateau of a metric, or a privacy budget about to be exceeded."""

    metric: str = "loss"
    patience: int | None = None
    threshold: float = 1e-4
    max_epsilon: float | None = None
