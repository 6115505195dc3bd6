"""Every bound that applies to a run: worst-case records, a worst-case hospital, canaries in one run."""

from __future__ import annotations

import concurrent.futures
import math
import os
from typing import TYPE_CHECKING

from tff_hospitals.accounting import loss_shapes
from tff_hospitals.accounting.epsilon import composed_epsilon, conversion_problem
from tff_hospitals.accounting.loss_shapes import Composition
from tff_hospitals.accounting.trade_off import like_gaussian
from tff_hospitals.audits.bounds import of_hospitals, of_records, one_run, pairs
from tff_hospitals.audits.bounds.bound import Bound, bound
from tff_hospitals.audits.self_tests import declared
from tff_hospitals.audits.self_tests.findings import FAMILY_WISE, NotTested
from tff_hospitals.audits.self_tests.keys import Runs, foreign
from tff_hospitals.audits.self_tests.suite import MOST_HOSPITALS

if TYPE_CHECKING:
    from tff_hospitals.accounting import MechanismEvent
    from tff_hospitals.audits.loading import LoadedRun

MOST_AUDITED = 6  # hospitals whose records are looked for
_MOST_CANARY_PARAMETERS = 100_000  # of a model that is trained with canaries
_NOTICE = 0.85  # noise over the declared one that the pairs should notice
_FEWEST_PAIRS = 200
_STEPS = 100_000_000  # of all runs with and without a record
_ROUNDS = 3_000_000  # of all runs with and without a hospital
_SHARES = 40_000_000  # numbers of noise that hospitals draw in them, where every number is drawn by itself
Found = list["Bound | NotTested"]


def all_bounds(run: LoadedRun, most_pairs: int) -> Found:
    """Bounds on the epsilon of every unit that the ledger knows; without a promise, what canaries prove.

    Args:
      run: a finished run.
      most_pairs: of runs with and without a unit, for each bound.
    """
    units = run.ledger.units()
    found: Found = []
    reason = foreign(run.plan.privacy)
    if reason:
        return [NotTested("bound", None, reason)]
    hospitals = _worst_first(run) if "record" in units else []
    count = len(hospitals[:MOST_AUDITED]) + ("hospital" in units) + 1
    confidence = 1.0 - FAMILY_WISE / 2 / count
    runs = Runs(run, run.dataset.ids[:MOST_HOSPITALS])
    if "record" in units:
        found += _of_records(run, runs, hospitals, most_pairs, confidence)
    if "hospital" in units:
        found.append(_of_hospital(run, runs, most_pairs, confidence))
    found.append(_of_canaries(run, confidence))
    return found


def claimed(run: LoadedRun, unit: str, hospital: str | None) -> Composition:
    """What the ledger says that the run released about a unit; of the winner of a sweep, in its own run."""
    ledger = run.ledger
    events: list[tuple[MechanismEvent, int]] = []
    for event, count in ledger.events(unit, hospital if ledger.knows(unit, hospital) else None):
        events += [(event, count)] if event.base is None else list(event.base)
    return like_gaussian(loss_shapes.compose(events, ledger.adjacency))


def _stated(run: LoadedRun, unit: str, hospital: str | None) -> float:
    """Epsilon as the run states it, of one hospital."""
    field = "conversion" if unit == run.summary.get("unit") else "second_conversion"
    known = hospital if run.ledger.knows(unit, hospital) else None
    return run.ledger.epsilon(unit, known, str(run.summary.get(field) or "rdp"))


def _worst_first(run: LoadedRun) -> list[str]:
    """Hospitals by the epsilon of their records, the largest first."""
    return sorted(run.dataset.ids, key=lambda name: -run.ledger.epsilon("record", name))


def _no_curve(run: LoadedRun, unit: str, promised: Composition) -> str | None:
    """Why the releases of a unit have no trade-off curve; None when they have one."""
    if not promised:
        return "nothing was released"
    if run.plan.by_round:
        return "settings change by round, and pairs of runs are played with one value of each"
    if not loss_shapes.is_private(promised):
        return "something was released without noise: there is nothing to contradict"
    if any(isinstance(part, loss_shapes.SelectionPart) for part, _ in promised):
        return "a selection has a bound on epsilon, but no trade-off curve"
    problem = conversion_problem(promised, "pld", run.ledger.delta)
    return None if problem is None else f"its releases have no trade-off curve here: {problem.bound}"


def _judged(
    run: LoadedRun, unit: str, hospital: str, promised: Composition, scores: tuple, confidence: float, what: str
) -> Bound:
    count = len(scores[0])
    right = pairs.right_answers(*scores)
    found = pairs.judge(right=right, pairs=count, promised=promised, delta=run.ledger.delta, confidence=confidence)
    return bound(
        unit,
        hospital,
        f"{right} right answers about {count} pairs of runs with and without {what}",
        proved=found.lower_bound,
        stated=_stated(run, unit, hospital),
        tight=found.promised_epsilon,
        confidence=confidence,
        notices_below=found.notices_below,
        passed=found.passed,
    )


def _pairs(promised: Composition, confidence: float, most: int) -> int:
    """As many as notice what should be noticed, and may be run."""
    return min(most, pairs.pairs_to_notice(_NOTICE, promised, confidence))


# ---------------------------------------------------------------------------------------------------------- one record


