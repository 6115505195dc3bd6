"""The driver and the workers of the cluster, with Ray replaced by calls in this process; no ray needed."""

from __future__ import annotations

import dataclasses
import pathlib
import pickle
import re
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from few_fast import few_fast

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import load_dataset
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes.hospital_draws import BatchRule, RunStreams
from tff_hospitals.processes.rounds import HospitalRound
from tff_hospitals.runtimes.cluster import dataset_description
from tff_hospitals.runtimes.cluster import runtime as cluster
from tff_hospitals.runtimes.cluster import worker as cluster_worker
from tff_hospitals.runtimes.cluster.connection import ClusterError, Connection
from tff_hospitals.runtimes.compiled import chunked, parallel_calls
from tff_hospitals.runtimes.compiled import runtime as compiled
from tff_hospitals.runtimes.compiled.tree_sum import add_leaves, tree_sum
from tff_hospitals.training.loop import train
from tff_hospitals.training.round_inputs import RoundDrawer

pytestmark = pytest.mark.tensorflow

OPTIONS = {"records_per_site": [5, 40, 9, 80, 20, 21, 22], "features": 6}
PLAN = Plan(rounds=2, evaluate_every=1).replace(
    data={"name": "synthetic", "sites": 7, "options": OPTIONS},
    client={"local_steps": None, "local_epochs": 1, "batch_size": 8, "learning_rate": 0.1},
)
PRIVACY = {"noise_multiplier": 0.2, "delta": 1e-2, "clip_norm": 0.5}
CASES = {
    "mean": {},
    "dp_sgd": {"privacy": {**PRIVACY, "mechanism": "dp_sgd"}},
    "adaptive_clip": {"privacy": {**PRIVACY, "mechanism": "adaptive_clip"}, "weighting": "equal"},
    "encoded": {"broadcast": "delta,quantize:8", "upload": "topk:0.5", "error_feedback": True},
    "scaffold": {"privacy": {"mechanism": "scaffold"}, "model": {"name": "mlp", "options": {"hidden_units": [5]}}},
    "buffered": {"cohort": {"kind": "buffered", "hospitals_per_round": 3}, "speeds": "lognormal:1:1"},
    "buffered encoded": {
        "cohort": {"kind": "buffered", "hospitals_per_round": 3},
        "speeds": "lognormal:1:1",
        "upload": "rotate,quantize:4",
    },
    "poisson": {"cohort": {"kind": "poisson", "sampling_probability": 0.3}},
    "mlp": {"model": {"name": "mlp", "options": {"hidden_units": [5]}}},
    "local layers": {"model": {"name": "mlp", "options": {"hidden_units": [5]}, "local_layers": "output"}},
    "random layers": {"model": {"name": "mlp", "options": {"hidden_units": [5], "dropout": 0.5}}},
    "shares of noise": {"privacy": {**PRIVACY, "mechanism": "local_dp"}, "weighting": "equal"},
}
LATER = {
    "adaptive_clip",
    "buffered encoded",
    "shares of noise",
    "dp_sgd",
    "local layers",
    "mlp",
    "poisson",
    "encoded",
    "scaffold",
}


def sites(**changes):
    return load_dataset("synthetic", sites=7, **{**OPTIONS, **changes})


class Failed(RuntimeError):
    """Stands for Ray's wrapper around a worker's error."""


class Remote:
    """A function, class or method that is called at once."""

    def __init__(self, function):
        self.function = function

    def options(self, **_):
        return self

    def remote(self, *arguments):
        made = self.function(*arguments)
        return Actor(made) if isinstance(made, cluster_worker.Worker) else made


class Actor:
    def __init__(self, body):
        self.body = body
        self.ready = Remote(body.ready)
        self.work = Remote(self._work)

    def _work(self, *arguments):
        try:
            return self.body.work(*pickle.loads(pickle.dumps(arguments)))  # as between processes
        except cluster_worker.HospitalFailed as error:
            return error, error


