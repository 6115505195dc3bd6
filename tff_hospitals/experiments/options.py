"""What each command-line flag means for a plan, and when it is used at all.

One table serves definition, building and refusal: a flag that was given although the chosen options do not use it is
an error that lists it, because a value that is silently ignored is a result that was not asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.plan.parts import DISTRIBUTED, ZEROING_MECHANISMS
from tff_hospitals.plan.plan import Plan

Used = Callable[[Plan], bool]


def _always(plan: Plan) -> bool:
    return True


def _private(plan: Plan) -> bool:
    return plan.privacy.mechanism != "none"


def _adaptive(plan: Plan) -> bool:
    privacy = plan.privacy
    return privacy.hospital_level().mechanism == "adaptive_clip" or privacy.clip_style == "adaptive"


def _counting(plan: Plan) -> bool:
    return _adaptive(plan) or plan.privacy.zeroing == "quantile"


def _record_level(plan: Plan) -> bool:
    return plan.privacy.unit == "record"


def _wrapped(plan: Plan) -> bool:
    return plan.privacy.outer != "none"


def _adaptive_server(plan: Plan) -> bool:
    return plan.server.optimizer in ("adam", "yogi")


@dataclasses.dataclass(frozen=True)
class Option:
    """One flag: its place in the plan (`part.field`), kind, help, and when it is used (`needs` in words)."""

    flag: str
    part: str
    field: str
    kind: str
    help: str
    used: Used = _always
    needs: str = ""


OPTIONS = (
    Option("dataset", "data", "name", "string", "named data set, or a folder or file of your own"),
    Option(
        "partition",
        "data",
        "partition",
        "string",
        "natural, iid, dirichlet, quantity_skew or missing_classes (simulated)",
    ),
    Option("sites", "data", "sites", "integer", "number of simulated hospitals"),
    Option("data_seed", "data", "seed", "integer", "seed of partition and split"),
    Option("model", "model", "name", "string", "logistic_regression, mlp, cnn, or package.module:function"),
    Option("cohort", "cohort", "kind", "string", "who takes part in a round: all, fixed_size, cyclic or poisson"),
    Option("hospitals_per_round", "cohort", "hospitals_per_round", "integer", "size of a fixed-size or cyclic cohort"),
    Option(
        "hospital_sampling_probability",
        "cohort",
        "sampling_probability",
        "float",
        "chance of each hospital to take part in a round (cohort=poisson)",
    ),
    Option("client_optimizer", "client", "optimizer", "string", "sgd or adam, restarted every round"),
    Option("client_learning_rate", "client", "learning_rate", "float", "step size of local training"),
    Option(
        "client_learning_rate_schedule",
        "client",
        "learning_rate_schedule",
        "string",
        "by round: constant, inverse_sqrt, exponential:RATE or step:EVERY:FACTOR",
    ),
    Option(
        "client_momentum",
        "client",
        "momentum",
        "float",
        "momentum of local sgd",
        lambda plan: plan.client.optimizer == "sgd",
        "client_optimizer=sgd",
    ),
    Option("local_epochs", "client", "local_epochs", "integer", "epochs over a hospital's records in a round"),
    Option("local_steps", "client", "local_steps", "integer", "optimiser steps of a hospital in a round"),
    Option("batch_size", "client", "batch_size", "integer", "records per step; expected records under DP-SGD"),
    Option("proximal_mu", "client", "proximal_mu", "float", "FedProx: weight of the distance to the broadcast model"),
    Option("weighting", "", "weighting", "string", "records (by training records) or equal"),
    Option(
        "clip_norm",
        "privacy",
        "clip_norm",
        "float",
        "L2 bound on one unit's contribution",
        _private,
        "a private method",
    ),
    Option(
        "noise_multiplier",
        "privacy",
        "noise_multiplier",
        "float",
        "noise deviation over clip norm",
        _private,
        "a private method",
    ),
    Option(
        "delta", "privacy", "delta", "float", "of (epsilon, delta); below 1 / records", _private, "a private method"
    ),
    Option(
        "clip_style",
        "privacy",
        "clip_style",
        "string",
        "how records are clipped: flat, per_layer, automatic or adaptive",
        _record_level,
        "a record-level method such as dp_sgd",
    ),
    Option(
        "clip_quantile",
        "privacy",
        "clip_quantile",
        "float",
        "quantile of update norms (or record norms) that the clip follows",
        _adaptive,
        "aggregator=adaptive_clip or dp_sgd_adaptive",
    ),
    Option(
        "clip_learning_rate",
        "privacy",
        "clip_learning_rate",
        "float",
        "how fast the clip follows",
        _adaptive,
        "aggregator=adaptive_clip or dp_sgd_adaptive",
    ),
    Option(
        "clipped_count_stddev",
        "privacy",
        "clipped_count_stddev",
        "float",
        "noise on the count of unclipped hospitals (default: a twentieth of the cohort) or records (default: a tenth "
        "of the privacy)",
        _counting,
        "adaptive clipping or zeroing",
    ),
    Option(
        "conversion",
        "privacy",
        "conversion",
        "string",
        "which epsilon is meant: rdp, pld, or gaussian_exact where nothing is sampled (default: gaussian_exact for "
        "local_dp, rdp for all else)",
        _private,
        "a private method",
    ),
    Option(
        "zeroing",
        "privacy",
        "zeroing",
        "string",
        "drop updates with a huge coordinate: none, fixed (a public bound) or quantile (a noised one)",
        lambda plan: plan.privacy.hospital_level().mechanism in ZEROING_MECHANISMS,
        "aggregator=fixed_clip or adaptive_clip",
    ),
    Option(
        "zeroing_norm",
        "privacy",
        "zeroing_norm",
        "float",
        "largest coordinate of an update, or where its quantile starts",
        lambda plan: plan.privacy.zeroing != "none",
        "zeroing",
    ),
    Option(
        "restart_every",
        "privacy",
        "restart_every",
        "integer",
        "rounds of one noise tree; by default one tree over the run",
        lambda plan: plan.privacy.hospital_level().mechanism == "tree",
        "aggregator=tree",
    ),
    Option(
        "modulus_bits",
        "privacy",
        "modulus_bits",
        "integer",
        "bits per value under noise in shares",
        lambda plan: plan.privacy.hospital_level().mechanism in DISTRIBUTED,
        "aggregator=discrete_gaussian or skellam",
    ),
    Option(
        "secure_sum",
        "privacy",
        "secure_sum",
        "boolean",
        "add updates up under a secure sum (simulated: an ordinary sum of whole numbers)",
    ),
    Option(
        "secure_sum_bound",
        "privacy",
        "secure_sum_bound",
        "float",
        "largest coordinate of an update that is not clipped",
        lambda plan: plan.privacy.secure_sum and plan.privacy.hospital_level().mechanism == "none",
        "secure_sum and no hospital-level mechanism",
    ),
    Option(
        "outer",
        "privacy",
        "outer",
        "string",
        "a hospital-level mechanism around a record-level one, such as fixed_clip",
        _record_level,
        "a record-level method such as dp_sgd",
    ),
    Option(
        "outer_clip_norm",
        "privacy",
        "outer_clip_norm",
        "float",
        "L2 bound on a hospital's update under the outer mechanism",
        _wrapped,
        "outer",
    ),
    Option(
        "outer_noise_multiplier",
        "privacy",
        "outer_noise_multiplier",
        "float",
        "noise deviation over clip norm of the outer mechanism",
        _wrapped,
        "outer",
    ),
    Option(
        "outer_target_epsilon",
        "privacy",
        "outer_target_epsilon",
        "float",
        "calibrate the outer mechanism to this epsilon per hospital",
        _wrapped,
        "outer",
    ),
    Option(
        "records_per_patient",
        "privacy",
        "records_per_patient",
        "integer",
        "the most records of one patient: also report the epsilon of a patient",
        _record_level,
        "a record-level method such as dp_sgd",
    ),
    Option(
        "selected_from",
        "privacy",
        "selected_from",
        "float",
        "mean number of runs of the sweep that these settings won: epsilon then covers the choice",
        _private,
        "a private method",
    ),
    Option(
        "secure_noise",
        "privacy",
        "secure_noise",
        "boolean",
        "batches and noise from the operating system's cryptographic source: not reproducible",
        _private,
        "a private method",
    ),
    Option("server_optimizer", "server", "optimizer", "string", "sgd, adam, adagrad or yogi"),
    Option("server_learning_rate", "server", "learning_rate", "float", "step size of the server"),
    Option(
        "server_momentum",
        "server",
        "momentum",
        "float",
        "momentum of the server",
        lambda plan: plan.server.optimizer == "sgd",
        "server_optimizer=sgd",
    ),
    Option(
        "server_beta_1",
        "server",
        "beta_1",
        "float",
        "decay of the first moment",
        _adaptive_server,
        "server_optimizer=adam or yogi",
    ),
    Option(
        "server_beta_2",
        "server",
        "beta_2",
        "float",
        "decay of the second moment",
        _adaptive_server,
        "server_optimizer=adam or yogi",
    ),
    Option(
        "server_epsilon",
        "server",
        "epsilon",
        "float",
        "adaptivity of the server (tau)",
        lambda plan: plan.server.optimizer != "sgd",
        "server_optimizer=adam, adagrad or yogi",
    ),
    Option(
        "broadcast", "", "broadcast", "string", "encoders from server to hospitals, such as delta,rotate,quantize:8"
    ),
    Option("upload", "", "upload", "string", "encoders from hospital to server, such as rotate,quantize:4"),
    Option(
        "error_feedback",
        "",
        "error_feedback",
        "boolean",
        "a hospital adds what its encoder left out to its next update",
        lambda plan: bool(plan.upload),
        "upload",
    ),
    Option("skip_below", "", "skip_below", "float", "a hospital sends nothing when its update's L2 norm is below this"),
    Option("uplink_mbps", "link", "uplink_mbps", "float", "10**6 bits a second from a hospital, for time on the wire"),
    Option("downlink_mbps", "link", "downlink_mbps", "float", "10**6 bits a second to a hospital"),
    Option("latency_ms", "link", "latency_ms", "float", "one-way delay of a message"),
    Option("rounds", "", "rounds", "integer", "round limit"),
    Option("evaluate_every", "", "evaluate_every", "integer", "rounds between evaluations"),
    Option("checkpoint_every", "", "checkpoint_every", "integer", "rounds between checkpoints"),
    Option("patience", "stopping", "patience", "integer", "stop after so many evaluations without improvement"),
    Option(
        "stopping_metric",
        "stopping",
        "metric",
        "string",
        "loss, accuracy or auc, on all test records",
        lambda plan: plan.stopping.patience is not None,
        "patience",
    ),
    Option(
        "stopping_threshold",
        "stopping",
        "threshold",
        "float",
        "what counts as an improvement",
        lambda plan: plan.stopping.patience is not None,
        "patience",
    ),
    Option(
        "max_epsilon",
        "stopping",
        "max_epsilon",
        "float",
        "a hospital leaves before its epsilon exceeds this in any unit of privacy; the run stops when none is left",
        _private,
        "a private method",
    ),
    Option(
        "outer_max_epsilon",
        "stopping",
        "outer_max_epsilon",
        "float",
        "the same limit for the outer mechanism, per hospital as a whole (default: max_epsilon)",
        _wrapped,
        "outer",
    ),
)


def apply(plan: Plan, given: Mapping[str, Any]) -> Plan:
    """`plan` with the options that were given on the command line.

    >>> apply(Plan(), {"rounds": 3, "batch_size": 8}).client.batch_size
    8
    """
    changes: dict[str, Any] = {}
    for option in OPTIONS:
        if option.flag not in given:
            continue
        if option.part:
            changes.setdefault(option.part, {})[option.field] = given[option.flag]
        else:
            changes[option.field] = given[option.flag]
    # Epochs and steps exclude each other: naming one replaces the preset's other.
    if "local_epochs" in given and "local_steps" not in given:
        changes.setdefault("client", {})["local_steps"] = None
    if "local_steps" in given and "local_epochs" not in given:
        changes.setdefault("client", {})["local_epochs"] = None
    if given.get("noise_multiplier") is not None:
        changes.setdefault("privacy", {})["target_epsilon"] = None
    if given.get("outer_noise_multiplier") is not None:
        changes.setdefault("privacy", {})["outer_target_epsilon"] = None
    return plan.replace(**changes)


def unused(plans: Iterable[Plan], given: Mapping[str, Any]) -> list[Problem]:
    """A problem for every given option that none of the plans uses."""
    plans = list(plans)
    return [
        Problem(
            f"--{option.flag}",
            given[option.flag],
            f"is only used with {option.needs}",
            f"drop it or choose {option.needs}",
        )
        for option in OPTIONS
        if option.flag in given and not any(option.used(plan) for plan in plans)
    ]


def parse_settings(flag: str, texts: Iterable[str]) -> dict[str, Any]:
    """`name=value` settings as a dict; numbers, booleans and lists (a+b) become what they look like.

    >>> parse_settings("data_option", ["alpha=0.3", "impute=median", "missing_labels=1+2"])
    {'alpha': 0.3, 'impute': 'median', 'missing_labels': [1, 2]}
    """
    settings = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name.strip():
            raise InvalidInput([Problem(f"--{flag}", text, "must be name=value", f"write --{flag}=alpha=0.3")])
        settings[name.strip()] = _value(value.strip())
    return settings


def _value(text: str) -> Any:
    if "+" in text and not text.startswith("+") and all(_is_number(piece) for piece in text.split("+")):
        return [_value(piece) for piece in text.split("+")]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _is_number(text: str) -> bool:
    return isinstance(_value(text), (int, float)) if "+" not in text else False
