"""The package's description matches its folders, and ./run makes an environment once, whole or not at all."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tff_hospitals.experiments import front_door


@pytest.fixture(scope="module")
def described(checkout: pathlib.Path) -> configparser.ConfigParser:
    """What setup.cfg says."""
    parser = configparser.ConfigParser()
    parser.read(checkout / "setup.cfg")
    return parser


def test_every_package_is_listed(checkout: pathlib.Path, described: configparser.ConfigParser) -> None:
    listed = set(described["options"]["packages"].split())
    folders = {
        ".".join(path.parent.relative_to(checkout).parts) for path in (checkout / "tff_hospitals").rglob("__init__.py")
    }
    assert listed == folders | {"tff_hospitals.data"}


def test_every_command_exists(checkout: pathlib.Path, described: configparser.ConfigParser) -> None:
    lines = [line.split("=") for line in described["options.entry_points"]["console_scripts"].split("\n") if line]
    assert {target.strip() for _, target in lines} == {"tff_hospitals.experiments.front_door:program"}
    names = {name.strip() for name, _ in lines}
    assert "tff-hospitals" in names
    assert {name[len("tff-hospitals-") :] for name in names - {"tff-hospitals"}} <= set(front_door.COMMANDS)
    for module in front_door.COMMANDS.values():
        assert (checkout / (module.replace(".", "/") + ".py")).is_file()
    for script in (checkout / "scripts").glob("*.py"):
        (name,) = re.findall(r'program\("(\w+)"\)', script.read_text())
        assert name in script.stem.split("_")
        assert name in front_door.COMMANDS


def test_every_file_that_is_not_python_goes_into_the_wheel(
    checkout: pathlib.Path, described: configparser.ConfigParser
) -> None:
    package = checkout / "tff_hospitals"
    patterns = [pattern.strip() for pattern in described["options.package_data"]["tff_hospitals"].split(",")]
    taken = {path for pattern in patterns for path in package.glob(pattern)}
    others = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert others - taken == set()


def test_only_bounds_that_are_overridden_are_unmet(checkout: pathlib.Path) -> None:
    """An override hides what every package asks of one: nothing else may be hidden."""
    lines = (checkout / "requirements.overrides").read_text().splitlines()
    overridden = {canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith("#")}
    unmet = []
    for distribution in importlib.metadata.distributions():
        for wanted in map(Requirement, distribution.requires or []):
            if canonicalize_name(wanted.name) in overridden or (
                wanted.marker and not wanted.marker.evaluate({"extra": ""})
            ):
                continue
            try:
                version = importlib.metadata.version(wanted.name)
            except importlib.metadata.PackageNotFoundError:
                version = "missing"
            if version == "missing" or not wanted.specifier.contains(version, prereleases=True):
                unmet.append(f"{distribution.metadata['Name']} wants {wanted}, there is {version}")
    assert unmet == []


FAKE_UV = """#!/bin/sh
echo "$@" "$UV_PYTHON_INSTALL_DIR" "$UV_CACHE_DIR" >>"CALLS"
case $1 in
venv)
    for last; do :; done
    mkdir -p "$last/bin" "$last/lib/python3.11/site-packages"
    cp "FAKES/python-of-venv" "$last/bin/python"
    ;;
pip)
    sleep 0.3
    [ -z "$FAIL" ] || { echo "error: dns failure"; exit 1; }
    echo "Installed 2 packages in 3ms"
    ;;
esac
"""
FAKE_PYTHON = """#!/bin/sh
case "$1 $2" in
"-m venv") exec "FAKES/maker" venv "$3" ;;
"-m pip") echo "$@" >>"CALLS"; [ -z "$FAIL" ] || { echo "ERROR: no connection"; exit 1; } ;;
*) exec "REAL_PYTHON" "$@" ;;
esac
"""


# A Python that is too new to build on, with a pip that leaves a uv behind; or without a pip, or without venv too.
NEW_PYTHON = """#!/bin/sh
case "$1 $2 $3" in
"-c import sys; sys.exit(sys.version_info < (3, 8)) ") exit 0 ;;
"-m pip --version") [ -z "$NO_PIP" ] ;;
"-m pip install")
    echo "$@" >>"CALLS"
    [ -z "$FAIL_UV" ] || { echo "ERROR: no connection to the index"; exit 1; }
    for last; do :; done
    case $* in *--target*) folder=$last ;; *) folder=${0%/bin/python} ;; esac
    mkdir -p "$folder/bin" && cp "FAKES/maker" "$folder/bin/uv"
    ;;
