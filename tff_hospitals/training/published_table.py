"""The table of all fields of all files and messages of a run, with the kind of each; `published_fields` asks it.

Every leaf is named: a field that is not here stays inside and is never published, also deep in a container that is
here. Names that start with `*` stand for keys that a run chooses (hospitals, positions in a list), `**` for everything
below, which only what never leaves and what a user wrote into an option may be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.metrics import METRICS, summary_fields
from tff_hospitals.training.run_streams import hides_cohorts


def is_private(plan: Plan) -> bool:
    """Whether a plan protects any unit."""
    return any(mechanism.private for mechanism, _ in mechanisms.layers(plan.privacy))


def _protects_hospitals(plan: Plan) -> bool:
    return mechanisms.hospital_level(plan.privacy).private


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of field.

    Attributes:
      says: what such a field says.
      covered_by: why it may leave, where it may.
      leaves: whether it may, under a plan with a mechanism.
      published: whether it is ever copied out of the house.
    """

    says: str
    covered_by: str
    leaves: Callable[[Plan], bool]
    published: bool = True


def _always(_: Plan) -> bool:
    return True


def _never(_: Plan) -> bool:
    return False


KINDS: Mapping[str, Kind] = {
    "settings": Kind("what was chosen before anybody looked at records", "follows from public settings alone", _always),
    "released": Kind(
        "computed from noised updates and nothing else",
        "the events of the ledger: whatever is computed from their results costs nothing more",
        _always,
    ),
    "accounting": Kind(
        "what the guarantee is",
        "computed from settings, from steps taken and, under record-level privacy, from record counts, which that "
        "guarantee takes for public, and a guarantee for hospitals around it as well",
        _always,
    ),
    "sizes": Kind(
        "how many records a hospital has, or steps that follow from it",
        "record counts are public under record-level privacy; a guarantee for hospitals alone hides them; where it "
        "stands around one for records, the accounting of records says how many train",
        lambda plan: not _protects_hospitals(plan),
    ),
    "participation": Kind(
        "who took part when, or how many did",
        "nothing rests on it, unless the guarantee is amplified by Poisson sampling of hospitals: then it is hidden",
        lambda plan: not hides_cohorts(plan),
    ),
    "steps": Kind(
        "steps that a hospital took in a round",
        "as record counts and participation",
        lambda plan: not _protects_hospitals(plan) and not hides_cohorts(plan),
    ),
    "evaluation": Kind("exact figures of test records", "no event covers test records", _never),
    "training": Kind("exact figures of training records, or of updates without noise", "no event covers them", _never),
    "timing": Kind(
        "how long something took, which depends on sizes of cohorts and batches", "no event covers it", _never
    ),
    "curves": Kind(
        "exact figures by round, as TensorBoard reads them",
        "no event covers them; never published",
        _never,
        published=False,
    ),
    "federation": Kind(
        "who of a federation is there, is waited for or refused, and how long ago it was heard",
        "no event covers it; never published",
        _never,
        published=False,
    ),
    "own": Kind(
        "models of single hospitals",
        "nothing: each must stay at its hospital; never published",
        _never,
        published=False,
    ),
    "seed": Kind("the seed of random streams", "kept for resuming; never published", _always, published=False),
    "pages": Kind(
        "pages and pictures for people inside, made of everything", "never published", _always, published=False
    ),
    "house": Kind("what the program needs to go on", "never published", _always, published=False),
}


def _named(kind: str, names: str, below: str = "") -> dict[str, str]:
    """The kind for each of the names, which lie below another one."""
    return {f"{below}.{name}" if below else name: kind for name in names.split()}


def _each(kind: str, names: str) -> dict[str, str]:
    """For lists and mappings with chosen keys: the kind of the container, should it be empty, and of all it holds."""
    return {f"{name}{end}": kind for name in names.split() for end in ("", ".*")}


