"""Models that XLA cannot compile train without it: the same result, said once, here and on a cluster."""

from __future__ import annotations

import pytest
import tensorflow as tf
import toy
from test_cluster_driver import InProcess, flat

from tff_hospitals.hospitals import load_dataset
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes import composition
from tff_hospitals.runtimes.cluster import runtime as cluster
from tff_hospitals.runtimes.compiled import runtime as compiled
from tff_hospitals.training import loop, session

pytestmark = pytest.mark.tensorflow

SHAPE = (6, 6, 1)
OPTIONS = {"records_per_site": [20, 13, 7], "features": list(SHAPE)}
PLAN = Plan(rounds=2, checkpoint_every=1).replace(
    client={"local_steps": None, "local_epochs": 1, "batch_size": 4, "learning_rate": 0.1},
    data={"name": "synthetic", "sites": 3, "options": OPTIONS},
)
DP = {"mechanism": "dp_sgd", "noise_multiplier": 0.5, "delta": 1e-2}


def bicubic(feature_shape, units=3):
    """Resizes with an operation that XLA lacks."""
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.Input(feature_shape),
            layers.Resizing(3, 3, interpolation="bicubic"),
            layers.Flatten(),
            layers.Dense(units, activation="relu"),
            layers.Dense(1),
        ]
    )


def wide(feature_shape):
    """The same, too large for whole rounds in one program."""
    return bicubic(feature_shape, 2_100)


def sites():
    return load_dataset("synthetic", sites=3, **OPTIONS)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(compiled, "_not_compilable", {})


def trained(name, runtime="compiled", **changes):
    return loop.train(
        PLAN.replace(model={"name": f"test_compiled_fallback:{name}"}, **changes), sites(), runtime=runtime
    )


@pytest.mark.parametrize(
    ("name", "strategy", "privacy"),
    [
        pytest.param("bicubic", "fused", {}, id="plain-fused"),
        pytest.param("wide", "scanned", {}, id="plain-scanned", marks=pytest.mark.slow),
        pytest.param("bicubic", "fused", DP, id="dp_sgd-fused", marks=pytest.mark.slow),
        pytest.param("wide", "scanned", DP, id="dp_sgd-scanned", marks=pytest.mark.rare),
    ],
)
def test_what_xla_lacks_is_done_without_it_and_said_once(monkeypatch, name, strategy, privacy):
    found = trained(name, privacy=privacy)
    (said,) = [warning for warning in found.summary["warnings"] if "XLA" in warning]
    assert "ResizeBicubic" in said
    monkeypatch.setattr(compiled, "choose_strategy", lambda _: "side_by_side")
    expected = trained(name, privacy=privacy)
    assert not [warning for warning in expected.summary["warnings"] if "XLA" in warning]
    assert flat(found.weights).tolist() == flat(expected.weights).tolist()
    assert found.ledger == expected.ledger
    monkeypatch.undo()
    assert strategy == compiled.choose_strategy(composition.compose(found.plan, sites(), found.model))


@pytest.mark.slow
def test_seeds_of_such_a_model_train_as_each_would_alone(monkeypatch):
    monkeypatch.setattr(session, "_CALLS_THAT_PAY", 0)
    plan = PLAN.replace(model={"name": "test_compiled_fallback:bicubic"})
    runs = loop.train_seeds([plan.replace(seed=seed) for seed in (1, 2)], sites())
    monkeypatch.setattr(compiled, "choose_strategy", lambda _: "side_by_side")
    for seed, run in zip((1, 2), runs):
        assert flat(run.weights).tolist() == flat(loop.train(plan.replace(seed=seed), sites()).weights).tolist()
        assert ["ResizeBicubic" in text for text in run.summary["warnings"] if "XLA" in text] == [True]


def test_a_second_run_does_not_try_again():
    assert [warning for warning in trained("bicubic").summary["warnings"] if "XLA" in warning]
    (signature,) = compiled._not_compilable
    kept = compiled._programs.pop((signature, "fused", None))
    assert kept is not None
    assert [warning for warning in trained("bicubic", seed=5).summary["warnings"] if "XLA" in warning]
    assert (signature, "fused", None) not in compiled._programs


def test_a_worker_of_a_cluster_does_the_same(monkeypatch):
    monkeypatch.setattr(cluster, "Connection", InProcess)
    spread, here = trained("bicubic", "cluster"), trained("bicubic")
    assert flat(spread.weights).tolist() == flat(here.weights).tolist()
    assert len([warning for warning in spread.summary["warnings"] if "ResizeBicubic" in warning]) == 1


def test_other_failures_are_not_taken_for_that():
    dataset = toy.hospitals()
    plan = PLAN.replace(data={"name": "toy", "options": {}})
    parts = composition.compose(plan, dataset, loop.build_model(plan, dataset))
    executor = compiled.Executor(parts, "scanned")

    def fail(program):
        raise tf.errors.InvalidArgumentError(None, None, "indices[3] = 9 is not in [0, 4)")

    with pytest.raises(tf.errors.InvalidArgumentError, match="is not in"):
        executor(fail)
    assert executor.strategy == "scanned"
    assert executor.notes == []
