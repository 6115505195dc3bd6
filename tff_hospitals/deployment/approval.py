"""What a hospital approves: the agreement in words, and a signed note of its digest and the hospital's budget.

A worker runs nothing without such a note, and nothing but what it names.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tff_hospitals.deployment.agreement import Agreement
from tff_hospitals.deployment.keys import SigningKey, verifies
from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import Problem, in_range, raise_if
from tff_hospitals.plan import mechanisms, review
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.mechanisms.secure_sum import SIMULATED

if TYPE_CHECKING:
    from tff_hospitals.accounting import Ledger
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.plan.plan import Plan
    from tff_hospitals.training.charges import Charge

FILE_NAME = "approval.json"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a hospital approved at most.

    Attributes:
      budget: the largest epsilon under this agreement; infinite without one.
      together: the largest joint epsilon of everything that was ever released about its records; None without one.
    """

    budget: float = math.inf
    together: float | None = None


def in_words(agreement: Agreement, hospital: str, dataset: HospitalDataset) -> str:
    """What is trained, who sees what, clip, noise, rounds, epsilon of the whole run for this hospital, and the roster.

    Args:
      agreement: to be approved.
      hospital: its id.
      dataset: as the hospital sees it (numbers suffice).
    """
    plan = agreement.the_plan()
    noise = noise_plan.make(plan, dataset)
    roster = [f"{_plainly(name)} (key {key[:8]})" for name, key in agreement.hospital_keys.items()]
    lines = [
        f"Federation {agreement.federation!r}, agreement {agreement.digest.hex()[:16]}, valid until "
        f"{agreement.valid_until}",
        f"Hospitals: {', '.join(roster)}; server key {agreement.server_key[:8]}",
        f"Trained: {plan.model.name} on {agreement.data['name']} ({agreement.data['feature_shape']} features), at "
        f"most {plan.rounds} rounds of {noise_plan.steps_per_round(plan, dataset.records()[hospital])} steps each",
    ]
    for mechanism, settings in mechanisms.layers(plan.privacy):
        lines.append(f"Mechanism {mechanism.name} ({mechanism.unit}): {mechanism.words}")
        if mechanism.private:
            lines.append(f"  clip norm {settings.clip_norm:g}; noise is added by: {mechanism.noise_by}")
    for part in noise.parts:
        lines.append(f"  noise multiplier per {part.unit}: {part.multipliers[hospital]:.4g}, delta {part.delta:g}")
    secure = mechanisms.summed_securely(plan.privacy)
    lines.append(
        f"The server sees the sum of all updates alone; {agreement.threshold} hospitals must help to open it"
        if secure
        else "The server sees this hospital's update by itself, noised as said above and not otherwise"
    )
    lines.append(
        "The metrics of this hospital's test records are told; no epsilon covers them"
        if agreement.share_test_metrics
        else "No metrics of test records leave this hospital"
    )
    planned = planned_epsilon(agreement, hospital, dataset)
    lines.append(
        f"Epsilon of the whole run for this hospital: {planned:.4g}"
        if math.isfinite(planned) and noise.parts
        else "There is NO guarantee: updates leave without noise"
    )
    if agreement.test_key:
        lines.append("TEST MODE: all noise follows from a key that everybody has. It protects nobody.")
    lines += [f"Note: {text}" for text in review.warnings(plan, dataset) if text != SIMULATED]
    return "\n".join(lines)


def _plainly(name: str) -> str:
    """A name as people read it; letters beyond ASCII are named too, because some look like others."""
    return name if name.isascii() else f"{name} = {name!a}"


def planned_epsilon(agreement: Agreement, hospital: str, dataset: HospitalDataset, rounds: int | None = None) -> float:
    """Epsilon for a hospital of the first rounds (None: all), if it takes part in each of them; infinite without noise.

    Args:
      agreement: with the plan.
      hospital: its id.
      dataset: numbers suffice.
      rounds: how many.
    """
    from tff_hospitals.training.releases import planned_ledger

    plan = agreement.the_plan()
    noise = noise_plan.make(plan, dataset)
    if not noise.parts:
        return math.inf
    first = plan.rounds - (plan.rounds if rounds is None else rounds)
    cohort = _fewest(plan, hospital, dataset)
    ledger = planned_ledger(plan, dataset, noise, lambda _: cohort, first)
    return worst_epsilon(ledger, noise, hospital)