_PLAN = {
    **_named("seed", "seed data.seed"),
    **_named("settings", "method weighting broadcast upload error_feedback skip_below poison by_round"),
    **_named("settings", "speeds target_accuracy"),
    **_named("settings", "rounds evaluate_every checkpoint_every"),
    **_named("settings", "name partition sites options options.**", "data"),
    **_named("settings", "name loss class_weights class_weights.* target_scaling l2 local_layers", "model"),
    **_named("settings", "options options.**", "model"),
    **_named("settings", "kind hospitals_per_round sampling_probability staleness_exponent", "cohort"),
    **_named("settings", "optimizer learning_rate learning_rate_schedule momentum weight_decay local_epochs", "client"),
    **_named("settings", "local_steps batch_size proximal_mu head_share", "client"),
    **_named("settings", "mechanism clip_norm noise_multiplier target_epsilon delta clip_style", "privacy"),
    **_named("settings", "clip_quantile clip_learning_rate clipped_count_stddev conversion zeroing", "privacy"),
    **_named("settings", "zeroing_norm restart_every noise_bands noise_buffers record_sampling", "privacy"),
    **_named("settings", "byzantine fairness agnostic_learning_rate modulus_bits secure_sum", "privacy"),
    **_named("settings", "secure_sum_bound secure_noise outer outer_clip_norm", "privacy"),
    **_named("settings", "outer_noise_multiplier outer_target_epsilon", "privacy"),
    **_named("settings", "records_per_patient selected_from", "privacy"),
    **_named("settings", "uplink_mbps downlink_mbps latency_ms", "link"),
    **_named("settings", "optimizer learning_rate momentum beta_1 beta_2 epsilon", "server"),
    **_named("settings", "kind epochs pull validation_share", "personal"),
    **_named("settings", "metric patience threshold max_epsilon outer_max_epsilon", "stopping"),
}
_DATASET = {
    **_named(
        "settings", "name task num_classes provenance licence simulated split_rule records_per_patient", "dataset"
    ),
    **_named("settings", "preprocessing.kind preprocessing.private preprocessing.words salt", "dataset"),
    **_each("settings", "dataset.feature_shape dataset.feature_names dataset.target_bounds"),
    **_named("settings", "preprocessing.events inputs inputs.*.* inputs.*.*.* hospitals hospitals.*.id", "dataset"),
    **_named("accounting", "unit hospital_id kind noise_multiplier count", "dataset.preprocessing.events.*"),
    **_named("sizes", "partition hospitals.*.train_records hospitals.*.test_records", "dataset"),
    **_each("training", "dataset.warnings"),
    "dataset.fingerprint": "house",
}
_RECORD = {
    **_named("settings", "schema_version runtime started reproducible not_covered extended_from"),
    **_named("settings", "rounds done privacy.target_epsilon privacy.outer_target_epsilon", "extended_from.*"),
    **_named("house", "identity data_key model attempt"),
    **_named("settings", "versions.* machine.system machine.processor"),
    **_named("timing", "strategy chosen_by seconds_per_step seconds_per_step.*", "execution"),
    **_each("training", "warnings"),
    "seed": "seed",
    **_DATASET,
}
_EVENT = (
    "kind noise_multiplier sampling_probability records batch bit_noise_stddev steps period restart sensitivity "
    "local_stddev shares l2_sensitivity l1_sensitivity dimension mean_runs shape"
)
_LEDGER = {
    **_named("accounting", "schema_version delta adjacency events entries"),
    **_named("accounting", "unit hospital rows rows.*.*", "entries.*"),
    **_named("accounting", _EVENT, "events.*"),
    **_named("accounting", _EVENT, "events.*.base.*.*"),
    "events.*.base.*.*": "accounting",
}
_CERTIFICATE = "library conversion rdp rdp.* pld pld.* gaussian_exact gaussian_exact.* left_out left_out.* left_out.*.*"
_FIGURES = {
    f"{name}{end}": "evaluation"
    for name in summary_fields({}, dict.fromkeys(METRICS, 0.0))
    for end in ("", ".*")[: 1 + name.endswith("_per_hospital")]
}
_SUMMARY = {
    **_named("settings", "schema_version status method label unit target_epsilon rounds runtime engine"),
    **_named("settings", "records_per_patient reproducible event_stated published_fields.**"),
    **_named("accounting", "epsilon epsilon_rdp epsilon_pld epsilon_pld_missing worst_hospital delta adjacency"),
    **_named("accounting", "conversion stop_reason guarantee second_unit second_epsilon second_conversion"),
    **_named("accounting", "second_noise_multiplier epsilon_per_patient certificate certificate.second_unit"),
    **_each("accounting", "epsilon_per_hospital noise_multiplier_per_hospital error_by_bands statements"),
    **_named("accounting", _CERTIFICATE, "certificate"),
    **_named("accounting", _CERTIFICATE, "certificate.second_unit"),
    **_each("released", "clip_norms signal_to_noise"),
    **_each("training", "warnings"),
    **_named("participation", "bytes_up bytes_down"),
    **_named("participation", "broadcast upload dense_bytes_up dense_bytes_down times_fewer_up", "communication"),
    **_named("participation", "times_fewer_down wire_bytes_up wire_bytes_down classic_bytes", "communication"),
    **_named("participation", "measured_bytes difference skipped_uploads link_seconds_per_round", "communication"),
    "communication.drift_mean": "training",
    **_named("timing", "seconds_per_round overhead_seconds_per_round"),
    **_named("steps", "simulated_seconds"),
    **_named("evaluation", "time_to_accuracy target_accuracy"),
    "seed": "seed",
    **_named("settings", "kind epochs", "personal"),
    **_each("training", "personal.own_share_per_hospital"),
    **{f"personal.{name}": kind for name, kind in _FIGURES.items()},
    **_named("evaluation", "curve curve.*.*"),
    **_named("settings", "round", "curve.*"),
    **_named("accounting", "epsilon", "curve.*"),
    **_named("participation", "bytes_up bytes_down", "curve.*"),
    **_FIGURES,
}
_UNIT = (
    "unit epsilon conversion epsilon_by_conversion.* worst_hospital epsilon_per_hospital epsilon_per_hospital.* "
    "releases joint_epsilon joint_epsilon.unit joint_epsilon.epsilon joint_epsilon.delta joint_epsilon.adjacency "
    "joint_epsilon.runs gaussian_mu curve_is_of_gaussian_noise_alike advantage trade_off trade_off.false_alarms.* "
    "trade_off.missed.*"
)
_GUARANTEE = {
    **_named("settings", "schema_version status"),
    **_named("settings", "name data_curators data_curators.* data_product_type", "deployment.product"),
    **_named("settings", "description data_product_sector publication_date", "deployment.product"),
    **_named("accounting", "name input_metric bound_on_input_distance output_measure", "deployment.dp_flavor"),
    **_each("accounting", "deployment.dp_flavor.unprotected_quantities"),
    **_each("accounting", "deployment.privacy_loss.privacy_unit deployment.privacy_loss.privacy_unit_description"),
    **_named("accounting", "privacy_parameters privacy_parameters_description", "deployment.privacy_loss"),
    **_named("accounting", "privacy_unit epsilon delta", "deployment.privacy_loss.privacy_parameters.*"),
    **_named("settings", "model_name actors actors.* release_type data_source_type access_type", "deployment.model"),
    **_named("accounting", "post_processing composition", "deployment.accounting"),
    **_named("accounting", "mechanisms justification", "deployment.implementation"),
    **_named("settings", "pre_processing_eda_hyperparameter_tuning", "deployment.implementation"),
    **_each("settings", "deployment.resources.sources"),
    **_named("accounting", "delta adjacency units randomness audit", "figures"),
    **_named("accounting", _UNIT, "figures.units.*"),
    **_named("accounting", "verdict words self_tests bounds not_tested not_tested.*", "figures.audit"),
    **_named("accounting", "name passed tests power notices", "figures.audit.self_tests.*"),
    **_named("accounting", "unit passed epsilon would_notice_noise_below", "figures.audit.bounds.*"),
}

