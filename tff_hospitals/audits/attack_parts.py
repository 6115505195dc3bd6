"""The attacks of an audit, part by part: what each finds in a run, as plain values for audit.json."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.audits import membership as scores_lib
from tff_hospitals.audits import statistics
from tff_hospitals.audits.loading import LoadedRun
from tff_hospitals.audits.options import AuditOptions
from tff_hospitals.audits.threat_models import ATTACKS
from tff_hospitals.foundations import files as records_lib
from tff_hospitals.foundations.validation import InvalidInput, Problem, raise_if

if TYPE_CHECKING:
    from tff_hospitals.audits.shadows import Records


def _non_members(run: LoadedRun) -> int:
    return sum(run.dataset.records(train=False).values())


def fpr_problems(run: LoadedRun, options: AuditOptions) -> list[Problem | None]:
    """What is wrong with the false positive rates that were asked for."""
    count = _non_members(run)
    if options.fprs is None or count == 0:
        return []
    return [statistics.check_fpr(rate, count) for rate in options.fprs]


def is_federation(run: LoadedRun) -> None:
    """Refuses runs of one hospital, which sends no update."""
    if len(run.dataset.hospitals) < 2:
        bound = "is trained by one hospital alone: it sends no update that anybody could attack"
        raise_if([Problem("run", run.plan.method, bound, "attack a federated run")])


def _groups(run: LoadedRun, records: Records, difficulty: np.ndarray) -> dict[str, np.ndarray]:
    groups = {"all": np.ones(len(difficulty), bool), "outliers": scores_lib.outliers(difficulty)}
    if len(run.dataset.hospitals) > 1:
        groups.update({one: records.hospital == at for at, one in enumerate(run.dataset.ids)})
    return groups


def membership(run: LoadedRun, options: AuditOptions) -> dict[str, Any]:
    """Membership inference by all attacks that apply, over all records, outliers and hospitals."""
    from tff_hospitals.audits.shadows import Records, losses_of, outputs_of, train_shadows

    if _non_members(run) == 0:
        bound = "has no records that were not trained on"
        raise_if([Problem("dataset", run.dataset.name, bound, "keep test records")])
    records = Records.of(run.dataset)
    shadows = train_shadows(run.plan, run.dataset, run.model, records, count=options.shadow_models)
    losses, probabilities = outputs_of(run.model, run.dataset, run.weights, run.frozen, records)
    regression = run.dataset.task == "regression"
    scores = {
        "loss_threshold": scores_lib.loss_threshold(losses),
        "calibrated": scores_lib.calibrated(losses, shadows),
        "lira": scores_lib.lira(losses, shadows, regression=regression),
    }
    groups = _groups(run, records, shadows.mean_out())
    by_round, notes = [], []
    try:
        stored = run.stored_rounds()
    except records_lib.RecordError:
        notes.append("Rounds are not attacked: no updates were stored (--store_updates=1 of the training stores them).")
    else:
        seen = np.stack([losses_of(run.model, run.dataset, one.weights, run.frozen, records) for one in stored])
        scores["across_rounds"] = scores_lib.across_rounds(seen, [shadows] * len(stored))
        for one, row in zip(stored, seen):
            score = scores_lib.calibrated(row, shadows)
            area = statistics.area_under_roc(score[records.member], score[~records.member])
            by_round.append({"round": one.number, "auc": area})
    fprs = (0.01, 0.001) if options.fprs is None else options.fprs
    attacks = {}
    for name, score in scores.items():
        found = scores_lib.by_group(score, records.member, groups, fprs=fprs, confidence=options.confidence)
        attacks[name] = {
            "assumes": ATTACKS[name].assumes,
            "groups": {group: _slim(outcome, group) for group, outcome in found.items()},
        }
    suite: dict[str, float] = {}
    try:
        suite = scores_lib.suite(
            losses[records.member], losses[~records.member], *_probabilities(probabilities, records)
        )
    except InvalidInput as error:
        notes.append(f"TensorFlow Privacy's attack suite was not run: {error.problems[0].bound}.")
    return {
        "shadow_models": options.shadow_models,
        "attacks": attacks,
        "rounds": by_round,
        "suite": suite,
        "notes": notes,
    }


def _slim(outcome: statistics.Outcome, group: str) -> dict[str, Any]:
    """An outcome without its curve, unless it is of all records."""
    values = outcome.to_json()
    if group != "all":
        values.pop("roc")
    return values


def _probabilities(scores: np.ndarray, records: Records) -> tuple[np.ndarray, np.ndarray]:
    table = np.stack([1 - scores, scores], axis=1) if scores.ndim == 1 else scores
    return table[records.member], table[~records.member]


def attribute(run: LoadedRun, options: AuditOptions) -> list[dict[str, Any]]:
    """What model and updates tell of a hidden column."""
    from tff_hospitals.audits import attribute as attributes

    for name in options.attributes or ():
        attributes.check_attribute(run.dataset, name)
    names = options.attributes
    if names is None:
        schema = attributes.check_attribute(run.dataset, _some_feature(run))
        kinds = ("binary", "numeric")
        firsts = [next((f.name for f in schema.features if f.kind == kind), None) for kind in kinds]
        names = tuple(name for name in firsts if name is not None)
    try:
        stored = run.stored_rounds()[:1]
    except records_lib.RecordError:
        stored = []
    found = []
    for name in names:
        for hospital in run.dataset.hospitals[:4]:
            common = (run.dataset, hospital, run.model)
            gain = attributes.infer_from_model(*common, run.weights, run.frozen, name, confidence=options.confidence)
            found.append({"hospital": hospital.hospital_id, "from": "model", **dataclasses.asdict(gain)})
            for one in stored:
                delta = one.deltas.get(hospital.hospital_id)
                if delta is not None:
                    gain = attributes.infer_from_update(
                        *common, one.weights, run.frozen, delta, name, confidence=options.confidence
                    )
                    found.append({"hospital": hospital.hospital_id, "from": "update", **dataclasses.asdict(gain)})
    return found


def _some_feature(run: LoadedRun) -> str:
    return "" if run.dataset.schema is None else run.dataset.schema.features[0].name


def reconstruction(run: LoadedRun, options: AuditOptions) -> dict[str, Any]:
    """Records rebuilt from a single update under the run's own mechanism."""
    from tff_hospitals.audits import picture
    from tff_hospitals.audits.reconstruction import choose_attack, other_attacks, rebuild

    is_federation(run)
    attack = choose_attack(run.model)
    slow = attack == "gradient_matching"
    made = rebuild(
        run.plan,
        run.dataset,
        run.model,
        run.weights,
        run.frozen,
        attack=attack,
        records=min(options.rebuilt_records, 4) if slow else options.rebuilt_records,
    )
    examples: list[dict[str, Any]] = []
    for one in made.examples:
        entry: dict[str, Any] = {
            name: getattr(one, name) for name in ("hospital_id", "label", "guessed_label", "error", "psnr", "ssim")
        }
        if one.record.ndim >= 2:
            entry["record"] = np.round(one.record, 3).tolist()
            entry["rebuilt"] = np.round(one.rebuilt, 3).tolist()
        else:
            row = picture.rebuilt_row(run.dataset, run.dataset.hospital(one.hospital_id), one.record, one.rebuilt)
            entry.update(dataclasses.asdict(row))
        examples.append(entry)
    return {
        "attack": attack,
        "assumes": ATTACKS[attack].assumes,
        "words": "one record, one local step, under this run's own clipping and noise",
        "records": made.records,
        "error": made.error,
        "label_accuracy": made.label_accuracy,
        "examples": examples,
        "others": [] if slow else other_attacks(run.plan, run.dataset, run.model, run.weights, run.frozen),
    }


def updates(run: LoadedRun, options: AuditOptions) -> list[dict[str, Any]]:
    """Records recovered from the updates that were stored."""
    from tff_hospitals.audits.reconstruction import from_stored

    is_federation(run)
    return from_stored(run)


def defences(run: LoadedRun, options: AuditOptions) -> list[dict[str, Any]]:
    """The same plan under each defence."""
    from tff_hospitals.audits.defences import defence_table
    from tff_hospitals.audits.reconstruction import choose_attack

    is_federation(run)
    slow = choose_attack(run.model) == "gradient_matching"
    rows = defence_table(
        run.plan,
        run.dataset,
        run.model,
        records=2 if slow else min(options.rebuilt_records, 16),
        shadow_models=0 if slow else min(options.shadow_models, 12),
    )
    return [dataclasses.asdict(row) for row in rows]