def worst_epsilon(ledger: Ledger, noise: noise_plan.NoisePlan, hospital: str) -> float:
    """Epsilon of a hospital in a ledger, of the unit that has the larger one; 0 where nothing was promised."""
    found = [0.0]
    for part in noise.parts:
        if part.unit in ledger.units():
            of = hospital if ledger.knows(part.unit, hospital) else None
            found.append(ledger.epsilon(part.unit, of, "rdp"))
    return max(found)


def _fewest(plan: Plan, hospital: str, dataset: HospitalDataset) -> list[str]:
    """A hospital among as few others as a round may have: where noise comes in shares, fewer of them bring less."""
    others = [name for name in dataset.ids if name != hospital]
    return [hospital, *others][: max(1, plan.cohort.smallest_size(len(dataset.ids)))]


def first_charge(agreement: Agreement, hospital: str, dataset: HospitalDataset) -> Charge:
    """What the first round would release about a hospital's records, as its odometer counts it."""
    from tff_hospitals.training.charges import Charge
    from tff_hospitals.training.odometer import released_by
    from tff_hospitals.training.releases import planned_ledger

    plan = agreement.the_plan()
    noise = noise_plan.make(plan, dataset)
    cohort = _fewest(plan, hospital, dataset)
    ledger = planned_ledger(plan, dataset, noise, lambda _: cohort, plan.rounds - 1)
    return Charge("planned", agreement.digest.hex(), 1, released_by(ledger, hospital), words={"division": "natural"})


def problems(agreement: Agreement, hospital: str, dataset: HospitalDataset, budget: float | None) -> list[Problem]:
    """Why a hospital should not approve: a budget that is no number, or smaller than the first round."""
    remedy = "give a larger --budget, or do not take part"
    if budget is None:
        return []
    found = in_range("budget", budget, low=0.0, low_open=True, remedy="give an epsilon above 0, or none")
    if found is not None:
        return [found]
    first = planned_epsilon(agreement, hospital, dataset, rounds=1)
    if first > budget:
        what = (
            "has no guarantee, so that no budget holds"
            if math.isinf(first)
            else f"needs {first:.4g} for its first round"
        )
        return [Problem("budget", budget, f"the plan {what}", remedy)]
    return []


def approve(
    folder: pathlib.Path,
    agreement: Agreement,
    hospital: str,
    key: SigningKey,
    budget: float | None,
    together: float | None = None,
) -> None:
    """Writes the signed note: budget and `together` as in `Limits`, None without one."""
    raise_if(_key_problems(agreement, hospital, key))
    said = {"agreement": agreement.digest.hex(), "hospital": hospital, "budget": budget, "together": together}
    files.write_json(folder / FILE_NAME, {**said, "signature": key.sign(_text(said)).hex()})


def read_limits(folder: pathlib.Path, agreement: Agreement, hospital: str, key: SigningKey) -> Limits:
    """The limits of the note in a folder.

    Raises:
      InvalidInput: nothing was approved, or something else, or somebody else did.
      RecordError: the note cannot be read.
    """
    raise_if(_key_problems(agreement, hospital, key))
    path, remedy = folder / FILE_NAME, "read it and approve it: tff-hospitals hospital --approve=AGREEMENT"
    if not path.exists():
        raise_if([Problem("agreement", agreement.digest.hex()[:16], "was not approved at this hospital", remedy)])
    note = files.read_json(path, strict=True)
    said = {name: note.get(name) for name in ("agreement", "hospital", "budget", "together")}
    signed = str(note.get("signature", ""))
    try:
        valid = verifies(agreement.hospital_keys[hospital], bytes.fromhex(signed), _text(said))
    except ValueError:
        valid = False
    if not valid:
        raise_if([Problem("approval", str(path), "is not signed by this hospital's key", remedy)])
    if said["agreement"] != agreement.digest.hex() or said["hospital"] != hospital:
        bound = f"is not what was approved here ({str(said['agreement'])[:16]}): it was altered, or is another one"
        raise_if([Problem("agreement", agreement.digest.hex()[:16], bound, remedy)])
    together = said["together"]
    budget = math.inf if said["budget"] is None else float(said["budget"])
    return Limits(budget, None if together is None else float(together))


def _key_problems(agreement: Agreement, hospital: str, key: SigningKey) -> list[Problem]:
    if agreement.hospital_keys.get(hospital) == key.public:
        return []
    bound = f"is not the key of {hospital!r} in the roster"
    return [Problem("signing key", key.public[:8] + "..", bound, "take this hospital's key, or have the roster mended")]


def _text(said: Mapping[str, Any]) -> bytes:
    fields = (said[name] for name in ("agreement", "hospital"))
    limits = (repr(said[name]) for name in ("budget", "together"))
    return "\0".join(("approval", *fields, *limits)).encode()