FIELDS: Mapping[str, Mapping[str, str]] = {
    "plan.json": _PLAN,
    "record.json": _RECORD,
    "metrics.csv": {
        **_named("settings", "round hospital learning_rate unit delta"),
        **_named("training", "train_loss"),
        **_named("steps", "steps simulated_seconds"),
        **_named("accounting", "epsilon_rdp epsilon_pld"),
        **_named("participation", "bytes_down bytes_up staleness"),
        **_named("released", "signal_to_noise"),
        **_named("evaluation", "records"),
        **dict.fromkeys(METRICS, "evaluation"),
    },
    "cross_site.csv": {
        **_named("settings", "model tested_on"),
        **_named("evaluation", "records"),
        **dict.fromkeys(METRICS, "evaluation"),
    },
    "timing.csv": _named("timing", "round seconds"),
    "bytes.csv": {
        **_named("participation", "round hospital bytes_down bytes_up dense_bytes_down dense_bytes_up"),
        **_named("participation", "wire_bytes_down wire_bytes_up link_seconds"),
    },
    "drift.csv": _named("training", "round hospitals drift update_norm_mean update_norm_largest mean_update_norm"),
    "ledger.json": _LEDGER,
    "charges.jsonl": {"**": "house"},
    "summary.json": _SUMMARY,
    "model.keras": {"**": "released"},
    "guarantee.html": {"**": "accounting"},
    "guarantee.json": _GUARANTEE,
    "model.weights.h5": {"**": "released"},
    "model_config.json": {"**": "settings"},
    "report.html": {"**": "pages"},
    "summary.csv": {"**": "pages"},
    "plots/": {"**": "pages"},
    "audit.json": {"**": "pages"},
    "tensorboard/": {"**": "curves"},
    "federation.json": {"**": "federation"},
    "federation.prom": {"**": "federation"},
    "own_models/": {"**": "own"},
    "checkpoints/": {"**": "house"},
    "updates/": {"**": "house"},
    "terminal": {
        **_named("settings", "round rounds unit"),
        **_named("evaluation", "loss accuracy"),
        **_named("accounting", "epsilon"),
        **_named("participation", "bytes"),
        **_named("steps", "simulated_seconds"),
    },
    "message to the server": {
        **_named("released", "delta packed below below_zeroing cut_off update_norm"),
        **_named("sizes", "weight"),
        **_named("participation", "count"),
        **_named("training", "loss_sum records"),
        **_named("steps", "steps"),
    },
}
"""Kinds by file and field; dots lead into JSON, `*` stands for any one key, `**` for everything below."""
