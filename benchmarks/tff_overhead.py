"""Seconds of a round of our learning process over one of TFF's own, on the same data in the same context.

    ./run benchmarks/tff_overhead.py --json=FILE

Both processes run in one worker, one round each in turn, so that a slow moment of the machine meets both: ours from
`build_learning_process`, TFF's from `build_weighted_fed_avg` with the same Keras model, optimisers and data sets.
Prints and writes the medians and `ours_over_tff`, the median of the ratios of the turns; the aim is at most 1.1.
"""

from __future__ import annotations

import pathlib
import statistics
import time
from typing import Any

from absl import flags

from tff_hospitals.experiments import command

FLAGS = flags.FLAGS
AIM = 1.1


def define_flags() -> None:
    """Flags of one measurement."""
    flags.DEFINE_string("json", None, "file for the figures")
    flags.DEFINE_integer("sites", 20, "clients", lower_bound=1)
    flags.DEFINE_integer("turns", 25, "rounds of each process that count", lower_bound=1)
    flags.DEFINE_integer("warm_up", 3, "rounds of each process before that", lower_bound=0)
    flags.DEFINE_integer("hidden_units", 200, "units of the hidden layer", lower_bound=1)


def measure(sites: int, turns: int, warm_up: int, hidden_units: int) -> dict[str, Any]:
    """Medians of both processes, and of the ratios of the turns."""
    import tensorflow as tf
    import tensorflow_federated as tff

    import tff_hospitals
    from tff_hospitals.hospitals import load_dataset
    from tff_hospitals.plan.plan import Plan
    from tff_hospitals.runtimes.native.context import native_context
    from tff_hospitals.tff import preprocess_fn, to_client_data

    dataset = load_dataset("digits", partition="iid", sites=sites)
    client = {"local_steps": None, "local_epochs": 2, "batch_size": 10, "learning_rate": 0.1}
    plan = Plan().replace(client=client)

    def keras_model() -> Any:
        layers = tf.keras.layers
        hidden = layers.Dense(hidden_units, activation="relu")
        return tf.keras.Sequential(
            [tf.keras.Input(dataset.feature_shape), layers.Flatten(), hidden, layers.Dense(dataset.num_classes)]
        )

    clients = to_client_data(dataset).preprocess(preprocess_fn(plan, seed=1))
    spec = clients.element_type_structure

    def model_of_tff() -> Any:
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return tff.learning.models.from_keras_model(keras_model(), loss=loss, input_spec=spec)

    processes = {
        "ours": tff_hospitals.build_learning_process(keras_model, plan, clients=dataset, input_spec=spec),
        "tff": tff.learning.algorithms.build_weighted_fed_avg(
            model_of_tff,
            client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.1),
            server_optimizer_fn=tff.learning.optimizers.build_sgdm(1.0),
        ),
    }
    data = [clients.create_tf_dataset_for_client(one) for one in clients.client_ids]
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    with native_context():
        states = {name: process.initialize() for name, process in processes.items()}
        for turn in range(warm_up + turns):
            order = list(processes) if turn % 2 == 0 else list(reversed(processes))
            for name in order:
                begun = time.perf_counter()
                states[name] = processes[name].next(states[name], data).state
                if turn >= warm_up:
                    seconds[name].append(time.perf_counter() - begun)
    ratios = [ours / theirs for ours, theirs in zip(seconds["ours"], seconds["tff"])]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return {
        "sites": sites,
        "turns": turns,
        "hidden_units": hidden_units,
        "seconds_per_round": {name: statistics.median(values) for name, values in seconds.items()},
        "ours_over_tff": statistics.median(ratios),
        "ours_over_tff_quartiles": [quartiles[0], quartiles[2]],
        "aim": AIM,
    }


def run() -> None:
    """Measures, prints and writes."""
    from tff_hospitals.foundations import files

    found = measure(FLAGS.sites, FLAGS.turns, FLAGS.warm_up, FLAGS.hidden_units)
    for name, value in found["seconds_per_round"].items():
        print(f"{name}: {value:.4f} s per round")
    low, high = found["ours_over_tff_quartiles"]
    print(f"ours over TFF: {found['ours_over_tff']:.3f} (quartiles {low:.3f} to {high:.3f}; aim {AIM})")
    if FLAGS.json:
        files.write_json(pathlib.Path(FLAGS.json), found)


if __name__ == "__main__":
    command.main()
