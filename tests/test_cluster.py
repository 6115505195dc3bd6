"""A Ray cluster of two nodes as processes on this machine: same result, a lost node, silence, runs as tasks."""

from __future__ import annotations

import os
import socket

import numpy as np
import pytest
from test_cluster_driver import OPTIONS, PLAN, PRIVACY, flat, sites

from tff_hospitals.experiments import comparison as comparisons
from tff_hospitals.runtimes.cluster.connection import ClusterError, Connection
from tff_hospitals.training.loop import train

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # loopback only
# Ray would end workers while tests beside it fill the memory, and give one a minute to import TensorFlow.
os.environ.update(RAY_memory_monitor_refresh_ms="0", RAY_worker_register_timeout_seconds="300")
ray = pytest.importorskip("ray", reason="ray is missing: install requirements-cluster.lock")

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]
NODE = {"num_cpus": 2, "object_store_memory": 100 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def two_nodes():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def options(cluster, **more):
    return {"address": cluster.address, "time_limit_seconds": 300.0, "hospitals_per_chunk": 2, **more}


def test_two_nodes_give_what_one_machine_gives(two_nodes, tmp_path):
    plan = PLAN.replace(privacy={**PRIVACY, "mechanism": "dp_sgd"}, evaluate_every=1)
    here = train(plan, sites(), run_dir=tmp_path / "here")
    spread = train(plan, sites(), run_dir=tmp_path / "there", runtime="cluster", runtime_options=options(two_nodes))
    np.testing.assert_allclose(flat(spread.weights), flat(here.weights), rtol=1e-5, atol=1e-6)
    assert spread.ledger == here.ledger
    assert (tmp_path / "here" / "bytes.csv").read_text() == (tmp_path / "there" / "bytes.csv").read_text()
    for scope, metrics in spread.evaluation.items():
        assert metrics == pytest.approx(here.evaluation[scope], rel=1e-5, abs=1e-6, nan_ok=True)


def test_a_larger_model_is_the_same_after_four_rounds(two_nodes):
    wide = {"name": "mlp", "options": {"hidden_units": [3_000]}}  # more than what runs as whole rounds in one program
    plan = PLAN.replace(rounds=4, model=wide)
    here = train(plan, sites())
    spread = train(plan, sites(), runtime="cluster", runtime_options=options(two_nodes, hospitals_per_chunk=None))
    assert len(flat(here.weights)) > 20_000
    np.testing.assert_allclose(flat(spread.weights), flat(here.weights), rtol=1e-5, atol=1e-6)


def test_one_worker_and_two_give_the_same_bits(two_nodes):
    one = train(PLAN, sites(), runtime="cluster", runtime_options=options(two_nodes, workers=1))
    two = train(PLAN, sites(), runtime="cluster", runtime_options=options(two_nodes, workers=2))
    assert flat(one.weights).tolist() == flat(two.weights).tolist()


def test_no_process_of_a_local_cluster_listens_on_the_network(two_nodes):
    addresses = {node["NodeManagerAddress"] for node in ray_nodes(two_nodes)}
    assert addresses == {"127.0.0.1"}
    port = int(two_nodes.address.rpartition(":")[2])
    ours = socket.gethostbyname(socket.gethostname())
    if not ours.startswith("127."):
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((ours, port), timeout=5).close()


def ray_nodes(cluster):
    connection = Connection(cluster.address, 60.0)
    try:
        return ray.nodes()
    finally:
        connection.close()


def test_something_that_listens_but_is_not_ray_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ClusterError, match=rf"{address} did not answer within 5 s"):
            Connection(address, 5.0)


def test_runs_of_a_comparison_are_spread(two_nodes, tmp_path):
    data_options = {"records_per_site": 20, "features": 4, "test_records_per_site": 5}
    given = {"sites": 3, "rounds": 2, "local_epochs": 1, "batch_size": 8}
    asked = comparisons.Comparison(("mean",), (), (1, 2), dataset="synthetic", given=given, data_options=data_options)
    here = comparisons.run(asked, tmp_path / "here")
    import dataclasses

    spread = comparisons.run(
        dataclasses.replace(asked, runtime="cluster"),
        tmp_path / "there",
        runtime_options={"address": two_nodes.address, "time_limit_seconds": 300.0},
    )
    assert spread["rows"][0]["accuracy_per_seed"] == here["rows"][0]["accuracy_per_seed"]
    for seed in (1, 2):
        mine, theirs = (tmp_path / place / "runs" / f"mean-seed{seed}" for place in ("here", "there"))
        assert (mine / "metrics.csv").read_text() == (theirs / "metrics.csv").read_text()


def test_a_lost_node_is_made_up_for(two_nodes):
    """The last test of this file: it takes one of the two nodes away."""
    assert OPTIONS["features"] == 6
    lost = []

    def lose_one(progress):
        if not lost:
            lost.append(next(iter(two_nodes.worker_nodes)))
            two_nodes.remove_node(lost[0], allow_graceful=False)

    plan = PLAN.replace(rounds=3)
    spread = train(plan, sites(), runtime="cluster", runtime_options=options(two_nodes), on_round=lose_one)
    assert lost
    np.testing.assert_allclose(flat(spread.weights), flat(train(plan, sites()).weights), rtol=1e-5, atol=1e-6)
