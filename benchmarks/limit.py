"""How far a round is from the machine's limit: beside JAX of today; and from somebody's own Python beside scripts.

    ./run benchmarks/limit.py --json=FILE

The work is that of `peers.py`: an MLP 784-200-10, 200 records a site, one epoch of batches of 20, the mean of all
sites. JAX is one program over as many host devices as there are cores (`peers_rows.jax_devices`), in an environment of
its own that is made on first use. Beside it stand two programs of this TensorFlow with hand-written gradients and
nothing around them, with XLA and without (`peers_rows.by_hand_xla`, `by_hand`): what they take is TensorFlow's, what a
round takes beyond them is ours. Each is measured in turn with the compiled runtime, and must come to the same training
loss. Writes `mlp_k10_over_jax_devices` and `mlp_k100_over_jax_devices` (ours over JAX), the same for `by_hand_xla` and
`by_hand`, and `python_api_over_script`: the same round in a process that imported TensorFlow before us and set nothing,
over one as the scripts start it.
"""

from __future__ import annotations

import os
import pathlib
import statistics
import sys
from typing import Any

import paired
import peers
import peers_environments
from absl import flags

from tff_hospitals.experiments import command
from tff_hospitals.foundations.validation import Problem, raise_if
from tff_hospitals.runtimes.compiled import choice

FLAGS = flags.FLAGS


LIMITS = {"jax": "jax_devices", "by_hand_xla": "by_hand_xla", "by_hand": "by_hand"}
"""Rows of `peers_rows.py` that do the least that can be done, and how figures name them."""


def over(row: str, python: str, sites: int, turns: int) -> dict[str, Any]:
    """Figures of one of `LIMITS` and one number of sites.

    Raises:
      Unusable: a process failed, or the losses are not those of the same work.
    """
    found = peers.measure(row, python, sites, turns)
    key = f"{row}_k{sites}"
    if not found[f"{key}_same_loss"]:
        raise peers.Unusable(
            f"{row}: with {sites} sites its training loss is {found[f'{key}_loss']:.4f}, ours "
            f"{found[f'{key}_compiled_loss']:.4f}",
            "find the difference between its row and ours in peers_rows.py before its ratio is used",
        )
    name = LIMITS[row]
    return {
        f"mlp_k{sites}_over_{name}": 1 / found[f"{key}_over_compiled"],
        f"mlp_k{sites}_{name}_s": found[f"{key}_s"],
        f"mlp_k{sites}_compiled_beside_{name}_s": found[f"{key}_compiled_s"],
    }


def python_over_script(sites: int, turns: int) -> dict[str, Any]:
    """The same round from somebody's own Python and from a script."""
    rows: dict[str, peers.Row] = {}
    try:
        for name in ("compiled", "python"):
            rows[name] = peers.Row(sys.executable, name, sites)
        seconds = paired.measure_in_turn({name: row.child for name, row in rows.items()}, turns)
    finally:
        for row in rows.values():
            row.close()
    return {
        "python_api_over_script": paired.ratio(seconds, "python", "compiled"),
        "python_api_s": statistics.median(seconds["python"]),
    }


def table(figures: dict[str, Any]) -> str:
    """Markdown: processor and versions, then every figure."""
    lines = [
        f"{figures['processor']}, {figures['cores']} cores; {figures['versions']}",
        "",
        "| figure | value |",
        "|---|---|",
    ]
    return "\n".join(
        [*lines, *(f"| {name} | {value:.4g} |" for name, value in figures.items() if isinstance(value, float))]
    )


def define_flags() -> None:
    """Flags of the measurement."""
    flags.DEFINE_list("sites", ["10", "100"], "numbers of sites")
    flags.DEFINE_integer("turns", 25, "measurements of each")
    flags.DEFINE_string("environments", str(peers.FOLDER), "folder of the environment with JAX; made on first use")
    flags.DEFINE_string("json", None, "file for the figures")


def run() -> None:
    """Measures, prints and writes the figures."""
    sites = list(dict.fromkeys(command.numbers("sites", FLAGS.sites, int)))
    found = (
        []
        if sites and min(sites) > 0
        else [Problem("--sites", FLAGS.sites, "must be whole numbers of 1 or more", "write --sites=10,100")]
    )
    if FLAGS.turns < 1:
        found.append(Problem("--turns", FLAGS.turns, "must be >= 1", "measure once or more"))
    raise_if(found)
    import tensorflow as tf

    try:
        python = str(peers_environments.prepare("jax", pathlib.Path(FLAGS.environments).resolve()))
        figures: dict[str, Any] = {
            "processor": choice.processor()[0],
            "cores": len(os.sched_getaffinity(0)),
            "versions": f"tensorflow {tf.__version__}, {peers_environments.main_versions('jax')}",
            "load_before": os.getloadavg()[0],
        }
        for count in sites:
            for row in LIMITS:
                figures.update(over(row, python if row == "jax" else sys.executable, count, FLAGS.turns))
        figures.update(python_over_script(sites[0], FLAGS.turns))
    except peers.Unusable as error:
        print(f"limit: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    print(table(figures))
    paired.write_json(FLAGS.json, figures)


if __name__ == "__main__":
    command.main()
