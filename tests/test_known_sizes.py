"""Clipped attention without XLA: hospitals of any size share few programs, each traced for its own sizes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from test_cluster_driver import flat

from tff_hospitals.hospitals import load_dataset
from tff_hospitals.plan.plan import Plan
from tff_hospitals.runtimes.compiled import device_data
from tff_hospitals.runtimes.compiled import runtime as compiled
from tff_hospitals.runtimes.compiled.side_by_side import SideBySideProgram
from tff_hospitals.training import loop

pytestmark = pytest.mark.tensorflow

OPTIONS = {"records_per_site": [64, 57, 50, 8, 3], "features": [4, 3]}
PLAN = Plan(rounds=1).replace(
    client={"local_steps": None, "local_epochs": 1, "batch_size": 8, "learning_rate": 0.1},
    data={"name": "synthetic", "sites": 5, "options": OPTIONS},
    privacy={"mechanism": "dp_sgd", "noise_multiplier": 0.5, "delta": 1e-2},
    model={"name": "test_known_sizes:attention"},
)


def attention(feature_shape):
    layers = tf.keras.layers
    inputs = layers.Input(feature_shape)
    y = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    return tf.keras.Model(inputs, layers.Dense(1)(layers.Flatten()(y)))


@pytest.fixture
def programs(monkeypatch):
    """Those that ran without XLA, which all do here."""
    monkeypatch.setattr(compiled, "choose_strategy", lambda _: "side_by_side")
    made = []
    begin = SideBySideProgram.__init__
    monkeypatch.setattr(
        SideBySideProgram, "__init__", lambda self, *rest, **named: (begin(self, *rest, **named), made.append(self))[0]
    )
    return made


@pytest.mark.parametrize("wire", [{}, pytest.param({"upload": "quantize:8"}, marks=pytest.mark.slow)])
def test_no_program_of_clipped_attention_is_for_any_size(programs, wire):
    """Such programs corrupted the memory of the process in TensorFlow 2.14."""
    plan = PLAN.replace(**wire)
    dataset = load_dataset("synthetic", sites=5, **OPTIONS)
    found = loop.train(plan, dataset)
    (program,) = programs
    traced = program._prepare if wire else program._whole
    shapes = [
        concrete.structured_input_signature[0][1][name].shape
        for concrete in traced._list_all_concrete_functions()
        for name in ("indices", "mask", "features")
    ]
    assert all(shape.is_fully_defined() for shape in shapes), shapes
    steps = sorted({int(shape[0]) for shape in shapes[::3]})
    assert steps == [1, 8]  # 8, 8, 7, 1 and 1 steps
    expected = loop.train(plan, dataset, runtime="native")
    np.testing.assert_allclose(flat(found.weights), flat(expected.weights), rtol=0, atol=2e-6)
    assert found.ledger == expected.ledger


def test_what_is_filled_up_is_masked():
    dataset = load_dataset("synthetic", sites=5, **OPTIONS)
    from tff_hospitals.plan import noise as noise_plan
    from tff_hospitals.training.round_inputs import RoundDrawer

    one = RoundDrawer(PLAN, dataset, noise_plan.make(PLAN, dataset)).draw(0)
    data = device_data.load(dataset)
    for each in one.cohort:
        exact = device_data.element(each, data, ())
        filled = device_data.element(each, data, (), few_sizes=True)
        steps, places = exact["indices"].shape
        for name in ("indices", "mask"):
            assert filled[name].dtype == exact[name].dtype
            assert (filled[name][:steps, :places] == exact[name]).all()
        assert filled["mask"].sum() == exact["mask"].sum()
        assert (filled["steps"], filled["key"].tolist()) == (exact["steps"], exact["key"].tolist())
        assert steps <= filled["mask"].shape[0] < 2 * steps
        assert places <= filled["mask"].shape[1] <= max(1, 1.5 * places)
