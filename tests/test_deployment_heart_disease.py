"""Heart disease in five processes, a server and four hospitals, over each engine: what the compiled runtime gives."""

from __future__ import annotations

import csv
import json
import time

import forked
import numpy as np
import pytest
import tensorflow as tf
from test_deployment import WHOLE_NUMBERS, flat
from test_deployment_engines import needs_flower

from tff_hospitals.deployment import founding, launch
from tff_hospitals.deployment.journal import journal_of
from tff_hospitals.hospitals import load_dataset
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.loop import train

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]
BASE = Plan(rounds=2, evaluate_every=1, seed=3, checkpoint_every=1).replace(
    data={"name": "heart_disease"}, client={"local_steps": 5}
)
PRIVACY = {"noise_multiplier": 1.0, "delta": 1e-3, "clip_norm": 0.5}
ADAPTIVE = {**PRIVACY, "mechanism": "adaptive_clip", "noise_multiplier": 0.3}
CASES = {
    "mean": {},
    "dp_sgd": {"privacy": {**PRIVACY, "mechanism": "dp_sgd"}},
    "adaptive_clip": {"privacy": ADAPTIVE, "weighting": "equal"},
    "quantised upload": {"upload": "rotate,quantize:8"},
    "discrete_gaussian": {"privacy": {**PRIVACY, "mechanism": "discrete_gaussian"}, "weighting": "equal"},
}
ACCOUNTS = ("round", "hospital", "unit", "steps", "bytes_up", "bytes_down", "records")


@pytest.fixture(scope="module")
def commands():
    with forked.Commands() as started:
        yield started


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("heart_disease", seed=BASE.data.seed)


@pytest.fixture(scope="module")
def simulated(dataset, tmp_path_factory):
    """The compiled runtime's run of a case, with its folder."""
    made = {}

    def run(case):
        if case not in made:
            folder = tmp_path_factory.mktemp("simulated") / "run"
            made[case] = folder, train(BASE.replace(**CASES[case]), dataset, run_dir=folder)
        return made[case]

    return run


def address_in(log):
    """Where the server says that it listens."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        for line in log.read_text().splitlines() if log.exists() else ():
            if line.startswith(launch.LISTENING):
                return line[len(launch.LISTENING) :]
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def in_five_processes(commands, agreement, folder, run_dir, engine):
    """Runs the commands of a server and of every hospital; what each said, by name."""
    logs = {name: folder / f"{place}.log" for place, name in enumerate(("server", *agreement.ids))}
    place = founding.folder_of(folder, "server")
    serve = ["federation", "serve", f"--folder={place}", "--listen=127.0.0.1:0", f"--run_dir={run_dir}"]
    started = {"server": commands.start(logs["server"], *serve, f"--engine={engine}")}
    address = address_in(logs["server"])
    for name in agreement.ids:
        place = founding.folder_of(folder, name)
        given = [f"--folder={place}", f"--data={place / 'data'}", f"--approve={place / 'agreement.json'}", "--yes"]
        worker = ["hospital", *given, f"--server={address}", f"--engine={engine}", "--give_up_seconds=300"]
        started[name] = commands.start(logs[name], *worker)
    assert len(set(started.values())) == 5
    codes = {name: commands.wait(process) for name, process in started.items()}
    said = {name: log.read_text() for name, log in logs.items()}
    assert set(codes.values()) == {0}, said
    return said


def rows(folder):
    inside = folder / "inside" / "metrics.csv"
    with (inside if inside.exists() else folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def model_of(folder):
    """The weights of a run's model, one behind the other."""
    (path,) = folder.rglob("model.keras")
    return flat(tf.keras.models.load_model(path, compile=False).get_weights())


def cells():
    """Every case over gRPC, and over Flower those with noise of each kind; Flower with the others is rare."""
    for case in CASES:
        yield case, "grpc"
        rare = [] if case in ("dp_sgd", "discrete_gaussian") else [pytest.mark.rare]
        yield pytest.param(case, "flower", marks=[needs_flower, *rare])


@pytest.mark.parametrize(("case", "engine"), cells())
def test_five_processes_give_what_the_compiled_runtime_gives(case, engine, commands, dataset, simulated, tmp_path):
    folder, run_dir = tmp_path / "federation", tmp_path / "run"
    plan, patient = BASE.replace(**CASES[case]), {"deadline_seconds": 300.0}
    agreement = founding.found(folder, plan, dataset, test_mode=True, settings=patient)
    launch.prepare(folder, dataset)
    in_five_processes(commands, agreement, folder, run_dir, engine)
    other, here = simulated(case)
    deployed = rows(run_dir)
    assert len(deployed) == len(rows(other)) == 5 * BASE.rounds
    for one, wanted in zip(deployed, rows(other)):
        for column, value in wanted.items():
            if one["hospital"] == "pooled" and not one[column]:
                continue  # what is no mean of the hospitals' figures
            if column in ACCOUNTS or not value:
                assert one[column] == value, column
            else:
                assert float(one[column]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), column
    if case in WHOLE_NUMBERS:
        assert model_of(run_dir).tolist() == model_of(other).tolist()
    np.testing.assert_allclose(model_of(run_dir), flat(here.weights), rtol=1e-5, atol=1e-6)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["engine"] == engine
    assert summary["rounds"] == BASE.rounds
    for name in agreement.ids:
        journal = journal_of(founding.folder_of(folder, name), agreement)
        charged = [entry for entry in journal.entries if entry["event"] == "charged"]
        assert [entry["round"] for entry in charged] == list(range(BASE.rounds))
        if here.ledger.units() == ("record",):
            assert charged[-1]["epsilon"] == pytest.approx(here.ledger.epsilon("record", name, "rdp"), rel=1e-9)
