"""One entrance to every command: its list, its help, its errors, and modules of a user's own."""

from __future__ import annotations

import importlib
import json
import pathlib
import subprocess
import sys

import pytest
from absl import flags

from tff_hospitals.experiments import command, front_door
from tff_hospitals.experiments.methods import METHODS, Method, register
from tff_hospitals.foundations import extensions
from tff_hospitals.foundations.validation import InvalidInput


def code_of(*arguments: str, program: str = "tff-hospitals") -> int:
    with pytest.raises(SystemExit) as ended:
        front_door.main(argv=[program, *arguments])
    return int(ended.value.code or 0)


def test_the_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("--help") == 0
    shown = capsys.readouterr().out
    for name in front_door.COMMANDS:
        assert f"\n  {name} " in shown
    assert max(map(len, shown.splitlines())) <= 120
    assert code_of() == 2
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("name", front_door.COMMANDS)
def test_help_tells_what_a_command_does_and_each_of_its_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(flags.FLAGS)
    assert code_of(name, "--help") == 0
    shown = capsys.readouterr().out
    module = importlib.import_module(front_door.COMMANDS[name])
    assert shown.startswith((module.__doc__ or "").strip())
    assert "  --extension=string\n" in shown
    assert set(flags.FLAGS) == before
    module.define_flags()
    own = [flag for flag in flags.FLAGS if flag not in before]
    for flag in own:
        assert f"--{flag}" in shown.replace("--[no]", "--")
        delattr(flags.FLAGS, flag)


def test_a_command_goes_by_its_old_names_and_by_the_program_s_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("train", "--help") == 0
    help_of_train = capsys.readouterr().out
    assert code_of("--help", program="bin/tff-hospitals-train") == 0
    assert capsys.readouterr().out == help_of_train
    with pytest.raises(SystemExit, match="0"):
        front_door.main("train", ["scripts/train.py", "--help"])
    assert capsys.readouterr().out == help_of_train


def test_an_unknown_command_is_told_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("trian") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: command='trian': must be one of account, ")
    assert "did you mean 'train'" in error


def test_a_process_may_run_several_commands(capsys: pytest.CaptureFixture[str]) -> None:
    question = ("account", "--sampling_probability=0.1", "--noise_multiplier=1", "--steps=10", "--delta=1e-5", "--json")
    assert code_of(*question) == 0
    first = json.loads(capsys.readouterr().out)
    assert code_of("account", "--steps=0") == 2
    assert "--delta=None: must be given" in capsys.readouterr().err  # nothing is left of the first question
    assert code_of(*question) == 0
    assert json.loads(capsys.readouterr().out) == first


