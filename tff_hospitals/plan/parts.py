"""The parts of a plan: what the processes are built from.

They live beside the processes, below the plan that names them, and import nothing heavy, so that a plan can be written,
read and checked on a machine without TensorFlow.
"""

from __future__ import annotations

import dataclasses
import math
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
    "dp_ftrl_local": Mechanism(
        "record",
        "hospital",
        "DP-FTRL inside each hospital: per-record clipping, noise of a binary tree over the steps of a round",
    ),
    "fixed_clip": Mechanism(
        "hospital", "server", "each hospital's update is clipped to a fixed norm, the server adds noise"
    ),
    "adaptive_clip": Mechanism(
        "hospital", "server", "as fixed clipping, with a norm that follows a noised quantile of the update norms"
    ),
    "tree": Mechanism(
        "hospital", "server", "as fixed clipping, with the noise of a binary tree over the rounds (DP-FTRL)"
    ),
    "discrete_gaussian": Mechanism(
        "hospital", "shares", "each hospital adds a share of discrete Gaussian noise before a secure sum"
    ),
    "skellam": Mechanism("hospital", "shares", "each hospital adds a share of Skellam noise before a secure sum"),
    "local_dp": Mechanism(
        "hospital", "hospital", "each hospital clips its own update and adds all the noise itself (local DP)"
    ),
}
DISTRIBUTED = ("discrete_gaussian", "skellam")
CLIP_STYLES = ("flat", "per_layer", "automatic", "adaptive")
ZEROING = ("none", "fixed", "quantile")
ZEROING_MECHANISMS = ("fixed_clip", "adaptive_clip")


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
    """Who takes part: `all`, `fixed_size` or `cyclic` (hospitals_per_round), `poisson` (sampling_probability).

    A cyclic cohort goes through the hospitals in groups, in an order that is drawn once: a hospital is back after
    exactly as many rounds as there are groups.
    """

    kind: str = "all"
    hospitals_per_round: int | None = None
    sampling_probability: float | None = None

    def expected_size(self, hospitals: int) -> float:
        """Expected number of hospitals in a round, out of `hospitals`."""
        if self.kind in ("fixed_size", "cyclic"):
            return float(self.hospitals_per_round or hospitals)
        if self.kind == "poisson":
            return hospitals * float(self.sampling_probability or 1.0)
        return float(hospitals)

    def period(self, hospitals: int) -> int:
        """A hospital takes part at most once in so many rounds in a row."""
        return math.ceil(hospitals / (self.hospitals_per_round or hospitals)) if self.kind == "cyclic" else 1


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
      clip_style: one of `CLIP_STYLES` (record level only). `adaptive` follows a noised quantile of the record norms.
      clip_quantile, clip_learning_rate, clipped_count_stddev: adaptive clipping (Andrew et al. 2021, arXiv:1905.03871).
      conversion: in which target, limit and epsilon are meant: `rdp`, `pld` or `gaussian_exact`; None takes
        `gaussian_exact` for local DP, whose rounds are one Gaussian together, and `rdp` for all else.
      zeroing: drop updates with a coordinate beyond a bound, before clipping: `none`, `fixed` (the public bound
        `zeroing_norm`) or `quantile` (a bound that starts there and follows a noised quantile).
      restart_every: rounds of one tree; None: one tree over the whole run.
      modulus_bits: of the modulus under which whole-number updates are added up.
      secure_sum: add up under a (simulated) secure sum; mechanisms with noise in shares always do.
      secure_sum_bound: most that a coordinate of an update without clipping may have under a secure sum.
      outer: a hospital-level mechanism around a record-level one, with its own `outer_clip_norm`, and
        `outer_noise_multiplier` or `outer_target_epsilon`.
      records_per_patient: the most records of one patient; reports then also state the epsilon of a patient.
      selected_from: mean number of runs of the sweep that this plan is the winner of (geometrically distributed).
      secure_noise: batches and noise from the operating system's source: not reproducible.
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
    conversion: str | None = None
    zeroing: str = "none"
    zeroing_norm: float = 10.0
    restart_every: int | None = None
    modulus_bits: int = 20
    secure_sum: bool = False
    secure_sum_bound: float = 8.0
    outer: str = "none"
    outer_clip_norm: float = 1.0
    outer_noise_multiplier: float | None = None
    outer_target_epsilon: float | None = None
    records_per_patient: int = 1
    selected_from: float = 1.0
    secure_noise: bool = False

    def count_stddev(self, expected_cohort: float) -> float:
        """Deviation of the noise on the count of unclipped hospitals; a twentieth of the cohort unless given."""
        return float(expected_cohort / 20 if self.clipped_count_stddev is None else self.clipped_count_stddev)

    @property
    def meant_in(self) -> str:
        """The conversion that target, limit and epsilon of this mechanism are meant in."""
        exact = self.mechanism == "local_dp" and not self.selected_from > 1
        return self.conversion or ("gaussian_exact" if exact else "rdp")

    @property
    def counts(self) -> int:
        """Noised counts that a hospital-level mechanism releases in a round: for the clip norm, for zeroing."""
        return int(self.mechanism == "adaptive_clip") + int(self.zeroing == "quantile")

    def joint_count_stddev(self, expected_cohort: float) -> float:
        """Deviation of one count that costs as much as all noised counts of a round together (0 without any)."""
        return self.count_stddev(expected_cohort) / math.sqrt(self.counts) if self.counts else 0.0

    def record_count_stddev(self, noise_multiplier: float) -> float:
        """Deviation of the noise on a step's count of unclipped records (`clip_style` adaptive).

        By default the count takes a tenth of the step's privacy (of its squared sensitivity over noise variance), so
        that it can never take all of it, however small the batches are.
        """
        if self.clipped_count_stddev is not None:
            return float(self.clipped_count_stddev)
        return noise_multiplier * math.sqrt(10.0) / 2

    def hospital_level(self) -> PrivacyPlan:
        """The hospital-level part: this plan, its outer mechanism, or a plan without noise."""
        if self.unit == "hospital":
            return self
        return dataclasses.replace(
            self,
            mechanism=self.outer,
            clip_norm=self.outer_clip_norm,
            noise_multiplier=self.outer_noise_multiplier,
            target_epsilon=self.outer_target_epsilon,
            outer="none",
            clip_style="flat",
            clipped_count_stddev=None if self.clip_style == "adaptive" else self.clipped_count_stddev,
        )

    @property
    def summed_securely(self) -> bool:
        """Whether contributions are added up under a (simulated) secure sum."""
        return self.secure_sum or self.hospital_level().mechanism in DISTRIBUTED

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
class LinkPlan:
    """A hospital's connection to the server; None where it is not stated.

    Attributes:
      uplink_mbps, downlink_mbps: 10**6 bits per second from and to the hospital.
      latency_ms: one-way delay of a message.
    """

    uplink_mbps: float | None = None
    downlink_mbps: float | None = None
    latency_ms: float = 0.0

    @property
    def stated(self) -> bool:
        """Whether time on the wire can be told."""
        return self.uplink_mbps is not None and self.downlink_mbps is not None


@dataclasses.dataclass(frozen=True)
class StoppingPlan:
    """When a run ends before its last round: a plateau of a metric, or a privacy budget about to be exceeded.

    Attributes:
      metric, patience, threshold: of the plateau.
      max_epsilon: the most that any hospital may spend, in every unit of privacy of the run.
      outer_max_epsilon: another limit for the outer mechanism's unit, the hospital as a whole.
    """

    metric: str = "loss"
    patience: int | None = None
    threshold: float = 1e-4
    max_epsilon: float | None = None
    outer_max_epsilon: float | None = None
