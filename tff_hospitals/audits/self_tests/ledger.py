"""Does the ledger hold what the run did, and does the run state the ledger's epsilon?"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tff_hospitals.accounting import tree_squared_sensitivity
from tff_hospitals.accounting.certificate import CertificateError, certify
from tff_hospitals.audits.self_tests import declared, noise_of_rounds
from tff_hospitals.audits.self_tests.findings import Finding, NotTested
from tff_hospitals.audits.self_tests.measures import AtMost, differences
from tff_hospitals.audits.self_tests.recount import Counts, Recount, missing, recount
from tff_hospitals.plan import noise as noise_plan

if TYPE_CHECKING:
    from tff_hospitals.accounting import MechanismEvent
    from tff_hospitals.audits.loading import LoadedRun
    from tff_hospitals.audits.self_tests.keys import Draws

_MOST_STEPS = 2048  # of a tree whose whole covariance is looked at


def check(run: LoadedRun, draws: Draws) -> list[Finding | NotTested]:
    """The ledger against the drawn rounds, the steps that were written down, and the epsilon that is stated."""
    counted = recount(run, draws)
    found: list[Finding | NotTested] = []
    for unit, hospital in counted.events:
        found.append(_events(run, unit, hospital, counted))
    found += _preprocessing(run)
    found += _steps(run, counted)
    for unit in run.ledger.units():
        found.append(_second_accountant(run, unit))
        found += _dependence(run, unit, draws)
    return [*found, *_stated(run)]


def _events(run: LoadedRun, unit: str, hospital: str, counted: Recount) -> Finding:
    """Every round's events of one hospital, as they are charged and as they must be."""
    expected = counted.events[unit, hospital]
    name = f"events of every round, {unit} level"
    wrong, where = 0, ""
    if any(event.base is not None for event, _ in run.ledger.events(unit, _known(run, unit, hospital))):
        left = _of_the_winner(run, unit, hospital, expected)
        wrong, where = len(left), _words(left, "the winner's run")
    else:
        charged = _charged(run, unit, hospital)
        for number in sorted({*expected, *charged}):
            left = missing(expected.get(number, []), charged.get(number, []))
            wrong += bool(left)
            where = where or _words(left, f"round {number}")
    words = where or f"{len(expected)} rounds counted again"
    measure = differences(wrong, "a round that is not charged for what it released")
    return Finding("ledger", name, hospital, measure, words)


def _known(run: LoadedRun, unit: str, hospital: str) -> str | None:
    return hospital if run.ledger.knows(unit, hospital) else None


def _charged(run: LoadedRun, unit: str, hospital: str) -> dict[int, Counts]:
    """What a hospital is charged with in each round of training: its own entries and those of all."""
    found: dict[int, Counts] = {}
    for of in (None, hospital):
        for number, events in declared.by_round(run.ledger, unit, of).items():
            if number:
                found.setdefault(number, []).extend(events.items())
    return found


def _of_the_winner(run: LoadedRun, unit: str, hospital: str, expected: Mapping[int, Counts]) -> Counts:
    """The events of the chosen run of a sweep, which stand together inside one event."""
    from tff_hospitals.accounting.loss_shapes import settled

    base = [pair for event, _ in run.ledger.events(unit, _known(run, unit, hospital)) for pair in event.base or ()]
    before = noise_plan.preprocessing_events(run.dataset, unit)
    rounds = [pair for counts in expected.values() for pair in counts]
    return missing(list(settled([*before.get(None, ()), *before.get(hospital, ()), *rounds])), base)


def _words(left: Counts, where: str) -> str:
    parts = [f"{abs(count)} {'missing' if count > 0 else 'too many'}: {event.words}" for event, count in left]
    return f"{where}: {'; '.join(parts)}" if parts else ""


def _preprocessing(run: LoadedRun) -> list[Finding]:
    """What was released before training."""
    found = []
    for unit in run.ledger.units():
        for hospital, released in noise_plan.preprocessing_events(run.dataset, unit).items():
            if any(event.base for event, _ in run.ledger.events(unit, hospital)):
                continue  # counted with the winner's run
            charged = list(declared.by_round(run.ledger, unit, hospital).get(0, {}).items())
            left = missing(list(released), charged)
            words = _words(left, "before training") or f"{len(released)} releases before training"
            measure = differences(len(left), "a release of the preprocessing that is not charged")
            found.append(Finding("ledger", f"events of the preprocessing, {unit} level", hospital, measure, words))
    return found


