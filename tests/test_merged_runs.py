"""Runs that were trained one by one, put together into one comparison."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
import report_samples

from tff_hospitals.accounting import Ledger
from tff_hospitals.experiments import front_door
from tff_hospitals.experiments.merged_runs import merged
from tff_hospitals.foundations.validation import InvalidInput

pytestmark = pytest.mark.tensorflow


def made(folder: pathlib.Path, seed: int, unit: str = "record", **record: Any) -> pathlib.Path:
    report_samples.write_sample_run(folder, unit=unit, rounds=2, random_seed=seed)
    for name in ("summary", "record", "plan"):
        path = folder / f"{name}.json"
        value = json.loads(path.read_text())
        value["seed"] = seed
        if name == "record":
            value.update({"identity": f"{unit}{seed}", "attempt": folder.name, **record})
        path.write_text(json.dumps(value))
    ledger = Ledger(1e-3)
    if unit == "record":
        for one, *_ in report_samples.HOSPITALS:
            ledger.expect("record", [one])
    (folder / "ledger.json").write_text(json.dumps(ledger.to_json()))
    return folder


def test_seeds_become_a_row_and_methods_stay_apart(tmp_path):
    summary = merged(
        [
            made(tmp_path / "a", 1),
            made(tmp_path / "b", 2),
            made(tmp_path / "c", 1, "none"),
            made(tmp_path / "d", 2, "none"),
        ]
    )
    assert summary.seeds == (1, 2)
    assert {row.method: row.score.seeds for row in summary.rows} == {"dp_sgd": 2, "weighted_mean": 2}
    assert summary.joint_epsilon["runs_without_guarantee"] == 2
    assert summary.dataset.name == "heart_disease"


def test_plans_that_differ_are_rows_of_their_own_with_names_of_their_own(tmp_path):
    first, second = made(tmp_path / "a", 1), made(tmp_path / "b<i>", 1)
    (second / "plan.json").write_text(json.dumps({"method": "dp_sgd", "rounds": 9, "seed": 1}))
    second_record = json.loads((second / "record.json").read_text())
    (second / "record.json").write_text(json.dumps({**second_record, "identity": "other"}))
    summary = merged([first, second])
    assert [row.name for row in summary.rows] == ["dp_sgd (a)", "dp_sgd (b<i>)"]
    assert all(row.score.interval is None for row in summary.rows)  # one seed


def test_all_that_cannot_be_merged_is_named_at_once(tmp_path):
    sound = made(tmp_path / "a", 1)
    unfinished = made(tmp_path / "b", 2)
    (unfinished / "summary.json").unlink()
    damaged = made(tmp_path / "c", 3)
    (damaged / "metrics.csv").write_text("round,hosp")
    other = made(tmp_path / "d", 4, dataset={"name": "digits", "fingerprint": "ff", "hospitals": [{"id": "x"}]})
    again = made(tmp_path / "e", 1, attempt="a")
    with pytest.raises(InvalidInput) as refused:
        merged([sound, unfinished, damaged, other, again])
    text = str(refused.value)
    for words in ("has not finished", "lacks the columns", "has other data (digits, ff) than", "is the same run as"):
        assert words in text
    with pytest.raises(InvalidInput, match="fewer than two runs"):
        merged([sound])


def test_the_command_writes_a_report_of_several(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "a", 1), made(tmp_path / "b", 2)
    with pytest.raises(SystemExit) as ended:
        front_door.main("report", ["report", "a", "b"])
    assert ended.value.code == 2
    assert "add --out=" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        front_door.main("report", ["report", "a", "b", "--out=both"])
    assert not ended.value.code
    assert (tmp_path / "both" / "report.html").is_file()
    assert "dp_sgd" in capsys.readouterr().out
