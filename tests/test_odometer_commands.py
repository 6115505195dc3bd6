"""The odometer on the command line: what it shows, what it stops, and what is said before training."""

from __future__ import annotations

import json

import pytest

from tff_hospitals.experiments import front_door

pytestmark = pytest.mark.tensorflow
TRAIN = ("train", "--noprogress", "--rounds=2", "--aggregator=dp_sgd", "--model=logistic_regression")


def answered(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        front_door.main(argv=["tff-hospitals", *arguments])
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("TFF_HOSPITALS_STATE", str(tmp_path / "state"))


def test_the_odometer_is_shown_and_stops_runs(tmp_path, capsys):
    code, out, _ = answered(capsys, "account", "--dataset=heart_disease")
    assert (code, "nothing yet" in out) == (0, True)
    first = (*TRAIN, "--target_epsilon=1", f"--run_dir={tmp_path / 'one'}", "--max_total_epsilon=1.2")
    assert answered(capsys, *first)[0] == 0
    code, out, _ = answered(capsys, "account", "--dataset=heart_disease")
    assert "epsilon 1 per record at delta 0.001, 1 release" in out
    found = json.loads(answered(capsys, "account", "--dataset=heart_disease", "--json")[1])
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert found["joint"][0]["epsilon"] == summary["epsilon"] == found["runs"][0]["epsilon"]["record"]
    second = (*TRAIN, "--target_epsilon=1", "--seed=7", f"--run_dir={tmp_path / 'two'}")
    code, _, error = answered(capsys, *second, "--max_total_epsilon=1.2")
    assert code == 2
    assert "2 runs on these data would together reach epsilon" in error
    assert "Remedy" in error
    assert not (tmp_path / "two" / "model.keras").exists()
    code, _, error = answered(capsys, *second, "--max_total_epsilon=nan")
    assert (code, "must be > 0.0, a finite number" in error) == (2, True)
    assert answered(capsys, *first)[0] == 0  # the same release again costs nothing
    code, _, error = answered(capsys, "account", "--dataset=heart_disease", "--steps=3")
    assert (code, "--steps=3: is not used with --dataset" in error) == (2, True)


def test_a_comparison_stops_by_it_and_refuses_what_no_epsilon_covers(tmp_path, capsys):
    asked = ("compare", "--noprogress", "--rounds=2", "--seeds=1", "--target_epsilon=1", "--model=logistic_regression")
    asked = (*asked, "--max_total_epsilon=1.2", f"--run_dir={tmp_path / 'both'}")
    code, _, error = answered(capsys, *asked, "--aggregators=dp_sgd,weighted_mean")
    assert (code, "no epsilon covers: weighted_mean" in error) == (2, True)
    code, _, error = answered(capsys, *asked, "--aggregators=dp_sgd,dp_ftrl_local")
    assert code == 1
    assert "2 runs on these data would together reach epsilon" in error
    summary = json.loads((tmp_path / "both" / "summary.json").read_text())
    rows = {row["method"]: row for row in summary["rows"]}
    assert rows["dp_sgd"]["epsilon"] == pytest.approx(1.0, rel=1e-3)
    assert rows["dp_ftrl_local"]["epsilon"] is None
    assert summary["joint_epsilon"]


def test_what_must_be_known_is_said_before_training(tmp_path, capsys):
    one = f"--run_dir={tmp_path / 'one'}"
    assert answered(capsys, *TRAIN, "--noise_multiplier=2", one)[0] == 0
    start = f"--pretrained={tmp_path / 'one' / 'model.keras'}"
    code, _, error = answered(capsys, *TRAIN, "--noise_multiplier=2", start, f"--run_dir={tmp_path / 'two'}")
    assert code == 0
    assert "epsilon covers training, not the weights that it starts from (model.keras)" in error
    extended = [text for text in TRAIN if not text.startswith("--rounds")]
    code, _, error = answered(capsys, *extended, "--rounds=3", "--noise_multiplier=2", one)
    assert (code, "note: " in error) == (0, True)
