"""Environments of libraries whose packages do not go with ours: made on request, once, from the index that pip uses.

Every version is fixed, so that a figure of last year can be measured again. A stamp, written last, tells a finished
environment from half of one and from one with other versions.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tff_hospitals.foundations.validation import Failure

VERSION = "3.11"  # of Python; the versions that are asked for have wheels for it
_STAMP, _OURS, _LOG = "installed.txt", "made-on-request", "install.log"


class Unusable(Failure):
    """Something that the user can mend.

    Args:
      problem: what is wrong, with its name.
      remedy: what to do.
    """

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem}\n  Remedy: {remedy}")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """An environment.

    Attributes:
      name: of the library; its folder has that name.
      pins: `package==version`, all of them.
      flag: with which the user names another folder of environments.
      listed_in: file in which the versions stand.
    """

    name: str
    pins: str
    flag: str
    listed_in: str

    @property
    def stamp(self) -> str:
        """What the stamp of a finished environment holds."""
        return f"python=={VERSION}\n" + "".join(f"{pin}\n" for pin in self.pins.split())

    def is_ready(self, environment: pathlib.Path) -> bool:
        """Whether the environment was finished, with these versions."""
        stamp = environment / _STAMP
        return stamp.is_file() and stamp.read_text() == self.stamp and python_of(environment).exists()


def prepare(wanted: Wanted, folder: pathlib.Path) -> pathlib.Path:
    """The Python of an environment, which is made if it is not there.

    Args:
      wanted: what it holds.
      folder: of all environments; each has the name of its library.

    Raises:
      Unusable: no Python of the right version, a folder that is somebody else's, an installer that failed.
    """
    environment = folder / wanted.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder / f"{wanted.name}.lock"):
            if not wanted.is_ready(environment):
                _make(wanted, environment)
    except OSError as error:
        remedy = f"name another {wanted.flag}"
        raise Unusable(f"{wanted.name}: {environment} cannot be written: {error}", remedy) from error
    return python_of(environment)


def _make(wanted: Wanted, environment: pathlib.Path) -> None:
    if environment.exists() and any(environment.iterdir()) and not (environment / _OURS).exists():
        raise Unusable(
            f"{wanted.name}: {environment} was not made by this program", f"remove it or name another {wanted.flag}"
        )
    uv = shutil.which("uv")
    base = find_python()
    if base is None and uv is None:
        raise Unusable(
            f"{wanted.name}: there is no Python {VERSION} on this machine",
            f"install it (and its venv module), or uv, or set TFF_HOSPITALS_PYTHON to a Python {VERSION}",
        )
    print(f"Making {environment} (packages from the index, some minutes) ...", file=sys.stderr, flush=True)
    if environment.exists():
        shutil.rmtree(environment)
    environment.mkdir()
    (environment / _OURS).touch()
    requirements = environment / "requirements.txt"
    requirements.write_text("\n".join(wanted.pins.split()) + "\n")
    python = str(python_of(environment))
    if uv is not None:
        steps = [
            [uv, "venv", "--allow-existing", "--python", base or VERSION, str(environment)],
            [uv, "pip", "install", "--python", python, "--only-binary", ":all:", "--requirement", str(requirements)],
        ]
    else:
        pip = [python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
        steps = [
            [str(base), "-m", "venv", str(environment)],
            [*pip, "--only-binary", ":all:", "--requirement", str(requirements)],
        ]
    for step in steps:
        _run(wanted, step, environment / _LOG)
    unfinished = environment / f"{_STAMP}.part"
    unfinished.write_text(wanted.stamp)
    unfinished.replace(environment / _STAMP)


def _run(wanted: Wanted, step: list[str], log: pathlib.Path) -> None:
    with log.open("a") as file:
        code = subprocess.run(step, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=clean()).returncode
    if code:
        last = "\n".join(f"  | {line}" for line in log.read_text(errors="replace").splitlines()[-4:])
        raise Unusable(
            f"{wanted.name}: its environment could not be made, code {code} of {' '.join(step[:4])} ...; the last"
            f" lines of {log}:\n{last}",
            "if they speak of names, connections or timeouts, check the network and the proxy (https_proxy); if of"
            " ensurepip, install python3-venv or uv; if of no space, free some; if of no matching version, the index"
            f" that pip uses lacks it: change the version in {wanted.listed_in}. Then start again",
        )


def find_python() -> str | None:
    """A Python of the right version; it is run, not only looked for, as a name on PATH may have nothing behind it."""
    named = os.environ.get("TFF_HOSPITALS_PYTHON")
    for candidate in (sys.executable, named, f"python{VERSION}", "python3"):
        if candidate and _version(candidate) == VERSION:
            return candidate
    return None


def _version(python: str) -> str | None:
    try:
        asked = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def clean() -> dict[str, str]:
    """This process's environment without what would lend one Python the packages of another."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "PIP_USER")}


def python_of(environment: pathlib.Path) -> pathlib.Path:
    """The Python in an environment."""
    return environment / "bin" / "python"


@contextmanager
def _one_at_a_time(path: pathlib.Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
