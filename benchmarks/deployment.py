"""What a deployed round takes beyond the hospitals' work, and which faults a federation survives.

    ./run benchmarks/deployment.py --json=FILE

Server and four hospitals as processes on this machine, with mutual TLS; medians over the rounds of one run.
`grpc_overhead_s`, `flower_overhead_s`: the mean of updates of 640 kB (159,010 parameters); `.._secure_sum_overhead_s`:
the same model under the secure sum. Faults are the cells of tests/test_deployment_fault_table.py, each fault over each
engine: one counts as survived when the run goes on, no record is lost, none counts twice, and every epsilon is right.
Flower's figures are null where its environment cannot be made; `flower_missing` then says why.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any
from xml.etree import ElementTree

from absl import flags

from tff_hospitals.deployment import engines
from tff_hospitals.experiments import command
from tff_hospitals.foundations.validation import Failure

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = [
    "--dataset=synthetic",
    "--hospitals=4",
    "--data_option=features=784",
    "--data_option=num_classes=10",
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


def faults(folder: str) -> dict[str, dict[str, bool]]:
    """Whether each fault was survived, by fault and engine; engines that cannot be had are missing."""
    written = pathlib.Path(folder) / "faults.xml"
    asked = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "slow or not slow"]
    said = subprocess.run(
        [*asked, f"--junitxml={written}", "tests/test_deployment_fault_table.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if not written.exists():
        raise RuntimeError(f"the faults could not be tried: {said.stdout[-800:]}{said.stderr[-800:]}")
    table: dict[str, dict[str, bool]] = {}
    for case in ElementTree.parse(written).iter("testcase"):
        cell = re.fullmatch(r"test_a_fault_is_survived\w*\[(.+)-(\w+)\]", case.get("name", ""))
        if cell and cell[1] != "nothing" and case.find("skipped") is None:
            failed = any(case.find(word) is not None for word in ("failure", "error"))
            table.setdefault(cell[1], {})[cell[2]] = not failed
    return table


def define_flags() -> None:
    """Flags of the measurement."""
    flags.DEFINE_string("json", None, "file for the figures")
    flags.DEFINE_integer("rounds", 40, "rounds of each run")
    flags.DEFINE_bool("faults", True, "run the faults, too")


def run() -> None:
    """Measures, and prints or writes the figures."""
    figures: dict[str, Any] = {"flower_overhead_s": None, "load_at_start": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        for engine in engines.ENGINES:
            try:
                engines.engine(engine)
            except Failure as error:
                figures[f"{engine}_missing"] = str(error)
                continue
            for name, more in ((engine, []), (f"{engine}_secure_sum", SECURE)):
                summary = overhead(f"{folder}/{name}", FLAGS.rounds, [f"--engine={engine}", *more])
                figures[f"{name}_overhead_s"] = summary["overhead_seconds_per_round"]
                figures[f"{name}_bytes_up_per_round"] = summary["bytes_up"] / summary["rounds"] / 4
    if FLAGS.faults:
        with tempfile.TemporaryDirectory() as folder:
            table = faults(folder)
        cells = [survived for row in table.values() for survived in row.values()]
        figures.update(faults=table, faults_survived=sum(cells), faults_tried=len(cells))
    text = json.dumps(figures, indent=2)
    if FLAGS.json:
        pathlib.Path(FLAGS.json).write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    command.main()
