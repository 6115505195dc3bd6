"""One entrance to every command: `tff-hospitals COMMAND`, `./run -m tff_hospitals COMMAND`, and `scripts/*.py`.

A command is a module with `define_flags()` and `run()`, light enough that its help is instant; the first line of its
docstring is its line in the list of commands, the whole docstring its help. Adding one is one line of `COMMANDS`.
"""

from __future__ import annotations

import atexit
import importlib
import os
import pathlib
import sys
from collections.abc import Sequence

import tff_hospitals
from tff_hospitals.foundations import extensions
from tff_hospitals.foundations.validation import InvalidInput, one_of

COMMANDS = {
    "inspect": "tff_hospitals.experiments.inspect_command",
    "partition": "tff_hospitals.experiments.partition_command",
    "compare": "tff_hospitals.experiments.compare_command",
    "train": "tff_hospitals.experiments.train_command",
    "program": "tff_hospitals.experiments.program_command",
    "sweep": "tff_hospitals.experiments.sweep_command",
    "tune": "tff_hospitals.experiments.tune_command",
    "contribution": "tff_hospitals.experiments.contribution_command",
    "audit": "tff_hospitals.experiments.audit_command",
    "publish": "tff_hospitals.experiments.publish_command",
    "report": "tff_hospitals.experiments.report_command",
    "watch": "tff_hospitals.experiments.watch_command",
    "account": "tff_hospitals.experiments.account_command",
    "bandwidth": "tff_hospitals.experiments.bandwidth_command",
    "pretrain": "tff_hospitals.experiments.pretrain_command",
    "hospital": "tff_hospitals.experiments.hospital_command",
    "federation": "tff_hospitals.experiments.federation_command",
    "lesson": "tff_hospitals.experiments.lesson_command",
    "options": "tff_hospitals.experiments.options_command",
    "doctor": "tff_hospitals.installation.doctor",
}
_OWN_NAME = "tff-hospitals-"  # tff-hospitals-train is tff-hospitals train


def main(name: str = "", argv: Sequence[str] | None = None) -> None:
    """Runs a command and ends the process with its exit code.

    Args:
      name: of the command; by default it follows from the program's own name or is the first argument.
      argv: the command line; default the process's.
    """
    try:
        from tff_hospitals.experiments import command
    except ModuleNotFoundError as error:  # the doctor itself needs what parses flags
        from tff_hospitals.installation.doctor import install_again

        sys.exit(f"error: {error}: the installation is not whole. Remedy: {install_again()}.")
    given = list(sys.argv if argv is None else argv)
    program = pathlib.Path(given[0]).name
    if not name and program.startswith(_OWN_NAME):
        name = program[len(_OWN_NAME) :]
    if not name:
        if given[1:2] == ["--version"]:
            print(f"tff-hospitals {tff_hospitals.__version__}")
            sys.exit(0)
        if len(given) < 2 or given[1] in command.HELP:
            print(_overview())
            sys.exit(0 if len(given) > 1 else command.REFUSED)
        name = given.pop(1)
    problem = one_of("command", name, COMMANDS)
    if problem is not None:
        sys.exit(command.say(str(InvalidInput([problem])), command.REFUSED))
    module = importlib.import_module(COMMANDS[name])
    for place, flag in enumerate(getattr(module, "POSITIONAL", ()), start=1):
        several = flag.endswith("*")
        while len(given) > place and not given[place].startswith("-"):
            given[place] = f"--{flag.rstrip('*')}={given[place]}"
            place += 1
            if not several:
                break
    sys.exit(command.run(module, given))


def program(name: str = "") -> None:
    """As `main`, for a program that is nothing else: it ends without taking apart what it made.

    Python frees TensorFlow's objects one by one, which takes a second. Threads that still work are waited for, and what
    was registered for the end is done first.

    Args:
      name: of the command, as for `main`.
    """
    atexit.register(_leave)  # before everything else, so that it is called last
    try:
        main(name)
    except SystemExit as ended:
        if isinstance(ended.code, int):
            _ended_with.append(ended.code)
        raise


_ended_with: list[int] = []


def _leave() -> None:
    """Ends the process, where no code of somebody else was loaded that may count on being taken apart."""
    if not _ended_with or extensions.loaded():
        return
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # none, closed or unread: Python says it in its own way
            return
    os._exit(_ended_with[-1])


def _overview() -> str:
    words = {name: importlib.import_module(module).__doc__ or "" for name, module in COMMANDS.items()}
    lines = [f"  {name:<13}{text.splitlines()[0]}" for name, text in words.items()]
    return "\n".join(
        [
            "Compare ways in which hospitals train one model together, at the same verified privacy.",
            "",
            "usage: tff-hospitals COMMAND [--flags]        (in a checkout: ./run -m tff_hospitals COMMAND)",
            "",
            *lines,
            "",
            "tff-hospitals COMMAND --help tells a command's flags.",
        ]
    )