def _of_records(run: LoadedRun, runs: Runs, hospitals: list[str], most_pairs: int, confidence: float) -> Found:
    name = "bound: one record"
    found: Found = []
    tasks = []
    rules: dict[int, of_records.Steps] = {}
    chosen = [one for one in hospitals if one in runs.hospitals][:MOST_AUDITED]
    for hospital in chosen:
        target = _target(run, runs, hospital)
        promised = claimed(run, "record", hospital)
        reason = "it takes part in no round" if target is None else _no_curve(run, "record", promised)
        most = 0 if target is None else _STEPS // (2 * len(chosen) * target.total_steps)
        if reason is None and most < _FEWEST_PAIRS:
            reason = f"{_FEWEST_PAIRS} pairs of runs of so many steps would take too long"
        if reason is not None or target is None:
            found.append(NotTested(name, hospital, reason or ""))
            continue
        if target.steps not in rules:
            setting = runs.own.noise.settings[hospital]
            longest = target.steps if target.dependence is None else setting.longest
            rules[target.steps] = of_records.Steps(setting.privacy, target.steps, longest)
        tasks.append((target, promised, _pairs(promised, confidence, min(most, most_pairs))))

    def work(task: tuple) -> Bound:
        target, promised, count = task
        rule = rules[target.steps]
        scores = of_records.scores(rule, target, run.plan.privacy, runs, count, seed=hash_of(target.hospital))
        what = "one worst-case record, every step seen"
        return _judged(run, "record", target.hospital, promised, scores, confidence, what)

    with concurrent.futures.ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)))) as pool:
        found += pool.map(work, tasks)
    if len(hospitals) > len(chosen):
        reason = f"records of the {len(chosen)} hospitals with the largest epsilon are looked for, not of the others"
        found.append(NotTested(name, None, reason))
    return found


def _target(run: LoadedRun, runs: Runs, hospital: str) -> of_records.Target | None:
    """The hospital as its rounds were drawn; None where it never takes part or releases nothing that is known."""
    event = declared.loudest(run.ledger, run.dataset, "record", hospital)
    drawn = (runs.own.of_hospital(number, hospital) for number in range(run.rounds))
    one = next((found for found in drawn if found is not None), None)
    if event is None or one is None:
        return None
    batch, multiplier = one.schedule.expected_batch, one.noise_multiplier
    steps, own = one.schedule.steps, runs.own
    return of_records.Target(
        hospital=hospital,
        event=event,
        records=one.schedule.records,
        steps=steps,
        rounds=run.rounds,
        expected_batch=batch,
        noise_multiplier=multiplier,
        turns=own.turns(hospital),
        dependence=own.dependence(steps, hospital),
    )


def hash_of(name: str) -> int:
    """A seed of its own for every name, the same on every machine."""
    import zlib

    return zlib.crc32(name.encode())


# -------------------------------------------------------------------------------------------------------- one hospital


def _of_hospital(run: LoadedRun, runs: Runs, most_pairs: int, confidence: float) -> Bound | NotTested:
    name = "bound: one hospital"
    hospital = run.ledger.worst_epsilon("hospital")[1] or run.dataset.ids[0]
    event = declared.loudest(run.ledger, run.dataset, "hospital", hospital)
    promised = claimed(run, "hospital", hospital)
    reason = "its ledger holds no round" if event is None else _no_curve(run, "hospital", promised)
    if reason is not None or event is None:
        return NotTested(name, hospital, reason or "")
    rounds = of_hospitals.Rounds(run, runs.own.noise.server_multiplier)
    most = _ROUNDS // (2 * run.rounds)
    if rounds.numbers:
        most = min(most, _SHARES // (2 * run.rounds * len(run.dataset.hospitals) * rounds.numbers))
    if most < _FEWEST_PAIRS:
        return NotTested(name, hospital, f"{_FEWEST_PAIRS} pairs of runs of so many rounds would take too long")
    target = of_hospitals.Target(hospital, event, run.rounds)
    count = _pairs(promised, confidence, min(most, most_pairs))
    scores = of_hospitals.scores(rounds, target, runs, count, seed=hash_of(hospital))
    what = "one worst-case hospital, every round seen"
    return _judged(run, "hospital", hospital, promised, scores, confidence, what)


# ------------------------------------------------------------------------------------------------------------ canaries


def _of_canaries(run: LoadedRun, confidence: float) -> Bound | NotTested:
    """One training of the run's own plan with canaries; without a promise, what a curious server proves."""
    name = "bound: canaries in one run"
    if run.plan.privacy.secure_noise:
        return NotTested(
            name, None, "the attacker would have to see each update twice, and noise cannot be drawn twice"
        )
    if run.model.parameters > _MOST_CANARY_PARAMETERS:
        return NotTested(name, None, f"the model has more than {_MOST_CANARY_PARAMETERS:,} parameters")
    protected = "record" in run.ledger.units()
    promised = claimed(run, "record", run.ledger.worst_epsilon("record")[1]) if protected else None
    if promised is not None:
        reason = _no_curve(run, "record", promised)
        if reason is not None:
            return NotTested(name, None, reason)
    delta = run.ledger.delta if protected else 0.0  # without a promise there is no delta to allow for
    found = one_run.one_run(
        run.plan, run.dataset, run.model, delta=delta, confidence=confidence, promised=promised
    ).guesses
    return bound(
        "record",
        None,
        f"{found.correct} of {found.guesses} guesses in one run with {found.canaries} canaries",
        proved=found.lower_bound,
        stated=_stated(run, "record", None) if protected else math.inf,
        tight=math.inf if promised is None else composed_epsilon(promised, delta, "pld"),
        confidence=confidence,
    )
