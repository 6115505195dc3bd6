"""A whole federation on this machine: server and hospitals as processes of their own, ended with their starter.

Each hospital's process sees its own folder only where the system allows a mount namespace (see `isolated`). Every
process is killed by the kernel when the starter ends, whichever way it ends, and a sweeper then removes the folder with
the keys.
"""

from __future__ import annotations

import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from tff_hospitals.deployment import founding, site_data
from tff_hospitals.deployment.agreement import SERVER, Agreement
from tff_hospitals.deployment.transport import DeploymentError
from tff_hospitals.hospitals import HospitalDataset

_LAUNCHER = pathlib.Path(__file__).with_name("isolated.py")
LISTENING = "listening on "
_SWEEPER = """
import os, shutil, sys, time
sys.stdin.read()
for _ in range(50):
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    if not os.path.lexists(sys.argv[1]):
        break
    time.sleep(0.1)
"""
"""Waits for its pipe to be closed, as the starter's end does; tries again while dying processes still write."""
_END_SECONDS = 15.0
_LAST_LINES = 12


class Local:
    """The processes of one federation; use it in a `with` block.

    Args:
      folder: of the federation, as `founding.found` made it.
      agreement: of it.
      start_seconds: until the server listens.
    """

    def __init__(self, folder: pathlib.Path, agreement: Agreement, start_seconds: float = 300.0):
        self.folder, self.agreement = folder, agreement
        self._start_seconds = start_seconds
        self._processes: dict[str, subprocess.Popen] = {}

    def start(
        self, run_dir: pathlib.Path, *, budget: float | None, insecure: bool, extra: Sequence[str] = ()
    ) -> IO[bytes]:
        """Starts the server, then the hospitals with its address; gives the server's output.

        Raises:
          DeploymentError: the server does not listen in time.
        """
        flags = [*extra, *(["--insecure"] if insecure else [])]
        serve = ["federation", "serve", "--folder={folder}", "--listen=127.0.0.1:0", f"--run_dir={run_dir.absolute()}"]
        output = self._spawn(SERVER, [*serve, *flags], subprocess.PIPE).stdout
        if output is None:
            raise RuntimeError("the server was started without its output")
        address = self._address(output)
        places = ["--folder={folder}", "--data={folder}/data", "--approve={folder}/agreement.json"]
        limits = [] if budget is None else [f"--budget={budget}"]
        for name in self.agreement.ids:
            log = (self.folder / "logs" / f"{founding.folder_of(self.folder, name).name}.log").open("wb")
            with log:
                self._spawn(
                    name,
                    ["hospital", *places, "--yes", f"--server={address}", "--give_up_seconds=60", *limits, *flags],
                    log,
                )
        return output

    def _spawn(self, name: str, arguments: Sequence[str], output: Any) -> subprocess.Popen:
        own = founding.folder_of(self.folder, name)
        view = self.folder / "views" / own.name
        view.mkdir(parents=True, exist_ok=True)
        (self.folder / "logs").mkdir(exist_ok=True)
        hidden = [str(self.folder / part) for part in ("hospitals", SERVER, "authority")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", str(_LAUNCHER), "--parent", str(os.getpid())),
                *("--own", str(own), "--view", str(view), "--hide", *hidden, "--"),
                *(sys.executable, "-m", "tff_hospitals", *arguments),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the starter, which ends them
        )
        self._processes[name] = process
        return process

    def _address(self, output: IO[bytes]) -> str:
        """Reads the server's output up to where it says its address."""
        end, said = time.monotonic() + self._start_seconds, b""
        while time.monotonic() < end:
            if not select.select([output], [], [], 0.5)[0]:
                continue
            line = output.readline()
            if line.startswith(LISTENING.encode()):
                return line.decode()[len(LISTENING) :].strip()
            said += line
            if not line and self._processes[SERVER].poll() is not None:
                break
        raise DeploymentError(f"the server did not start: {said.decode(errors='replace')[-800:] or 'it said nothing'}")

    def wait(self, output: IO[bytes], on_line: Callable[[str], None]) -> int:
        """Hands the server's lines on until it ends; its exit code."""
        for line in output:
            on_line(line.decode(errors="replace").rstrip("\n"))
        return self._processes[SERVER].wait()

    def failures(self) -> Mapping[str, str]:
        """Last lines of hospitals that ended with an error."""
        found = {}
        end = time.monotonic() + _END_SECONDS
        for name, process in self._processes.items():
            if name == SERVER:
                continue
            try:
                code = process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                found[name] = "did not end by itself"
                continue
            if code:
                path = self.folder / "logs" / f"{founding.folder_of(self.folder, name).name}.log"
                lines = path.read_text(errors="replace").splitlines()
                found[name] = f"exit code {code}: " + " | ".join(lines[-_LAST_LINES:])
        return found

    def close(self) -> None:
        """Ends every process that was started."""
        running = [process for process in self._processes.values() if process.poll() is None]
        for process in running:
            process.terminate()
        end = time.monotonic() + _END_SECONDS
        for process in running:
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for process in self._processes.values():
            if process.stdout is not None:
                process.stdout.close()

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def prepare(folder: pathlib.Path, dataset: HospitalDataset) -> None:
    """Puts every hospital's records into its own folder."""
    for hospital in dataset.hospitals:
        place = founding.folder_of(folder, hospital.hospital_id) / "data"
        place.mkdir(mode=0o700)
        site_data.write(place, hospital)


class PassingFolder:
    """A private folder that is gone when the `with` block ends, and when this process is killed within it."""

    def __enter__(self) -> pathlib.Path:
        self._path = pathlib.Path(tempfile.mkdtemp(prefix="federation_"))
        self._sweeper = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _SWEEPER, str(self._path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # what is sent to all processes of the starter does not reach it
        )
        return self._path

    def __exit__(self, *_: Any) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        self._sweeper.communicate()
