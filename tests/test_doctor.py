"""The doctor names what is wrong and how to mend it, and survives what crashes or hangs."""

from __future__ import annotations

import collections
import importlib.metadata
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import pytest

from tff_hospitals.experiments import command
from tff_hospitals.installation import doctor


def test_every_package_of_a_lock_is_compared(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_CHECKOUT", tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    numpy = importlib.metadata.version("numpy")
    (tmp_path / "requirements.lock").write_text(
        f"numpy=={numpy} \\\n    --hash=sha256:00\n"
        'nothing-such==1.0 ; python_version < "3" \\\n    --hash=sha256:00\n'
        "absl-py==0.1 \\\n    --hash=sha256:00\n"
        "nothing-else==2.0 \\\n    --hash=sha256:00\n"
    )
    check = doctor.check_packages()
    assert check.status == doctor.WRONG
    assert "absl-py is " in check.found
    assert "not ==0.1" in check.found
    assert "nothing-else is missing" in check.found
    assert "nothing-such" not in check.found
    assert "numpy" not in check.found
    assert "./run" in check.remedy


def test_an_installed_package_is_compared_with_its_own_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/elsewhere")
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["numpy>=999", 'tomli ; python_version < "3"'])
    check = doctor.check_packages()
    assert check.found.startswith("numpy is ")
    assert "--no-deps tensorflow-federated==0.87.0" in check.remedy


def test_another_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_python().status == doctor.OK
    version = collections.namedtuple("version", "major minor")
    monkeypatch.setattr(sys, "version_info", version(3, 12))
    assert doctor.check_python().status == doctor.WRONG


def test_a_processor_without_avx_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pathlib.Path, "read_text", lambda path: "flags : sse sse2 sse4_2\n")
    check = doctor.check_processor()
    assert check.status == doctor.WRONG
    assert "Illegal instruction" in check.found


@pytest.mark.parametrize(("free_kb", "status"), [(8 * 2**20, doctor.OK), (2**20, doctor.WRONG)])
def test_little_memory_is_named(free_kb: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_text(path: pathlib.Path) -> str:
        if path.name == "meminfo":
            return f"MemTotal: 99 kB\nMemAvailable:   {free_kb} kB\n"
        raise FileNotFoundError

    monkeypatch.setattr(pathlib.Path, "read_text", read_text)
    check = doctor.check_memory()
    assert check.status == status
    assert f"{free_kb / 2**20:.1f} GB" in check.found


def test_the_bound_of_a_container_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {
        "meminfo": f"MemAvailable: {64 * 2**20} kB\n",
        "memory.max": str(3 * 2**30),
        "memory.current": str(2 * 2**30),
    }
    monkeypatch.setattr(pathlib.Path, "read_text", lambda path: contents[path.name])
    assert doctor.check_memory().found.startswith("1.0 GB")


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9, 10**6))
    assert doctor.check_disk().status == doctor.WRONG


def test_deep_messages_parse_here_and_only_with_the_switch() -> None:
    assert doctor.check_deep_messages().status == doctor.OK
    without = doctor._DEEP_MESSAGE.replace("quiet.allow_deep_protocol_buffers()", "")
    child = subprocess.run(
        [sys.executable, "-c", without], capture_output=True, text=True, env=doctor._child_environment(), check=False
    )
    assert child.returncode != 0
    assert "DecodeError" in child.stderr


def test_a_crash_is_told_from_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_DEEP_MESSAGE", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert doctor.check_deep_messages().found == "crashed with SIGSEGV"
    monkeypatch.setattr(doctor, "_DEEP_MESSAGE", "raise ValueError('too deep')")
    assert doctor.check_deep_messages().found == "ValueError: too deep"


def test_the_worker_starts() -> None:
    assert doctor.check_worker().status in (doctor.OK, doctor.NOTE)


def child_that(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ('print(\'{"mean": 2.0, "difference": 1e-7, "seconds": 3}\')', doctor.OK, "agree"),
        ('print(\'{"mean": 2.0, "difference": 0.1, "seconds": 3}\')', doctor.WRONG, "differ by 0.1"),
        ('print(\'{"mean": 2.5, "difference": 0.0, "seconds": 3}\')', doctor.WRONG, "is 2.5"),
        ("import os; os.abort()", doctor.WRONG, "SIGABRT"),
    ],
)
def test_the_round_is_judged_by_its_result(code: str, status: str, words: str) -> None:
    with tempfile.TemporaryFile("w+") as errors:
        check = doctor.check_smoke(child_that(code), errors, 20.0)
    assert check.status == status
    assert words in check.found


def test_a_round_that_hangs_is_ended_at_the_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    children = []

    def start(errors: object) -> subprocess.Popen[str]:
        children.append(child_that("import time; time.sleep(60)"))
        return children[0]

    monkeypatch.setattr(doctor, "start_smoke", start)
    begin = time.monotonic()
    assert command.run(doctor, ["doctor", "--json", "--time_limit=0.5"]) == 1
    assert time.monotonic() - begin < 20
    assert children[0].poll() is not None
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["checks"][-1]["found"] == "not finished within 0.5 s"
    assert set(report["checks"][0]) == {"name", "status", "found", "remedy"}


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom tff_hospitals.experiments import front_door\n"
        "try:\n    front_door.main('doctor', ['doctor', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('tensorflow', 'numpy', 'packaging') if name in sys.modules], file=sys.stderr)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--time_limit" in child.stdout
    assert child.stderr.strip() == "[]"


@pytest.mark.slow
@pytest.mark.tensorflow
def test_this_installation_is_well() -> None:
    child = subprocess.run(
        [sys.executable, "-m", "tff_hospitals", "doctor", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(child.stdout)
    status = {check["name"]: check["status"] for check in report["checks"]}
    assert status.keys() >= {"Python", "packages", "processor", "memory", "disk"}
    # what other programs leave of memory and disk is not this installation's matter
    assert status["deep protocol buffers"] == doctor.OK
    assert status["TFF's worker"] in (doctor.OK, doctor.NOTE)
    assert status["two-hospital round"] == doctor.OK
    assert child.stderr == ""
