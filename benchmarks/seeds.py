"""What seeds gain by training together: heart disease, logistic regression, 4 hospitals, 100 local steps of batch 4.

    ./run benchmarks/seeds.py --json=FILE

`..._call` compares calls of one round (as between two evaluations) of S runs at once with S calls of one run each; the
program is compiled before. `..._sweep` compares whole training without files, compilation included: `train_seeds`
with `train` for one seed after the other. Both are medians of ratios, taken in turn in one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import paired
from absl import flags

from tff_hospitals.experiments import command

FLAGS = flags.FLAGS

CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "dp_sgd": {"privacy": {"mechanism": "dp_sgd", "noise_multiplier": 4.0}},
    "fixed_clip": {"weighting": "equal", "privacy": {"mechanism": "fixed_clip", "noise_multiplier": 4.0}},
}


def in_turn(alone: Callable[[], Any], together: Callable[[], Any], turns: int) -> tuple[float, float]:
    """Median seconds alone and median ratio of together over alone; one turn goes before."""
    seconds: dict[str, list[float]] = {"alone": [], "together": []}
    for turn in range(turns + 1):
        for name, action in (("alone", alone), ("together", together)):
            started = time.perf_counter()
            action()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return sorted(seconds["alone"])[turns // 2], paired.ratio(seconds, "together", "alone")


def call(plan: Any, dataset: Any, runs: int, turns: int) -> tuple[float, float]:
    """Seconds of a run's round when it is called alone, and the ratio for so many runs in one call."""
    from tff_hospitals.foundations.random_streams import Streams
    from tff_hospitals.plan import noise as noise_plan
    from tff_hospitals.processes import composition
    from tff_hospitals.runtimes.compiled.runtime import CompiledRuntime
    from tff_hospitals.training.loop import build_model
    from tff_hospitals.training.round_inputs import RoundDrawer

    model = build_model(plan, dataset)
    parts, noise = composition.compose(plan, dataset, model), noise_plan.make(plan, dataset)
    states, rounds, frozen = [], [], []
    for seed in range(runs):
        root = Streams.from_seed(seed)
        weights, own = model.initial_weights(root.child("model").key())
        states.append(parts.initial_state(weights, root, noise.server_multiplier))
        rounds.append([RoundDrawer(plan, dataset, noise, root).draw(0)])
        frozen.append(own)
    runtime = CompiledRuntime(parts, dataset, frozen[0])
    seconds, ratio = in_turn(
        lambda: [runtime.run_rounds(state, one) for state, one in zip(states, rounds)],
        lambda: runtime.run_rounds_of_many(states, rounds, frozen),
        turns,
    )
    return seconds / runs, ratio


def sweep(plan: Any, dataset: Any, runs: int, turns: int) -> tuple[float, float]:
    """Seconds of a run's round in whole training, one seed after the other, and the ratio for all seeds together."""
    from tff_hospitals.runtimes.compiled import runtime as compiled
    from tff_hospitals.training.loop import build_model, train, train_seeds

    model = build_model(plan, dataset)
    plans = [plan.replace(seed=seed) for seed in range(runs)]

    def anew(action: Callable[[], Any]) -> Callable[[], Any]:
        def measured() -> None:
            compiled._programs.clear()
            action()

        return measured

    alone = anew(lambda: [train(one, dataset, model=model) for one in plans])
    seconds, ratio = in_turn(alone, anew(lambda: train_seeds(plans, dataset, model=model)), turns)
    return seconds / runs / plan.rounds, ratio


def measure(turns: int, sweeps: int) -> dict[str, float]:
    """All figures."""
    from tff_hospitals.experiments import baselines, presets

    base = presets.preset("heart_disease")
    dataset = baselines.load(base.data)
    figures: dict[str, float] = {}

    def enter(name: str, seconds: float, ratio: float) -> None:
        figures[f"{name}_alone_ms"], figures[f"{name}_over_alone"] = 1e3 * seconds, ratio

    for name, changes in CHANGES.items():
        plan = base.replace(rounds=200).replace(**changes)
        for runs in (5, 10):
            enter(f"{name}_s{runs}_call", *call(plan, dataset, runs, turns))
        for every in (1, 20):
            enter(f"{name}_s5_every{every}_sweep", *sweep(plan.replace(evaluate_every=every), dataset, 5, sweeps))
    return figures


def define_flags() -> None:
    """Flags of the measurement."""
    flags.DEFINE_string("json", None, "file for the figures")
    flags.DEFINE_integer("turns", 51, "measurements of every call", lower_bound=1)
    flags.DEFINE_integer("sweeps", 3, "measurements of whole training", lower_bound=1)


def run() -> None:
    """Measures, prints and writes the figures."""
    figures = measure(FLAGS.turns, FLAGS.sweeps)
    print("| | ms per seed and round, alone | together over alone |\n|---|---|---|")
    for name in figures:
        if name.endswith("_alone_ms"):
            row = name[: -len("_alone_ms")]
            print(f"| {row} | {figures[name]:.2f} | {figures[row + '_over_alone']:.2f} |")
    paired.write_json(FLAGS.json, figures)


if __name__ == "__main__":
    command.main()
