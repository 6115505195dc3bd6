"""What a deployed round takes beyond the hospitals' work, and which faults a federation survives.

    ./run benchmarks/deployment.py --json=FILE

Server and four hospitals as processes on this machine, over gRPC with mutual TLS; medians over the rounds of one run.
`grpc_overhead_s`: the mean of updates of 640 kB; `grpc_secure_sum_overhead_s`: the same model under the secure sum.
Faults are those of tests/test_deployment_faults.py, run as tests. `flower_overhead_s` is null: there is no such engine.
"""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

from absl import flags

from tff_hospitals.experiments import command

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = [
    "--dataset=synthetic",
    "--hospitals=4",
    "--data_option=features=784",
    "--model=mlp",
    "--model_option=hidden_units=200",
    "--local_steps=2",
    "--evaluate_every=1000",
    "--checkpoint_every=1000",
]
SECURE = ["--secure_sum", "--secure_sum_bound=4"]


def overhead(folder: str, rounds: int, more: list[str]) -> dict[str, Any]:
    """The summary of a federation on this machine."""
    script = str(ROOT / "scripts" / "federation.py")
    given = ["up", *MODEL, f"--rounds={rounds}", f"--run_dir={folder}", *more]
    done = subprocess.run([sys.executable, script, *given], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the federation ended with {done.returncode}: {done.stdout[-800:]}{done.stderr[-800:]}")
    return json.loads((pathlib.Path(folder) / "summary.json").read_text())


def faults() -> tuple[int, int]:
    """How many faults were survived, and tried."""
    tests = ["tests/test_deployment_faults.py", "tests/test_deployment_attacks.py"]
    asked = [sys.executable, "-m", "pytest", "-q", "-n", "0", *tests]
    said = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", said)}
    if not counts:  # pytest is told to be quiet: one mark for each test
        marks = "".join(re.findall(r"^([.FEsx]+)\s+\[", said, flags=re.M))
        counts = {"passed": marks.count("."), "failed": marks.count("F") + marks.count("E")}
    return counts.get("passed", 0), sum(counts.values())


def define_flags() -> None:
    """Flags of the measurement."""
    flags.DEFINE_string("json", None, "file for the figures")
    flags.DEFINE_integer("rounds", 40, "rounds of each run")
    flags.DEFINE_bool("faults", True, "run the faults, too")


def run() -> None:
    """Measures, and prints or writes the figures."""
    figures: dict[str, Any] = {"flower_overhead_s": None}
    with tempfile.TemporaryDirectory() as folder:
        for name, more in (("grpc", []), ("grpc_secure_sum", SECURE)):
            summary = overhead(f"{folder}/{name}", FLAGS.rounds, more)
            figures[f"{name}_overhead_s"] = summary["overhead_seconds_per_round"]
            figures[f"{name}_bytes_up_per_round"] = summary["bytes_up"] / summary["rounds"] / 4
    if FLAGS.faults:
        figures["faults_survived"], figures["faults_tried"] = faults()
    text = json.dumps(figures, indent=2)
    if FLAGS.json:
        pathlib.Path(FLAGS.json).write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    command.main()
