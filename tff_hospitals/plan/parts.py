"""The parts of a plan: what the processes are built from.

They live beside the processes, below the plan that names them, and import nothing heavy, so that a plan can be written,
read and checked on a machine without TensorFlow. Every field declares its option: see `plan.options`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from tff_hospitals.accounting.sampling import LEAST_NOISE, MOST_NOISE
from tff_hospitals.plan.clip_styles import CLIP_STYLES
from tff_hospitals.plan.discretisation import LARGEST_BITS, SMALLEST_BITS
from tff_hospitals.plan.options import BY_MECHANISM, FRACTION, POSITIVE, Use, option
from tff_hospitals.plan.zeroing import ZEROING

NOISE = {"low": 0.0, "least": LEAST_NOISE, "high": MOST_NOISE}
MOST_ROUNDS, MOST_SEED = 10**6, 2**63 - 1
Options = Mapping[str, Any]


SERVER_OPTIMIZERS = ("sgd", "adam", "adagrad", "yogi", "lamb")
CLIENT_OPTIMIZERS = ("sgd", "adam", "adamw")
STOPPING_METRICS = {
    "loss": ("binary", "multiclass", "regression"),
    "accuracy": ("binary", "multiclass"),
    "auc": ("binary", "multiclass"),
}
"""What may tell a plateau, and the tasks that have it."""
TARGET_SCALINGS = ("bounds", "none")
WEIGHTINGS = ("records", "equal")
CONVERSIONS = ("rdp", "pld", "gaussian_exact")
RECORD_SAMPLINGS = ("cyclic_poisson", "same_order")

_PRIVATE = Use("a private method such as dp_sgd", reads="noise_multiplier")
_RECORD_LEVEL = Use("a record-level method such as dp_sgd", reads="outer")
_OUTER = Use("an outer mechanism such as outer=fixed_clip", reads="outer_noise_multiplier")
_ADAPTIVE = Use("aggregator=adaptive_clip or dp_sgd_adaptive", reads="clip_quantile")
_COUNTING = Use("adaptive clipping or zeroing", reads="clipped_count_stddev")
_ZEROING = Use("zeroing", reads="zeroing_norm")
_UNCLIPPED_SECURE_SUM = Use("secure_sum and no hospital-level mechanism", reads="secure_sum_bound")
_SIZED = ("fixed_size", "cyclic", "buffered")
_GROUPS = Use("cohort=fixed_size, cyclic or buffered", lambda plan: plan.cohort.kind in _SIZED)
_BUFFERED = Use("cohort=buffered", lambda plan: plan.cohort.kind == "buffered")
_POISSON = Use("cohort=poisson", lambda plan: plan.cohort.kind == "poisson")
_CLIENT_SGD = Use("client_optimizer=sgd", lambda plan: plan.client.optimizer == "sgd")
_SERVER_SGD = Use("server_optimizer=sgd", lambda plan: plan.server.optimizer == "sgd")
_CLIENT_ADAMW = Use("client_optimizer=adamw", lambda plan: plan.client.optimizer == "adamw")
_MOMENTS = ("adam", "yogi", "lamb")
_SERVER_ADAM = Use("server_optimizer=adam, yogi or lamb", lambda plan: plan.server.optimizer in _MOMENTS)
_SERVER_ADAPTIVE = Use("server_optimizer=adam, adagrad, yogi or lamb", lambda plan: plan.server.optimizer != "sgd")
_LOCAL_LAYERS = Use("local_layers", lambda plan: bool(plan.model.local_layers))
TIMED = Use("speeds", lambda plan: bool(plan.speeds))
UPLOAD_ENCODED = Use("upload", lambda plan: bool(plan.upload))
_PATIENCE = Use("patience", lambda plan: plan.stopping.patience is not None)


@dataclasses.dataclass(frozen=True)
class DataPlan:
    """Which hospitals: a named data set or a path, and how its records are spread over them."""

    name: str = option("heart_disease", "named data set, or a folder or file of your own", flag="dataset")
    partition: str = option("natural", "natural, iid, dirichlet, quantity_skew or missing_classes (simulated)")
    sites: int | None = option(None, "number of simulated hospitals", low=1, unit="hospitals")
    seed: int = option(0, "seed of partition and split", flag="data_seed", low=0, high=MOST_SEED)
    options: Options = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ModelPlan:
    """Which Keras model, and which layers travel."""

    name: str = option("logistic_regression", "logistic_regression, mlp, cnn, or package.module:function", flag="model")
    loss: str = option(
        "", "package.module:function of (labels, outputs) to the loss of each record; by default that of the task"
    )
    class_weights: str = option(
        "", "factor of each class in the loss, such as 1,5: public numbers, never counted from records"
    )
    target_scaling: str = option(
        "bounds",
        "learn a regression on the scale of the target's public bounds, or as it is",
        choices=lambda: TARGET_SCALINGS,
    )
    l2: float = option(
        0.0, "factor of the sum of squared weights in the loss, added after clipping and noise", low=0.0, high=1e6
    )
    local_layers: str = option(
        "",
        "layers that never travel, such as output: every hospital keeps and trains its own (FedPer, Arivazhagan et al. "
        "2019, arXiv:1912.00818)",
    )
    options: Options = dataclasses.field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """What the model is built with, beside its name."""
        own = (field for field in dataclasses.fields(self) if field.name not in ("name", "options"))
        changed = {one.name: getattr(self, one.name) for one in own if getattr(self, one.name) != one.default}
        return {**changed, **self.options}


@dataclasses.dataclass(frozen=True)
class CohortPlan:
    """Who takes part.

    A cyclic cohort goes through the hospitals in groups, in an order that is drawn once: a hospital is back after
    exactly as many rounds as there are groups. A buffered one is asynchronous (see `hospitals.buffered_cohorts`).
    """

    kind: str = option(
        "all",
        "who takes part in a round; buffered: the first that answer, each at its own speed (FedBuff)",
        flag="cohort",
        choices=lambda: ("all", "fixed_size", "cyclic", "poisson", "buffered"),
    )
    hospitals_per_round: int | None = option(
        None,
        "size of a fixed-size or cyclic cohort, or answers after which a buffered server steps",
        low=1,
        unit="hospitals",
        used=_GROUPS,
        required=True,
    )
    sampling_probability: float | None = option(
        None,
        "chance of each hospital to take part in a round",
        flag="hospital_sampling_probability",
        **POSITIVE,
        high=1.0,
        used=_POISSON,
        required=True,
    )
    staleness_exponent: float = option(
        0.5,
        "an update that is TAU steps old counts (1 + TAU) ** -EXPONENT; 0: as a new one",
        low=0.0,
        high=100.0,
        used=_BUFFERED,
    )

    @property
    def asynchronous(self) -> bool:
        """Whether hospitals train on models of different ages."""
        return self.kind == "buffered"

    def staleness_factor(self, staleness: int) -> float:
        """What an update is multiplied by that is so many steps old (Nguyen et al. 2022, arXiv:2106.06639).

        >>> CohortPlan("buffered", hospitals_per_round=2).staleness_factor(3)
        0.5
        """
        return float((1 + staleness) ** -self.staleness_exponent)

    def expected_size(self, hospitals: int) -> float:
        """Expected number of hospitals in a round, out of `hospitals`."""
        if self.kind in _SIZED:
            return float(self.hospitals_per_round or hospitals)
        if self.kind == "poisson":
            return hospitals * float(self.sampling_probability or 1.0)
        return float(hospitals)

    def smallest_size(self, hospitals: int) -> int:
        """The fewest hospitals that a round may have: the last group of a cycle may be smaller, a sample empty.

        >>> CohortPlan("cyclic", hospitals_per_round=4).smallest_size(10), CohortPlan().smallest_size(10)
        (2, 10)
        """
        if self.kind == "cyclic":
            return hospitals % int(self.hospitals_per_round or hospitals) or int(self.hospitals_per_round or hospitals)
        return 0 if self.kind == "poisson" else round(self.expected_size(hospitals))

    def period(self, hospitals: int) -> int:
        """A hospital takes part at most once in so many rounds in a row."""
        return math.ceil(hospitals / (self.hospitals_per_round or hospitals)) if self.kind == "cyclic" else 1


@dataclasses.dataclass(frozen=True)
class ClientPlan:
    """What a hospital does in a round; exactly one of epochs and steps says how long."""

    optimizer: str = option("sgd", "restarted every round", flag="client_optimizer", choices=lambda: CLIENT_OPTIMIZERS)
    learning_rate: float = option(0.01, "step size of local training", flag="client_learning_rate", **POSITIVE)
    learning_rate_schedule: str = option(
        "constant",
        "by round: constant, inverse_sqrt, exponential:RATE or step:EVERY:FACTOR",
        flag="client_learning_rate_schedule",
    )
    momentum: float = option(0.0, "momentum of local sgd", flag="client_momentum", **FRACTION, used=_CLIENT_SGD)
    weight_decay: float = option(
        0.01,
        "share of every weight that a step takes away, times the rate (Loshchilov and Hutter 2019, arXiv:1711.05101)",
        flag="client_weight_decay",
        low=0.0,
        used=_CLIENT_ADAMW,
    )
    local_epochs: int | None = option(
        None,
        "epochs over a hospital's own records in a round",
        low=1,
        high=MOST_ROUNDS,
        unit="epochs",
        instead_of="local_steps",
    )
    local_steps: int | None = option(
        100,
        "optimiser steps of a hospital in a round",
        low=1,
        high=MOST_ROUNDS,
        unit="steps",
        instead_of="local_epochs",
    )
    batch_size: int = option(
        4, "records per step; under DP-SGD the expected number (Poisson sampling)", low=1, unit="records"
    )
    proximal_mu: float = option(
        0.0,
        "weight of FedProx's distance to the broadcast model (Li et al. 2020, arXiv:1812.06127); 0 is FedAvg",
        low=0.0,
    )
    head_share: float | None = option(
        None,
        "share of a round's steps, to the nearest step, that trains the local layers alone, before the others train "
        "alone (FedRep, Collins et al. 2021, arXiv:2102.07078); by default all train together",
        **POSITIVE,
        high=1.0,
        high_open=True,
        used=_LOCAL_LAYERS,
    )


@dataclasses.dataclass(frozen=True)
class PrivacyPlan:
    """Mechanism, clip, noise, sampling and target: chosen together, changed together.

    The noise is given by `noise_multiplier` or calibrated to `target_epsilon`, never both; the same around a
    record-level mechanism, where `outer` names a hospital-level one with its own clip norm and noise.
    """

    mechanism: str = option("none", "a name in `MECHANISMS`; methods choose it", on_command_line=False)
    clip_norm: float = option(
        1.1,
        "L2 bound on one unit's contribution; where an adaptive one starts",
        **POSITIVE,
        unit="L2 norm",
        remedy="give a finite positive clip norm: noise is scaled by it",
        used=_PRIVATE,
    )
    noise_multiplier: float | None = option(
        None,
        "noise deviation over clip norm",
        **NOISE,
        remedy="give 0 (clipping alone) or more",
        used=_PRIVATE,
        instead_of="target_epsilon",
    )
    target_epsilon: float | None = option(
        None,
        "calibrate the noise so that the whole run stays below this epsilon, at every hospital",
        on_command_line=False,
        **POSITIVE,
        used=_PRIVATE,
        instead_of="noise_multiplier",
    )
    delta: float | None = option(
        None,
        "of (epsilon, delta); by default the largest power of ten below 1 / (most protected units)",
        **POSITIVE,
        high=1.0,
        high_open=True,
        remedy="give 1e-3 or smaller",
        used=_PRIVATE,
        carried=True,
    )
    clip_style: str = option(
        "flat",
        "how records are clipped; adaptive follows a noised quantile of their norms",
        choices=lambda: CLIP_STYLES,
        used=_RECORD_LEVEL,
    )
    clip_quantile: float = option(
        0.5,
        "quantile of update norms (or record norms) that the clip follows (Andrew et al. 2021, arXiv:1905.03871)",
        low=0.0,
        high=1.0,
        used=_ADAPTIVE,
    )
    clip_learning_rate: float = option(0.2, "how fast the clip follows", low=0.0, used=_ADAPTIVE)
    clipped_count_stddev: float | None = option(
        None,
        "noise on the count of unclipped hospitals (default: a twentieth of the cohort) or records (default: a tenth "
        "of the privacy)",
        **POSITIVE,
        unit="hospitals or records",
        used=_COUNTING,
    )
    conversion: str | None = option(
        None,
        "which epsilon is meant; gaussian_exact where nothing is sampled (default: gaussian_exact for local_dp, rdp "
        "for all else)",
        choices=lambda: CONVERSIONS,
        used=_PRIVATE,
    )
    zeroing: str = option(
        "none",
        "drop updates with a huge coordinate before clipping, by a fixed public bound or a noised quantile",
        choices=lambda: ZEROING,
        used=BY_MECHANISM,
    )
    zeroing_norm: float = option(
        10.0,
        "largest coordinate of an update, or where its quantile starts",
        **POSITIVE,
        unit="largest absolute value",
        used=_ZEROING,
    )
    restart_every: int | None = option(
        None, "rounds of one noise tree; by default one tree over the run", low=1, unit="rounds", used=BY_MECHANISM
    )
    noise_bands: int | None = option(
        None,
        "rounds (or local steps, for dp_mf_local) that a noise reaches into, its own included; by default as many as "
        "lie between a hospital's participations, 32 at most; for dp_mf_local the best number at the target, or 4",
        low=1,
        unit="rounds or steps",
        used=BY_MECHANISM,
    )
    record_sampling: str = option(
        "cyclic_poisson",
        "how dp_mf_local draws batches: groups of records in turn, sampled (amplified), or passes in one order",
        choices=lambda: RECORD_SAMPLINGS,
        used=BY_MECHANISM,
    )
    noise_buffers: int = option(
        3, "buffers of the model's size that carry noise on", low=1, high=4, unit="buffers", used=BY_MECHANISM
    )
    byzantine: int | None = option(
        None,
        "hospitals that may send anything, as a robust rule reckons; by default as many as it bears",
        low=0,
        unit="hospitals",
        used=BY_MECHANISM,
    )
    fairness: float = option(
        1.0,
        "how much more q_fedavg counts hospitals of higher loss (q of Li et al. 2020, arXiv:1905.10497); 0: all alike",
        low=0.0,
        high=20.0,
        used=BY_MECHANISM,
    )
    agnostic_learning_rate: float = option(
        0.1,
        "how fast the weights of the agnostic mean follow the losses (Mohri et al. 2019, arXiv:1902.00146)",
        low=0.0,
        high=1e3,
        used=BY_MECHANISM,
    )
    modulus_bits: int = option(
        20, "bits per value under noise in shares", low=SMALLEST_BITS, high=LARGEST_BITS, unit="bits", used=BY_MECHANISM
    )
    secure_sum: bool = option(
        False,
        "add updates up under a secure sum (simulated: an ordinary sum of whole numbers); noise in shares always does",
    )
    secure_sum_bound: float = option(
        8.0,
        "largest coordinate of an update that is not clipped",
        **POSITIVE,
        unit="largest absolute value",
        used=_UNCLIPPED_SECURE_SUM,
    )
    outer: str = option(
        "none", "a hospital-level mechanism around a record-level one, such as fixed_clip", used=_RECORD_LEVEL
    )
    outer_clip_norm: float = option(
        1.0,
        "L2 bound on a hospital's update under the outer mechanism",
        **POSITIVE,
        unit="L2 norm",
        remedy="give a finite positive clip norm: noise is scaled by it",
        used=_OUTER,
    )
    outer_noise_multiplier: float | None = option(
        None,
        "noise deviation over clip norm of the outer mechanism",
        **NOISE,
        used=_OUTER,
        instead_of="outer_target_epsilon",
    )
    outer_target_epsilon: float | None = option(
        None,
        "calibrate the outer mechanism to this epsilon per hospital",
        **POSITIVE,
        used=_OUTER,
        instead_of="outer_noise_multiplier",
    )
    records_per_patient: int | None = option(
        None,
        "the most records of one patient: also report the epsilon of a patient; default: as the data set states",
        low=1,
        unit="records",
        used=_RECORD_LEVEL,
    )
    selected_from: float = option(
        1.0,
        "mean number of runs of the sweep that these settings won (geometrically distributed): epsilon then covers the "
        "choice",
        low=1.0,
        unit="runs",
        used=_PRIVATE,
    )
    secure_noise: bool = option(
        False, "batches and noise from the operating system's cryptographic source: not reproducible", used=_PRIVATE
    )

    def count_stddev(self, expected_cohort: float) -> float:
        """Deviation of the noise on the count of unclipped hospitals; a twentieth of the cohort unless given."""
        return float(expected_cohort / 20 if self.clipped_count_stddev is None else self.clipped_count_stddev)

    def record_count_stddev(self, noise_multiplier: float) -> float:
        """Deviation of the noise on a step's count of unclipped records (`clip_style` adaptive).

        By default the count takes a tenth of the step's privacy (of its squared sensitivity over noise variance), so
        that it can never take all of it, however small the batches are.
        """
        if self.clipped_count_stddev is not None:
            return float(self.clipped_count_stddev)
        return noise_multiplier * math.sqrt(10.0) / 2


@dataclasses.dataclass(frozen=True)
class ServerPlan:
    """The finalizer: an optimiser on the aggregated update (Reddi et al. 2021, arXiv:2003.00295)."""

    optimizer: str = option(
        "sgd", "optimiser on the aggregated update", flag="server_optimizer", choices=lambda: SERVER_OPTIMIZERS
    )
    learning_rate: float = option(1.0, "step size of the server", flag="server_learning_rate", **POSITIVE)
    momentum: float = option(0.0, "momentum of the server", flag="server_momentum", **FRACTION, used=_SERVER_SGD)
    beta_1: float = option(0.9, "decay of the first moment", flag="server_beta_1", **FRACTION, used=_SERVER_ADAM)
    beta_2: float = option(0.99, "decay of the second moment", flag="server_beta_2", **FRACTION, used=_SERVER_ADAM)
    epsilon: float = option(
        1e-3, "adaptivity of the server (tau)", flag="server_epsilon", **POSITIVE, used=_SERVER_ADAPTIVE
    )


@dataclasses.dataclass(frozen=True)
class LinkPlan:
    """A hospital's connection to the server; None where it is not stated."""

    uplink_mbps: float | None = option(
        None, "speed from a hospital, for time on the wire", **POSITIVE, unit="10**6 bits per second"
    )
    downlink_mbps: float | None = option(None, "speed to a hospital", **POSITIVE, unit="10**6 bits per second")
    latency_ms: float = option(0.0, "one-way delay of a message", low=0.0, unit="milliseconds")

    @property
    def stated(self) -> bool:
        """Whether time on the wire can be told."""
        return self.uplink_mbps is not None and self.downlink_mbps is not None


@dataclasses.dataclass(frozen=True)
class StoppingPlan:
    """When a run ends before its last round: a plateau of a metric, or a privacy budget about to be exceeded."""

    metric: str = option(
        "loss",
        "what must improve, on all test records",
        flag="stopping_metric",
        choices=lambda: STOPPING_METRICS,
        used=_PATIENCE,
    )
    patience: int | None = option(None, "stop after so many evaluations without improvement", low=1, unit="evaluations")
    threshold: float = option(1e-4, "what counts as an improvement", flag="stopping_threshold", low=0.0, used=_PATIENCE)
    max_epsilon: float | None = option(
        None,
        "a hospital leaves before its epsilon exceeds this in any unit of privacy; the run stops when none is left",
        **POSITIVE,
        used=_PRIVATE,
    )
    outer_max_epsilon: float | None = option(
        None,
        "the same limit for the outer mechanism, per hospital as a whole (default: max_epsilon)",
        **POSITIVE,
        used=_OUTER,
    )

    @property
    def limits(self) -> dict[str, float]:
        """The budgets that are set, by option."""
        both = {"max_epsilon": self.max_epsilon, "outer_max_epsilon": self.outer_max_epsilon}
        return {name: limit for name, limit in both.items() if limit is not None}