class InProcess:
    """Stands for `Connection` and the ray module."""

    processors = 2
    errors = (Failed,)

    def __init__(self, *_):
        self.ray = self

    def remote(self, what):
        return Remote(what)

    def put(self, value):
        return value

    def get(self, value, timeout=None):
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Exception):
                raise Failed(str(one))
        return value

    def wait(self, references, num_returns, timeout):
        return references, []

    def cluster_resources(self):
        return {}

    def is_initialized(self):
        return True

    def kill(self, worker):
        return None

    def close(self):
        return None


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(cluster, "Connection", InProcess)


def flat(arrays):
    return np.concatenate([np.ravel(array) for array in arrays])


@pytest.mark.parametrize("case", few_fast(CASES, set(CASES) - LATER, ("encoded", "adaptive_clip", "shares of noise")))
def test_a_cluster_gives_what_one_machine_gives(in_process, case):
    plan = PLAN.replace(**CASES[case])
    spread, here = train(plan, sites(), runtime="cluster"), train(plan, sites())
    np.testing.assert_allclose(flat(spread.weights), flat(here.weights), rtol=1e-5, atol=1e-6)
    assert spread.ledger == here.ledger
    assert spread.summary["bytes_up"] == here.summary["bytes_up"]
    assert spread.summary["bytes_down"] == here.summary["bytes_down"]
    for scope, metrics in spread.evaluation.items():
        assert metrics == pytest.approx(here.evaluation[scope], rel=1e-5, abs=1e-6, nan_ok=True)


def test_what_a_hospital_does_not_draw_itself_is_in_its_order():
    """A field that is told to nobody would be at its default on every machine of a cluster, and nowhere else."""
    drawn, of_the_server = {"hospital", "schedule", "key", "upload_key"}, {"staleness", "waits"}
    fields = {one.name for one in dataclasses.fields(HospitalRound)}
    assert fields - drawn - of_the_server == set(cluster_worker._TOLD)


@pytest.mark.parametrize("case", few_fast(CASES, set(CASES) - LATER, ("scaffold", "poisson")))
def test_a_cluster_gives_the_bits_of_one_machine_that_runs_in_chunks(in_process, monkeypatch, case):
    monkeypatch.setattr(compiled, "MOST_FUSED_PARAMETERS", 0)  # whole rounds are added up in another order
    plan = PLAN.replace(rounds=4, **CASES[case])
    spread, here = train(plan, sites(), runtime="cluster"), train(plan, sites())
    assert flat(spread.weights).tolist() == flat(here.weights).tolist()


def test_a_worker_compiles_once_and_not_for_every_chunk_or_round(in_process):
    same_size = {"records_per_site": 20, "features": 5}  # no other test has programs of this signature
    plan = PLAN.replace(rounds=3, data={"options": same_size}, model={"name": "mlp", "options": {"hidden_units": [3]}})
    before = set(compiled._programs)
    train(plan, sites(**same_size), runtime="cluster", runtime_options={"workers": 1})
    traces = {
        key[1:]: compiled._programs[key]._chunk.experimental_get_tracing_count()
        for key in set(compiled._programs) - before
    }
    assert traces == {("scanned", 1): 1, ("scanned", None): 0}  # the worker's, and the driver's that only cuts chunks


def test_chunks_are_handed_out_as_workers_come_to_them(in_process, monkeypatch):
    monkeypatch.setattr(cluster, "_CHUNKS_PER_WORKER", 1)
    log = []
    order_for, begun = cluster_worker.order_for, parallel_calls.ordered

    def handed(chunk, residuals, **named):
        log.append("out")
        return order_for(chunk, residuals, **named)

    def taken(*arguments):
        for one in begun(*arguments):
            log.append("in")
            yield one

    monkeypatch.setattr(cluster_worker, "order_for", handed)
    monkeypatch.setattr(cluster, "ordered", taken)
    options = {"hospitals_per_chunk": 1, "workers": 1}
    train(PLAN.replace(rounds=1), sites(), runtime="cluster", runtime_options=options)
    assert log == ["out", *["out", "in"] * 6, "in"]