"-m venv "*)
    [ -z "$NO_VENV" ] || { echo "ensurepip is not available"; exit 1; }
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
    ;;
*) exit 1 ;;
esac
"""


TOOLS = (
    *("sh", "awk", "cat", "cmp", "cp", "df", "flock", "ls", "mkdir", "mv", "rm"),
    *("tail", "tee", "uname", "dirname", "readlink", "sleep", "chmod"),
)


class Checkout:
    """A folder with `run`, a short lock, and installers that only write down how they were called."""

    def __init__(self, folder: pathlib.Path, script: pathlib.Path):
        self.folder = folder / "check out"  # with a space: people have them
        self.folder.mkdir()
        shutil.copy(script, self.folder / "run")
        self.lock = self.folder / "requirements.lock"
        self.lock.write_text("one==1\ntwo==2\n")
        self.calls = folder / "calls"
        self.calls.touch()
        self.tools = folder / "tools"
        self.tools.mkdir()
        for name in TOOLS:
            found = shutil.which(name)
            if found:
                (self.tools / name).symlink_to(found)

    def have(self, name: str, text: str) -> None:
        for word, place in (("FAKES", self.tools), ("CALLS", self.calls), ("REAL_PYTHON", sys.executable)):
            text = text.replace(word, str(place))
        path = self.tools / name
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["./run", *arguments],
            cwd=self.folder,
            env={"PATH": str(self.tools), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **environment)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def installations(self) -> int:
        return self.calls.read_text().count("pip install")


@pytest.fixture
def fresh(tmp_path: pathlib.Path, checkout: pathlib.Path) -> Checkout:
    made = Checkout(tmp_path, checkout / "run")
    for name in ("uv", "maker"):  # the fake Python makes environments with the second, whether uv is there or not
        made.have(name, FAKE_UV)
    made.have("python-of-venv", FAKE_PYTHON)
    made.have("python3.10", FAKE_PYTHON)
    made.have("python3.11", "#!/bin/sh\necho 'a shim with nothing behind it' >&2; exit 127\n")
    return made


PRINT = ("-c", "import sys; print(sys.argv[1:])", "a b", "*")


def test_first_use_installs_and_later_ones_do_nothing(fresh: Checkout) -> None:
    code, output, errors = fresh.run(*PRINT)
    assert (code, output) == (0, "['a b', '*']\n")
    assert "Installed 2 packages" in errors
    assert "python3.10" in errors  # the shim was tried and left
    assert fresh.run(*PRINT) == (0, "['a b', '*']\n", "")
    assert fresh.installations() == 1
    assert "--require-hashes" in fresh.calls.read_text()
    (path,) = (fresh.folder / ".venv").rglob("*.pth")
    assert (path.parent / path.read_text().strip()).resolve() == fresh.folder.resolve()


def test_the_environment_has_the_command_that_service_units_start(fresh: Checkout, tmp_path: pathlib.Path) -> None:
    assert fresh.run(*PRINT)[0] == 0
    (fresh.folder / "tff_hospitals").mkdir(exist_ok=True)
    (fresh.folder / "tff_hospitals" / "__init__.py").touch()
    (fresh.folder / "tff_hospitals" / "__main__.py").write_text("import sys\nprint(sys.argv[1:])\n")
    program = fresh.folder / ".venv" / "bin" / "tff-hospitals"
    named = {"PATH": str(fresh.tools), "PYTHONPATH": str(fresh.folder)}
    asked = [str(program), "a b", "*"]
    done = subprocess.run(asked, cwd=tmp_path, env=named, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "['a b', '*']\n"), done.stderr


def test_without_arguments_it_says_what_comes_next(fresh: Checkout) -> None:
    code, output, errors = fresh.run()
    assert (code, output) == (0, "")
    assert "./run scripts/compare_aggregators.py" in errors
    assert "./run -m pytest" in errors


def test_another_lock_makes_another_environment(fresh: Checkout) -> None:
    fresh.run()
    (fresh.folder / ".venv" / "left over").touch()
    fresh.lock.write_text("one==2\n")
    _, _, errors = fresh.run()
    assert "has changed" in errors
    assert fresh.installations() == 2
    assert not (fresh.folder / ".venv" / "left over").exists()


def test_an_installation_that_was_cut_off_is_made_anew(fresh: Checkout) -> None:
    assert fresh.run(FAIL="yes")[0] == 1
    assert (fresh.folder / ".venv" / "bin" / "python").exists()
    code, _, errors = fresh.run()
    assert code == 0
    assert "was not finished" in errors


def test_a_killed_installation_is_made_anew(fresh: Checkout) -> None:
    process = fresh.start()
    while not fresh.installations():
        time.sleep(0.01)
    process.kill()
    process.communicate()
    code, _, errors = fresh.run()
    assert code == 0
    assert "was not finished" in errors
    assert fresh.installations() == 2


def test_two_first_uses_at_once_install_once(fresh: Checkout) -> None:
    if shutil.which("flock") is None:
        pytest.skip("this system has no flock")
    processes = [fresh.start(*PRINT) for _ in range(3)]
    results = [process.communicate(timeout=60) for process in processes]
    assert [output for output, _ in results] == ["['a b', '*']\n"] * 3
    assert fresh.installations() == 1
    assert sum("waiting" in errors for _, errors in results) == 2


def test_without_uv_pip_installs(fresh: Checkout) -> None:
    (fresh.tools / "uv").unlink()
    code, output, errors = fresh.run(*PRINT)
    assert (code, output) == (0, "['a b', '*']\n")
    assert "with pip on python3.10" in errors
    assert "-m pip install --no-deps --require-hashes" in fresh.calls.read_text()


def test_a_failed_download_is_explained(fresh: Checkout) -> None:
    code, output, errors = fresh.run(*PRINT, FAIL="yes")
    assert (code, output) == (1, "")
    assert "dns failure" in errors
    assert "check the network" in errors
    assert "with pip on" in errors  # the second attempt


def test_without_a_fitting_python_the_remedy_is_named(fresh: Checkout) -> None:
    for name in ("uv", "python3.10"):
        (fresh.tools / name).unlink()
    fresh.have("python3", "#!/bin/sh\nexit 1\n")
    code, _, errors = fresh.run()
    assert code == 1
    assert "no Python 3.9, 3.10 or 3.11" in errors
    assert "uv" in errors


@pytest.fixture
def modern(fresh: Checkout, checkout: pathlib.Path) -> Checkout:
    """A machine of today: a Python 3.13, and nothing else."""
    for name in ("uv", "python3.10", "python3.11"):
        (fresh.tools / name).unlink()
    fresh.have("python3", NEW_PYTHON)
    shutil.copy(checkout / "requirements-uv.lock", fresh.folder)
    return fresh


@pytest.mark.parametrize("lacking", [{}, {"NO_PIP": "yes"}, {"NO_VENV": "yes"}], ids=["whole", "no pip", "no venv"])
def test_a_newer_python_fetches_uv_and_uv_a_python(modern: Checkout, lacking: dict[str, str]) -> None:
    code, output, errors = modern.run(*PRINT, **lacking)
    assert (code, output) == (0, "['a b', '*']\n"), errors
    assert "python3 fetches uv into .tools/, and uv a Python 3.11" in errors
    fetch, make, install = modern.calls.read_text().splitlines()
    assert "--require-hashes" in fetch
    assert "requirements-uv.lock" in fetch
    tools = modern.folder / ".tools"
    assert make.startswith("venv --allow-existing --python 3.11 ")
    for call in (make, install):
        assert call.endswith(f" {tools}/python {tools}/cache")  # nothing of it is outside of the checkout
    assert {path.name for path in tools.iterdir()} <= {"uv", "python"}
    assert modern.run(*PRINT) == (0, "['a b', '*']\n", "")
    assert modern.installations() == 2  # of uv, and by uv; the second ./run did nothing


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ({"NO_PIP": "yes", "NO_VENV": "yes"}, "ensurepip is not available"),
        ({"FAIL_UV": "yes"}, "no connection to the index"),
    ],
)
def test_where_uv_cannot_be_fetched_the_remedy_is_named(modern: Checkout, lacking: dict[str, str], said: str) -> None:
    code, output, errors = modern.run(*PRINT, **lacking)
    assert (code, output) == (1, "")
    assert said in errors
    assert "there is no Python 3.9, 3.10 or 3.11 on this machine, and python3 could not fetch uv" in errors
    assert "python3.11-venv" in errors
    assert "python3-pip" in errors
    code, output, errors = modern.run(*PRINT)  # once it is mended
    assert (code, output) == (0, "['a b', '*']\n"), errors


def test_the_container_is_made_by_the_same_script(checkout: pathlib.Path) -> None:
    """What is copied before ./run is all that it reads, and nothing of this machine's environment comes along."""
    lines = (checkout / "Containerfile").read_text().splitlines()
    copied = next(line for line in lines if line.startswith("COPY run")).split()[1:-1]
    assert lines.index("RUN ./run") < lines.index("COPY . .")
    read = re.findall(r"\$here/(\S+\.lock)", (checkout / "run").read_text())
    assert set(copied) == {"run", *read}
    assert {".venv", ".tools"} <= set((checkout / ".containerignore").read_text().split())


