"""Checks an installation in seconds and says what is wrong and how to mend it.

Nothing of it imports TensorFlow: what may crash or hang runs in a process of its own, under a time limit. The exit code
is 1 if something is wrong, otherwise 0; a note is not wrong.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

OK, NOTE, WRONG = "ok", "note", "wrong"
_CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent
_LEAST_MEMORY_GB = 1.5
_LEAST_DISK_GB = 1.0
_TFF_BY_HAND = "pip install --no-deps tensorflow-federated==0.87.0 tensorflow-privacy==0.9.0 google-vizier==0.1.11"
_DEEP_MESSAGE = """
from tff_hospitals.foundations import quiet
quiet.allow_deep_protocol_buffers()
from google.protobuf import struct_pb2
top = node = struct_pb2.Value()
for _ in range(500):
    node = node.list_value.values.add()
struct_pb2.Value.FromString(top.SerializeToString())
"""


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the report: what was looked at, how it stands, what was found, and what to do about it."""

    name: str
    status: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        mend = f"\n{'':7}mend: {self.remedy}" if self.remedy else ""
        return f"{self.status:6} {self.name}: {self.found}{mend}"


def made_by_run() -> bool:
    """Whether this is the environment that ./run made, and no other one with the package installed in it."""
    return pathlib.Path(sys.prefix).resolve() == _CHECKOUT / ".venv"


def install_again() -> str:
    """How to mend an environment whose packages are not what they should be."""
    if made_by_run():
        return "remove .venv/ and start ./run, which makes it anew"
    return f"in a new environment: pip install tff_hospitals, then {_TFF_BY_HAND}"


def check_python() -> Check:
    """The version of Python and the kind of machine."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if not (3, 9) <= sys.version_info[:2] <= (3, 11):
        return Check("Python", WRONG, found, "use Python 3.9, 3.10 or 3.11; ./run finds or fetches one")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return Check("Python", WRONG, found, "TensorFlow Federated exists for Linux x86_64 only")
    return Check("Python", OK, found)


def wanted_packages() -> list[Any]:
    """What should be installed, as `packaging` requirements.

    In the environment that ./run made: every package of requirements.lock, exactly. Elsewhere: what the package's
    metadata ask for, and the three packages that they cannot ask for.
    """
    from packaging.requirements import Requirement

    if made_by_run():
        text = (_CHECKOUT / "requirements.lock").read_text()
        lines = [line.rstrip(" \\") for line in text.splitlines() if line[:1].isalnum()]
    else:
        try:
            lines = [*(importlib.metadata.requires("tff_hospitals") or []), *_TFF_BY_HAND.split()[3:]]
        except importlib.metadata.PackageNotFoundError:
            lines = []
    named = [Requirement(line) for line in lines]
    return [one for one in named if one.marker is None or one.marker.evaluate()]


def check_packages() -> Check:
    """Versions of the packages, read from their metadata without importing them."""
    try:
        wanted = wanted_packages()
    except ImportError as error:
        return Check("packages", WRONG, str(error), install_again())
    if not wanted:
        return Check("packages", NOTE, "neither ./run's environment nor an installed package: no list to compare with")
    faults = []
    for one in wanted:
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            faults.append(f"{one.name} is missing")
            continue
        if not one.specifier.contains(version, prereleases=True):
            faults.append(f"{one.name} is {version}, not {one.specifier}")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        return Check("packages", WRONG, "; ".join(faults[:5]) + more, install_again())
    return Check("packages", OK, f"{len(wanted)} packages, versions as wanted")


def check_processor() -> Check:
    """Number of cores, and the instructions that TensorFlow's wheels are built with."""
    cores = len(os.sched_getaffinity(0))
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return Check("processor", NOTE, f"{cores} cores, instructions unknown")
    if "avx" not in flags:
        remedy = "use a machine (or tell the virtual machine to pass on the processor) that has AVX"
        return Check("processor", WRONG, "no AVX: TensorFlow would end with 'Illegal instruction'", remedy)
    return Check("processor", OK, f"{cores} cores, AVX{'2' if 'avx2' in flags else ''}")


def check_memory() -> Check:
    """Memory that is free for us, within a container's bound if there is one."""
    try:
        lines = dict(line.split(":", 1) for line in pathlib.Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) / 2**20
    except (OSError, KeyError):
        return Check("memory", NOTE, "unknown")
    try:
        group = pathlib.Path("/sys/fs/cgroup")
        bound, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        free = min(free, (int(bound) - int(used)) / 2**30)
    except (OSError, ValueError):
        pass  # no container, or one without a bound
    if free < _LEAST_MEMORY_GB:
        return Check("memory", WRONG, f"{free:.1f} GB free", f"free some: training needs {_LEAST_MEMORY_GB:g} GB")
    return Check("memory", OK, f"{free:.1f} GB free")


