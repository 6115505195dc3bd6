"""The sentences of a page about one run's guarantee: each answers a component or a hazard of NIST SP 800-226."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tff_hospitals.accounting import ADJACENCIES
from tff_hospitals.accounting.statements import PROTECTED, TRUST
from tff_hospitals.plan import mechanisms, schedules
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.reports.guarantee import Facts, UnitGuarantee
from tff_hospitals.training.published_fields import INSIDE

NOT_AUDITED = "Not audited: nothing but the accounting stands behind these numbers."
_MODELS = {"hospital": "Local", "server": "Central", "shares": "Distributed"}


def _preprocessing(found: Facts) -> Mapping[str, Any]:
    return (found.record.get("dataset") or {}).get("preprocessing") or {}


def unit_words(found: Facts, one: UnitGuarantee) -> list[str]:
    """What is protected, and what neighbours are."""
    lines = [
        f"Protected: {PROTECTED[one.unit]}.",
        f"Neighbours: {ADJACENCIES[found.ledger.adjacency]}.",
    ]
    if one.unit == "record":
        lines.append("How many records each hospital has is public: the guarantee does not hide it.")
    elif "record" in found.ledger.units():
        lines.append(
            "How many training records each hospital has is public here too: the accounting of records follows from it."
        )
    if one.unit == "record":
        most = int(found.summary.get("records_per_patient") or 1)
        if most > 1:
            epsilon = found.summary.get("epsilon_per_patient")
            strength = "no guarantee" if epsilon is None else f"epsilon {epsilon:.4g} at delta {found.ledger.delta:g}"
            lines.append(f"A patient has up to {most} records; for all of them together: {strength}.")
        else:
            lines.append("A patient is one record here; one with several records has a weaker guarantee.")
        lines.append("For a patient with records at several hospitals the epsilons of these hospitals add up.")
    return lines


def mechanisms_used(found: Facts) -> str:
    """Mechanism, noise and sampling of each unit."""
    if not found.units:
        return "None: nothing was clipped and no noise was added."
    parts = []
    for one in found.units:
        second, privacy = one.unit == found.summary.get("second_unit"), found.plan.privacy
        given = (found.summary.get("noise_multiplier_per_hospital") or {}).values()
        multipliers = [found.summary.get("second_noise_multiplier")] if second else list(given)
        name = str(privacy.outer) if second else mechanisms.of(privacy).name
        prefix = noise_plan.prefix_of(found.plan, one.unit)
        noise, by_round = _over_rounds(
            found, prefix + "noise_multiplier", [float(each) for each in multipliers if each]
        )
        clip, also = _over_rounds(
            found, prefix + "clip_norm", [privacy.outer_clip_norm if second else privacy.clip_norm]
        )
        parts.append(
            f"Per {one.unit}: {name}, noise multiplier {noise}, clip norm {clip}{by_round or also}, "
            f"{one.releases} noisy releases; assumed of the sampling: {'; '.join(one.sampling) or 'nothing'}."
        )
    return " ".join(parts)


def _over_rounds(found: Facts, setting: str, values: list[float]) -> tuple[str, str]:
    """The least and the largest value of a setting over hospitals and rounds, and that it changes by round, if so."""
    rounds = found.plan.rounds
    by = schedules.factors(found.plan.by_round, setting, rounds)[: int(found.summary.get("rounds") or rounds)]
    ends = [f"{end(values) * end(by):.4g}" for end in (min, max)] if values else ["None"]
    changes = " (by round: the ledger has each)" if schedules.changes(found.plan.by_round, setting) else ""
    return " to ".join(dict.fromkeys(ends)), changes


def composition(found: Facts) -> str:
    """The joint epsilon with everything else that was published about the same data."""
    if not found.units:
        return "No epsilon covers this run."
    if found.joint is None:
        return (
            "Not known: the data set, beside which all its runs are added up, is not here. Every other result about "
            "the same data adds to this one."
        )
    parts = []
    for one in found.units:
        total = found.joint.get(one.unit)
        if total is None:
            parts.append(f"Per {one.unit}: not known; every other result about the same data adds to this one.")
            continue
        runs = "nothing else is known" if total.runs == 1 else f"all {total.runs} runs on the same data together"
        value = "no guarantee" if math.isinf(total.epsilon) else f"epsilon {total.epsilon:.4g} at delta {total.delta:g}"
        parts.append(f"Per {one.unit}, {runs}: {value}.")
    if found.without_guarantee:
        count = found.without_guarantee
        runs = "1 more run has" if count == 1 else f"{count} more runs have"
        parts.append(
            f"{runs} no guarantee: no epsilon covers what they released, and this one holds only if none of it, nor "
            "anything computed from it, is ever published."
        )
    return " ".join(parts)


def outside(found: Facts) -> list[str]:
    """What no epsilon of the run covers."""
    lines = [f"Figures of test records; they lie in {INSIDE}/, which is never published."]
    steps = _preprocessing(found)
    if steps.get("private") is False:
        lines.append(f"Preprocessing: {steps.get('words', '')}.")
    if found.plan.model.options.get("pretrained"):
        lines.append(
            "The records that the starting weights were trained on, unless they have a guarantee of their own."
        )
    if "record" in [one.unit for one in found.units]:
        lines.append("How many training and test records each hospital has.")
    if str(found.summary.get("stop_reason", "")).startswith("plateau"):
        lines.append("In which round the run ended, and so how many there were: test records decided it.")
    lines.append("What a hospital's own staff see; time and traffic that somebody in the network measures.")
    return lines


def trust_model(found: Facts) -> str:
    """Local, central or distributed, in the registry's words."""
    return ", ".join(_MODELS.get(one.noise_by, one.noise_by) for one in found.units) or "None"


