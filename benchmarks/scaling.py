"""Seconds per round and peak memory, from 4 to 4,000 hospitals and from 10 to 10 million parameters.

    ./run benchmarks/scaling.py --json=FILE [--plot=FILE.png]

Every point is a whole training run (3 rounds, each evaluated) in a child process of its own. Hospitals are made when
they are needed, so that records pass through memory in chunks; two further points hold all records in memory, so that
nothing is timed but the rounds. The figures that matter: `memory_k4000_over_k40`, peak memory with 4,000 hospitals
over that with 40, same model; `per_site_k4000_over_k100`, seconds of a round for each site, records in memory;
`per_site_made_k4000_over_k100`, the same where 4,000 hospitals are made anew in every round, and 100 are kept.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import resource
import statistics
import subprocess
import sys
from typing import Any

import paired
from absl import flags

from tff_hospitals.experiments import command

FLAGS = flags.FLAGS

ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Point:
    """One run: hospitals, features of a record, units of the hidden layer (none: logistic regression), records lazy."""

    hospitals: int
    features: int
    hidden: int | None
    classes: int = 10
    lazy: bool = True


# MLP 784-200-10 over more and more hospitals; ten hospitals with larger and larger models.
BY_HOSPITALS = tuple(Point(hospitals, 784, 200) for hospitals in (4, 40, 100, 400, 4000))
IN_MEMORY = tuple(Point(hospitals, 784, 200, lazy=False) for hospitals in (100, 4000))
BY_PARAMETERS = (
    Point(10, 9, None, 2),
    Point(10, 100, 10, 2),
    Point(10, 100, 100, 2),
    Point(10, 100, 1000, 2),
    Point(10, 1000, 1000, 2),
    Point(10, 1000, 10_000, 2),
)


def run_point(point: Point) -> dict[str, Any]:
    """Trains one point in this process; seconds are of the rounds after the first, which compiles."""
    from tff_hospitals.foundations import quiet

    quiet.be_quiet()
    from tff_hospitals.hospitals import load_dataset
    from tff_hospitals.plan.plan import Plan
    from tff_hospitals.training.loop import train

    data: dict[str, Any] = {
        "records_per_site": 50,
        "features": point.features,
        "num_classes": point.classes,
        "lazy": point.lazy,
    }
    dataset = load_dataset("synthetic", sites=point.hospitals, **data)
    model: dict[str, Any] = {"name": "logistic_regression"}
    if point.hidden is not None:
        model = {"name": "mlp", "options": {"hidden_units": [point.hidden]}}
    client = {"local_steps": None, "local_epochs": 1, "batch_size": 25, "learning_rate": 0.05}
    plan = Plan(rounds=ROUNDS, evaluate_every=1).replace(model=model, client=client)
    run = train(plan, dataset)
    return {
        **dataclasses.asdict(point),
        "parameters": int(sum(weight.size for weight in run.weights)),
        "seconds_per_round": run.summary["seconds_per_round"],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure(point: Point, turns: int) -> dict[str, Any]:
    """A point in child processes: the median of their seconds, and of their peak memory."""
    command = [sys.executable, __file__, "--point", json.dumps(dataclasses.asdict(point))]
    found = []
    for _ in range(turns):
        child = subprocess.run(command, capture_output=True, text=True)
        if child.returncode:
            raise RuntimeError(f"{point} ended with code {child.returncode}: {child.stderr[-400:]}")
        found.append(json.loads(child.stdout.splitlines()[-1]))
        print(f"{point}: {found[-1]['seconds_per_round']:.3g} s, {found[-1]['peak_mib']:.0f} MiB", file=sys.stderr)
    middle = {name: statistics.median(one[name] for one in found) for name in ("seconds_per_round", "peak_mib")}
    return {**found[0], **middle}


def plot(path: str, figures: dict[str, Any]) -> None:
    """Seconds and memory over hospitals and over parameters, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6.5), sharex="col", constrained_layout=True)
    columns = (
        ("by_hospitals", "hospitals", "hospitals (MLP 784-200-10)"),
        ("by_parameters", "parameters", "parameters (10 hospitals)"),
    )
    rows = (("seconds_per_round", "seconds per round"), ("peak_mib", "peak memory of the process [MiB]"))
    for column, (name, x, label) in enumerate(columns):
        points = figures[name]
        for row, (y, words) in enumerate(rows):
            axis = axes[row][column]
            values = [point[y] for point in points]
            axis.plot([point[x] for point in points], values, marker="o", color="#1f5a8a")
            axis.set_xscale("log")
            axis.margins(x=0.12, y=0.12)
            if y == "seconds_per_round":
                axis.set_yscale("log")
            else:
                axis.set_ylim(0, 1.15 * max(values))
            axis.grid(True, which="major", color="#dddddd", linewidth=0.8)
            axis.spines[["top", "right"]].set_visible(False)
            if column == 0:
                axis.set_ylabel(words)
            if row == 1:
                axis.set_xlabel(label)
            for point, value in zip(points, values):
                text = f"{value:.3g}" if y == "seconds_per_round" else f"{value:.0f}"
                place = {"textcoords": "offset points", "xytext": (0, 7), "ha": "center", "fontsize": 8}
                axis.annotate(text, (point[x], value), **place)
    figure.suptitle("Records are streamed: memory follows the model, not the number of hospitals")
    figure.savefig(path, dpi=120)


