"""What a model is: equal for the same code, configuration and weights, and part of what a run is known by."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from toy import hospitals

from tff_hospitals.foundations.files import RecordError
from tff_hospitals.models import FunctionalModel, ModelSignature, build_model
from tff_hospitals.plan import Plan
from tff_hospitals.processes.composition import architecture
from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow

TWO = ModelSignature((2,), 2, "binary")

SOURCE = """
import functools
import numpy as np
import tensorflow as tf
L = tf.keras.layers
WIDTH = 4
FACTOR = 2.0

def doubled(x):
    return x * FACTOR  # a factor

class Scale(L.Layer):
    unit = 1.0

    def call(self, inputs):
        return inputs * self.unit

def lambdas():
    return tf.keras.Sequential([tf.keras.Input((2,)), L.Lambda(lambda x: doubled(x)), L.Dense(1)])

def f():
    return tf.keras.Sequential([tf.keras.Input((2,)), L.Dense(WIDTH, 'relu'), L.Dense(1)])

def custom():
    return tf.keras.Sequential([tf.keras.Input((2,)), Scale(), L.Dense(1)])

def adapted():
    norm = L.Normalization()
    norm.adapt(np.array([[1.0, 2.0], [3.0, 5.0]], np.float32))
    return tf.keras.Sequential([tf.keras.Input((2,)), norm, L.Dense(1)])

def fixed():
    start = tf.keras.initializers.Constant(0.5)
    return tf.keras.Sequential([tf.keras.Input((2,)), L.Dense(1, kernel_initializer=start)])
"""


def written(monkeypatch, source, name="m"):
    """A module of this source, as if its file had been edited and the program started again."""
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(source, f"{name}.py", "exec"), module.__dict__)


def identity(monkeypatch, function, *edit):
    written(monkeypatch, SOURCE.replace(*edit) if edit else SOURCE)
    return build_model(f"m:{function}", TWO).identity


@pytest.mark.parametrize(
    ("function", "edit"),
    [
        ("f", ("'relu'", "'tanh'")),
        ("f", ("WIDTH = 4", "WIDTH = 5")),
        ("lambdas", ("FACTOR = 2.0", "FACTOR = 3.0")),
        ("lambdas", ("x * FACTOR", "x + FACTOR")),
        ("lambdas", ("lambda x: doubled(x)", "lambda x: -doubled(x)")),
        ("custom", ("unit = 1.0", "unit = 2.0")),
        ("custom", ("inputs * self.unit", "inputs - self.unit")),
        ("adapted", ("[3.0, 5.0]", "[3.0, 6.0]")),
        ("fixed", ("Constant(0.5)", "Constant(0.25)")),
    ],
)
def test_an_edited_model_is_another(function, edit, monkeypatch):
    assert identity(monkeypatch, function) != identity(monkeypatch, function, *edit)


@pytest.mark.parametrize("function", ["f", "lambdas", "custom", "adapted", "fixed"])
def test_comments_lines_and_other_functions_do_not_count(function, monkeypatch):
    before = identity(monkeypatch, function)
    assert before == identity(monkeypatch, function)
    assert before == identity(monkeypatch, function, "import functools\n", "# a model of hearts\n\n")
    assert before == identity(monkeypatch, function, "def f(", "def unused():\n    return 3\n\ndef f(")


@pytest.mark.parametrize("options", [{}, {"lora_rank": 1}])
def test_pretrained_weights_belong_to_the_model_and_not_to_its_program(options, tmp_path):
    def model(**more):
        return build_model("mlp", TWO, hidden_units=(6,), **options, **more)

    plain = build_model("mlp", TWO, hidden_units=(6,))
    names = [tmp_path / name for name in ("one.weights.h5", "same.weights.h5", "other.weights.h5")]
    for seed, name in zip((1, 1, 2), names):
        plain.keras_model(*plain.initial_weights(np.array([seed, 0]))).save_weights(name)
    one, same, other = (model(pretrained=name) for name in names)
    assert one.identity == same.identity
    assert len({one.identity, other.identity, model().identity}) == 3
    assert one.program == other.program == model().program


def test_closures_and_arguments_count():
    def scaled(factor):
        return lambda: tf.keras.Sequential(
            [tf.keras.Input((2,)), tf.keras.layers.Lambda(lambda x: x * factor), tf.keras.layers.Dense(1)]
        )

    one, again, other = (FunctionalModel(scaled(factor), TWO, name="m") for factor in (1.0, 1.0, 2.0))
    assert one.identity == again.identity != other.identity
    assert architecture(one, "m") == architecture(again, "m") != architecture(other, "m")


ONLY_MODEL = "import tensorflow as tf\nL = tf.keras.layers\n"
CASE = ONLY_MODEL + "def f(): return tf.keras.Sequential([tf.keras.Input((5,)), L.Dense(8, 'relu'), L.Dense(1)])"


@pytest.mark.parametrize("edit", [("'relu'", "'tanh'"), ("L.Dense(8", "L.Dense(9")])
def test_a_run_does_not_go_on_with_an_edited_model(edit, tmp_path, monkeypatch):
    """cases/model_changed: the same command printed the old numbers, and interrupted runs went on."""
    data, plan = hospitals(), Plan(rounds=2, checkpoint_every=1).replace(model={"name": "m:f"})
    written(monkeypatch, CASE)
    train(plan, data, run_dir=tmp_path / "finished")
    again = train(plan, data, run_dir=tmp_path / "finished")
    assert again.already_finished

    class Killed(Exception):
        pass

    def kill(progress):
        if progress.round == 2:
            raise Killed

    with pytest.raises(Killed):
        train(plan, data, run_dir=tmp_path / "interrupted", on_round=kill)
    written(monkeypatch, CASE.replace(*edit))
    for name in ("finished", "interrupted"):
        with pytest.raises(RecordError, match=r"another run: it differs in the model .*its code.*Remedy: choose"):
            train(plan, data, run_dir=tmp_path / name)


def test_a_run_does_not_go_on_from_another_file_of_weights(tmp_path):
    data, file = hospitals(), tmp_path / "start.weights.h5"
    plain = build_model("mlp", data, hidden_units=(3,))
    plan = Plan(rounds=1).replace(model={"name": "mlp", "options": {"hidden_units": [3], "pretrained": str(file)}})
    for seed in (1, 2):
        plain.keras_model(*plain.initial_weights(np.array([seed, 0]))).save_weights(file)
        if seed == 1:
            train(plan, data, run_dir=tmp_path / "run")
    with pytest.raises(RecordError, match=r"differs in the model .*the weights that it starts from"):
        train(plan, data, run_dir=tmp_path / "run")
