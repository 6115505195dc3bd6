"""The promise on the command line: what the odometer shows and stops, what is said before training, and what bad input
is told.
"""

from __future__ import annotations

import json
import shutil

import pytest
from test_hospitals_splits import ROLES, write_folder

from tff_hospitals.experiments import account_dataset, front_door

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


def test_releases_that_are_alike_stand_in_one_line():
    """After a few comparisons the answer was thousands of lines."""
    run = {"method": "dp_sgd", "rounds": 15, "epsilon": {"record": 1.0}}
    moments = ("2026-01-31T23:58:01", "2026-01-31T23:59:30", "2026-02-01T00:01:00")
    first, *others = ({**run, "began": moment} for moment in moments)  # two processes share a comparison
    other = {"method": "fedavg", "rounds": 1, "epsilon": {}, "began": moments[0]}
    found = {"dataset": "d", "odometer": "o", "joint": [], "runs": [first, other, *others], "without_guarantee": 1}
    assert account_dataset.text(found).splitlines()[1:] == [
        "and        1 run without a mechanism, which no epsilon covers",
        "released   2026-01-31 23:58 to 23:59  2 times dp_sgd, 15 rounds: epsilon 1 per record",
        "released   2026-01-31 23:58  fedavg, 1 round: no guarantee",
        "released   2026-02-01 00:01  dp_sgd, 15 rounds: epsilon 1 per record",
    ]


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


def refusal(capsys, *arguments):
    """The message of a command that must fail: one screen, with a remedy."""
    code, _, error = answered(capsys, *arguments)
    assert code in (1, 2)
    assert "Remedy: " in error
    assert "Traceback" not in error
    assert len(error.splitlines()) <= 24
    return " ".join(error.split())


def test_bad_input_is_told_on_one_screen_before_anything_is_trained(tmp_path, capsys):
    """Each line of what may be wrong with data, keys and folders of a promise."""
    data, run_dir = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    write_folder(data, ROLES["split_column"] + ROLES["patient_column"])
    train = (
        *TRAIN,
        "--noise_multiplier=2",
        f"--dataset={data}",
        f"--run_dir={run_dir}",
        "--data_option=scaling=fixed_bounds",
    )
    north, south = ((data / name).read_text() for name in ("north.csv", "south.csv"))
    (data / "north.csv").write_text(north.replace("Test", "validation"))
    assert "column 'part'='validation': must be train or test" in refusal(
        capsys, *train
    )  # other words in a split column
    (data / "north.csv").write_text(north.replace("Test", "train", 1))
    assert "a patient must not be on both sides" in refusal(capsys, *train)
    assert not run_dir.exists()
    (data / "north.csv").write_text(north)
    assert south == (data / "south.csv").read_text()
    assert answered(capsys, *train)[0] == 0
    key = data / ".tff_hospitals" / "key"
    (run_dir / "summary.json").unlink()  # as if it had been interrupted
    kept = key.read_bytes()
    for spoil in (key.unlink, lambda: key.write_bytes(bytes(31) + b"x")):  # lost, and another one
        spoil()
        assert "holds a run on data with another secret key" in refusal(capsys, *train)
        key.unlink(missing_ok=True)
        key.touch(mode=0o600)
        key.write_bytes(kept)
    assert answered(capsys, *train)[0] == 0  # the remedy: restore it
    publish = ("publish", str(run_dir))
    assert "its noise follows from a seed that is written down" in refusal(capsys, *publish, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    shutil.copytree(run_dir, tmp_path / "copy")  # a folder that still holds a seed and inside/
    words = refusal(capsys, *publish, str(tmp_path / "copy"), "--research")
    assert "still holds checkpoints, inside, a seed" in words
    assert "is for embedded public data; this run's data are not" in words
