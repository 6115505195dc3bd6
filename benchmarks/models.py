"""What a record costs in a round over what it costs in plain Keras `fit`: convolutions, residual blocks, attention.

    ./run benchmarks/models.py --json=FILE

For each model (`models_rows`: a CNN, a residual network with GroupNorm, a small Transformer over sequences) three
processes are measured in turn: Keras, a round of the compiled runtime, and one with DP-SGD inside the hospitals. Writes
`cnn_over_keras`, `cnn_private_over_keras` and so on (seconds for each record, ours over Keras), the seconds, and the
peak memory of each process in MiB, after each model, so that a cut keeps what was measured.

`--strategies` measures, in Keras' place, each round with XLA (`scanned`) and without (`side_by_side`) beside what a
long run settles on by its trial: `cnn_plain_xla_over_without`, `cnn_plain_chosen_over_best` and so on.

On a busy machine time that passes says little: `--clock=processor` counts the work of all cores instead.
"""

from __future__ import annotations

import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import models_rows
import paired
from absl import flags

from tff_hospitals.experiments import command
from tff_hospitals.foundations.validation import one_of, raise_if

FLAGS = flags.FLAGS
ROWS = pathlib.Path(__file__).resolve().parent / "models_rows.py"
WAYS = ("keras", "plain", "private")
BY_XLA, WITHOUT_XLA = ":scanned", ":side_by_side"
_ENDS = ("", BY_XLA, WITHOUT_XLA)


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


def measure_strategies(model: str, turns: int, clock: str) -> dict[str, Any]:
    """Figures of one model with XLA, without, and as a trial chooses."""
    figures: dict[str, Any] = {}
    for kind in WAYS[1:]:
        commands: dict[str, Sequence[str]] = {
            f"{kind}{end}": [sys.executable, str(ROWS), f"{kind}{end}", model, clock] for end in _ENDS
        }
        seconds = paired.in_turn(commands, turns)
        figures[f"{model}_{kind}_xla_over_without"] = paired.ratio(seconds, kind + BY_XLA, kind + WITHOUT_XLA)
        best = min((kind + BY_XLA, kind + WITHOUT_XLA), key=lambda way: statistics.median(seconds[way]))
        figures[f"{model}_{kind}_chosen_over_best"] = paired.ratio(seconds, kind, best)
        figures.update({f"{model}_{way}_us": 1e6 * statistics.median(seconds[way]) for way in commands})
    return figures


def _threads(way: str) -> str:
    """Threads of an operation: all cores for Keras, as without us; one for a round, as the package asks for."""
    return "0" if way == "keras" else "1"


def define_flags() -> None:
    """Flags of the measurement."""
    flags.DEFINE_string("json", None, "file for the figures")
    flags.DEFINE_list("models", list(models_rows.BUILDERS), "what to measure")
    flags.DEFINE_enum("clock", "wall", list(models_rows.CLOCKS), "what is counted")
    flags.DEFINE_bool("strategies", False, "compare strategies of the compiled runtime instead of Keras")
    flags.DEFINE_integer("turns", 7, "measurements of every process", lower_bound=1)


def run() -> None:
    """Measures, prints and writes the figures."""
    raise_if([one_of("--models", model, models_rows.BUILDERS) for model in FLAGS.models])
    figures: dict[str, Any] = {"clock": FLAGS.clock}
    if FLAGS.strategies:
        for model in FLAGS.models:
            figures.update(measure_strategies(model, FLAGS.turns, FLAGS.clock))
            print("\n".join(f"| {name} | {value} |" for name, value in figures.items() if model in name), flush=True)
            paired.write_json(FLAGS.json, figures)
        return
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
