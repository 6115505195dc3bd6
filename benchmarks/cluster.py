"""Seconds per round of the cluster runtime beside the compiled one, on the same machine and cores.

    ./run benchmarks/cluster.py --json=FILE

MLP 784-200-10, 200 records per site, batch 20, one epoch; the cluster is started here, with one worker per processor.
The two programs are measured in turn. The cluster has nothing to win on one machine: the ratio is the price of handing
the work out, of the broadcast and of the way back.

`--orders=1000,10000` measures instead what a round costs the driver beside the broadcast and the sums, without Ray: it
says who takes part, cuts chunks and writes every order, with batches drawn by the workers (`later`) and by itself
(`drawn`). Processor time, since nothing of it is parallel, and bytes.
"""

from __future__ import annotations

import pathlib
import pickle
import statistics
import sys
import time
from typing import Any

import paired
from absl import flags

from tff_hospitals.experiments import command

FLAGS = flags.FLAGS

ROWS = pathlib.Path(__file__).resolve().parent / "round_time_rows.py"
PROGRAMS = ("mlp_compiled", "mlp_cluster")


def measure(sites: int, turns: int) -> dict[str, Any]:
    """Medians of both programs for so many sites, and their ratio."""
    seconds = paired.in_turn({row: [sys.executable, str(ROWS), row, str(sites)] for row in PROGRAMS}, turns)
    figures: dict[str, Any] = {f"{row}_k{sites}_s": statistics.median(seconds[row]) for row in PROGRAMS}
    figures[f"mlp_k{sites}_cluster_over_compiled"] = paired.ratio(seconds, "mlp_cluster", "mlp_compiled")
    return figures


def measure_orders(sites: int, turns: int) -> dict[str, Any]:
    """Seconds of a round at the driver, and bytes of its orders, for so many sites."""
    import round_time_rows

    from tff_hospitals.foundations.random_streams import Streams
    from tff_hospitals.hospitals import load_dataset
    from tff_hospitals.plan import noise as noise_plan
    from tff_hospitals.processes import composition
    from tff_hospitals.runtimes.cluster import worker
    from tff_hospitals.runtimes.compiled import device_data
    from tff_hospitals.runtimes.compiled import runtime as compiled
    from tff_hospitals.training.loop import build_model
    from tff_hospitals.training.round_inputs import RoundDrawer

    options: dict[str, Any] = {"records_per_site": 200, "features": 784, "num_classes": 10, "lazy": True}
    dataset, plan = load_dataset("synthetic", sites=sites, **options), round_time_rows.mlp_plan()
    parts = composition.compose(plan, dataset, build_model(plan, dataset))
    program = compiled.chunk_by_chunk(compiled.program(parts, compiled.in_chunks(parts)))
    noise = noise_plan.make(plan, dataset)
    drawers = {
        name: RoundDrawer(plan, dataset, noise, Streams.from_seed(1), at_workers=name == "later")
        for name in ("later", "drawn")
    }
    seconds: dict[str, list[float]] = {name: [] for name in drawers}
    sizes: dict[str, list[int]] = {}
    for number in range(turns + 1):
        for name, drawer in drawers.items():
            started = time.process_time()
            one = drawer.draw(number)
            chunks = program.chunks(one, device_data.record_bytes(dataset))
            orders = (worker.order_for(chunk, {}, drawn=one.streams is None) for chunk in chunks)
            sizes[name] = [len(pickle.dumps(order, protocol=5)) for order in orders]
            if number:  # in a run's first round every hospital's streams are found
                seconds[name].append(time.process_time() - started)
            del one, chunks, orders  # not in the other one's time
    figures: dict[str, Any] = {}
    for name in drawers:
        figures[f"driver_k{sites}_{name}_s"] = statistics.median(seconds[name])
        figures[f"order_k{sites}_{name}_bytes_per_hospital"] = sum(sizes[name]) / sites
    figures[f"driver_k{sites}_later_over_drawn"] = paired.ratio(seconds, "later", "drawn")
    return figures


def define_flags() -> None:
    """Flags of the measurement."""
    flags.DEFINE_list("orders", [], "numbers of sites for which orders are measured instead")
    flags.DEFINE_string("json", None, "file for the figures")
    flags.DEFINE_list("sites", ["10", "100"], "numbers of sites")
    flags.DEFINE_integer("turns", 15, "measurements of either program", lower_bound=1)


def run() -> None:
    """Measures, prints and writes the figures."""
    figures: dict[str, Any] = {}
    for count in command.numbers("orders", FLAGS.orders, int):
        figures.update(measure_orders(count, FLAGS.turns))
    sites = [] if FLAGS.orders else command.numbers("sites", FLAGS.sites, int)
    for count in sites:
        figures.update(measure(count, FLAGS.turns))
    print("| figure | value |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name} | {value:.4g} |")
    if not sites:
        paired.write_json(FLAGS.json, figures)
        return
    # The figure of the larger cohort under one fixed name, for whoever compares runs of this benchmark.
    figures["cluster_over_compiled"] = figures[f"mlp_k{sites[-1]}_cluster_over_compiled"]
    paired.write_json(FLAGS.json, figures)


if __name__ == "__main__":
    command.main()