def check_disk() -> Check:
    """Space where runs are written by default, and in the folder for temporary files."""
    for folder in (".", tempfile.gettempdir()):
        free = shutil.disk_usage(folder).free / 2**30
        if free < _LEAST_DISK_GB:
            return Check("disk", WRONG, f"{free:.2f} GB free in {os.path.abspath(folder)}", "free some space there")
    return Check("disk", OK, f"{shutil.disk_usage('.').free / 2**30:.0f} GB free here")


def check_deep_messages() -> Check:
    """Whether protocol buffers may nest deeply; a wrong version crashes, which only a child process survives."""
    name = "deep protocol buffers"
    child = subprocess.run(
        [sys.executable, "-c", _DEEP_MESSAGE], capture_output=True, text=True, env=_child_environment(), check=False
    )
    if child.returncode == 0:
        return Check(name, OK, "500 levels parsed")
    return Check(
        name, WRONG, _how_it_ended(child.returncode, child.stderr), "install protobuf 4.25 as requirements.lock has it"
    )


def check_worker() -> Check:
    """Whether TFF's worker starts, and whether it can be hidden from the network."""
    from tff_hospitals.runtimes.native.worker import Worker, WorkerError

    name = "TFF's worker"
    try:
        with Worker() as worker:
            if worker.isolated:
                return Check(name, OK, "starts, and is hidden from the network")
    except WorkerError as error:
        return Check(name, WRONG, str(error), install_again())
    return Check(
        name,
        NOTE,
        "starts, but this system allows no network namespace: while the native runtime runs, whoever reaches this "
        "machine over the network may run TensorFlow operations in it",
        "use the compiled runtime (the default), or shut the machine's ports to others with a firewall",
    )


def start_smoke(errors: IO[str]) -> subprocess.Popen[str]:
    """Starts the two-hospital round in a process (and process group) of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tff_hospitals.installation.smoke"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=_child_environment(),
        start_new_session=True,
    )


def check_smoke(child: subprocess.Popen[str], errors: IO[str], limit: float, waited: float = 0.0) -> Check:
    """Waits for the two-hospital round, `limit` seconds less those already waited, and reads its result."""
    from tff_hospitals.installation.smoke import TOLERANCE

    name = "two-hospital round"
    try:
        output, _ = child.communicate(timeout=max(0.0, limit - waited))
    except subprocess.TimeoutExpired:
        return Check(name, WRONG, f"not finished within {limit:g} s", "try --time_limit 600; else: " + install_again())
    if child.returncode != 0:
        errors.seek(0)
        return Check(
            name,
            WRONG,
            _how_it_ended(child.returncode, errors.read()),
            "mend what is wrong above, else: " + install_again(),
        )
    result = json.loads(output)
    if result["mean"] != 2.0 or not result["difference"] <= TOLERANCE:
        found = f"mean of 1 and 3 is {result['mean']}, runtimes differ by {result['difference']:.2g}"
        return Check(name, WRONG, found, install_again())
    return Check(name, OK, f"both runtimes agree within {result['difference']:.1g} ({result['seconds']:.0f} s)")


def _child_environment() -> dict[str, str]:
    """This environment, with this copy of the package importable from wherever we stand."""
    paths = [os.fspath(_CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _how_it_ended(code: int, errors: str) -> str:
    if code < 0:
        return f"crashed with {signal.Signals(-code).name}"
    lines = errors.strip().splitlines()
    return lines[-1][:300] if lines else f"ended with code {code}"


def examine(time_limit: float) -> Iterator[Check]:
    """All checks in order, each as soon as it is done; the round runs beside the others."""
    quick: Sequence[Callable[[], Check]] = (
        check_python,
        check_packages,
        check_processor,
        check_memory,
        check_disk,
        check_deep_messages,
        check_worker,
    )
    with tempfile.TemporaryFile("w+") as errors:
        child = start_smoke(errors)
        start = time.monotonic()
        try:
            for check in quick:
                yield check()
            yield check_smoke(child, errors, time_limit, time.monotonic() - start)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)  # its worker ends with it
            child.communicate()


def define_flags() -> None:
    """Flags of an examination."""
    from absl import flags

    flags.DEFINE_bool("json", False, "print the report as JSON")
    flags.DEFINE_float("time_limit", 180.0, "seconds for the two-hospital round")


def run() -> None:
    """Prints the report; exits with 1 if something is wrong."""
    from absl import flags

    from tff_hospitals.foundations.validation import in_range, raise_if

    as_json, limit = flags.FLAGS.json, flags.FLAGS.time_limit
    raise_if([in_range("--time_limit", limit, low=0.0, low_open=True, remedy="give seconds above 0, such as 180")])
    checks = []
    for check in examine(limit):
        checks.append(check)
        if not as_json:
            print(check, flush=True)
    wrong = [check.name for check in checks if check.status == WRONG]
    if as_json:
        print(json.dumps({"ok": not wrong, "checks": [dataclasses.asdict(check) for check in checks]}, indent=2))
    else:
        print(f"Wrong: {', '.join(wrong)}." if wrong else "All is well.")
    sys.exit(1 if wrong else 0)
