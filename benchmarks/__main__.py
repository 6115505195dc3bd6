"""All measurements of speed, one after the other, into one JSON and one page; two commits can be compared.

    ./run -m benchmarks --folder=benchmarks_now [--only=sweep,limit] [--before=benchmarks_then/benchmarks.json]

Every benchmark is a process of its own. Nothing else should run meanwhile. What fails is named in the page and by exit
code 1; the others are measured all the same. Those of accuracy or bytes (`dp_mechanisms`, `algorithms`, `compression`,
`flamby_heart`) and of other libraries (`peers`) take long or fetch packages, and are run by their names alone.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from absl import flags

from tff_hospitals.experiments import command
from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import InvalidInput, Problem, one_of, raise_if
from tff_hospitals.runtimes.compiled import choice

FLAGS = flags.FLAGS
HERE = pathlib.Path(__file__).resolve().parent
SPEED = (
    "startup",
    "round_time",
    "limit",
    "dp_sgd_step",
    "models",
    "sweep",
    "seeds",
    "scaling",
    "encoding_speed",
    "tff_overhead",
    "cluster",
    "deployment",
)
OTHERS = ("flamby_heart", "compression", "algorithms", "dp_mechanisms", "peers")
_PACKAGES = ("tensorflow", "tensorflow-federated", "tensorflow-privacy", "numpy")


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    commit = subprocess.run(["git", "-C", str(HERE), "rev-parse", "HEAD"], capture_output=True, text=True)
    return {
        "processor": choice.processor()[0],
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "commit": commit.stdout.strip() or None,
        "load_before": os.getloadavg()[0],
    }


def measure(name: str, folder: pathlib.Path) -> dict[str, Any]:
    """One benchmark's figures, seconds and exit code; what it printed is in NAME.log."""
    path, started = folder / f"{name}.json", time.perf_counter()
    path.unlink(missing_ok=True)
    with (folder / f"{name}.log").open("w") as log:
        code = subprocess.run([sys.executable, str(HERE / f"{name}.py"), f"--json={path}"], stdout=log, stderr=log)
    figures = json.loads(path.read_text()) if path.exists() else {}
    return {"exit_code": code.returncode, "seconds": time.perf_counter() - started, "figures": figures}


def numbers(found: Mapping[str, Any]) -> dict[str, float]:
    """The plain numbers of every benchmark, as `benchmark.figure`.

    >>> numbers({"benchmarks": {"sweep": {"figures": {"programs": 1, "words": "no"}}}})
    {'sweep.programs': 1}
    """
    return {
        f"{name}.{figure}": value
        for name, one in found["benchmarks"].items()
        for figure, value in one["figures"].items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def page(found: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    """Markdown: the machine, what failed, every number, and beside it the number of before with the ratio."""
    lines = ["# Benchmarks", "", ", ".join(f"{name} {value}" for name, value in found["machine"].items()), ""]
    failed = [name for name, one in found["benchmarks"].items() if one["exit_code"]]
    lines += [f"Failed, or missed an aim of its own: {', '.join(failed)} (see NAME.log).", ""] if failed else []
    if before is None:
        lines += ["| figure | value |", "|---|---|"]
        return "\n".join([*lines, *(f"| {name} | {value:.4g} |" for name, value in numbers(found).items())]) + "\n"
    lines += [f"Before: {', '.join(f'{name} {value}' for name, value in before['machine'].items())}", ""]
    lines += ["| figure | value | before | ratio |", "|---|---|---|---|"]
    old = numbers(before)
    for name, value in numbers(found).items():
        then = f"{old[name]:.4g}" if name in old else ""
        ratio = f"{value / old[name]:.3g}" if old.get(name) else ""
        lines.append(f"| {name} | {value:.4g} | {then} | {ratio} |")
    return "\n".join(lines) + "\n"


def define_flags() -> None:
    """Flags of the measurement."""
    flags.DEFINE_string("folder", None, "where figures, logs and the page are written")
    flags.DEFINE_list("only", list(SPEED), f"benchmarks; besides these: {', '.join(OTHERS)}")
    flags.DEFINE_string("before", None, "benchmarks.json of another commit, to compare with")


def run() -> None:
    """Measures, writes `benchmarks.json` and `benchmarks.md` after every benchmark, and prints the page."""
    chosen = list(dict.fromkeys(FLAGS.only))
    found = [one_of("--only", name, (*SPEED, *OTHERS)) for name in chosen]
    if not FLAGS.folder:
        found.append(Problem("--folder", FLAGS.folder, "is needed", "name a folder for the figures"))
    raise_if(found)
    before = files.read_json(pathlib.Path(FLAGS.before)) if FLAGS.before else None
    if before is not None and not {"machine", "benchmarks"} <= set(before):
        bound = "is no benchmarks.json of this program"
        raise InvalidInput([Problem("--before", FLAGS.before, bound, "name the file that another run wrote")])
    folder = pathlib.Path(FLAGS.folder)
    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"machine": machine(), "benchmarks": {}}
    for name in chosen:
        print(f"{name} ...", file=sys.stderr, flush=True)
        result["benchmarks"][name] = measure(name, folder)
        files.write_json(folder / "benchmarks.json", result)
        files.write_text(folder / "benchmarks.md", page(result, before))
    print(page(result, before), end="")
    sys.exit(any(one["exit_code"] for one in result["benchmarks"].values()))


if __name__ == "__main__":
    command.main()
