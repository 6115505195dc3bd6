"""After clipping a record is at most the clip norm long, whatever its numbers are; nothing else is a guarantee."""

from __future__ import annotations

import functools

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tff_hospitals.models import FunctionalModel, ModelSignature, clipped_gradient_sum
from tff_hospitals.models.clipping import STYLES

pytestmark = pytest.mark.tensorflow

KEY = np.array([11, 22], np.int64)
ROUNDED = 1 + 1e-5
layers = tf.keras.layers
FLAT, STEPS, IMAGE, TOKENS = (4,), (4, 8), (6, 6, 2), (5,)


def sequential(shape, *inside, task="multiclass", units=3):
    def build():
        return tf.keras.Sequential([layers.Input(shape), *(make() for make in inside), layers.Dense(units)])

    return FunctionalModel(build, ModelSignature(shape, units if task == "multiclass" else 1, task))


def of(kind, *arguments, **keywords):
    return lambda: kind(*arguments, **keywords)


class Power(layers.Layer):
    """A layer of the user's own, which overflows soon."""

    def build(self, shape):
        self.scale = self.add_weight("scale", (shape[-1],), initializer="ones")

    def call(self, inputs):
        return tf.exp(inputs * self.scale) - inputs**3


MODELS = {
    "logistic regression": lambda: sequential(FLAT),
    "regression": lambda: sequential(FLAT, of(layers.Dense, 5, "relu"), task="regression", units=1),
    "mlp": lambda: sequential(FLAT, of(layers.Dense, 5, "relu"), of(layers.Dense, 4, "tanh")),
    "steps compared": lambda: sequential(STEPS, of(layers.Dense, 9), layers.Flatten),
    "steps that cancel": lambda: sequential(STEPS, of(layers.Dense, 9), layers.GlobalAveragePooling1D),
    "steps formed": lambda: sequential(STEPS, of(layers.Dense, 2), layers.GlobalAveragePooling1D),
    "layer norm": lambda: sequential(STEPS, layers.LayerNormalization, layers.Flatten),
    "group norm": lambda: sequential(
        IMAGE, of(layers.Conv2D, 4, 3), of(layers.GroupNormalization, 2), layers.MaxPooling2D, layers.Flatten
    ),
    "convolution": lambda: sequential(IMAGE, of(layers.Conv2D, 3, 5, activation="relu"), layers.Flatten),
    "embedding": lambda: sequential(TOKENS, of(layers.Embedding, 9, 6), layers.GlobalAveragePooling1D),
    "own layer": lambda: sequential(FLAT, Power),
}
CASES = [(name, method) for name in MODELS for method in ("ghost", "vectorized")] + [
    ("mlp", "loop"),
    ("own layer", "loop"),
]
RECORDS = 4


@functools.cache
def model_of(name):
    return MODELS[name]()


@functools.cache
def runner(name, method, style, compiled):
    model = model_of(name)

    @tf.function(jit_compile=compiled, autograph=False)
    def run(trainable, features, labels, mask, clip_norm):
        return clipped_gradient_sum(
            model, trainable, (), features, labels, mask, clip_norm, key=KEY, style=style, method=method
        )

    return run


def sum_of(name, method, style, compiled, scale, features, labels, mask, clip_norm):
    model = model_of(name)
    generator = np.random.default_rng(0)
    trainable, _ = model.initial_weights(KEY)
    moved = [scale * (w + 0.3 * generator.normal(size=w.shape)) for w in trainable]
    tensors = [tf.constant(w, tf.float32) for w in moved]
    labels = tf.constant(labels, tf.float32 if model.task == "regression" else tf.int64)
    total, norms, loss = runner(name, method, style, compiled)(
        tensors, tf.constant(features), labels, tf.constant(mask), tf.constant(clip_norm, tf.float32)
    )
    return np.concatenate([np.ravel(part).astype(np.float64) for part in total]), norms.numpy(), float(loss)


SIZES = [0.0, 1e-45, 1e-38, 1e-30, 1e-19, 1e-3, 1.0, 30.0, 1e4, 1e10, 1e19, 1e20, 1e30, 3e38, np.inf, np.nan]


