"""Numbers that an Embedding's table has no row for are named before training, where the data show them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import HospitalDataset
from tff_hospitals.models import FunctionalModel, ModelSignature
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow

layers = tf.keras.layers
PLACES, ROWS = 4, 9


def sequential():
    return tf.keras.Sequential(
        [layers.Input((PLACES,)), layers.Embedding(ROWS, 3, name="words"), layers.Flatten(), layers.Dense(1)]
    )


def nested():
    inner = tf.keras.Sequential([layers.Input((PLACES,)), layers.Embedding(ROWS, 3, name="words"), layers.Flatten()])
    outer = tf.keras.Sequential([layers.Input((PLACES,)), inner], name="encoder")
    inputs = layers.Input((PLACES,))
    return tf.keras.Model(inputs, layers.Dense(1)(outer(inputs)))


def of_two_inputs():
    table, words = layers.Input((2,), name="table"), layers.Input((PLACES,), name="words")
    looked_up = layers.Flatten()(layers.Embedding(ROWS, 3, name="looked_up")(words))
    return tf.keras.Model([table, words], layers.Dense(1)(layers.Concatenate()([table, looked_up])))


def behind_a_layer():
    inputs = layers.Input((PLACES,))
    clipped = layers.ReLU(max_value=ROWS - 1)(inputs)
    return tf.keras.Model(inputs, layers.Dense(1)(layers.Flatten()(layers.Embedding(ROWS, 3)(clipped))))


def dataset(value, part="train", inputs=1):
    """Two hospitals; a token of the second one is `value`."""
    generator = np.random.default_rng(0)
    arrays = {}
    for name in ("north", "south"):
        words = generator.integers(0, ROWS, (20, PLACES)).astype(np.float32)
        if name == "south":
            words[:, 2] = value
        features = words if inputs == 1 else {"table": generator.normal(size=(20, 2)), "words": words}
        arrays[name] = (features, np.arange(20) % 2)
    return HospitalDataset.from_arrays(arrays, task="binary")


def refused(builder, data):
    with pytest.raises(InvalidInput) as caught:
        train(Plan(rounds=1), data, model=FunctionalModel(builder, ModelSignature.of(data)))
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(("builder", "path"), [(sequential, "words"), (nested, "encoder/sequential.*/words")])
def test_a_token_beyond_the_table_is_named_with_its_hospital_column_and_remedy(builder, path):
    problem = refused(builder, dataset(12.0))
    assert problem.name == "column 2 in train part of south"
    assert problem.value == "12"
    assert "must be from 0 to 8" in problem.bound
    assert re.search(f"layer {path} has", problem.bound)
    assert problem.remedy.endswith("to 13 or more, or number the values from 0")


def test_tokens_below_zero_and_inputs_of_their_own():
    problem = refused(of_two_inputs, dataset(-3.0, inputs=2))
    assert (problem.name, problem.value) == ("column 4 in train part of south", "-3")  # behind two of the table
    assert "looked_up" in problem.bound
    assert problem.remedy == "number the values from 0"


@pytest.mark.parametrize(
    ("builder", "value"), [(sequential, 8.0), (sequential, 8.9), (sequential, -0.5), (behind_a_layer, 12.0)]
)
def test_numbers_that_the_table_has_and_tables_behind_other_layers_pass(builder, value):
    data = dataset(value)
    model = FunctionalModel(builder, ModelSignature.of(data))
    for hospital in data.hospitals:
        assert model.token_problems(hospital.train.features, (), "here") == []


def test_columns_have_their_names_where_there_are_some():
    model = FunctionalModel(sequential, ModelSignature((PLACES,), 2, "binary"))
    records = np.array([[0.0, 9.0, 8.0, 9.0]], np.float32)
    names = ("sex", "drug", "ward", "code")
    assert [one.name for one in model.token_problems(records, names, "here")] == ["column drug in here"]
    assert model.token_problems(records[:0], names, "here") == []
