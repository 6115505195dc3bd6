"""The programs that `models.py` measures: each model in plain Keras `fit` and in a round of the compiled runtime."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import paired

SITES, RECORDS, BATCH, RATE, CLASSES = 2, 256, 32, 0.05, 10
SHAPES = {"cnn": (28, 28, 1), "resnet": (32, 32, 3), "transformer": (32, 16)}
"""Of a record: two kinds of pictures, and a sequence of 32 measurements of 16 numbers."""
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
"""What a measurement counts: time that passes, or work of all cores, which others on a busy machine change little."""


def cnn(feature_shape: Any, num_classes: int) -> Any:
    """Two convolutions and a dense layer."""
    import tensorflow as tf

    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.Input(feature_shape),
            layers.Conv2D(16, 3, activation="relu", padding="same"),
            layers.MaxPool2D(),
            layers.Conv2D(32, 3, activation="relu", padding="same"),
            layers.MaxPool2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(num_classes),
        ]
    )


def resnet(feature_shape: Any, num_classes: int) -> Any:
    """Three stages of one residual block each, with GroupNorm (He et al. 2016; Wu and He 2018)."""
    import tensorflow as tf

    layers = tf.keras.layers
    inputs = layers.Input(feature_shape)
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)
    for stage, width in enumerate((16, 32, 64)):
        stride = 1 if stage == 0 else 2
        y = layers.Activation("relu")(layers.GroupNormalization(8)(x))
        y = layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False)(y)
        y = layers.Activation("relu")(layers.GroupNormalization(8)(y))
        y = layers.Conv2D(width, 3, padding="same", use_bias=False)(y)
        short = x if stride == 1 else layers.Conv2D(width, 1, strides=stride, use_bias=False)(x)
        x = layers.Add()([short, y])
    x = layers.GlobalAveragePooling2D()(layers.Activation("relu")(layers.GroupNormalization(8)(x)))
    return tf.keras.Model(inputs, layers.Dense(num_classes)(x))


def transformer(feature_shape: Any, num_classes: int) -> Any:
    """Two encoder blocks with LayerNorm before attention and before the dense layers (Xiong et al. 2020)."""
    import tensorflow as tf

    layers = tf.keras.layers
    inputs = layers.Input(feature_shape)
    x = layers.Dense(64)(inputs)
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 16)(y, y)])
        y = layers.Dense(128, activation="relu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(64)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return tf.keras.Model(inputs, layers.Dense(num_classes)(x))


BUILDERS: dict[str, Callable[[Any, int], Any]] = {"cnn": cnn, "resnet": resnet, "transformer": transformer}


def _records(name: str) -> dict[str, Any]:
    import numpy as np

    generator = np.random.default_rng(0)
    shape = (RECORDS, *SHAPES[name])
    return {
        f"site_{site}": (generator.normal(size=shape).astype(np.float32), generator.integers(0, CLASSES, RECORDS))
        for site in range(SITES)
    }


def keras(name: str) -> Callable[[], int]:
    """An epoch in plain Keras: records that it took."""
    import numpy as np
    import tensorflow as tf

    features, labels = (np.concatenate(parts) for parts in zip(*_records(name).values()))
    model = BUILDERS[name](SHAPES[name], CLASSES)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.SGD(RATE), loss)
    data = tf.data.Dataset.from_tensor_slices((features, labels)).shuffle(len(labels)).batch(BATCH)

    def epoch() -> int:
        model.fit(data, epochs=1, verbose=0)
        return len(labels)

    return epoch


def ours(name: str, *, private: bool, strategy: str = "") -> Callable[[], int]:
    """A round in which every hospital passes once over its records: records that it took.

    Args:
      name: of the model.
      private: whether with DP-SGD.
      strategy: of the compiled runtime; "": as a long run settles.
    """
    import round_time_rows

    from tff_hospitals.foundations import quiet
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.plan.plan import Plan

    quiet.be_quiet()
    dataset = HospitalDataset.from_arrays(_records(name), task="multiclass", num_classes=CLASSES, name=name)
    changes: dict[str, Any] = {
        "model": {"name": f"models_rows:{name}"},
        "client": {"local_steps": None, "local_epochs": 1, "batch_size": BATCH, "learning_rate": RATE},
    }
    if private:
        changes["privacy"] = {"mechanism": "dp_sgd", "noise_multiplier": 1.0, "clip_norm": 1.0}
    options = {"strategy": strategy} if strategy else {}
    a_round = round_time_rows.ours(Plan(rounds=10_000).replace(**changes), dataset, "compiled", options=options)
    records = sum(hospital.train.records for hospital in dataset.hospitals)

    def one_round() -> int:
        a_round()
        return records

    return one_round


def per_record(work: Callable[[], int], clock: Callable[[], float]) -> Callable[[], float]:
    """Seconds for each record, once everything is compiled."""

    def measure() -> float:
        started = clock()
        records = work()
        return (clock() - started) / records

    measure()
    measure()
    return measure


def _main(way: str, chosen: str, clock: str) -> None:
    def prepare() -> Callable[[], float]:
        kind, _, strategy = way.partition(":")
        work = keras(chosen) if kind == "keras" else ours(chosen, private=kind == "private", strategy=strategy)
        return per_record(work, CLOCKS[clock])

    paired.serve(prepare)


if __name__ == "__main__":
    _main(*sys.argv[1:])
