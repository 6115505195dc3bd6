"""Models out to plain Keras and pretrained weights in."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.models import ModelSignature, build_model, save_keras

pytestmark = pytest.mark.tensorflow

DIGITS = ModelSignature((8, 8), 10, "multiclass")
KEY = np.array([1, 2], np.int64)


def written(tmp_path, name="cnn", file="model.keras", **options):
    model = build_model(name, DIGITS, **options)
    weights = model.initial_weights(KEY)
    save_keras(model.keras_model(*weights), tmp_path / file)
    return model, weights


def test_plain_keras_loads_what_was_saved_without_this_package(tmp_path):
    model, weights = written(tmp_path)
    features = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "features.npy", features)
    program = """
        import sys
        import numpy as np, tensorflow as tf
        model = tf.keras.models.load_model("model.keras")
        np.save("outputs.npy", model.predict(np.load("features.npy"), verbose=0))
        assert not [name for name in sys.modules if name.startswith("tff_hospitals")]
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path, env=environment, check=True, timeout=120, stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip
    expected = model.predict(*weights, features, training=False)
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), expected, rtol=1e-4, atol=1e-5)


def test_a_refused_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    written(tmp_path)
    before = (tmp_path / "model.keras").read_bytes()

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(RecordError, match="No space left"):
        written(tmp_path)
    assert (tmp_path / "model.keras").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_other_endings_are_refused(tmp_path):
    model = build_model("mlp", DIGITS)
    with pytest.raises(InvalidInput, match=r"must end in \.keras"):
        save_keras(model.keras, tmp_path / "model.h5")


@pytest.mark.parametrize("file", ["first.keras", "first.weights.h5", "first.h5"])
def test_pretrained_weights_come_back_whatever_the_key(tmp_path, file):
    first = build_model("mlp", DIGITS, hidden_units=(5,))
    weights, frozen = first.initial_weights(KEY)
    plain = first.keras_model(weights, frozen)
    if file.endswith(".keras"):
        plain.save(tmp_path / file)
    else:
        plain.save_weights(tmp_path / file)
    second = build_model("mlp", DIGITS, hidden_units=(5,), pretrained=tmp_path / file)
    for key in (KEY, KEY + 1):
        for value, expected in zip(second.initial_weights(key)[0], weights):
            np.testing.assert_array_equal(value, expected)


def test_a_whole_model_in_the_older_format_is_read_too(tmp_path):
    first = build_model("mlp", DIGITS)
    weights, frozen = first.initial_weights(KEY)
    first.keras_model(weights, frozen).save(tmp_path / "whole.h5")
    second = build_model("mlp", DIGITS, pretrained=tmp_path / "whole.h5", trainable="output")
    np.testing.assert_array_equal(second.initial_weights(KEY)[1][0], weights[0])
    np.testing.assert_array_equal(second.initial_weights(KEY)[0][0], weights[2])


@pytest.mark.parametrize("file", ["other.keras", "other.weights.h5", "other.h5"])
def test_other_shapes_are_listed_side_by_side(tmp_path, file):
    plain = build_model("mlp", DIGITS, hidden_units=(5,)).keras
    if file.endswith(".keras"):
        plain.save(tmp_path / file)
    else:
        plain.save_weights(tmp_path / file)
    with pytest.raises(InvalidInput) as caught:
        build_model("mlp", DIGITS, hidden_units=(7,), pretrained=tmp_path / file)
    text = str(caught.value)
    for words in ("is (64, 5) in the file and (64, 7) here", "is (5, 10) in the file and (7, 10) here"):
        assert words in text
    with pytest.raises(InvalidInput, match="is absent in the file"):
        build_model("mlp", DIGITS, hidden_units=(5, 5), pretrained=tmp_path / file)


def test_missing_damaged_and_foreign_files_are_named(tmp_path):
    (tmp_path / "damaged.keras").write_bytes(b"PK nothing")
    (tmp_path / "damaged.h5").write_bytes(b"nothing")
    for file, words in [
        ("absent.keras", "there is no such file"),
        ("weights.npz", "must end in one of"),
        ("damaged.keras", r"cannot be read as a \.keras file"),
        ("damaged.h5", r"cannot be read as a \.h5 file"),
    ]:
        with pytest.raises(InvalidInput, match=words):
            build_model("mlp", DIGITS, pretrained=pathlib.Path(tmp_path) / file)


def test_frozen_layers_stay_frozen_in_the_saved_model(tmp_path):
    written(tmp_path, "mlp", trainable="output")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    assert [layer.trainable for layer in loaded.layers if layer.weights] == [False, True]


def test_models_written_one_after_the_other_keep_their_own_weights(tmp_path):
    model = build_model("mlp", ModelSignature((3,), 2, "binary"), hidden_units=(4,))
    written = {}
    for seed in (1, 2):
        trainable, frozen = model.initial_weights(np.array([seed, 7], np.int64))
        folder = tmp_path / str(seed)
        folder.mkdir()
        assert model.save_trained(trainable, frozen, folder, "mlp") == []
        written[seed] = trainable
    for seed, trainable in written.items():
        loaded = tf.keras.models.load_model(tmp_path / str(seed) / "model.keras")
        for mine, theirs in zip(loaded.get_weights(), trainable):
            np.testing.assert_array_equal(mine, theirs)
    assert not np.array_equal(written[1][0], written[2][0])
