"""Commands as processes of their own, forked from one that has imported TensorFlow: five of them start in a second.

Each is a process like any other: its own memory, its own files, its own connections. Only the import is shared.
"""

from __future__ import annotations

import json
import os
import pathlib
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

_IMPORTED = (
    *("tff_hospitals.deployment.server", "tff_hospitals.deployment.site", "tff_hospitals.deployment.grpc_engine"),
    *("tff_hospitals.deployment.flower_engine", "tff_hospitals.training.loop", "tff_hospitals.experiments.front_door"),
    *("tff_hospitals.experiments.hospital_command", "tff_hospitals.experiments.federation_command"),
    *("tff_hospitals.experiments.compare_command", "tff_hospitals.experiments.train_command"),
)


class Commands:
    """Starts commands; use it in a `with` block, whose end is the end of all of them."""

    def __enter__(self):
        self._said = pathlib.Path(tempfile.mkdtemp())
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        shutil.rmtree(self._said)

    def start(self, log: pathlib.Path, *command: str) -> int:
        """The id of a new process that runs a command of `tff-hospitals`; what it says goes to a file."""
        return self._told({"command": command, "log": str(log)})

    def run(
        self, arguments: Sequence[str], folder: pathlib.Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess:
        """What `python ARGUMENTS` (a program's path, or -m and a module) says in a folder, and how it ends."""
        out, err = self._said / "out", self._said / "err"
        asked = {"program": list(arguments), "folder": str(folder), "environment": dict(environment)}
        code = self.wait(self._told({**asked, "log": str(out), "errors": str(err)}))
        return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())

    def wait(self, process: int, seconds: float = 400.0) -> int:
        """The exit code of a process, below 0 for one that a signal ended; it is killed when the time is over."""
        return self._told({"wait": process, "seconds": seconds})

    def _told(self, asked):
        self._process.stdin.write(json.dumps(asked) + "\n")
        return int(self._process.stdout.readline())


def _program(arguments: Sequence[str], folder: str, environment: Mapping[str, str]) -> None:
    """What an interpreter does with these arguments: modules are found where PYTHONPATH says and beside a program."""
    os.chdir(folder)
    os.environ.update(environment)
    own = folder if arguments[0] == "-m" else os.path.dirname(os.path.abspath(arguments[0]))
    sys.path[:1] = [own, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    if arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        runpy.run_path(arguments[0], run_name="__main__")


def _run(asked: Mapping[str, Any]) -> None:
    """The child's part: never returns."""
    from tff_hospitals.experiments import front_door

    for stream, name in ((1, "log"), (2, "errors")):
        if name in asked:
            os.dup2(os.open(asked[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)
        else:
            os.dup2(1, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 1
    try:
        if "program" in asked:
            _program(asked["program"], asked["folder"], asked["environment"])
            code = 0
        else:
            front_door.main(argv=["tff-hospitals", *asked["command"]])
    except SystemExit as ended:
        code = ended.code or 0
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _ended(process: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main() -> None:
    """Forks a child for every line that names a command, until there are no more lines."""
    import importlib

    from tff_hospitals.foundations import quiet

    quiet.be_quiet()
    quiet.allow_deep_protocol_buffers()
    for name in _IMPORTED:
        importlib.import_module(name)
    children = set()
    while line := sys.stdin.readline():
        asked = json.loads(line)
        if "wait" not in asked:
            child = os.fork()
            if child == 0:
                _run(asked)
            children.add(child)
            print(child, flush=True)
        else:
            children.discard(asked["wait"])
            print(_ended(asked["wait"], asked["seconds"]), flush=True)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
