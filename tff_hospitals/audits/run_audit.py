"""The default audit of a finished run: every attack that applies, the promise against its lower bounds, one file.

`audit.json` in the run directory holds all of it, so that reports are drawn without attacking again.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.audits import membership, promise, statistics
from tff_hospitals.audits.loading import LoadedRun, load_run
from tff_hospitals.audits.threat_models import ATTACKS, THREAT_MODELS
from tff_hospitals.foundations import files as records_lib
from tff_hospitals.foundations.validation import InvalidInput, Problem, in_range, one_of, raise_if, whole_number
from tff_hospitals.plan import mechanisms

if TYPE_CHECKING:
    from tff_hospitals.audits.shadows import Records

PARTS = ("membership", "attribute", "reconstruction", "updates", "promise", "defences")
HEADLINE = "calibrated"  # the membership attack of the comparison's columns, fixed before anything is measured


@dataclasses.dataclass(frozen=True)
class AuditOptions:
    """What an audit does.

    Attributes:
      parts: names in `PARTS`; None: all that apply, and what does not apply is listed as skipped with the reason.
      fprs: false positive rates; None: 1 % and 0.1 % where the records allow it.
      confidence: of every interval and bound.
      shadow_models: for calibrated and likelihood-ratio attacks.
      attributes: columns to infer; None: the first binary and the first numeric one.
      rebuilt_records: how many records are rebuilt.
      audit_runs: repeated runs with, and as many without a unit.
      leave_out: names in `PARTS` that are not run when `parts` is None.
    """

    parts: tuple[str, ...] | None = None
    fprs: tuple[float, ...] | None = None
    confidence: float = 0.95
    shadow_models: int = 32
    attributes: tuple[str, ...] | None = None
    rebuilt_records: int = 20
    audit_runs: int = 200
    leave_out: tuple[str, ...] = ()

    def problems(self) -> list[Problem]:
        """What is wrong before a run is read."""
        found = [
            *(one_of("attacks", name, PARTS) for name in (*(self.parts or ()), *self.leave_out)),
            in_range("confidence", self.confidence, low=0.5, high=1.0, high_open=True, remedy="give 0.95"),
            whole_number("shadow_models", self.shadow_models, low=4, remedy="train 4 shadow models or more"),
            whole_number("rebuilt_records", self.rebuilt_records, low=1, remedy="rebuild 1 record or more"),
            whole_number("audit_runs", self.audit_runs, low=4, remedy="repeat 4 runs or more"),
        ]
        return [problem for problem in found if problem is not None]


def audit_run(
    run_dir: os.PathLike[str] | str,
    options: AuditOptions | None = None,
    on_part: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Attacks a finished run and writes `audit.json` into its directory.

    Args:
      run_dir: of a finished run.
      options: what to do; parts that were asked for by name must apply, others are skipped with a reason.
      on_part: called with the name of each part before it starts.

    Raises:
      validation.InvalidInput: options that do not fit the run: too few records for a rate, an attribute that is the
      target
        or unknown, a model without the layer that an attack needs.
      records.RecordError: no finished run, other data, or no stored updates where they were asked for.
    """
    options = AuditOptions() if options is None else options
    raise_if(options.problems())
    started = time.perf_counter()
    run = load_run(run_dir)
    raise_if(_fpr_problems(run, options))
    result: dict[str, Any] = {
        "schema_version": 1,
        "run": {
            name: run.summary.get(name)
            for name in ("method", "label", "unit", "epsilon", "delta", "adjacency", "seed", "rounds")
        },
        "dataset": run.dataset.name,
        "model": run.plan.model.name,
        "confidence": options.confidence,
        "threat_models": {name: dataclasses.asdict(model) for name, model in THREAT_MODELS.items()},
        "attacks": {name: dataclasses.asdict(attack) for name, attack in ATTACKS.items()},
        "skipped": {},
    }
    steps: dict[str, Callable[[LoadedRun, AuditOptions], Any]] = {
        "membership": _membership,
        "attribute": _attribute,
        "reconstruction": _reconstruction,
        "updates": _updates,
        "promise": _promise,
        "defences": _defences,
    }
    default = tuple(name for name in PARTS if name not in options.leave_out)
    for name in default if options.parts is None else options.parts:
        if on_part is not None:
            on_part(name)
        try:
            result[name] = steps[name](run, options)
        except (InvalidInput, records_lib.RecordError) as error:
            if options.parts is not None:
                raise
            result["skipped"][name] = str(error)
    result["columns"] = columns(result)
    result["seconds"] = round(time.perf_counter() - started, 2)
    records_lib.write_json(run.folder / "audit.json", result)
    return result


