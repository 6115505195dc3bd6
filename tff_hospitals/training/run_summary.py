"""The summary of a run: the row that comparison tables are made of, with the guarantee in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tff_hospitals.accounting.certificate import certify
from tff_hospitals.plan import mechanisms, review
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.mechanisms.secure_sum import SIMULATED
from tff_hospitals.plan.plan import Plan
from tff_hospitals.runtimes import RUNTIMES
from tff_hospitals.training import published_fields
from tff_hospitals.training.evaluation import POOLED, SERVER
from tff_hospitals.training.metrics import METRICS, mean_of, summary_fields
from tff_hospitals.training.run_history import RunHistory

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset


def summary_row(
    plan: Plan,
    dataset: HospitalDataset,
    noise: noise_plan.NoisePlan,
    history: RunHistory,
    stop_reason: str,
    rounds: int,
    seconds: Sequence[tuple[int, float]],
    runtime: str,
) -> dict[str, Any]:
    """The fields that comparison tables are made of, for one run."""
    one_process = RUNTIMES[runtime].holds_records  # which sees all hospitals: what keeps them apart is simulated there
    by_hospital = {scope: values for scope, values in history.last_evaluation.items() if scope not in (POOLED, SERVER)}
    pooled = history.last_evaluation.get(POOLED, {})
    private = noise.unit != "none"
    conversion = history.stated_in(noise)
    epsilons = {name: history.epsilon(name, conversion) for name in dataset.ids} if private else {}
    worst = max(epsilons, key=lambda name: epsilons[name] or 0.0) if epsilons else None
    epsilon = history.epsilon(POOLED, conversion)
    settled = [value for _, value in seconds[1:]] or [value for _, value in seconds]
    ledger = history.released()
    certificate = certify(ledger, noise.unit, conversion) if private else None
    second = noise.second
    second_conversion = history.stated_in(second) if second is not None else None
    if certificate is not None and second is not None:
        certificate["second_unit"] = certify(ledger, second.unit, second_conversion or "rdp")
    return {
        "schema_version": 1,
        "status": "finished",
        "method": plan.label,
        "label": plan.label,
        "seed": plan.seed,
        "unit": noise.unit,
        "target_epsilon": plan.privacy.target_epsilon,
        "epsilon": epsilon,
        "epsilon_rdp": history.epsilon(POOLED, "rdp"),
        "epsilon_pld": history.epsilon(POOLED, "pld"),
        "epsilon_pld_missing": history.why_no_epsilon("pld"),
        "epsilon_per_hospital": epsilons,
        "worst_hospital": worst,
        "delta": noise.delta if private else None,
        "adjacency": noise.adjacency if private else None,
        "conversion": conversion if private else "rdp",
        "noise_multiplier_per_hospital": dict(noise.multipliers) if private else {},
        **summary_fields(by_hospital, pooled),
        "bytes_up": sum(history.bytes_up.values()),
        "bytes_down": sum(history.bytes_down.values()),
        "seconds_per_round": sum(settled) / len(settled) if settled else None,
        "rounds": rounds,
        "stop_reason": stop_reason,
        "runtime": runtime,
        "guarantee": _guarantee(plan, noise, history, stop_reason, certificate, one_process),
        "certificate": certificate,
        "second_unit": second.unit if second is not None else None,
        "second_epsilon": _second_epsilon(second, history),
        "second_conversion": second_conversion,
        "second_noise_multiplier": next(iter(second.multipliers.values())) if second is not None else None,
        "records_per_patient": noise.records_per_patient,
        "epsilon_per_patient": epsilon_per_patient(noise, history),
        "reproducible": mechanisms.repeatable(plan.privacy),
        "event_stated": mechanisms.stated_event(plan.privacy),
        "clip_norms": list(history.clip_norms),
        **_error_by_bands(plan, noise),
        "signal_to_noise": history.signal.medians(),
        "warnings": [
            *(text for text in review.warnings(plan, dataset) if one_process or text != SIMULATED),
            *history.statements,
            *history.warnings,
            *history.signal.warnings(),
            *_second(plan, noise, history),
        ],
        "statements": list(history.statements),
        "published_fields": published_fields.described(plan),
        "communication": history.bytes_sent.summary(len(dataset.hospitals)),
        **simulated_time(plan, history),
        "curve": curve(history, conversion),
    }


def _error_by_bands(plan: Plan, noise: noise_plan.NoisePlan) -> dict[str, dict[str, float]]:
    """What the planner chose the number of bands by, where it had a choice."""
    mechanism = mechanisms.record_level(plan.privacy)
    if mechanism is None or not noise.settings:
        return {}
    table = mechanism.error_by_bands(tuple(noise.settings.values()), noise.delta)
    return {"error_by_bands": table} if table else {}


def _guarantee(
    plan: Plan,
    noise: noise_plan.NoisePlan,
    history: RunHistory,
    stop_reason: str,
    certificate: Mapping[str, Any] | None,
    one_process: bool,
) -> str:
    """What is protected, against whom and under which trust, for an ethics board; one paragraph for each unit."""
    from tff_hospitals.accounting import guarantee, no_guarantee

    if noise.unit == "none":
        return no_guarantee("record", history.ledger).text
    paragraphs = []
    for part in noise.parts:
        inner = part is noise and noise.second is not None
        noise_by = (mechanisms.of if part is noise else mechanisms.hospital_level)(plan.privacy).noise_by
        text = guarantee(
            history.released(),
            part.unit,
            noise_added_by=noise_by,
            conversion=history.stated_in(part),
            simulated_trust=one_process and mechanisms.summed_securely(plan.privacy) and noise_by != "hospital",
            stopped_by_data=stop_reason.startswith("plateau"),
        ).text
        paragraphs.append(f"{part.unit.capitalize()} level: {text}" if inner or part is not noise else text)
    words = " ".join(paragraphs)
    if noise.unit == "record" and noise.records_per_patient > 1:
        k, epsilon = noise.records_per_patient, epsilon_per_patient(noise, history)
        strength = "no guarantee" if epsilon is None else f"epsilon {epsilon:.3g} at delta {noise.delta:g}"
        how = "" if history.stated_in(noise) == "rdp" else " (rdp)"
        words += f" A patient with up to {k} records: {strength}{how} for all of them together."
    if plan.privacy.secure_noise:
        words += (
            " Noise: fresh bytes of the operating system's cryptographic source for every number; nobody can repeat it."
        )
    elif not mechanisms.repeatable(plan.privacy):
        words += (
            " Noise: from TensorFlow's generators, as TFF or TensorFlow Privacy calls them: nobody can seed it, and it "
            "comes from no cryptographic source."
        )
    else:
        words += " Noise: from the root seed of the run (research mode): whoever knows the seed can take it away again."
    words += f" Outside of it: figures of test records, which lie in {published_fields.INSIDE}/ and in no guarantee."
    if noise.second is not None:
        words += (
            " Outside of the guarantee for hospitals: how many training records each has, which the accounting of "
            "records takes for public."
        )
    if stop_reason.startswith("plateau"):
        words += " Outside of it: how many rounds there were, which figures of test records decided."
    if plan.model.options.get("pretrained"):
        words += (
            " Outside of it: the records on which the weights that training started from were trained, unless they "
            "have a guarantee of their own."
        )
    if certificate and certificate["rdp"]:
        words += f" Checked: {certificate['library']} computes the same epsilon from the same ledger."
    return words


def _second(plan: Plan, noise: noise_plan.NoisePlan, history: RunHistory) -> list[str]:
    """The second guarantee of a run with two units: a table has one column for epsilon."""
    if noise.second is None:
        return []
    epsilon = _second_epsilon(noise.second, history)
    known = "no" if epsilon is None or math.isinf(epsilon) else f"{epsilon:.3g}"
    by = history.stated_in(noise.second)
    how = "" if by == history.stated_in(noise) else f" ({by})"
    return [
        f"two guarantees: beside the epsilon per {noise.unit}, epsilon {known} per {noise.second.unit} at delta "
        f"{noise.delta:g}{how}, by {plan.privacy.outer} around the hospitals"
    ]


def _second_epsilon(second: noise_plan.NoisePlan | None, history: RunHistory) -> float | None:
    return None if second is None else history.epsilon_of(second.unit, POOLED, history.stated_in(second))


def epsilon_per_patient(noise: noise_plan.NoisePlan, history: RunHistory) -> float | None:
    """Epsilon for all records of one patient together, of the worst hospital; None without a finite one.

    The same as epsilon for one record per patient.
    """
    from tff_hospitals.accounting import group_epsilon

    if noise.unit != "record":
        return None
    if noise.records_per_patient == 1:
        return history.epsilon(POOLED)
    ledger = history.released()
    found = [
        group_epsilon(
            ledger.events("record", hospital),
            ledger.delta,
            noise.records_per_patient,
            adjacency=ledger.adjacency,
            conversion="rdp",  # groups under a mixture have the widest loss distributions
        )
        for hospital in ledger.hospital_ids("record")
    ]
    worst = max(found, default=math.inf)
    return worst if math.isfinite(worst) else None


def simulated_time(plan: Plan, history: RunHistory) -> dict[str, float | None]:
    """Simulated seconds of the run, and those to the first evaluation at the target accuracy; {} without speeds.

    The target is the plan's, or 90 % of the run's last accuracy; None in its place where it was never reached.
    """
    if history.simulated_seconds is None:
        return {}
    found: dict[str, float | None] = {"simulated_seconds": history.simulated_seconds}
    seen = [
        (float(row["accuracy"]), row["simulated_seconds"])
        for row in history.metric_rows
        if row["hospital"] == POOLED and row.get("accuracy") is not None
    ]
    if seen:
        target = plan.target_accuracy if plan.target_accuracy is not None else 0.9 * seen[-1][0]
        reached = (seconds for accuracy, seconds in seen if accuracy >= target)
        found.update(target_accuracy=target, time_to_accuracy=next(reached, None))
    return found


def curve(history: RunHistory, conversion: str = "rdp") -> list[dict[str, Any]]:
    """Every metric (mean over hospitals), epsilon as the run states it, and bytes at every evaluated round.

    Of Gaussian noise without sampling the loss distribution is known in closed form, so that `epsilon_pld` is exact.
    """
    column = "epsilon_rdp" if conversion == "rdp" else "epsilon_pld"
    values: dict[tuple[int, str], list[float | None]] = {}
    for row in history.metric_rows:
        if row["hospital"] not in (POOLED, SERVER):
            for name in METRICS:
                values.setdefault((row["round"], name), []).append(row.get(name))
    return [
        {
            "round": row["round"],
            "epsilon": row.get(column),
            **{f"{name}_mean": mean_of(values.get((row["round"], name), ())) for name in METRICS if name in row},
            "bytes_up": row["bytes_up"],
            "bytes_down": row["bytes_down"],
        }
        for row in history.metric_rows
        if row["hospital"] == POOLED and row.get("loss") is not None
    ]
