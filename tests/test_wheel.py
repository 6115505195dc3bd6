"""The wheel holds what the package needs: it is built, installed elsewhere, and the tests are run against it there."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

pytestmark = pytest.mark.slow

# What reads files that the package brings along: data, templates, what commands know of themselves.
READERS = ("test_hospitals_heart_disease", "test_hospitals_datasets", "test_reports_html", "test_front_door")


def run(command: list[str | os.PathLike[str]], folder: pathlib.Path) -> str:
    """What a command prints, in an environment from which the checkout cannot be imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    done = subprocess.run(
        [os.fspath(part) for part in command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(checkout: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The wheel, built from an sdist of a copy without anything that earlier builds left."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        if (checkout / name).exists():
            shutil.copy(checkout / name, copy)
    for name in ("tff_hospitals", "data"):
        shutil.copytree(checkout / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", copy / "out"], copy
    )  # sdist, and from it the wheel
    (built,) = (copy / "out").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An environment with the wheel in it; everything else comes from the environment that runs this test."""
    folder = tmp_path_factory.mktemp("elsewhere")
    run([sys.executable, "-m", "venv", folder / "venv"], folder)
    run([folder / "venv/bin/pip", "install", "--quiet", "--no-deps", "--no-index", wheel], folder)
    (site,) = (folder / "venv/lib").glob("python3.*/site-packages")
    # A path in a .pth file brings in the packages there, but not the .pth file there that brings in the checkout.
    (site / "stack.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_has_data_types_and_templates(wheel: pathlib.Path, checkout: pathlib.Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "tff_hospitals/py.typed" in names
    assert "tff_hospitals/data/heart_disease/SHA256SUMS" in names
    for path in (checkout / "tff_hospitals").rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert path.relative_to(checkout).as_posix() in names
    for path in (checkout / "data").rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            assert "tff_hospitals/" + path.relative_to(checkout).as_posix() in names
    assert not [name for name in names if name.startswith(("tests/", "scripts/", "benchmarks/"))]


def test_the_installed_package_is_the_one_that_is_tested(installed: pathlib.Path) -> None:
    where = run([installed / "venv/bin/python", "-c", "import tff_hospitals; print(tff_hospitals.__file__)"], installed)
    assert where.startswith(str(installed))


def test_commands_answer(installed: pathlib.Path) -> None:
    commands = sorted((installed / "venv/bin").glob("tff-hospitals-*"))
    assert len(commands) >= 4
    for command in commands:
        done = subprocess.run([command, "--help"], cwd=installed, capture_output=True, text=True, check=False)
        assert "--" in done.stdout, command.name
        assert "Traceback" not in done.stderr, command.name


@pytest.mark.parametrize(
    ("files", "fewest"),
    [
        pytest.param([f"tests/{name}.py" for name in READERS], 30, id="readers"),
        pytest.param(["tests"], 200, id="all", marks=pytest.mark.rare),
    ],
)
def test_the_tests_pass_against_the_wheel(
    installed: pathlib.Path, checkout: pathlib.Path, files: list[str], fewest: int
) -> None:
    for name in ("tests", "scripts"):  # scripts use the package that is installed, if there is one
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(checkout / name, installed / name, ignore=ignored, dirs_exist_ok=True)
    shutil.copy(checkout / "pyproject.toml", installed)  # pytest's settings; there is no setup.cfg, so no checkout
    output = run(
        [
            *(installed / "venv/bin/python", "-m", "pytest", *files, "-n", "0", "-p", "no:cacheprovider"),
            *("-m", "not tensorflow and not slow and not rare", "--durations=5"),
        ],
        installed,
    )
    summary = output.strip().splitlines()[-1]
    assert " passed" in summary, summary
    assert int(summary.split(" passed")[0].split()[-1]) > fewest