def actors(found: Facts) -> list[str]:
    """Who must be trusted with what."""
    lines = []
    for one in found.units:
        trust = TRUST[one.noise_by]
        lines += [
            f"Per {one.unit}: kept from the data are {trust.against}.",
            f"Per {one.unit}: not kept out is {trust.not_against}.",
            f"Per {one.unit}: trusted for this is that {trust.assumption}.",
        ]
    if any(one.noise_by != "hospital" for one in found.units) or mechanisms.summed_securely(found.plan.privacy):
        lines.append("In a simulated run all parties are one process: nobody was kept from anything.")
    return lines or ["Everybody who sees the model must be trusted: nothing protects the records."]


def randomness(found: Facts) -> str:
    """Where noise and batches come from, and what became of the seed."""
    if not found.units:
        return "No noise was added."
    if found.plan.privacy.secure_noise:
        words = (
            "Every number of the noise is fresh from the operating system's cryptographic source; nobody can draw it "
            "again. The seed decides starting weights only, and is not published."
        )
        if _preprocessing(found).get("kind") == "dp_moments":
            words += " The noise of the released means and deviations follows from the data set's key instead."
        return words
    salt = (found.record.get("dataset") or {}).get("salt")
    whose = "a public key of the data set" if salt == "public" else "the data set's secret key"
    return (
        f"Research mode: noise follows from the plan, a seed and {whose}. Whoever knows all of them takes the noise "
        "away; the seed is not published."
    )


def collection(found: Facts) -> str:
    """Preprocessing, tuning and pretraining."""
    lines = [f"Preprocessing: {_preprocessing(found).get('words', 'not recorded')}."]
    if found.plan.privacy.selected_from > 1:
        lines.append(f"Chosen from {found.plan.privacy.selected_from:g} runs on average, which is accounted for.")
    else:
        lines.append("Tuning on these data is not part of this epsilon; runs for it are in the joint epsilon.")
    pretrained = found.plan.model.options.get("pretrained")
    lines.append(
        "Training started from weights trained elsewhere." if pretrained else "Training started from random weights."
    )
    return " ".join(lines)


def tested(found: Facts) -> str:
    """What was tested and with what power, in one paragraph."""
    certificate = found.summary.get("certificate") or {}
    known = certificate.get("rdp") or certificate.get("pld")
    first = f"{certificate['library']} computes the same epsilon from the same ledger. " if known else ""
    figures = audit_figures(found)
    return f"{first}{NOT_AUDITED if figures is None else figures['words']}".strip()


