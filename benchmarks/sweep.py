"""What one more setting costs in a process that trains many: heart disease, DP-SGD, learning rates and clip norms.

    ./run benchmarks/sweep.py --json=FILE

Every setting is a whole training without files, accounting included; the first ones, which import and compile, are left
out. `seconds_per_setting` is the median, `growth_mib_per_setting` the slope of the process's memory over the settings
(least squares, so that one collection of garbage decides nothing), `programs` how many were compiled.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import paired
from absl import flags

from tff_hospitals.experiments import command

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Flags of the measurement."""
    flags.DEFINE_string("json", None, "file for the figures")
    flags.DEFINE_integer("settings", 200, "settings that count", lower_bound=10)
    flags.DEFINE_integer("warm_up", 20, "settings before them", lower_bound=1)
    flags.DEFINE_integer("rounds", 15, "rounds of each", lower_bound=1)


def measure(settings: int, warm_up: int, rounds: int) -> dict[str, Any]:
    """Seconds and memory by setting."""
    import psutil

    from tff_hospitals.experiments import baselines, presets
    from tff_hospitals.runtimes.compiled import runtime as compiled
    from tff_hospitals.training import loop

    base = presets.preset("heart_disease").replace(
        rounds=rounds,
        evaluate_every=rounds,
        privacy={"mechanism": "dp_sgd", "noise_multiplier": 2.0, "target_epsilon": None},
    )
    dataset = baselines.load(base.data)
    model = loop.build_model(base, dataset)
    generator, process = np.random.default_rng(1), psutil.Process()
    seconds, memory = [], []
    for number in range(warm_up + settings):
        rate, norm = (float(10.0**one) for one in generator.uniform([-3.0, -1.0], [0.0, 1.0]))
        plan = base.replace(client={"learning_rate": rate}, privacy={"clip_norm": norm})
        begun = time.perf_counter()
        loop.train(plan, dataset, model=model)
        if number >= warm_up:
            seconds.append(time.perf_counter() - begun)
            memory.append(process.memory_info().rss / 2**20)
    return {
        "settings": settings,
        "rounds": rounds,
        "seconds_per_setting": statistics.median(seconds),
        "growth_mib_per_setting": float(np.polyfit(np.arange(settings), memory, 1)[0]),
        "programs": len(compiled._programs),
    }


def run() -> None:
    """Measures, prints and writes the figures."""
    figures = measure(FLAGS.settings, FLAGS.warm_up, FLAGS.rounds)
    for name, value in figures.items():
        print(f"{name} {value:.4g}")
    paired.write_json(FLAGS.json, figures)


if __name__ == "__main__":
    command.main()
