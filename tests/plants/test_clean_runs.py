"""Forty clean runs, of every private method with two seeds: none raises an alarm, none lacks a test that it needs."""

from __future__ import annotations

import pytest
from catalogue import PLANTS
from few_fast import few_fast
from harness import METHODS, audited, trained

from tff_hospitals.audits.self_tests.findings import SELF_TESTS

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]
COUNTED = {"privacy": {"clipped_count_stddev": 6.0}}
CHANGES = {"adaptive_clip": COUNTED, "adaptive_clip_zeroing": COUNTED}
OWN = [name for name, one in METHODS.items() if one.private and not one.runs_on]
IN_TURN = {one.method: one.changes for one in PLANTS.values() if "cohort" in one.changes}
BY_ROUND = [(one.method, one.changes) for one in PLANTS.values() if "by_round" in one.changes]
CASES = [*((name, CHANGES.get(name, {})) for name in OWN), *IN_TURN.items(), *BY_ROUND]
SEEDS = (1, 2)
# One run for each way to add noise, and to count it, in the slow part; further methods and seeds are rare.
FEW = ("dp_sgd", "dp_ftrl_local", "fixed_clip", "adaptive_clip", "tree", "discrete_gaussian", "local_dp")
RUNS = [(*case, seed) for case in CASES for seed in SEEDS]
SLOW = [(name, CHANGES.get(name, {}), 1) for name in FEW] + [("blt", IN_TURN["blt"], 1)]
# All runs together raise an alarm as rarely as one audit does: their noise is new whenever a plan gets a new field.
ERROR = SELF_TESTS / (len(SEEDS) * len(CASES))


def test_there_are_forty_runs():
    assert len(SEEDS) * len(CASES) >= 40


@pytest.mark.parametrize(("method", "changes", "seed"), few_fast(RUNS, slow=SLOW))
def test_a_clean_run_raises_no_alarm(method, changes, seed):
    tests, gaps = audited(trained(method, changes, seed), ERROR)
    assert not [(one.name, one.hospital, one.words) for one in tests if not one.passed]
    assert gaps == []
    assert len(tests) > 20
