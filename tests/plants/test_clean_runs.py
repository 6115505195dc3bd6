"""Forty clean runs, of every private method with two seeds: none raises an alarm, none lacks a test that it needs."""

from __future__ import annotations

import pytest
from catalogue import PLANTS
from harness import METHODS, audited, trained

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]
COUNTED = {"privacy": {"clipped_count_stddev": 6.0}}
CHANGES = {"adaptive_clip": COUNTED, "adaptive_clip_zeroing": COUNTED}
OWN = [name for name, one in METHODS.items() if one.private and not one.runs_on]
CASES = [(name, CHANGES.get(name, {})) for name in OWN] + [
    (one.method, one.changes) for one in PLANTS.values() if "cohort" in one.changes
]


def test_there_are_forty_runs():
    assert 2 * len(CASES) >= 40


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("method", "changes"), CASES)
def test_a_clean_run_raises_no_alarm(method, changes, seed):
    tests, gaps = audited(trained(method, changes, seed))
    assert not [(one.name, one.hospital, one.words) for one in tests if not one.passed]
    assert gaps == []
    assert len(tests) > 20