def columns(result: dict[str, Any]) -> dict[str, float | None]:
    """The columns of a comparison, from an audit's result; None where a part was not run or does not apply."""
    found: dict[str, float | None] = dict.fromkeys(
        ("membership_auc", "membership_tpr", "reconstruction_error", "epsilon_lower_bound")
    )
    if "membership" in result:
        outcome = result["membership"]["attacks"][HEADLINE]["groups"].get("all")
        if outcome is not None:
            found["membership_auc"] = outcome["auc"]
            found["membership_tpr"] = outcome["tprs"][0]["tpr"] if outcome["tprs"] else None
    if "reconstruction" in result:
        found["reconstruction_error"] = result["reconstruction"]["error"]
    if "promise" in result:
        unit = result["run"]["unit"] if result["run"]["unit"] in ("record", "hospital") else "record"
        bounds = [one["lower_bound"] for one in result["promise"]["verdicts"] if one["unit"] == unit]
        found["epsilon_lower_bound"] = max(bounds, default=None)
    return found


def _non_members(run: LoadedRun) -> int:
    return sum(run.dataset.records(train=False).values())


def _fpr_problems(run: LoadedRun, options: AuditOptions) -> list[Problem | None]:
    count = _non_members(run)
    if options.fprs is None or count == 0:
        return []
    return [statistics.check_fpr(rate, count) for rate in options.fprs]


def _is_federation(run: LoadedRun) -> None:
    if len(run.dataset.hospitals) < 2:
        bound = "is trained by one hospital alone: it sends no update that anybody could attack"
        raise_if([Problem("run", run.plan.method, bound, "attack a federated run")])


def _groups(run: LoadedRun, records: Records, difficulty: np.ndarray) -> dict[str, np.ndarray]:
    groups = {"all": np.ones(len(difficulty), bool), "outliers": membership.outliers(difficulty)}
    if len(run.dataset.hospitals) > 1:
        groups.update({one: records.hospital == at for at, one in enumerate(run.dataset.ids)})
    return groups


