"""Time of a DP-SGD step over the time of an SGD step, at the same batch.

    ./run benchmarks/dp_sgd_step.py --json=FILE

A DP-SGD step clips every record's gradient, draws Gaussian noise for every parameter and updates the weights. Each way
is timed without and with XLA, and the faster one counts, as the compiled runtime chooses; repetitions of all ways
alternate and medians are compared, so that a busy machine slows them all alike. Beside them stands TensorFlow Privacy's
vectorised optimizer with one microbatch per record. Exit code 1 if an aim is missed: MLP at most 1.5, CNN at most 1.8.
"""

import functools
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from absl import flags

from tff_hospitals.experiments import command

FLAGS = flags.FLAGS

MODELS: dict[str, tuple[str, str, tuple[int, ...], dict[str, Any]]] = {
    "mlp": ("MLP 784-200-10", "mlp", (784,), {"hidden_units": (200,)}),
    "cnn": ("CNN 16/32 conv 3x3, dense 128", "cnn", (28, 28, 1), {"norm": "none"}),
    "cnn_group_norm": ("the same with GroupNorm", "cnn", (28, 28, 1), {}),
}
# The largest batch for TensorFlow Privacy: with more, its vectorised convolutions take over 20 GB.
TENSORFLOW_PRIVACY_BATCH = {"mlp": 256, "cnn": 64}
AIMS = {"mlp_dp_over_sgd": 1.5, "cnn_dp_over_sgd": 1.8}
RATE, CLIP_NORM, NOISE_MULTIPLIER = 0.1, 1.0, 1.1
WAYS = {"SGD": "sgd", "DP-SGD": "dp", "DP-SGD without noise": "gradient"}
XLA = {False: "", True: ", XLA"}


