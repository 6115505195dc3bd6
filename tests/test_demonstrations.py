"""From files that nobody prepared to a report, with three commands and nothing written by hand but public bounds."""

from __future__ import annotations

import json
import time

import odd_hospitals
import pytest
from odd_hospitals import code_of, state_bounds

LONGEST = 90  # seconds on two processors of their own

pytestmark = [pytest.mark.slow, pytest.mark.tensorflow]


@pytest.mark.parametrize(
    ("write", "bounds", "records_per_patient", "hospitals"),
    [
        (odd_hospitals.write_stays, odd_hospitals.STAY_BOUNDS, None, 17),
        (odd_hospitals.write_dialysis, odd_hospitals.DIALYSIS_BOUNDS, 12, 67),
    ],
    ids=["17 hospitals", "67 dialysis centres"],
)
def test_from_files_to_report(write, bounds, records_per_patient, hospitals, tmp_path, capsys):
    folder, results = tmp_path / "tables", tmp_path / "run"
    folder.mkdir()
    write(folder)
    began, busy = time.monotonic(), time.process_time()
    assert code_of("inspect", str(folder)) == 0  # drafts the schema
    state_bounds(folder / "schema.yaml", bounds, records_per_patient)
    assert code_of("inspect", str(folder)) == 0  # nothing is open any more
    assert "ready: " in capsys.readouterr().out
    methods = "--aggregators=pooled,local,weighted_mean,dp_sgd"
    flags = ("--target_epsilon=4", "--seeds=42,43", "--noprogress", f"--run_dir={results}")
    assert code_of("compare", f"--dataset={folder}", methods, *flags) == 0
    spent = min(time.monotonic() - began, time.process_time() - busy)  # others may share the machine
    shown = capsys.readouterr()
    assert "report.html" in shown.out
    summary = json.loads((results / "summary.json").read_text())
    assert len(summary["dataset"]["hospitals"]) == hospitals
    rows = {row["method"]: row for row in summary["rows"]}
    assert {"pooled", "local", "weighted_mean", "dp_sgd"} <= set(rows)
    assert (results / "report.html").read_text().count(methods.split(",")[-1]) > 0
    assert not list(results.rglob("readiness*"))  # the page of the records stays with them
    print(f"{spent:.0f} s")
    assert spent < LONGEST
