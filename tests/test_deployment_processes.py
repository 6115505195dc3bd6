"""Federations of processes on this machine, started as a user starts them."""

from __future__ import annotations

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from few_fast import few_fast

from tff_hospitals.deployment import flower_environment

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]
PLAN = ["--dataset=heart_disease", "--rounds=3"]
PRIVATE = ["--aggregator=discrete_gaussian", "--noise_multiplier=0.5"]
ENGINES = ["grpc", *(["flower"] if flower_environment.existing() else [])]  # Flower where its environment is there


def processes_with(text):
    """Ids of processes whose command line holds a text."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if text in (entry / "cmdline").read_bytes().decode(errors="replace"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def start(checkout, action, *flags):
    command = [sys.executable, str(checkout / "scripts" / action), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=checkout)


def rows(folder):
    inside = folder / "inside" / "metrics.csv"
    with (inside if inside.exists() else folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_two_federations_at_once_give_what_simulations_give_and_leave_nothing(checkout, tmp_path):
    up = ["up", "--hospitals=4", "--test_mode", *PLAN]
    runs = {
        name: start(checkout, "federation.py", *up, *more, f"--run_dir={tmp_path / name}")
        for name, more in (("mean", [f"--engine={ENGINES[-1]}"]), ("private", PRIVATE))
    }
    said = {name: run.communicate(timeout=500)[0].decode() for name, run in runs.items()}
    assert {name: run.returncode for name, run in runs.items()} == {"mean": 0, "private": 0}, said
    assert "warning: cleveland" not in said["mean"]
    assert processes_with(str(tmp_path)) == []
    for name, more in (("mean", []), ("private", PRIVATE)):
        start(checkout, "train.py", *PLAN, *more, f"--run_dir={tmp_path / 'simulated' / name}").communicate(timeout=300)
        deployed, simulated = rows(tmp_path / name), rows(tmp_path / "simulated" / name)
        assert len(deployed) == len(simulated) == 15
        for one, other in zip(deployed, simulated):
            for column, value in other.items():
                if one["hospital"] == "pooled" and not one[column]:
                    continue  # what is no mean of the hospitals' figures
                if column in ("round", "hospital", "unit", "steps", "bytes_up", "bytes_down"):
                    assert one[column] == value, column
                elif value:
                    assert float(one[column]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), column
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["engine"] == (ENGINES[-1] if name == "mean" else "grpc")
        assert summary["rounds"] == 3


@pytest.mark.parametrize("engine", few_fast(ENGINES, slow=["grpc"]))
def test_nothing_is_left_when_the_starter_is_killed(checkout, tmp_path, monkeypatch, engine):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    up = ["up", "--dataset=heart_disease", "--rounds=10000", f"--engine={engine}", f"--run_dir={tmp_path / 'run'}"]
    run = start(checkout, "federation.py", *up)
    end = time.monotonic() + 300
    for line in run.stdout:
        if line.startswith(b"round 2/") or time.monotonic() > end:
            break
    children = [one for one in processes_with("-m\0tff_hospitals") if parent_of(one) == run.pid]
    assert len(children) == 5
    children += [one for one in processes_with("deployment.flower_") if parent_of(one) in children]
    assert len(children) == (10 if engine == "flower" else 5)
    (folder,) = (tmp_path / "temporary").glob("federation_*")
    assert (folder / "authority" / "ca.key").exists()
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    end = time.monotonic() + 20
    while any(pathlib.Path(f"/proc/{one}").exists() and not zombie(one) for one in children):
        assert time.monotonic() < end, "processes are left"
        time.sleep(0.1)
    while folder.exists() or processes_with(str(folder)):
        assert time.monotonic() < end, "keys and records are left, or who should remove them"
        time.sleep(0.1)
    run.stdout.close()


def stat_of(process):
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ["Z", "0"]


def parent_of(process):
    return int(stat_of(process)[1])


def zombie(process):
    return stat_of(process)[0] == "Z"


def test_a_hospital_s_process_sees_its_own_folder_only(tmp_path):
    from tff_hospitals.deployment import isolated

    for name in ("all/north", "all/south", "view"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "records.npz").write_text(name)
    show = (
        "import os, pathlib; "
        f"print(os.environ['TFF_HOSPITALS_ISOLATED'], pathlib.Path('{{folder}}/records.npz').read_text(), "
        f"sorted(os.listdir('{tmp_path / 'all'}')))"
    )
    command = [sys.executable, "-I", "-S", isolated.__file__, "--parent", str(os.getpid())]
    command += ["--own", str(tmp_path / "all/north"), "--view", str(tmp_path / "view"), "--hide", str(tmp_path / "all")]
    said = subprocess.run([*command, "--", sys.executable, "-c", show], capture_output=True, text=True, timeout=60)
    if said.stdout.startswith("0"):
        pytest.skip("this system allows no mount namespaces")
    assert said.stdout.strip() == "1 all/north []", said.stderr
