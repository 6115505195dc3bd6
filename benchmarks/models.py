"""What a record costs in a round over what it costs in plain Keras `fit`: convolutions, residual blocks, attention.

    ./run benchmarks/models.py --json=FILE

For each model (`models_rows`: a CNN, a residual network with GroupNorm, a small Transformer over sequences) three
processes are measured in turn: Keras, a round of the compiled runtime, and one with DP-SGD inside the hospitals. Writes
`cnn_over_keras`, `cnn_private_over_keras` and so on (seconds for each record, ours over Keras), the seconds, and the
peak memory of each process in MiB, after each model, so that a cut keeps what was measured.

On a busy machine time that passes says little: `--clock=processor` counts the work of all cores instead.
"""

from __future__ import annotations

import pathlib
import statistics
import sys
from typing import Any

import models_rows
import paired
from absl import flags

from tff_hospitals.experiments import command
from tff_hospitals.foundations.validation import one_of, raise_if

FLAGS = flags.FLAGS
ROWS = pathlib.Path(__file__).resolve().parent / "models_rows.py"
WAYS = ("keras", "plain", "private")


def measure(model: str, turns: int, clock: str) -> dict[str, Any]:
    """Figures of one model."""
    children: dict[str, paired.Child] = {}
    try:
        for way in WAYS:
            command_line = [sys.executable, str(ROWS), way, model, clock]
            children[way] = paired.Child(command_line, TF_NUM_INTRAOP_THREADS=_threads(way))
            children[way].wait()
        seconds = paired.measure_in_turn(children, turns)
        memory = {f"{model}_{way}_mib": child.peak_mib() for way, child in children.items()}
    finally:
        for child in children.values():
            child.close()
    return {
        f"{model}_over_keras": paired.ratio(seconds, "plain", "keras"),
        f"{model}_private_over_keras": paired.ratio(seconds, "private", "keras"),
        **{f"{model}_{way}_us": 1e6 * statistics.median(seconds[way]) for way in WAYS},
        **memory,
    }


def _threads(way: str) -> str:
    """Threads of an operation: all cores for Keras, as without us; one for a round, as the package asks for."""
    return "0" if way == "keras" else "1"


def define_flags() -> None:
    """Flags of the measurement."""
    flags.DEFINE_string("json", None, "file for the figures")
    flags.DEFINE_list("models", list(models_rows.BUILDERS), "what to measure")
    flags.DEFINE_enum("clock", "wall", list(models_rows.CLOCKS), "what is counted")
    flags.DEFINE_integer("turns", 7, "measurements of every process", lower_bound=1)


def run() -> None:
    """Measures, prints and writes the figures."""
    raise_if([one_of("--models", model, models_rows.BUILDERS) for model in FLAGS.models])
    figures: dict[str, Any] = {"clock": FLAGS.clock}
    print(
        "| model | Keras, us a record | round | with DP-SGD | over Keras | with DP-SGD | Keras, MiB | round | DP-SGD |"
    )
    print("|---" * 9 + "|")
    for model in FLAGS.models:
        found = measure(model, FLAGS.turns, FLAGS.clock)
        figures.update(found)
        cells = [f"{found[f'{model}_{way}_us']:.0f}" for way in WAYS]
        cells += [f"{found[f'{model}_over_keras']:.2f}", f"{found[f'{model}_private_over_keras']:.2f}"]
        cells += [f"{found[f'{model}_{way}_mib']:.0f}" for way in WAYS]
        print(f"| {model} | " + " | ".join(cells) + " |", flush=True)
        paired.write_json(FLAGS.json, figures)


if __name__ == "__main__":
    command.main()
