"""Trains a method on toy hospitals and audits the run: what the tests of planted faults and of clean runs share."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # tests/toy.py

from toy import hospitals

from tff_hospitals.audits import promise
from tff_hospitals.audits.loading import in_memory
from tff_hospitals.audits.self_tests import suite
from tff_hospitals.audits.self_tests.findings import SELF_TESTS, Finding, NotTested, settle
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.plan import Plan
from tff_hospitals.runtimes.compiled import runtime
from tff_hospitals.training.loop import train

ROUNDS = 4


def inside_hospitals(method: str) -> bool:
    """Whether a method's mechanism acts inside the hospitals."""
    return mechanisms.record_level(METHODS[method].plan(Plan(), 3.0).privacy) is not None


def trained(method: str, changes: Mapping[str, Any], seed: int = 7) -> Any:
    """A finished run of four rounds at epsilon 3 on hospitals of 60, 40 and 32 records, by programs of its own."""
    runtime._programs.clear()
    data = hospitals(sizes=(60, 40, 32))
    plan = METHODS[method].plan(Plan(rounds=ROUNDS).replace(client={"local_steps": 8, "batch_size": 16}), 3.0)
    plan = plan.replace(**changes, seed=seed)
    plan = plan.replace(evaluate_every=plan.rounds, checkpoint_every=plan.rounds)
    run = in_memory(train(plan, data), data)
    runtime._programs.clear()
    return run


def audited(run: Any, error: float) -> tuple[list, list[str]]:
    """Its self-tests, decided at this chance of any false alarm, and what was not tested though a verdict needs it."""
    tests = settle([one for one in suite.all_findings(run) if isinstance(one, Finding)], error)
    return tests, promise.gaps(run.ledger.units(), suite.taking_part(run), tests)


def looked_at(run: Any, kind: str, patch: Any) -> list:
    """The part of the audit that makes tests of this kind, as the whole audit makes it (all of it takes minutes)."""
    made = suite._Suite(run)
    own, unit = made.runs.own, run.ledger.units()[0]
    if kind == "replay":
        return [suite.replay.check(run, own)]
    if kind in ("batches", "ledger"):
        mine = suite.batches.check(run, own, made.hospitals, range(run.rounds)) if unit == "record" else []
        return [*mine, *suite.cohorts.check(run, own), *suite.ledger.check(run, own)]
    if kind == "clipping" and unit == "record":
        frame = made._frame("record", max(own.noise.multipliers.values())).at(run.weights)
        return suite.clipping.records(run, frame, own, made.hospitals, range(2), made.places)
    if kind == "clipping":
        return made._clipped_updates(made._frame("hospital", own.noise.server_multiplier), range(2))
    for name in ("records", "updates"):
        patch.setattr(suite.clipping, name, lambda *_: [])
    for name in ("of_steps", "of_rounds"):
        patch.setattr(suite.whole_rounds, name, lambda *_: NotTested("whole rounds", None, "not asked here"))
    return made._record_level() if unit == "record" else made._hospital_level()


def noticed(plant: Any, patch: Any) -> list:
    """Self-tests that fail when the fault is planted."""
    plant.patch(patch)
    run = trained(plant.method, plant.changes)
    if plant.only_training:
        patch.undo()
    found = [one for one in looked_at(run, plant.test.partition(":")[0], patch) if isinstance(one, Finding)]
    # A part has fewer tests than the audit: with a tenth of the error none of them is easier to fail there.
    return [one for one in settle(found, SELF_TESTS / 10) if not one.passed]


def check(plant: Any, patch: Any, record: Callable[[str, object], None]) -> None:
    """The test that the catalogue names fails, at the hospital that it names; `record` keeps its figure."""
    failed = noticed(plant, patch)
    named = [one for one in failed if one.name.startswith(plant.test) and plant.hospital in (None, one.hospital)]
    assert named, f"{plant.name}: {plant.test} did not notice it; others: {[one.name for one in failed][:8]}"
    worst = named[0]
    at = "" if worst.hospital is None else f" at {worst.hospital}"
    low, high = (None if one is None else f"{one:.3g}" for one in worst.bound)
    record("plant", plant.name)
    record("test", worst.name + at)
    record("figure", f"{worst.figure:.3g}")
    record("bound", f"at most {high}" if low is None else f"{low} to {high}")