def define_flags() -> None:
    """Flags of the measurement."""
    flags.DEFINE_string("json", None, "file for the figures")
    flags.DEFINE_string("plot", None, "picture to draw (default: beside the figures)")
    flags.DEFINE_integer("turns", 1, "runs of every point", lower_bound=1)
    flags.DEFINE_integer("most_hospitals", 4000, "leave larger points out")
    flags.DEFINE_string("point", None, "one point as JSON: how this program calls itself")


def run() -> None:
    """Measures, prints and writes the figures, and draws the picture."""
    if FLAGS.point:
        print(json.dumps(run_point(Point(**json.loads(FLAGS.point)))))
        return
    chosen = [point for point in BY_HOSPITALS if point.hospitals <= FLAGS.most_hospitals]
    figures: dict[str, Any] = {
        "by_hospitals": [measure(point, FLAGS.turns) for point in chosen],
        "in_memory": [measure(point, FLAGS.turns) for point in IN_MEMORY if point.hospitals <= FLAGS.most_hospitals],
        "by_parameters": [measure(point, FLAGS.turns) for point in BY_PARAMETERS],
    }
    peak = {point["hospitals"]: point["peak_mib"] for point in figures["by_hospitals"]}
    if {40, 4000} <= set(peak):
        figures["memory_k4000_over_k40"] = peak[4000] / peak[40]
    for group, name in (("in_memory", "per_site"), ("by_hospitals", "per_site_made")):
        took = {point["hospitals"]: point["seconds_per_round"] / point["hospitals"] for point in figures[group]}
        if {100, 4000} <= set(took):
            figures[f"{name}_k4000_over_k100"] = took[4000] / took[100]
    print("| hospitals | parameters | s per round | peak MiB |\n|---|---|---|---|")
    for point in (*figures["by_hospitals"], *figures["in_memory"], *figures["by_parameters"]):
        measured = f"{point['seconds_per_round']:.3g} | {point['peak_mib']:.0f}"
        print(f"| {point['hospitals']} | {point['parameters']} | {measured} |")
    for name in figures:
        if "_over_" in name:
            print(f"\n{name} = {figures[name]:.3f}")
    paired.write_json(FLAGS.json, figures)
    picture = FLAGS.plot or (FLAGS.json and str(pathlib.Path(FLAGS.json).with_suffix(".png")))
    if picture:
        plot(picture, figures)


if __name__ == "__main__":
    command.main()