def test_uv_is_pinned_by_version_and_hash(checkout: pathlib.Path) -> None:
    text = (checkout / "requirements-uv.lock").read_text()
    assert re.fullmatch(r"uv==[\d.]+ \\\n    --hash=sha256:[0-9a-f]{64}\n", text)


def test_a_wrong_choice_of_python_is_refused(fresh: Checkout) -> None:
    code, _, errors = fresh.run(TFF_HOSPITALS_PYTHON="/nowhere/python")
    assert code == 1
    assert "TFF_HOSPITALS_PYTHON=/nowhere/python" in errors


def test_an_environment_of_somebody_else_is_not_touched(fresh: Checkout) -> None:
    (fresh.folder / ".venv").mkdir()
    (fresh.folder / ".venv" / "precious").touch()
    code, _, errors = fresh.run()
    assert code == 1
    assert "not made by this script" in errors
    assert (fresh.folder / ".venv" / "precious").exists()


def test_a_full_disk_is_named_before_anything_is_fetched(fresh: Checkout) -> None:
    (fresh.tools / "df").unlink()
    fresh.have("df", "#!/bin/sh\nprintf 'Filesystem x\\n/dev/x 9 9 102400 9%% /\\n'\n")
    code, _, errors = fresh.run()
    assert code == 1
    assert "only 100 MB are free" in errors
    assert fresh.installations() == 0