DRAWS = ("mean", "dp_sgd", "encoded", "scaffold", "buffered", "fednova", "dp_ftrl_local", "random layers")
MORE_CASES = {
    **CASES,
    "fednova": {"privacy": {"mechanism": "fednova"}},
    "dp_ftrl_local": {"privacy": {**PRIVACY, "mechanism": "dp_ftrl_local"}},
    "secure noise": {"privacy": {**PRIVACY, "mechanism": "dp_sgd", "secure_noise": True}},
}


def drawer(plan, **named):
    dataset = sites()
    noise = noise_plan.make(plan, dataset)
    return RoundDrawer(plan, dataset, noise, Streams.from_seed(3), **named)


@pytest.mark.parametrize("case", DRAWS)
def test_an_order_holds_ids_and_counts_and_a_worker_draws_the_rest(case):
    plan = PLAN.replace(**MORE_CASES[case])
    here, left = drawer(plan).draw(2), drawer(plan, at_workers=True).draw(2)
    worker = object.__new__(cluster_worker.Worker)
    worker._dataset, worker._batches = sites(), BatchRule(plan)
    order = cluster_worker.order_for(chunked.Chunk(2, left.cohort), {}, drawn=left.streams is None)
    sent, streams = pickle.loads(pickle.dumps((order, left.streams)))
    assert sent.drawn is None
    assert not [value for value in sent.told.values() if isinstance(value, np.ndarray)]
    if case != "dp_sgd":  # how many places a Poisson batch takes, the draw alone says
        assert all("_drawn" not in vars(one.schedule) for one in left.cohort)
    drawn = worker._cohort(sent, streams)
    assert [one.hospital.hospital_id for one in drawn] == [one.hospital.hospital_id for one in here.cohort]
    for mine, known, there in zip(drawn, left.cohort, here.cohort):
        for schedule in (mine.schedule, known.schedule):
            for name in ("indices", "mask"):
                found, expected = getattr(schedule, name), getattr(there.schedule, name)
                np.testing.assert_array_equal(found, expected)
                assert found.dtype == expected.dtype
        for name in ("steps", "capacity", "records", "expected_batch", "sampling", "examples"):
            assert getattr(mine.schedule, name) == getattr(known.schedule, name) == getattr(there.schedule, name), name
        for name in ("key", "upload_key", "noise_multiplier", "weight", "factor"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(there, name), err_msg=name)


def test_an_order_takes_some_bytes_a_hospital_whatever_it_trains():
    plan = PLAN.replace(client={"local_epochs": 50})
    for at_workers, bounds in ((True, (10, 60)), (False, (10_000, 200_000))):
        cohort = drawer(plan, at_workers=at_workers).draw(0).cohort
        size = [
            len(pickle.dumps(cluster_worker.order_for(chunked.Chunk(0, part), {}, drawn=not at_workers)))
            for part in (cohort[:3], cohort)
        ]
        per_hospital = (size[1] - size[0]) / (len(cohort) - 3)
        assert bounds[0] < per_hospital < bounds[1]


def test_what_the_operating_system_drew_travels_as_it_is():
    plan = PLAN.replace(**MORE_CASES["secure noise"])
    left = drawer(plan, at_workers=True).draw(0)
    assert left.streams is None
    order = cluster_worker.order_for(chunked.Chunk(0, left.cohort), {})
    assert [one.schedule for one in order.drawn] == [one.schedule for one in left.cohort]


def test_streams_in_another_process_are_the_same_streams():
    for streams in (RunStreams(Streams.from_seed(1), Streams.from_seed(2)), RunStreams.from_root(Streams.from_seed(3))):
        streams.hospital_noise("a", 1)  # what is remembered here means nothing there
        copy = pickle.loads(pickle.dumps(streams))
        assert vars(copy)["_rounds"] == {}
        for name, number in (("a", 1), ("a", 2), ("b", 1)):
            assert copy.hospital_noise(name, number).tolist() == streams.hospital_noise(name, number).tolist()
            assert copy.batches(name, number).key().tolist() == streams.batches(name, number).key().tolist()