def record_of(shape):
    """A record: any bits; or one size all over with either sign; or one number among ordinary ones; or tokens."""
    if shape == TOKENS:
        return st.lists(st.integers(0, 8), min_size=5, max_size=5).map(np.float32)
    size, number = int(np.prod(shape)), st.sampled_from(range(2 * len(SIZES)))

    def signed(index):
        return np.float32(SIZES[index // 2]) * np.float32(1 - 2 * (index % 2))

    def of_bits(bits):
        return np.array(bits, np.uint32).view(np.float32)

    def of_one_size(index, signs):
        return signed(index) * np.where(np.arange(size) & signs, np.float32(1), np.float32(-1))

    def with_one(index, place):
        record = np.random.default_rng(1).normal(size=size).astype(np.float32)
        record[place % size] = signed(index)
        return record

    any_bits = st.lists(st.integers(0, 2**32 - 1), min_size=size, max_size=size)
    any_sizes = st.lists(number, min_size=size, max_size=size)
    kinds = st.one_of(
        any_bits.map(of_bits),
        any_sizes.map(lambda indices: np.array([signed(index) for index in indices])),
        st.builds(of_one_size, number, st.sampled_from([0, 1, 3, 8, 16])),
        st.builds(with_one, number, st.integers(0, 99)),
    )
    return kinds.map(lambda record: record.reshape(shape))


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "xla"])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("name", "method"), CASES)
def test_no_record_whatever_it_holds_is_longer_than_the_clip_norm(name, method, style, compiled):
    shape = model_of(name).feature_shape
    others = np.abs(np.random.default_rng(2).normal(size=(RECORDS - 1, *shape))).astype(np.float32)

    @hypothesis.settings(max_examples=40)
    @hypothesis.given(
        record_of(shape), st.sampled_from([1.0, 1e-20, 1e6, 1e18, 1e30]), st.sampled_from([1e-3, 1.0, 50.0])
    )
    def bounded(record, scale, clip_norm):
        features = np.concatenate([record[None], others])
        labels = np.arange(RECORDS) % 3
        if name == "regression":
            labels = np.array([3e38, 0.0, -1.0, 2.0])

        def total(*mask):
            return sum_of(name, method, style, compiled, scale, features, labels, np.float32(mask), clip_norm)

        alone, norms, loss = total(1, 0, 0, 0)
        assert np.all(np.isfinite(alone))
        assert np.linalg.norm(alone) <= clip_norm * ROUNDED
        assert not np.isnan(norms).any()
        assert np.isfinite(loss) or abs(loss) == np.inf
        if not np.all(np.isfinite(record)):
            assert not alone.any()
        without, all_of_them = total(0, 1, 1, 1)[0], total(1, 1, 1, 1)[0]
        assert np.all(np.isfinite(without))
        moved = np.linalg.norm(all_of_them - without)
        assert moved <= clip_norm * ROUNDED + RECORDS * clip_norm * 1e-6

    bounded()


BEHIND = {
    "flat": (FLAT, ()),
    "matrix": (FLAT, (of(layers.Dense, 3, use_bias=False),)),
    "steps": (STEPS, (of(layers.Dense, 9, use_bias=False),)),
    "convolution": (IMAGE, (of(layers.Conv2D, 3, 2, use_bias=False),)),
    "embedding": (TOKENS, (of(layers.Embedding, 9, 6),)),
}


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "xla"])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", BEHIND)
def test_tiny_inputs_and_huge_gradients_whose_product_is_ordinary(name, style, compiled):
    """Automatic clipping multiplied the gradient by a factor above one first: infinity, and zero times infinity."""
    shape, inside = BEHIND[name]

    def build():
        made = [layers.Input(shape), *(make() for make in inside), layers.Flatten(), layers.Dense(1, use_bias=False)]
        return tf.keras.Sequential(made)

    model = FunctionalModel(build, ModelSignature(shape, 1, "regression"), target_scaling="none")

    @tf.function(jit_compile=compiled, autograph=False)
    def run(trainable, features, labels, clip_norm):
        return clipped_gradient_sum(model, trainable, (), features, labels, [1.0, 1.0], clip_norm, style=style)

    for label, size, clip_norm in [
        (1.5e38, 1.5e-38, 50.0),
        (1e38, 1e-37, 1e3),
        (1e30, 1e-30, 1e9),
        (1e19, 1e-19, 1e30),
    ]:
        features = np.zeros((2, *shape), np.float32)
        features[0, ..., -1] = 0.0 if name == "embedding" else size
        trainable = [
            tf.fill(spec.shape, np.float32(size if name == "embedding" else 1.0)) for spec in model.trainable_specs
        ]
        trainable[-1] = tf.zeros_like(trainable[-1])  # so that no gradient comes behind the last layer
        total, norms, _ = run(trainable, tf.constant(features), tf.constant([label, 0.0]), tf.constant(clip_norm))
        moved = np.sqrt(sum(float(np.sum(np.square(one, dtype=np.float64))) for one in map(np.asarray, total)))
        assert 0.0 < norms[0] < 1e3
        assert np.isfinite(moved)
        assert moved <= clip_norm * ROUNDED
        if style == "automatic":
            assert moved > 0.1 * clip_norm