def _steps(run: LoadedRun, counted: Recount) -> list[Finding | NotTested]:
    """The steps that the run wrote down, against those of the schedules."""
    name = "ledger: steps that were written down"
    written = _written_steps(run)
    if not written:
        return [NotTested(name, None, "the run wrote down no steps by hospital")]
    found: list[Finding | NotTested] = []
    for hospital, by_round in counted.steps.items():
        pairs = [(by_round.get(number, 0), steps) for number, steps in written.get(hospital, {}).items()]
        wrong = sum(ours != theirs for ours, theirs in pairs)
        words = f"{sum(theirs for _, theirs in pairs)} steps in {len(pairs)} rounds"
        measure = differences(wrong, "a round with other steps than its schedule")
        found.append(Finding("ledger", "steps that were written down", hospital, measure, words))
    return found


def _written_steps(run: LoadedRun) -> dict[str, dict[int, int]]:
    """Steps by hospital and round from the run's tables; empty where they are not there."""
    found: dict[str, dict[int, int]] = {}
    if run.folder is None:
        return found
    for path in sorted(run.folder.rglob("metrics.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if row.get("hospital") in run.dataset.ids and row.get("steps"):
                    found.setdefault(row["hospital"], {})[int(row["round"])] = int(float(row["steps"]))
    return found


def _second_accountant(run: LoadedRun, unit: str) -> Finding:
    """dp_accounting computes the same epsilon from the same ledger."""
    try:
        certify(run.ledger, unit)
    except CertificateError as error:
        words, wrong = str(error), 1
    else:
        words, wrong = "dp_accounting agrees for every hospital that it has an analysis for", 0
    measure = differences(wrong, "an epsilon below dp_accounting's")
    return Finding("ledger", f"a second accountant, {unit} level", None, measure, words)


def _dependence(run: LoadedRun, unit: str, draws: Draws) -> list[Finding]:
    """Whether the dependence between noises costs no more than the accountant charges for it."""
    found, seen = [], set()
    for hospital in run.ledger.hospital_ids(unit) or (None,):
        for event in declared.in_training(run.ledger, run.dataset, unit, hospital):
            apart = _apart(run, event, unit, hospital, draws)
            key = (event.kind, event.steps, apart, event.sensitivity)
            known = event.kind in ("tree", "matrix") and event.restart in (None, 0)
            if not known or key in seen or (event.steps or 1) > _MOST_STEPS:
                continue
            seen.add(key)
            found += _cost(run, event, unit, hospital, apart, draws)
    return found


def _apart(run: LoadedRun, event: MechanismEvent, unit: str, hospital: str | None, draws: Draws) -> int:
    """After how many steps, or rounds, a unit is back."""
    if unit == "hospital":
        return run.plan.cohort.period(len(run.dataset.hospitals))
    if event.kind == "matrix" and hospital is not None:
        return draws.noise.settings[hospital].steps_per_epoch
    return event.period or event.steps or 1


def _cost(
    run: LoadedRun, event: MechanismEvent, unit: str, hospital: str | None, apart: int, draws: Draws
) -> list[Finding]:
    """The squared sensitivity that follows from how noises hang together, against the one that is charged."""
    steps, period = event.steps or 1, apart
    if unit == "record":
        rows = None if hospital is None else draws.dependence(steps, hospital)
    else:
        rows = noise_of_rounds.dependence_of(run.plan, len(run.dataset.hospitals), steps)
    if rows is None:
        return []
    precision = np.linalg.inv(rows @ rows.T)
    worst = max(float(precision[at::apart, at::apart].sum()) for at in range(min(apart, steps)))
    allowed = (event.sensitivity or 0.0) ** 2 if event.kind == "matrix" else tree_squared_sensitivity(steps, period)
    words = f"a unit moves {steps} steps by {worst:.6g} squared, charged {allowed:.6g}"
    measure = AtMost(worst, allowed * (1 + 1e-4), "noises that depend on each other more than the accountant assumes")
    return [Finding("ledger", f"noise of {steps} steps, period {apart}, {unit} level", None, measure, words)]


def _stated(run: LoadedRun) -> list[Finding | NotTested]:
    """The epsilon in the summary, against that of the ledger."""
    found: list[Finding | NotTested] = []
    for unit_field, field, conversion_field in (
        ("unit", "epsilon", "conversion"),
        ("second_unit", "second_epsilon", "second_conversion"),
    ):
        unit, stated = run.summary.get(unit_field), run.summary.get(field)
        if unit not in run.ledger.units():
            continue
        conversion = str(run.summary.get(conversion_field) or "rdp")
        epsilon = run.ledger.worst_epsilon(str(unit), conversion)[0]
        if stated is None:
            found.append(NotTested("ledger: stated epsilon", None, f"the run states no epsilon at {unit} level"))
            continue
        short = max(0.0, epsilon - float(stated)) / max(epsilon, 1e-30) if math.isfinite(epsilon) else 1.0
        words = f"{float(stated):.6g} is stated at {unit} level, {epsilon:.6g} by {conversion} from the ledger"
        measure = AtMost(short, 1e-6, "an epsilon below the ledger's")
        found.append(Finding("ledger", f"stated epsilon, {unit} level", None, measure, words))
    return found
