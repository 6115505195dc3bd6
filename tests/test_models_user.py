"""A user's own model by `package.module:function`: found, called with what it takes, or refused by name."""

from __future__ import annotations

import sys
import textwrap

import numpy as np
import pytest

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.models import ModelSignature, build_model

pytestmark = pytest.mark.tensorflow

HEART = ModelSignature((13,), 2, "binary")
KEY = np.array([1, 2], np.int64)

SOURCE = """
    import tensorflow as tf

    def build(feature_shape, num_classes):
        return tf.keras.Sequential([tf.keras.layers.Input(feature_shape), tf.keras.layers.Dense(num_classes)])

    def plain():
        return tf.keras.Sequential([tf.keras.layers.Dense(1)])

    def anything(**keywords):
        return build(keywords["feature_shape"], keywords["num_classes"])

    def demanding(feature_shape, depth):
        return build(feature_shape, depth)

    def builds_a_list():
        return [1, 2]

    def fails():
        raise RuntimeError("out of cheese")

    class Subclassed(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.last = tf.keras.layers.Dense(4, "relu"), tf.keras.layers.Dense(1, "sigmoid")

        def call(self, inputs):
            return self.last(self.first(inputs))

    ready = plain()
    number = 3
"""


@pytest.fixture(autouse=True)
def _module(tmp_path, monkeypatch):
    folder = tmp_path / "own_models"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "heart.py").write_text(textwrap.dedent(SOURCE))
    (folder / "broken.py").write_text("1 / 0\n")
    (folder / "needy.py").write_text("import a_package_that_is_missing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.startswith("own_models")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        ("build", [(13, 2), (2,)]),
        ("anything", [(13, 2), (2,)]),
        ("plain", [(13, 1), (1,)]),  # built by calling it on the data set's shape
        ("Subclassed", [(13, 4), (4,), (4, 1), (1,)]),
    ],
)
def test_a_users_function_gets_what_it_takes(function, shapes):
    model = build_model(f"own_models.heart:{function}", HEART)
    assert [tuple(spec.shape) for spec in model.trainable_specs] == shapes
    assert model.problems(under_dp=True) == []
    assert np.abs(model.initial_weights(KEY)[0][0] - model.initial_weights(KEY + 1)[0][0]).max() > 0.01


def test_a_sigmoid_inside_a_subclass_is_undone():
    model = build_model("own_models.heart:Subclassed", HEART)
    assert model.output_activation == "sigmoid"
    weights, frozen = model.initial_weights(KEY)
    outputs = np.asarray(model.predict(weights, frozen, 100 * np.ones((1, 13), np.float32), training=False))
    hidden = np.maximum(100 * weights[0].sum(axis=0), 0.0)
    np.testing.assert_allclose(outputs[0], hidden @ weights[2], rtol=1e-4)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("own_model.heart:build", "no module 'own_model'.*PYTHONPATH"),
        ("own_models.hart:build", r"no module 'own_models.hart'"),
        ("own_models.broken:build", "importing own_models.broken fails: ZeroDivisionError"),
        ("own_models.needy:build", "imports 'a_package_that_is_missing', which is not installed"),
        ("own_models.heart:biuld", r"heart.py has no 'biuld'.*did you mean 'build'"),
        ("own_models.heart:", "must be package.module:function"),
        ("own_models.heart:number", "number is of type builtins.int, not a function"),
        ("own_models.heart:ready", "not a function that returns a tf.keras.Model"),
        ("own_models.heart:demanding", "needs depth, which nobody gives it"),
        ("own_models.heart:builds_a_list", "returned builtins.list, not a tf.keras.Model"),
        ("own_models.heart:fails", "building it fails: RuntimeError: out of cheese"),
    ],
)
def test_what_cannot_be_built_is_named(path, message):
    with pytest.raises(InvalidInput, match=message):
        build_model(path, HEART)


def test_options_of_the_zoo_are_not_for_a_users_model():
    with pytest.raises(
        InvalidInput, match=r"hidden_units=.*has no such option.*its options are class_weights, keep_initial,"
    ):
        build_model("own_models.heart:build", HEART, hidden_units=(3,))