def audit_lines(found: Facts) -> list[str]:
    """The self-tests by name with their power, every proved bound, and what was not tested."""
    figures = audit_figures(found)
    if figures is None:
        return [NOT_AUDITED]
    lines = [
        f"{one['name']}: {one['passed']} of {one['tests']} passed, power at least {one['power']:.2g}"
        + (f"; would notice {one['notices']}" if one["notices"] else "")
        for one in figures["self_tests"]
    ]
    for one in figures["bounds"]:
        power = one["would_notice_noise_below"]
        noticed = f"; would have noticed noise below {power:g} of what is declared" if power else ""
        outcome = (
            "no more than the ledger's epsilon was proved" if one["passed"] else "MORE than the ledger's was proved"
        )
        lines.append(f"Attackers per {one['unit']}: {outcome}{noticed}")
    return [*lines, *(f"NOT TESTED: {name}" for name in figures["not_tested"])]


def audit_figures(found: Facts) -> dict[str, Any] | None:
    """What of the audit leaves the house: outcomes and power, never a figure or a sentence about records; None: not
    audited.
    """
    audit = found.audit
    if audit is None:
        return None
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for one in audit.get("self_tests", ()):
        by_name.setdefault(str(one.get("name")), []).append(one)
    tests: list[dict[str, Any]] = []
    for name, of_name in by_name.items():
        weakest = min(of_name, key=lambda one: float(one.get("power") or 0.0))
        passed = sum(bool(one.get("passed")) for one in of_name)
        power, notices = float(weakest.get("power") or 0.0), str(weakest.get("notices") or "")
        tests.append({"name": name, "passed": passed, "tests": len(of_name), "power": power, "notices": notices})
    bounds = [
        {
            "unit": one.get("unit"),
            "passed": bool(one.get("passed")),
            "epsilon": one.get("ledger_epsilon"),
            "would_notice_noise_below": one.get("notices_below") and float(f"{one['notices_below']:.2g}"),
        }
        for one in audit.get("bounds", ())
    ]
    failed = [one["name"] for one in tests if one["passed"] < one["tests"]]
    missing = sorted({str(one.get("name")) for one in audit.get("not_tested", ())})
    words = f"An audit says: {audit.get('verdict')}. {len(tests)} kinds of self-tests and {len(bounds)} bounds"
    words += f"; failed: {', '.join(failed)}." if failed else "."
    return {
        "verdict": audit.get("verdict"),
        "words": words,
        "self_tests": tests,
        "bounds": bounds,
        "not_tested": missing,
    }


def sections(found: Facts) -> list[dict[str, Any]]:
    """The components in the publication's order, each with what the run says and the hazards that belong to it."""
    private = bool(found.units)
    signal = [float(value) for value in (found.summary.get("signal_to_noise") or {}).values() if value]
    utility = ["How well the model predicts is measured on test records and is not published here."]
    if signal:
        utility.append(f"Signal to noise of an update: median {min(signal):.3g} to {max(signal):.3g}.")
    utility.append("Noise costs small hospitals and rare groups most: look at them before the model is used.")
    release = [mechanisms_used(found)]
    if private and not found.plan.privacy.secure_sum:
        release.append("Hazard, rounding: floating-point noise is only approximately what the proof assumes.")
    if str(found.summary.get("stop_reason", "")).startswith("plateau"):
        release.append("Hazard, early stopping: what was promised in advance is the epsilon of the most rounds.")
    return [
        {
            "title": "Unit of privacy",
            "lines": [line for one in found.units for line in unit_words(found, one)] or ["Nothing is protected."],
        },
        {"title": "Mechanisms", "lines": release},
        {
            "title": "Composition: what else was published",
            "lines": [composition(found), "Hazard: two releases of epsilon 1 are not one release of epsilon 1."],
        },
        {"title": "Outside of the guarantee", "lines": outside(found)},
        {"title": "Utility and bias", "lines": utility},
        {"title": "Trust", "lines": actors(found)},
        {
            "title": "Implementation: randomness, side channels, tests",
            "lines": [
                randomness(found),
                "Hazard, side channels: how long a round took is not published; who watches the machines sees it.",
                tested(found),
                *(audit_lines(found) if found.audit is not None else ()),
            ],
        },
        {
            "title": "Security and access",
            "lines": [
                "Clipped and noised updates may travel openly; the records never leave their hospital.",
                f"The run directory with {INSIDE}/ and its checkpoints, and the data set's key, stay in the house.",
            ],
        },
        {"title": "Collection of the data", "lines": [collection(found)]},
    ]
