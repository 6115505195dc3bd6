"""Two models of one shape in one process: each trains by its own program, equal ones share."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from tff_hospitals import models
from tff_hospitals.hospitals import load_dataset
from tff_hospitals.plan import Plan
from tff_hospitals.processes.composition import architecture
from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow


def activated(activation):
    """A Keras model function whose weights have the same shapes whatever the activation."""

    def build():
        layers = [tf.keras.Input((13,)), tf.keras.layers.Dense(5, activation=activation), tf.keras.layers.Dense(1)]
        return tf.keras.Sequential(layers)

    return build


def scaled(factor):
    """A model with a layer of its own, whose configuration does not tell what it computes."""

    def build():
        class Scale(tf.keras.layers.Layer):
            def call(self, inputs):
                return inputs * factor

        inputs = tf.keras.Input((13,))
        return tf.keras.Model(inputs, tf.keras.layers.Dense(1)(Scale()(inputs)))

    return build


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("heart_disease")


@pytest.fixture
def own(monkeypatch):
    module = types.ModuleType("own_models")
    module.relu, module.tanh = activated("relu"), activated("tanh")
    module.once, module.twice = scaled(1.0), scaled(2.0)
    monkeypatch.setitem(sys.modules, "own_models", module)


@pytest.mark.parametrize("names", [("relu", "tanh"), ("once", "twice")])
def test_two_models_of_one_shape_do_not_share_a_program(names, dataset, own):
    plan = Plan(rounds=2)
    runs = [train(plan, dataset, model=models.build_model(f"own_models:{name}", dataset)) for name in names]
    one, other = (np.concatenate([weight.ravel() for weight in run.weights]) for run in runs)
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("name", ["logistic_regression", "mlp", "own_models:relu", "own_models:once"])
def test_models_that_are_built_again_share_their_programs(name, dataset, own):
    assert len({architecture(models.build_model(name, dataset), name) for _ in range(2)}) == 1
