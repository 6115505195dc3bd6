"""The promise put to the test: self-tests of the mechanism, bounds that attackers prove, and one verdict.

>>> verdict(["record"], [], [], gaps=["record level, hungary: no test of the noise"])
'too little tested'
>>> verdict([], [], [], gaps=[])
'no promise'
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tff_hospitals.audits.self_tests.findings import FAMILY_WISE, Finding, NotTested, SelfTest, settle

if TYPE_CHECKING:
    from tff_hospitals.audits.bounds.bound import Bound
    from tff_hospitals.audits.loading import LoadedRun
    from tff_hospitals.audits.options import AuditOptions

PASS, BROKEN, TOO_LITTLE, NO_PROMISE = "pass", "broken promise", "too little tested", "no promise"
EXIT_CODES = {PASS: 0, BROKEN: 1, TOO_LITTLE: 3, NO_PROMISE: 3}
_NEEDED = {  # by unit: beginnings of the names of tests without which nothing can be said of a hospital
    "record": {
        "noise": ("loudness: noise on records",),
        "clipping": ("clipping: records",),
        "batches": ("batches: ",),
        "ledger": ("ledger: events of every round, record level",),
    },
    "hospital": {
        "noise": ("loudness: noise on updates",),
        "clipping": ("clipping: updates",),
        "ledger": ("ledger: events of every round, hospital level",),
    },
}


def examine(run: LoadedRun, options: AuditOptions) -> dict[str, Any]:
    """Every self-test, what was not tested, every bound, and the verdict.

    Args:
      run: a finished run.
      options: how many runs a bound may take.
    """
    from tff_hospitals.audits import attack_parts
    from tff_hospitals.audits.bounds import proving
    from tff_hospitals.audits.self_tests import suite

    attack_parts.is_federation(run)
    started = time.perf_counter()
    found = suite.all_findings(run)
    proved = proving.all_bounds(run, options.audit_runs)
    tests = settle([one for one in found if isinstance(one, Finding)])
    bounds: list[Any] = [one for one in proved if not isinstance(one, NotTested)]
    missing = [one for one in (*found, *proved) if isinstance(one, NotTested)]
    units = run.ledger.units()
    lacking = gaps(units, suite.taking_part(run), tests)
    outcome = verdict(units, tests, bounds, lacking)
    return {
        "verdict": outcome,
        "exit_code": EXIT_CODES[outcome],
        "words": words(outcome, tests, bounds, lacking),
        "family_wise_error": FAMILY_WISE,
        "units": list(units),
        "self_tests": [dataclasses.asdict(one) for one in tests],
        "not_tested": [dataclasses.asdict(one) for one in missing],
        "gaps": lacking,
        "bounds": [dataclasses.asdict(one) for one in bounds],
        "seconds": round(time.perf_counter() - started, 2),
    }


def gaps(units: Sequence[str], hospitals: Sequence[str], tests: Sequence[SelfTest]) -> list[str]:
    """What must have been tested for a verdict and was not, in words: by unit and hospital.

    A test of all hospitals together, or of the server, stands for each of them but where each has its own.
    """
    found = []
    for unit in units:
        for what, beginnings in _NEEDED[unit].items():
            tested = {one.hospital for one in tests if one.name.startswith(beginnings)}
            own = tested - {None}
            lacking = [name for name in hospitals if name not in own] if own else [] if tested else list(hospitals)
            found += [f"{unit} level, {name}: no test of the {what}" for name in lacking]
    return found


def verdict(units: Sequence[str], tests: Sequence[SelfTest], bounds: Sequence[Bound], gaps: Sequence[str]) -> str:
    """What an audit says of a run's promise.

    Args:
      units: of privacy that its ledger knows.
      tests, bounds: outcomes.
      gaps: see `gaps`.
    """
    if _failed(tests, bounds):
        return BROKEN
    if not units:
        return NO_PROMISE
    return TOO_LITTLE if gaps or not tests else PASS


def words(outcome: str, tests: Sequence[SelfTest], bounds: Sequence[Bound], gaps: Sequence[str]) -> str:
    """The verdict in a sentence."""
    failed = _failed(tests, bounds)
    if outcome == PASS:
        return f"The promise stands: {len(tests)} self-tests and {len(bounds)} bounds, none of them against it."
    if outcome == BROKEN:
        return f"The promise is BROKEN: {failed} of {len(tests)} self-tests and {len(bounds)} bounds contradict it."
    if outcome == NO_PROMISE:
        return "The run promises nothing, so that there was no promise to test."
    return f"Too little was tested for a verdict: {'; '.join(gaps[:4])}{' ...' if len(gaps) > 4 else ''}."


def _failed(tests: Sequence[SelfTest], bounds: Sequence[Bound]) -> int:
    return sum(not one.passed for one in tests) + sum(not one.passed for one in bounds)
