"""Flower's row of `peers.py`: its simulation on Ray, clients that train in one jitted JAX program.

A module of its own, because Ray's workers import the client from it: what is compiled and read there stays.
"""

from __future__ import annotations

import functools
import os
import pathlib
import sys
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import peers_work


@functools.lru_cache(maxsize=1000)
def _records(site: int) -> tuple[np.ndarray, np.ndarray]:
    return peers_work.site_records(site)


@functools.lru_cache(maxsize=1000)
def _local_training() -> Any:
    import jax
    import jax.numpy as jnp

    def loss(weights: Any, x: Any, y: Any) -> Any:
        hidden = jax.nn.relu(x @ weights[0] + weights[1])
        log_probabilities = jax.nn.log_softmax(hidden @ weights[2] + weights[3])
        return -jnp.mean(jnp.take_along_axis(log_probabilities, y[:, None], 1))

    @jax.jit
    def train(weights: Any, features: Any, labels: Any, batches: Any) -> Any:
        def step(current: Any, batch: Any) -> Any:
            gradients = jax.grad(loss)(current, features[batch], labels[batch])
            return [w - peers_work.RATE * g for w, g in zip(current, gradients)], None

        return jax.lax.scan(step, weights, batches)[0]

    return train


def train(message: Any, context: Any) -> Any:
    """One epoch of a client, as Flower's message API has it."""
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

    features, labels = _records(int(context.node_config["partition-id"]))
    order = np.random.default_rng().permutation(peers_work.RECORDS).reshape(-1, peers_work.BATCH)
    weights = message.content["arrays"].to_numpy_ndarrays()
    trained = [np.asarray(one) for one in _local_training()(weights, features, labels, order)]
    metrics = MetricRecord({"num-examples": peers_work.RECORDS})
    return Message(content=RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics}), reply_to=message)


def flower(sites: int) -> None:
    """Flower's FedAvg over its in-memory grid; Ray gives every core one client at a time."""
    # Its workers find this module, compute on one core each, and neither library reports home.
    os.environ["PYTHONPATH"] = str(pathlib.Path(__file__).resolve().parent)
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0")
    from flwr.app import ArrayRecord
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    server, client = ServerApp(), ClientApp()
    client.train()(train)

    @server.main()
    def main(grid: Any, context: Any) -> None:
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
        kept = {"arrays": ArrayRecord(peers_work.first_weights())}

        def one_round() -> None:
            kept["arrays"] = strategy.start(grid, kept["arrays"], num_rounds=1).arrays

        peers_work.repeat(sites, one_round, lambda: kept["arrays"].to_numpy_ndarrays())

    run_simulation(server, client, sites, backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}})