def test_help_of_every_command_loads_nothing_heavy() -> None:
    code = (
        "import json, sys\nfrom tff_hospitals.experiments import front_door\n"
        "for name in ['', *front_door.COMMANDS]:\n"
        "    try: front_door.main(name, ['tff-hospitals', '--help'])\n"
        "    except SystemExit as ended: assert ended.code == 0, name\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})), file=sys.stderr)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"tensorflow", "tensorflow_federated", "keras", "jax", "numpy", "scipy", "pandas", "matplotlib"}
    assert set(json.loads(child.stderr)) & heavy == set()


@pytest.mark.parametrize("options", [["-c", "import sys; sys.modules['absl'] = None"], ["-S"]])
def test_what_is_missing_is_said_in_one_line(options: list[str], checkout: pathlib.Path) -> None:
    """Without what parses flags the front door cannot even ask the doctor; without the package a script is alone."""
    if options[0] == "-c":
        options = ["-c", options[1] + "; from tff_hospitals.experiments import front_door; front_door.main('doctor')"]
        words = "the installation is not whole. Remedy: "
    else:
        options = [*options, str(checkout / "scripts" / "train.py")]
        words = "Remedy: start it as ./run scripts/train.py"
    child = subprocess.run([sys.executable, *options], capture_output=True, text=True, check=False, cwd="/")
    assert child.returncode == 1
    assert child.stderr.startswith("error: ")
    assert words in child.stderr
    assert child.stderr.count("\n") == 1


LAST = """
import os
from tff_hospitals.experiments.front_door import program
from tff_hospitals.foundations import quiet
def is_loaded_by_the_command():
    import atexit, threading, time
    atexit.register(print, "at the end")
    threading.Thread(target=lambda: (time.sleep(1), print("a thread"))).start()
end = os._exit
os._exit = lambda code: (print("at once", flush=True), end(code))
quiet.load_faster = is_loaded_by_the_command
program("account")
"""


@pytest.mark.parametrize(("steps", "code", "extra"), [("3", 0, ()), ("-1", 2, ()), ("3", 0, ("math",))])
def test_a_program_ends_at_once_and_nothing_that_waits_for_its_end_is_lost(
    steps: str, code: int, extra: tuple[str, ...]
) -> None:
    """Threads and what was registered come first; Python takes nothing apart, but where code of somebody else is in."""
    asked = [f"--steps={steps}", "--noise_multiplier=1", "--sampling_probability=.1", "--delta=1e-5"]
    asked += [f"--extension={name}" for name in extra]
    child = subprocess.run([sys.executable, "-c", LAST, *asked], capture_output=True, text=True, check=False)
    assert child.returncode == code, child.stderr
    lines = child.stdout.splitlines()
    assert ("epsilon" in child.stdout) == (code == 0)
    assert (
        lines[-3:] == ["a thread", "at the end", "at once"] if not extra else lines[-2:] == ["a thread", "at the end"]
    )


def test_what_nobody_reads_does_not_change_the_exit_code() -> None:
    """As in `| head`: the reader has gone before the last line is written."""
    asked = ["--steps=3", "--noise_multiplier=1", "--sampling_probability=.1", "--delta=1e-5"]
    child = subprocess.Popen([sys.executable, "-c", LAST, *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    with child.stderr:
        child.stderr.read()
    assert child.wait(60) in (command.FAILED, 120)  # 120: Python could not write what was left


def test_benchmarks_are_commands_too(checkout: pathlib.Path) -> None:
    """Their help and their refusals are those of every command."""
    every = [path for path in (checkout / "benchmarks").glob("*.py") if "command.main()" in path.read_text()]
    programs = [path for path in every if path.name != "__main__.py"]  # which writes a folder
    assert len(programs) >= 10
    for path in programs:
        for flag, code in (("--help", 0), ("--jsn=x", 2)):
            child = subprocess.run(
                [sys.executable, str(path), flag], capture_output=True, text=True, check=False, cwd="/"
            )
            assert child.returncode == code, path.name
            assert "  --json=string\n" in child.stdout if code == 0 else "Did you mean: json" in child.stderr, path.name


def test_how_a_command_was_started_is_told_for_doing_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for program, told in (
        ("somewhere/bin/tff-hospitals", "tff-hospitals train --rounds=3 '--run_dir=a b'"),
        ("scripts/train.py", "./run scripts/train.py train --rounds=3 '--run_dir=a b'"),
        ("somewhere/tff_hospitals/__main__.py", "./run -m tff_hospitals train --rounds=3 '--run_dir=a b'"),
    ):
        monkeypatch.setattr(sys, "argv", [program, "train", "--rounds=3", "--run_dir=a b"])
        assert command.command_line() == told


@pytest.fixture
def own_modules(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A working folder with modules of a user's own."""
    (tmp_path / "own_method.py").write_text(
        "from tff_hospitals.experiments.methods import Method, register\n"
        "register(Method('slow_mean', 'FedAvg, slowly', 'one step a round', {'client': {'local_steps': 1}}))\n"
    )
    (tmp_path / "own_fault.py").write_text("raise ValueError('first line\\nsecond line')\n")
    (tmp_path / "own_need.py").write_text("import a_package_that_nobody_has\n")
    (tmp_path / "own_typo.py").write_text("def f(:\n")
    (tmp_path / "own_folder").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(extensions, "_loaded", [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def test_an_extension_registers_before_the_plan_is_made(
    own_modules: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "own_method", raising=False)
    known = dict(METHODS)
    try:
        assert code_of("train", "--aggregator=slow_mean", "--rounds=0", "--run_dir=run") == 2
        assert "aggregator='slow_mean': must be one of" in capsys.readouterr().err
        asked = ("train", "--aggregator=slow_mean", "--rounds=0", "--run_dir=run", "--extension=own_method")
        assert code_of(*asked) == 2
        assert capsys.readouterr().err.startswith("error: rounds=0: must be >= 1")
        assert extensions.loaded() == ("own_method",)
        with pytest.raises(InvalidInput, match="is the name of a method already"):
            register(Method("slow_mean", "", "", {}))
    finally:
        METHODS.clear()
        METHODS.update(known)


def test_an_extension_that_cannot_be_imported_is_one_line_each(
    own_modules: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("own_fault", "own_need", "own_typo", "own_nothing", "own_folder", "", "..", "own_fault.inner")
    assert code_of("options", *(f"--extension={name}" for name in names)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert len(lines) == len(names)
    said = ["ValueError: first line.", "imports 'a_package_that_nobody_has'", "SyntaxError", "there is no module"]
    for line, words in zip(lines, [*said, "is a folder without code", "", "", ""]):
        assert words in line
        assert "Remedy: " in line