def own_ways(model: Any, batch: int) -> dict[str, Callable[[], Any]]:
    """A step by name: SGD, DP-SGD and DP-SGD without noise, each without and with XLA."""
    import numpy as np
    import tensorflow as tf

    from tff_hospitals.models import clipped_gradient_sum
    from tff_hospitals.processes.noise import unit_normals

    key = tf.constant([1, 2], tf.int64)
    weights = tuple(tf.constant(value) for value in model.initial_weights(key.numpy())[0])
    sizes = [spec.shape.num_elements() for spec in model.trainable_specs]
    generator = np.random.default_rng(0)
    features = tf.constant(generator.random((batch, *model.feature_shape), dtype=np.float32))
    labels = tf.constant(generator.integers(0, model.num_classes, batch))
    mask = tf.ones([batch])

    def sgd(weights: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            outputs = model.predict(weights, (), features, training=True)
            loss = tf.reduce_mean(model.per_record_loss(outputs, labels))
        return [weight - RATE * gradient for weight, gradient in zip(weights, tape.gradient(loss, weights))]

    def clipped(weights: Any) -> Any:
        total, _, _ = clipped_gradient_sum(model, weights, (), features, labels, mask, CLIP_NORM)
        return [weight - RATE / batch * gradient for weight, gradient in zip(weights, total)]

    def private(weights: Any, noise: Any) -> Any:
        scale = RATE / batch * NOISE_MULTIPLIER * CLIP_NORM
        pieces = tf.split(noise, sizes)
        return [moved - scale * tf.reshape(one, moved.shape) for moved, one in zip(clipped(weights), pieces)]

    # Outside the compiled step, as the runtimes draw it: XLA makes other numbers of the same key.
    draw = tf.function(lambda key: unit_normals(key, [sum(sizes)]))

    def drawn_and_stepped(step: Callable[..., Any]) -> Any:
        return step(weights, draw(key))

    ways: dict[str, Callable[[], Any]] = {}
    for compiled, suffix in XLA.items():
        plain = tf.function(sgd, jit_compile=compiled)
        noiseless = tf.function(clipped, jit_compile=compiled)
        step = tf.function(private, jit_compile=compiled)
        ways[f"SGD{suffix}"] = functools.partial(plain, weights)
        ways[f"DP-SGD without noise{suffix}"] = functools.partial(noiseless, weights)
        ways[f"DP-SGD{suffix}"] = functools.partial(drawn_and_stepped, step)
    return ways


def tensorflow_privacy_way(model: Any, batch: int) -> Callable[[], Any]:
    """A step with TensorFlow Privacy's vectorised Keras optimizer, one microbatch per record."""
    import numpy as np
    import tensorflow as tf
    import tensorflow_privacy

    network = model.keras_model(*model.initial_weights(np.array([1, 2], np.int64)))
    optimizer = tensorflow_privacy.VectorizedDPKerasSGDOptimizer(
        l2_norm_clip=CLIP_NORM, noise_multiplier=NOISE_MULTIPLIER, num_microbatches=batch, learning_rate=RATE
    )
    generator = np.random.default_rng(0)
    features = tf.constant(generator.random((batch, *model.feature_shape), dtype=np.float32))
    labels = tf.constant(generator.integers(0, model.num_classes, batch))

    @tf.function
    def step() -> Any:
        with tf.GradientTape(persistent=True) as tape:
            losses = model.per_record_loss(network(features, training=True), labels)
        pairs = optimizer._compute_gradients(losses, network.trainable_variables, tape=tape)
        optimizer.apply_gradients(pairs)
        return [network.trainable_variables[0].value()]

    return step


def median_seconds(ways: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """The median time of each way; repetitions alternate between the ways."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(-2, repetitions):  # the first two compile and warm up
        for name, way in ways.items():
            start = time.perf_counter()
            way()[0].numpy()
            if repetition >= 0:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def figures_of(model: Any, batch: int, repetitions: int, privacy_batch: int) -> dict[str, Any]:
    """Seconds of every way, and the ratios of the faster variants; TensorFlow Privacy at a batch of its own."""
    seconds = median_seconds(own_ways(model, batch), repetitions)
    best = {way: min(seconds[way + suffix] for suffix in XLA.values()) for way in WAYS}
    ratios = {f"{short}_over_sgd": best[way] / best["SGD"] for way, short in WAYS.items() if way != "SGD"}
    if privacy_batch:
        name = f"TensorFlow Privacy, vectorised, batch {privacy_batch}"
        base = f"SGD, batch {privacy_batch}"
        few = median_seconds(
            {base: own_ways(model, privacy_batch)["SGD"], name: tensorflow_privacy_way(model, privacy_batch)}, 3
        )
        seconds.update(few)
        ratios["tensorflow_privacy_over_sgd"] = few[name] / few[base]
        ratios["tensorflow_privacy_batch"] = privacy_batch
    return {"seconds": seconds, **ratios}


def define_flags() -> None:
    """Flags of the measurement."""
    flags.DEFINE_string("json", None, "file for the figures; without it they are only printed")
    flags.DEFINE_integer("batch", 256, "records of a batch", lower_bound=1)
    flags.DEFINE_integer("repetitions", 40, "timed repetitions of each way", lower_bound=3)
    flags.DEFINE_list("models", ["mlp", "cnn", "cnn_group_norm"], "which models to time")
    flags.DEFINE_bool("tensorflow_privacy", True, "also time TensorFlow Privacy (a few repetitions: it takes seconds)")


def run() -> None:
    """Measures all models, prints a Markdown table, writes the figures."""
    import tensorflow as tf

    from tff_hospitals.foundations import files
    from tff_hospitals.models import ModelSignature, build_model
    from tff_hospitals.models.per_record import method_for

    rows: dict[str, Any] = {}
    for short in FLAGS.models:
        title, name, shape, options = MODELS[short]
        model = build_model(name, ModelSignature(shape, 10, "multiclass"), **options)
        rows[short] = {"title": title, "parameters": model.parameters, "method": method_for(model)[1]}
        beside = min(FLAGS.batch, TENSORFLOW_PRIVACY_BATCH.get(short, 0)) if FLAGS.tensorflow_privacy else 0
        rows[short].update(figures_of(model, FLAGS.batch, FLAGS.repetitions, beside))
    print(f"Batch {FLAGS.batch}, medians of {FLAGS.repetitions} alternating repetitions, milliseconds\n")
    print("| model | SGD | SGD, XLA | DP-SGD | DP-SGD, XLA | DP-SGD / SGD | without noise | TensorFlow Privacy / SGD |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows.values():
        times = [f"{1e3 * row['seconds'][way]:.2f}" for way in ("SGD", "SGD, XLA", "DP-SGD", "DP-SGD, XLA")]
        beside = "-"
        if "tensorflow_privacy_over_sgd" in row:
            beside = f"{row['tensorflow_privacy_over_sgd']:.0f} (batch {row['tensorflow_privacy_batch']})"
        cells = [*times, f"{row['dp_over_sgd']:.2f}", f"{row['gradient_over_sgd']:.2f}", beside]
        print(f"| {row['title']} | {' | '.join(cells)} |")
    figures = {f"{short}_dp_over_sgd": row["dp_over_sgd"] for short, row in rows.items()}
    aims = {name: figures[name] <= most for name, most in AIMS.items() if name in figures}
    print()
    for name, met in aims.items():
        print(f"{'met   ' if met else 'MISSED'} {name} {figures[name]:.2f}, aim at most {AIMS[name]}")
    if FLAGS.json:
        machine = {"machine": platform.machine(), "python": platform.python_version(), "tensorflow": tf.__version__}
        head = {"schema_version": 1, "batch": FLAGS.batch, "repetitions": FLAGS.repetitions, "machine": machine}
        files.write_json(FLAGS.json, {**head, **figures, "aims": aims, "models": rows})
    sys.exit(0 if all(aims.values()) else 1)


if __name__ == "__main__":
    command.main()
