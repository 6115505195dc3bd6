"""The loop: reproducible, resumable at any moment, honest about what was done, and stopped for the right reason."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import toy

from tff_hospitals.accounting import Ledger
from tff_hospitals.experiments.outcome import over_patients
from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.reports.progress import run_summary
from tff_hospitals.training import loop
from tff_hospitals.training.loop import TrainingError, train
from tff_hospitals.training.round_inputs import RoundDrawer

pytestmark = pytest.mark.tensorflow

PLAN = Plan().replace(
    rounds=6,
    checkpoint_every=2,
    client={"local_steps": 5, "batch_size": 4, "learning_rate": 0.1},
    privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-2},
    server={"optimizer": "adam", "learning_rate": 0.1},
)


@pytest.fixture(scope="module")
def dataset():
    return toy.hospitals()


@pytest.fixture(scope="module")
def model(dataset):
    return loop.build_model(PLAN, dataset)


@pytest.fixture(scope="module")
def whole(dataset, model, tmp_path_factory):
    """A run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return train(PLAN, dataset, model=model, run_dir=folder)


def flat(weights):
    return np.concatenate([np.ravel(weight) for weight in weights])


def test_the_same_plan_and_seed_give_the_same_metrics_bit_for_bit(dataset, model, whole, tmp_path):
    again = train(PLAN, dataset, model=model, run_dir=tmp_path / "again")
    assert (tmp_path / "again" / "metrics.csv").read_bytes() == (whole.directory / "metrics.csv").read_bytes()
    assert flat(again.weights).tolist() == flat(whole.weights).tolist()
    other = train(PLAN.replace(seed=43), dataset, model=model)
    assert flat(other.weights).tolist() != flat(whole.weights).tolist()


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_a_run_that_dies_resumes_bit_equal(dataset, model, whole, tmp_path, stop_after):
    def die(progress):
        if progress.round == stop_after:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(PLAN, dataset, model=model, run_dir=folder, on_round=die)
    resumed = train(PLAN, dataset, model=model, run_dir=folder)
    assert flat(resumed.weights).tolist() == flat(whole.weights).tolist()
    for name in ("metrics.csv", "bytes.csv", "ledger.json"):
        assert (folder / name).read_bytes() == (whole.directory / name).read_bytes(), name