def _membership(run: LoadedRun, options: AuditOptions) -> dict[str, Any]:
    from tff_hospitals.audits.shadows import Records, losses_of, outputs_of, train_shadows

    if _non_members(run) == 0:
        bound = "has no records that were not trained on"
        raise_if([Problem("dataset", run.dataset.name, bound, "keep test records")])
    records = Records.of(run.dataset)
    shadows = train_shadows(run.plan, run.dataset, run.model, records, count=options.shadow_models)
    losses, probabilities = outputs_of(run.model, run.dataset, run.weights, run.frozen, records)
    regression = run.dataset.task == "regression"
    scores = {
        "loss_threshold": membership.loss_threshold(losses),
        "calibrated": membership.calibrated(losses, shadows),
        "lira": membership.lira(losses, shadows, regression=regression),
    }
    groups = _groups(run, records, shadows.mean_out())
    by_round, notes = [], []
    try:
        stored = run.stored_rounds()
    except records_lib.RecordError:
        notes.append("Rounds are not attacked: no updates were stored (--store_updates=1 of the training stores them).")
    else:
        seen = np.stack([losses_of(run.model, run.dataset, one.weights, run.frozen, records) for one in stored])
        scores["across_rounds"] = membership.across_rounds(seen, [shadows] * len(stored))
        for one, row in zip(stored, seen):
            score = membership.calibrated(row, shadows)
            area = statistics.area_under_roc(score[records.member], score[~records.member])
            by_round.append({"round": one.number, "auc": area})
    fprs = (0.01, 0.001) if options.fprs is None else options.fprs
    attacks = {}
    for name, score in scores.items():
        found = membership.by_group(score, records.member, groups, fprs=fprs, confidence=options.confidence)
        attacks[name] = {
            "assumes": ATTACKS[name].assumes,
            "groups": {group: _slim(outcome, group) for group, outcome in found.items()},
        }
    suite: dict[str, float] = {}
    try:
        suite = membership.suite(
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


def _attribute(run: LoadedRun, options: AuditOptions) -> list[dict[str, Any]]:
    from tff_hospitals.audits import attribute

    for name in options.attributes or ():
        attribute.check_attribute(run.dataset, name)
    names = options.attributes
    if names is None:
        schema = attribute.check_attribute(run.dataset, _some_feature(run))
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
            gain = attribute.infer_from_model(*common, run.weights, run.frozen, name, confidence=options.confidence)
            found.append({"hospital": hospital.hospital_id, "from": "model", **dataclasses.asdict(gain)})
            for one in stored:
                delta = one.deltas.get(hospital.hospital_id)
                if delta is not None:
                    gain = attribute.infer_from_update(
                        *common, one.weights, run.frozen, delta, name, confidence=options.confidence
                    )
                    found.append({"hospital": hospital.hospital_id, "from": "update", **dataclasses.asdict(gain)})
    return found


def _some_feature(run: LoadedRun) -> str:
    return "" if run.dataset.schema is None else run.dataset.schema.features[0].name


def _reconstruction(run: LoadedRun, options: AuditOptions) -> dict[str, Any]:
    from tff_hospitals.audits import picture
    from tff_hospitals.audits.reconstruction import choose_attack, other_attacks, rebuild

    _is_federation(run)
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


def _updates(run: LoadedRun, options: AuditOptions) -> list[dict[str, Any]]:
    from tff_hospitals.audits.reconstruction import from_stored

    _is_federation(run)
    return from_stored(run)


def _stated_in(run: LoadedRun, unit: str) -> str:
    """The conversion in which the run promises an epsilon for a unit."""
    field = "conversion" if unit == run.summary.get("unit") else "second_conversion"
    return str(run.summary.get(field) or "rdp")


def _promise(run: LoadedRun, options: AuditOptions) -> dict[str, Any]:
    from tff_hospitals.audits import canary_runs
    from tff_hospitals.audits.mechanism_checks import check_mechanism

    _is_federation(run)
    units, delta = run.ledger.units(), run.ledger.delta
    epsilons = {unit: run.ledger.worst_epsilon(unit, _stated_in(run, unit))[0] for unit in units}
    verdicts: list[promise.Verdict] = []
    both = 1.0 - (1.0 - options.confidence) / 2.0  # two audits of one unit share the error probability
    if run.model.parameters <= 100_000:
        confidence = both if "record" in units else options.confidence
        slack = delta if "record" in units else 0.0  # without a promise there is no delta to allow for
        guesses = canary_runs.one_run(run.plan, run.dataset, run.model, delta=slack, confidence=confidence).guesses
        verdicts.append(
            promise.verdict(
                "record",
                f"{guesses.correct} of {guesses.guesses} guesses in one run with {guesses.canaries} canaries",
                lower_bound=guesses.lower_bound,
                ledger_epsilon=epsilons.get("record", math.inf),
                confidence=confidence,
            )
        )
    if "record" in units and mechanisms.of(run.plan.privacy).attack == "repeated_record":
        epsilon, worst = run.ledger.worst_epsilon("record", _stated_in(run, "record"))
        hospital = worst or run.dataset.ids[0]
        from tff_hospitals.plan import noise as noise_plan

        repeated = canary_runs.repeated_record(
            run.plan,
            run.dataset,
            hospital,
            noise_multiplier=noise_plan.make(run.plan, run.dataset).multipliers[hospital],
            runs=options.audit_runs,
            rounds=run.rounds,
            delta=delta,
            confidence=both,
        )
        words = f"{2 * options.audit_runs} repeated runs with and without one worst-case record at {hospital}"
        verdicts.append(
            promise.verdict("record", words, lower_bound=repeated.lower_bound, ledger_epsilon=epsilon, confidence=both)
        )
    if "hospital" in units:
        repeated = canary_runs.repeated_hospital(
            run.plan,
            run.dataset,
            run.model,
            runs=options.audit_runs,
            rounds=run.rounds,
            delta=delta,
            confidence=options.confidence,
        )
        words = f"{2 * options.audit_runs} repeated runs with and without one hospital"
        verdicts.append(
            promise.verdict(
                "hospital",
                words,
                lower_bound=repeated.lower_bound,
                ledger_epsilon=epsilons["hospital"],
                confidence=options.confidence,
            )
        )
    checks = check_mechanism(run.plan, run.dataset, run.model, run.ledger)
    return {
        "verdicts": [dataclasses.asdict(one) for one in verdicts],
        "checks": [dataclasses.asdict(one) for one in checks],
        "holds": promise.holds(verdicts, checks),
    }


def _defences(run: LoadedRun, options: AuditOptions) -> list[dict[str, Any]]:
    from tff_hospitals.audits.defences import defence_table
    from tff_hospitals.audits.reconstruction import choose_attack

    _is_federation(run)
    slow = choose_attack(run.model) == "gradient_matching"
    rows = defence_table(
        run.plan,
        run.dataset,
        run.model,
        records=2 if slow else min(options.rebuilt_records, 16),
        shadow_models=0 if slow else min(options.shadow_models, 12),
    )
    return [dataclasses.asdict(row) for row in rows]


def sentences(result: dict[str, Any]) -> Sequence[str]:
    """What a terminal says about an audit: one line per finding."""
    lines = []
    if "membership" in result:
        for name, attack in result["membership"]["attacks"].items():
            outcome = attack["groups"].get("all")
            if outcome is None:
                continue
            interval = outcome["auc_interval"]
            text = f"{ATTACKS[name].title}: AUC {outcome['auc']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"
            for rate in outcome["tprs"]:
                text += f", TPR {100 * rate['tpr']:.1f} % at {100 * rate['asked_fpr']:g} % FPR"
            for asked in outcome["unsupported"]:
                text += f"; {100 * asked:g} % FPR needs more records (smallest {100 * outcome['smallest_fpr']:.2g} %)"
            lines.append(text)
    for gain in result.get("attribute", []):
        lines.append(
            f"Attribute {gain['attribute']} at {gain['hospital']} from the {gain['from']}: "
            f"{100 * gain['attack']:.1f} % right, gain over imputation {100 * gain['gain']:+.1f} points "
            f"({100 * gain['interval']['low']:+.1f} to {100 * gain['interval']['high']:+.1f})"
        )
    if "reconstruction" in result:
        found = result["reconstruction"]
        lines.append(
            f"Reconstruction ({found['words']}): median error {found['error']:.3g} standard deviations"
            + (f", labels right {100 * found['label_accuracy']:.0f} %" if found["label_accuracy"] is not None else "")
        )
        for one in found["others"]:
            title = f"{ATTACKS[one['attack']].title} ({THREAT_MODELS[ATTACKS[one['attack']].assumes].title.lower()})"
            if "error" in one:
                lines.append(f"{title}: median error {one['error']:.3g} standard deviations")
            else:
                lines.append(
                    f"{title}: {100 * one['share_recovered']:.0f} % of {one['records']} records recovered exactly"
                )
    if "updates" in result:
        share = max((one["share_recovered"] for one in result["updates"]), default=0.0)
        lines.append(f"Stored updates: at most {100 * share:.1f} % of a hospital's records recovered exactly")
    if "promise" in result:
        lines += [one["words"] for one in result["promise"]["verdicts"]]
        failed = [check for check in result["promise"]["checks"] if not check["passed"]]
        passed = len(result["promise"]["checks"]) - len(failed)
        lines.append(f"Self-tests of the mechanism: {passed} passed, {len(failed)} failed")
        lines += [f"FAILED {check['name']}: {check['words']}" for check in failed]
    lines += [f"skipped {name}: {reason}" for name, reason in result["skipped"].items()]
    return lines
