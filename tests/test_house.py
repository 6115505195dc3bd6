"""House rules that no other tool checks, read from the files that git tracks."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import sys

import pytest

LONGEST_FILE = 500
MACHINE_PATH = re.compile(r"(?<![\w./$}-])/(?:home|root|Users|work|mnt|opt|srv|data)/\w+")
PROMISES = re.compile(r"\b(TODO|FIXME|XXX|HACK|NotImplementedError)\b")
ADDRESS = re.compile(r"https?://|git\+|file:|--index-url|--extra-index-url|--find-links")


@pytest.fixture(scope="module")
def tracked(checkout: pathlib.Path) -> list[pathlib.Path]:
    if not (checkout / ".git").exists():
        pytest.skip("needs git's list of files")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=checkout,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [path for name in listed.stdout.splitlines() if (path := checkout / name).is_file()]


@pytest.fixture(scope="module")
def sources(tracked: list[pathlib.Path]) -> dict[pathlib.Path, str]:
    """Text of every Python file."""
    return {path: path.read_text(encoding="utf-8") for path in tracked if path.suffix == ".py"}


@pytest.fixture(scope="module")
def library(sources: dict[pathlib.Path, str]) -> dict[pathlib.Path, ast.Module]:
    """Syntax trees of the package and the scripts."""
    return {path: ast.parse(text) for path, text in sources.items() if "tests" not in path.parts}


def texts(tracked: list[pathlib.Path]) -> dict[pathlib.Path, str]:
    found = {}
    for path in tracked:
        content = path.read_bytes()
        if b"\0" not in content[:4096]:
            found[path] = content.decode("utf-8")
    return found


def test_the_library_has_no_bare_assert(library: dict[pathlib.Path, ast.Module]) -> None:
    found = [
        f"{path.name}:{node.lineno}"
        for path, tree in library.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]
    assert found == []


def test_nothing_is_left_for_later(library: dict[pathlib.Path, ast.Module], sources: dict[pathlib.Path, str]) -> None:
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in library
        for number, line in enumerate(sources[path].splitlines(), start=1)
        if PROMISES.search(line)
    ]
    assert found == []


def test_files_stay_short(sources: dict[pathlib.Path, str]) -> None:
    long = {path.name: text.count("\n") for path, text in sources.items() if text.count("\n") > LONGEST_FILE}
    assert long == {}


def public_definitions(tree: ast.Module) -> list[ast.FunctionDef | ast.ClassDef]:
    """Functions and classes of a module whose names do not begin with _, and the methods of such classes.

    A method of a class with a base may carry out what the base describes, and is left out.
    """
    found = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            found.append(node)
            if isinstance(node, ast.ClassDef) and not node.bases:
                found += [
                    inner
                    for inner in node.body
                    if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_")
                ]
    return found


def test_what_is_public_says_what_it_does(library: dict[pathlib.Path, ast.Module]) -> None:
    silent = [str(path) for path, tree in library.items() if not ast.get_docstring(tree)]
    silent += [
        f"{path.name}:{node.lineno}: {node.name}"
        for path, tree in library.items()
        for node in public_definitions(tree)
        if not ast.get_docstring(node)
    ]
    assert silent == []


def test_no_file_names_a_place_on_somebodys_machine(tracked: list[pathlib.Path]) -> None:
    found = [
        f"{path.name}:{number}: {line.strip()[:100]}"
        for path, text in texts(tracked).items()
        for number, line in enumerate(text.splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


def test_the_check_for_places_sees_them_and_nothing_else() -> None:
    for text in ("see {}home/ann/x", '"{}root/thing"', "({}opt/wheels)"):
        assert MACHINE_PATH.search(text.format("/"))
    for text in ("tff_hospitals/data/x", "$here/data/y", "https://example.org/data/z", "./work/x"):
        assert not MACHINE_PATH.search(text)


LOCKS = {  # and the fewest packages in them
    "requirements.lock": 90,
    "requirements-cluster.lock": 10,
    "requirements-docs.lock": 20,
    "requirements-uv.lock": 0,
}


def test_all_locks_are_known(checkout: pathlib.Path) -> None:
    assert {path.name for path in checkout.glob("*.lock")} == set(LOCKS)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_everything_and_names_no_address(lock: str, checkout: pathlib.Path) -> None:
    text = (checkout / lock).read_text()
    assert ADDRESS.search(text) is None
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) > LOCKS[lock]
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+==\S+", entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]


def test_inputs_of_the_lock_are_in_it(checkout: pathlib.Path) -> None:
    locked = set(re.findall(r"^([a-z0-9._-]+)==", (checkout / "requirements.lock").read_text(), re.MULTILINE))
    lines = (checkout / "requirements.in").read_text().splitlines()
    wanted = {re.split(r"[^a-z0-9._-]", line)[0] for line in lines if line and not line.startswith("#")}
    assert wanted - locked == set()


def opening_commands(readme: str) -> list[str]:
    """The commands that a README shows, indented or fenced, before its prose goes on."""
    commands: list[str] = []
    fenced = False
    for line in readme.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            commands.append(line.strip())
        elif line.strip() and commands:
            break
    return commands


def test_opening_commands_are_found_in_either_form() -> None:
    assert opening_commands("# a\nb:\n\n    ./x\n\n    ./y\n\nprose\n\n    ./z\n") == ["./x", "./y"]
    assert opening_commands("# a\n```sh\n./x\n./y\n```\nprose\n```\n./z\n```\n") == ["./x", "./y"]


def test_the_readme_opens_with_two_commands(checkout: pathlib.Path) -> None:
    readme = checkout / "README.md"
    if not readme.exists():
        pytest.skip("no README yet")
    commands = opening_commands(readme.read_text(encoding="utf-8"))
    assert len(commands) == 2
    assert commands[0].startswith("./run scripts/compare_aggregators.py")
    assert commands[1] == "./run -m pytest"


def test_continuous_integration_runs_what_the_readme_says(checkout: pathlib.Path) -> None:
    assert "./run -m pytest" in (checkout / ".ci" / "run").read_text()


@pytest.mark.parametrize("script", ["run", ".ci/run", ".ci/relock"])
def test_shell_scripts_parse_and_may_be_started(script: str, checkout: pathlib.Path) -> None:
    assert subprocess.run(["sh", "-n", script], cwd=checkout, check=False).returncode == 0
    assert (checkout / script).stat().st_mode & 0o111


def test_python_files_parse_with_the_oldest_python(sources: dict[pathlib.Path, str]) -> None:
    assert sys.version_info >= (3, 9)
    for path, text in sources.items():
        ast.parse(text, filename=str(path), feature_version=(3, 9))


@pytest.mark.slow
def test_a_file_without_the_marker_imports_no_tensorflow(checkout: pathlib.Path) -> None:
    """The part without TensorFlow would take its import along, in every process."""
    marked = re.compile(r"^pytestmark = \[?pytest\.mark\.tensorflow\b", re.MULTILINE)
    every = sorted((checkout / "tests").glob("test_*.py"))
    names = [path.stem for path in every if not marked.search(path.read_text(encoding="utf-8"))]
    assert 40 < len(names) < len(every)
    code = (
        "import importlib, sys\n"
        "sys.modules.update(dict.fromkeys(('tensorflow', 'keras', 'tensorflow_federated', 'jax')))\n"  # not importable
        "import conftest\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, *names], cwd=checkout / "tests", capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr[-2000:]