@pytest.mark.slow
def test_a_killed_process_resumes_bit_equal(tmp_path):
    """SIGKILL in the middle, in a process of its own; then the same command again."""
    code = (
        "import sys; sys.path.insert(0, {tests!r}); import toy, time; from tests_plan import PLAN\n"
        "from tff_hospitals.training.loop import train\n"
        "def slow(p): print(p.round, flush=True); time.sleep(float(sys.argv[2]))\n"
        "train(PLAN, toy.hospitals(), run_dir=sys.argv[1], on_round=slow)\n"
    )
    helper = tmp_path / "tests_plan.py"
    helper.write_text(f"from tff_hospitals.plan import Plan\nPLAN = Plan.from_json({PLAN.to_json()!r})\n")
    tests = str(pathlib.Path(__file__).parent)
    script = tmp_path / "run.py"
    script.write_text(code.format(tests=tests))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}

    def start(folder, pause):
        command = [sys.executable, str(script), str(folder), str(pause)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    victim = start(tmp_path / "killed", 0.3)
    for line in victim.stdout:
        if line.strip() == "4":
            break
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    victim.stdout.close()
    assert (tmp_path / "killed" / "checkpoints").is_dir()
    assert not (tmp_path / "killed" / "summary.json").exists()
    for folder in ("killed", "never"):
        process = start(tmp_path / folder, 0)
        process.communicate(timeout=120)
        assert process.returncode == 0
    for name in ("metrics.csv", "ledger.json", "bytes.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "never" / name).read_bytes()


def test_resuming_a_finished_run_does_nothing_and_says_so(dataset, model, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.directory.rglob("*")}
    again = train(PLAN, dataset, model=model, run_dir=whole.directory)
    assert again.already_finished
    assert not whole.already_finished
    assert flat(again.weights).tolist() == flat(whole.weights).tolist()
    assert {path: path.stat().st_mtime_ns for path in whole.directory.rglob("*")} == before


def test_a_directory_of_another_plan_is_refused_and_left_alone(dataset, model, whole):
    before = (whole.directory / "plan.json").read_bytes()
    with pytest.raises(files.RecordError, match=r"differs in rounds \(6 there, 5 here\)"):
        train(PLAN.replace(rounds=5), dataset, model=model, run_dir=whole.directory)
    with pytest.raises(files.RecordError, match=r"differs in checkpoint_every .*, rounds \(6 there, 7 here\)"):
        train(PLAN.replace(rounds=7, checkpoint_every=3), dataset, model=model, run_dir=whole.directory)
    with pytest.raises(files.RecordError, match="the data"):
        train(PLAN, toy.hospitals(seed=1), run_dir=whole.directory)
    assert (whole.directory / "plan.json").read_bytes() == before


def test_a_corrupt_checkpoint_falls_back_to_the_one_before(dataset, model, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole.directory, folder)
    (folder / "summary.json").unlink()
    newest = max((folder / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-20])
    resumed = train(PLAN, dataset, model=model, run_dir=folder)
    assert flat(resumed.weights).tolist() == flat(whole.weights).tolist()
    assert any("corrupt or half-written" in text for text in resumed.summary["warnings"])


def test_no_whole_checkpoint_is_an_error_that_names_the_remedy(dataset, model, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole.directory, folder)
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.raises(files.RecordError, match="Remedy"):
        train(PLAN, dataset, model=model, run_dir=folder)


def test_a_full_disk_stops_the_run_and_loses_nothing(dataset, model, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    real = files.write_bytes

    def full_after_round_two(path, content):
        if "000004" in str(path):
            raise files.RecordError(f"could not write {path}: No space left on device. Remedy: free some space.")
        real(path, content)

    monkeypatch.setattr(files, "write_bytes", full_after_round_two)
    with pytest.raises(files.RecordError, match="No space left"):
        train(PLAN, dataset, model=model, run_dir=folder)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["round_000002.ckpt"]


def test_the_ledger_holds_the_steps_that_were_taken(whole, dataset):
    drawer = RoundDrawer(PLAN, dataset, noise_plan.make(PLAN, dataset))
    drawn = dict.fromkeys(dataset.ids, 0)
    for number in range(PLAN.rounds):
        for one in drawer.draw(number).cohort:
            assert one.schedule.sampling == "poisson"
            drawn[one.hospital.hospital_id] += one.schedule.steps
    assert {name: whole.ledger.steps("record", name) for name in dataset.ids} == drawn == dict.fromkeys(dataset.ids, 30)
    stored = Ledger.from_json(json.loads((whole.directory / "ledger.json").read_text()))
    assert stored == whole.ledger
    assert stored.worst_epsilon("record")[0] == whole.summary["epsilon"]


def test_epsilon_is_in_metrics_by_hospital_and_round_and_grows(whole, dataset):
    import csv

    with open(whole.directory / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert {row["hospital"] for row in rows} == {*dataset.ids, "pooled"}
    for hospital in dataset.ids:
        epsilons = [float(row["epsilon_rdp"]) for row in rows if row["hospital"] == hospital]
        assert len(epsilons) == PLAN.rounds
        assert epsilons == sorted(epsilons)
        assert epsilons[-1] == whole.summary["epsilon_per_hospital"][hospital]
    assert all(row["train_loss"] == "" for row in rows)  # exact training losses are outside the guarantee


def test_keys_and_batches_differ_between_hospitals_and_rounds(dataset):
    drawer = RoundDrawer(PLAN, dataset, noise_plan.make(PLAN, dataset))
    keys = [tuple(one.key) for number in range(4) for one in drawer.draw(number).cohort]
    assert len(set(keys)) == 4 * len(dataset)


def test_stop_before_the_budget_is_exceeded(dataset, model):
    plan = PLAN.replace(stopping={"max_epsilon": 6.0})
    run = train(plan, dataset, model=model)
    assert run.summary["rounds"] < PLAN.rounds or run.summary["warnings"]
    assert all(epsilon <= 6.0 for epsilon in run.summary["epsilon_per_hospital"].values())
    tight = train(PLAN.replace(stopping={"max_epsilon": 0.1}), dataset, model=model)
    assert tight.summary["rounds"] == 0
    assert tight.summary["stop_reason"].startswith("privacy budget spent")


def test_a_hospital_that_spent_its_budget_leaves_and_the_others_go_on(model):
    """The smallest hospital samples most often, spends fastest and leaves first."""
    dataset = toy.hospitals(sizes=(200, 100, 8))
    plan = PLAN.replace(rounds=8, stopping={"max_epsilon": 2.0})
    run = train(plan, dataset)
    steps = {name: run.ledger.steps("record", name) for name in dataset.ids}
    assert steps["site_2"] < steps["site_1"] <= steps["site_0"] == 40
    assert any(text.startswith("site_2 left the cohort before round") for text in run.summary["warnings"])
    assert max(run.summary["epsilon_per_hospital"].values()) <= 2.0


def test_a_plateau_stops_the_run_and_is_recorded(dataset, model):
    plan = Plan().replace(
        rounds=50,
        client={"local_steps": 1, "learning_rate": 1e-6},
        stopping={"patience": 3, "threshold": 0.01, "metric": "loss"},
    )
    run = train(plan, dataset, model=model)
    assert run.summary["rounds"] == 4
    assert run.summary["stop_reason"].startswith("plateau: loss did not improve")


def test_an_update_that_is_not_finite_names_round_and_hospital():
    dataset = toy.hospitals(scale=1e30)
    plan = Plan().replace(rounds=3, client={"learning_rate": 1e30, "local_steps": 5})
    with pytest.raises(TrainingError, match=r"round 1: the update of hospital 'site_0' has norm (nan|inf)"):
        train(plan, dataset)


def test_problems_are_raised_before_training(dataset, tmp_path):
    with pytest.raises(InvalidInput, match="client_learning_rate"):
        train(Plan().replace(client={"learning_rate": -1.0}), dataset, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bytes_are_those_of_the_tensors_that_travel(whole, dataset):
    # Down: 6 weights and a round number; up: 6 numbers and a weight; 4 bytes each.
    assert whole.summary["bytes_down"] == 3 * 6 * (6 + 1) * 4
    assert whole.summary["bytes_up"] == 3 * 6 * (6 + 1) * 4


def test_evaluation_every_second_round_and_at_the_end(dataset, model, tmp_path):
    plan = PLAN.replace(rounds=5, evaluate_every=2)
    run = train(plan, dataset, model=model, run_dir=tmp_path / "run")
    assert [point["round"] for point in run.summary["curve"]] == [2, 4, 5]


def test_server_held_records_are_evaluated_too(dataset, model):
    held = dataset.hospitals[0].test
    run = train(PLAN.replace(rounds=1), dataset, model=model, server_held=held)
    assert run.evaluation["server"] == run.evaluation["site_0"]


def test_the_model_comes_back_as_plain_keras(whole, dataset):
    import tensorflow as tf

    features = dataset.pooled_test().features
    expected = whole.keras_model()(features).numpy()
    assert expected.shape == (30, 1)
    code = (
        "import sys, numpy as np, tensorflow as tf;"
        "m = tf.keras.models.load_model(sys.argv[1]);"
        "np.save(sys.argv[2], m(np.load(sys.argv[3])).numpy());"
        "assert 'tff_hospitals' not in sys.modules"
    )
    np.save(whole.directory / "in.npy", features)
    paths = [str(whole.directory / name) for name in ("model.keras", "out.npy", "in.npy")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True, cwd="/", timeout=120)
    np.testing.assert_allclose(np.load(paths[1]), expected, rtol=1e-6)
    for path in paths[1:]:
        os.unlink(path)
    assert tf.keras.models.load_model(paths[0]).count_params() == 6


def test_a_run_alone_has_the_intervals_of_the_table_over_patients(dataset, model):
    run = train(PLAN.replace(rounds=2), dataset, model=model)
    found = over_patients(run, dataset)
    for one in dataset.ids:
        at = run.evaluation[one]["accuracy"]
        assert found["accuracy_low_per_hospital"][one] <= at <= found["accuracy_high_per_hospital"][one]
    low, high = found["accuracy_low"], found["accuracy_high"]
    assert 0 <= low < run.summary["accuracy_mean"] < high <= 1
    shown = run_summary({**run.summary, **found})
    words = f"interval over test patients {100 * low:.0f} to {100 * high:.0f})"
    assert words in " ".join(shown.split())
