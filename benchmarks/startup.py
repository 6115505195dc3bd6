"""How long a user waits: `--help`, the accountant, the first finished round and the main job.

    ./run benchmarks/startup.py --json=FILE

Whole processes, wall seconds, medians. `first_round_s` is from the start of scripts/train.py to its first finished
round, split into import, build and the first round (which compiles); `main_job_s` is the main job without flags.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import paired
from absl import flags

from tff_hospitals.experiments import command

FLAGS = flags.FLAGS

ROOT = pathlib.Path(__file__).resolve().parent.parent

ACCOUNT = ["--sampling_probability=256/60000", "--noise_multiplier=1.1", "--steps=14062", "--delta=1e-5", "--json"]
SPLIT = """
import json, sys, time
start = time.perf_counter()
sys.path.insert(0, sys.argv[1])
from tff_hospitals.foundations import quiet
quiet.be_quiet()
from tff_hospitals.experiments import baselines, presets
from tff_hospitals.training import loop
import tensorflow
imported = time.perf_counter()
plan = presets.preset("heart_disease").replace(rounds=2)
dataset = baselines.load(plan.data)
model = loop.build_model(plan, dataset)
built = time.perf_counter()
marks = []
loop.train(plan, dataset, model=model, on_round=lambda progress: marks.append(time.perf_counter()))
print(json.dumps({"import": imported - start, "build": built - imported, "compile_and_first_round": marks[0] - built}))
"""


def seconds(command: list[str]) -> float:
    """Wall seconds of a process; its output is thrown away."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return time.perf_counter() - started


def main_job() -> float:
    """Seconds of the main job without flags."""
    with tempfile.TemporaryDirectory() as folder:
        script = str(ROOT / "scripts" / "compare_aggregators.py")
        return seconds([sys.executable, script, f"--run_dir={os.path.join(folder, 'run')}"])


def first_round() -> dict[str, float]:
    """Seconds to the first finished round, in parts."""
    done = subprocess.run([sys.executable, "-c", SPLIT, str(ROOT)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(turns: int, jobs: int) -> dict[str, Any]:
    """All figures."""
    scripts = ROOT / "scripts"
    figures: dict[str, Any] = {}
    for name in ("train", "compare_aggregators", "account", "bandwidth", "report"):
        helping = [sys.executable, str(scripts / f"{name}.py"), "--help"]
        figures[f"help_{name}_s"] = statistics.median(seconds(helping) for _ in range(turns))
    account = [sys.executable, str(scripts / "account.py"), *ACCOUNT]
    figures["account_s"] = statistics.median(seconds(account) for _ in range(turns))
    parts = [first_round() for _ in range(turns)]
    for part in parts[0]:
        figures[f"first_round_{part}_s"] = statistics.median(one[part] for one in parts)
    figures["first_round_s"] = statistics.median(sum(one.values()) for one in parts)
    figures["main_job_s"] = statistics.median(main_job() for _ in range(jobs))
    return figures


def define_flags() -> None:
    """Flags of the measurement."""
    flags.DEFINE_string("json", None, "file for the figures")
    flags.DEFINE_integer("turns", 3, "runs of every short command", lower_bound=1)
    flags.DEFINE_integer("jobs", 1, "runs of the main job", lower_bound=1)


def run() -> None:
    """Measures, prints and writes the figures."""
    figures = measure(FLAGS.turns, FLAGS.jobs)
    print("| figure | seconds |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name} | {value:.2f} |")
    paired.write_json(FLAGS.json, figures)


if __name__ == "__main__":
    command.main()