def test_other_machines_are_named(fresh: Checkout) -> None:
    (fresh.tools / "uname").unlink()
    fresh.have("uname", "#!/bin/sh\n[ $1 = -s ] && echo Darwin || echo arm64\n")
    code, _, errors = fresh.run()
    assert code == 1
    assert "Darwin arm64" in errors


def test_it_works_without_cmp_and_from_elsewhere(fresh: Checkout) -> None:
    (fresh.tools / "cmp").unlink()
    fresh.run()
    assert fresh.run(*PRINT) == (0, "['a b', '*']\n", "")
    done = subprocess.run(
        [fresh.folder / "run", *PRINT], cwd=os.sep, env={"PATH": str(fresh.tools)}, capture_output=True, check=False
    )
    assert done.stdout == b"['a b', '*']\n"
    assert fresh.installations() == 1


def test_doing_nothing_costs_little(fresh: Checkout) -> None:
    fresh.lock.write_text("a line of an ordinary length, with a hash in it, as in the real file\n" * 4500)
    fresh.run()
    (fresh.folder / ".venv" / "bin" / "python").unlink()
    (fresh.folder / ".venv" / "bin" / "python").symlink_to(shutil.which("true") or "/bin/true")

    def fastest(command: list[str]) -> float:
        times = []
        for _ in range(15):
            begin = time.perf_counter()
            subprocess.run(command, cwd=fresh.folder, env={"PATH": str(fresh.tools)}, check=True)
            times.append(time.perf_counter() - begin)
        return min(times)

    assert fastest(["./run", "-V"]) - fastest([".venv/bin/python", "-V"]) < 0.020