def test_sites_that_are_made_when_they_are_needed_train_on_a_cluster(in_process):
    lazy = {**OPTIONS, "lazy": True}
    plan = PLAN.replace(data={"options": lazy})
    spread, here = train(plan, sites(lazy=True), runtime="cluster"), train(PLAN, sites())
    np.testing.assert_allclose(flat(spread.weights), flat(here.weights), rtol=1e-5, atol=1e-6)


def test_the_number_of_workers_changes_no_bit_where_the_sum_is_added_by_tasks(in_process, monkeypatch):
    options = {"hospitals_per_chunk": 2}
    one = train(PLAN, sites(), runtime="cluster", runtime_options={**options, "workers": 1})
    two = train(PLAN, sites(), runtime="cluster", runtime_options={**options, "workers": 2})
    monkeypatch.setattr(cluster, "_ADD_HERE_BYTES", 0)
    by_tasks = train(PLAN, sites(), runtime="cluster", runtime_options={**options, "workers": 3})
    assert flat(one.weights).tolist() == flat(two.weights).tolist() == flat(by_tasks.weights).tolist()


def test_records_of_another_origin_are_refused_with_round_and_hospital(in_process):
    with pytest.raises(ClusterError, match=r"round 1: .*site-000\d.*must be the records that the run was started with"):
        train(PLAN, sites(label_noise=0.1, seed=3), runtime="cluster")


def test_another_version_of_the_code_is_refused(in_process):
    with pytest.raises(RuntimeError, match="the driver other"):
        cluster_worker.Worker(PLAN.to_json(), dataset_description.describe(sites()), (), "other")


def test_a_stand_in_says_all_but_the_records():
    original = sites()
    made = dataset_description.rebuild(dataset_description.describe(original), PLAN.data)
    assert made.ids == original.ids
    assert made.records() == original.records()
    assert made.records(train=False) == original.records(train=False)
    np.testing.assert_array_equal(made.hospitals[3].train.features, original.hospitals[3].train.features)
    words = {**original.describe(), "fingerprint": ""}
    assert {**made.describe(), "fingerprint": ""} == words


def test_a_tree_sum_is_fixed_and_whole_numbers_wrap():
    assert tree_sum(list("abcdef"), lambda one, other: f"({one}{other})") == "(((ab)(cd))(ef))"
    (total,) = add_leaves([np.array([2**31 - 1], np.int32)], [np.array([1], np.int32)])
    assert total.tolist() == [-(2**31)]


def test_an_address_must_have_a_port():
    with pytest.raises(InvalidInput, match="cluster_address='somewhere': must be host:port"):
        Connection("somewhere", 1.0)


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None  # what an import of a missing package finds
from tff_hospitals.runtimes.cluster.connection import Connection
try:
    Connection()
except Exception as error:
    print(type(error).__name__, error)
"""


def test_without_ray_the_remedy_is_named():
    child = subprocess.run([sys.executable, "-c", WITHOUT_RAY], capture_output=True, text=True, check=True)
    assert "needs the package ray" in child.stdout
    assert "requirements-cluster.lock" in child.stdout


def test_what_needs_no_cluster_does_not_import_ray():
    code = "import sys, tff_hospitals.training.loop, tff_hospitals.runtimes.cluster; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_lock_of_the_cluster_adds_to_the_other_one(checkout: pathlib.Path):
    def names(file):
        return {line.split("==")[0] for line in (checkout / file).read_text().splitlines() if line[:1].isalpha()}

    extra = names("requirements-cluster.lock")
    assert "ray" in extra
    assert extra & names("requirements.lock") == set()
    text = (checkout / "requirements-cluster.lock").read_text()
    assert "://" not in text
    assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=\S)", text.strip()))


def test_a_silent_address_is_given_up_in_time():
    pytest.importorskip("ray", reason="ray is missing (requirements-cluster.lock)")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(ClusterError, match=rf"cluster_address=127.0.0.1:{port} did not answer within 2 s"):
        Connection(f"127.0.0.1:{port}", 2.0)
    assert time.monotonic() - started < 60
