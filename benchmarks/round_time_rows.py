"""The programs that `round_time.py` measures: one per child process, named by its argument."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import paired

from tff_hospitals.foundations import quiet

RECORDS, BATCH, RATE = 200, 20, 0.1
Measure = Callable[[], float]


def _plan(rounds: int = 10_000, **changes: Any) -> Any:
    from tff_hospitals.plan.plan import Plan

    client = {"local_steps": None, "local_epochs": 1, "batch_size": BATCH, "learning_rate": RATE}
    return Plan().replace(rounds=rounds, client=client).replace(**changes)


def ours(plan: Any, dataset: Any, runtime: str, rounds_per_call: int = 1, options: Any = None) -> Measure:
    """Seconds per round of this package: batches are drawn, rounds run, metrics come back.

    What is left open is settled as for a run of all rounds of the plan.
    """
    import numpy as np

    from tff_hospitals.foundations.random_streams import Streams
    from tff_hospitals.plan import noise as noise_plan
    from tff_hospitals.processes import composition
    from tff_hospitals.runtimes import RUNTIMES, build_runtime
    from tff_hospitals.training.drawn_ahead import DrawnAhead
    from tff_hospitals.training.loop import build_model
    from tff_hospitals.training.round_inputs import RoundDrawer

    model = build_model(plan, dataset)
    parts = composition.compose(plan, dataset, model)
    noise = noise_plan.make(plan, dataset)
    weights, frozen = model.initial_weights(np.array([1, 2], np.int64))
    drawer = RoundDrawer(plan, dataset, noise, at_workers=RUNTIMES[runtime].draws_rounds)
    ahead = DrawnAhead(drawer.draw)
    options = dict(options or {})
    if runtime == "compiled":
        options["expected_records"] = plan.rounds * drawer.records_per_round
    executor = build_runtime(runtime, parts, dataset, frozen, **options)
    kept: dict[str, Any] = {
        "state": parts.initial_state(weights, Streams.from_seed(1), noise.server_multiplier),
        "round": 0,
    }

    def measure() -> float:
        started = time.perf_counter()
        first = kept["round"]
        inputs = ahead.rounds(first, first + rounds_per_call, plan.rounds)
        if not first:
            executor.settle(kept["state"], inputs)
        kept["state"], _ = executor.run_rounds(kept["state"], inputs)
        kept["round"] = first + rounds_per_call
        return (time.perf_counter() - started) / rounds_per_call

    measure()
    measure()
    return measure


def _images(sites: int) -> Any:
    from tff_hospitals.hospitals import load_dataset

    return load_dataset("synthetic", sites=sites, records_per_site=RECORDS, features=784, num_classes=10)


_MLP: dict[str, Any] = {"model": {"name": "mlp", "options": {"hidden_units": [200]}}}


def mlp_plan() -> Any:
    """The plan of the rows that begin with mlp: one epoch of batches of 20, MLP with 200 hidden units."""
    return _plan(**_MLP)


def mlp_compiled(sites: int) -> Measure:
    """MLP 784-200-10, compiled."""
    return ours(mlp_plan(), _images(sites), "compiled")


def mlp_fused_compiled(sites: int) -> Measure:
    """The same as whole rounds in one XLA program."""
    return ours(mlp_plan(), _images(sites), "compiled", options={"strategy": "fused"})


def mlp_scanned_compiled(sites: int) -> Measure:
    """The same in chunks, each scanned by an XLA program, as many at once as there are cores."""
    return ours(mlp_plan(), _images(sites), "compiled", options={"strategy": "scanned"})


def mlp_side_by_side_compiled(sites: int) -> Measure:
    """The same hospital by hospital without XLA, as many at once as there are cores."""
    return ours(mlp_plan(), _images(sites), "compiled", options={"strategy": "side_by_side"})


def mlp_cluster(sites: int) -> Measure:
    """The same on the workers of a Ray cluster that is started on this machine."""
    options = {"records_per_site": RECORDS, "features": 784, "num_classes": 10}
    plan = _plan(data={"name": "synthetic", "sites": sites, "options": options}, **_MLP)
    return ours(plan, _images(sites), "cluster", options={"plan": plan})


def mlp_native(sites: int) -> Measure:
    """MLP 784-200-10, native with its best settings."""
    return ours(mlp_plan(), _images(sites), "native")


def mlp_adaptive(sites: int) -> Measure:
    """MLP 784-200-10, compiled, adaptive clipping at the server."""
    privacy = {"mechanism": "adaptive_clip", "noise_multiplier": 0.5, "clip_norm": 1.0}
    return ours(_plan(weighting="equal", privacy=privacy, **_MLP), _images(sites), "compiled")


def _wide(mechanism: str, sites: int) -> Measure:
    """MLP 784-1250-10 (993,760 parameters), compiled, cyclic cohorts of half of the hospitals, noise at the server."""
    plan = _plan(
        1000,
        weighting="equal",
        model={"name": "mlp", "options": {"hidden_units": [1250]}},
        cohort={"kind": "cyclic", "hospitals_per_round": sites},
        privacy={"mechanism": mechanism, "noise_multiplier": 0.5, "clip_norm": 1.0},
    )
    return ours(plan, _images(2 * sites), "compiled")


def wide_fixed_clip(sites: int) -> Measure:
    """A million parameters, independent noise."""
    return _wide("fixed_clip", sites)


def wide_blt(sites: int) -> Measure:
    """A million parameters, noise that three buffers take back."""
    return _wide("blt", sites)


def mlp_jax(sites: int) -> Measure:
    """The bare limit: the same arithmetic as one hand-written JAX program that scans over sites."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    dataset = _images(sites)
    features = jnp.asarray(np.stack([hospital.train.features for hospital in dataset.hospitals]))
    labels = jnp.asarray(np.stack([hospital.train.labels for hospital in dataset.hospitals]))
    generator = np.random.default_rng(0)

    def loss(weights: Any, x: Any, y: Any) -> Any:
        hidden = jax.nn.relu(x @ weights[0] + weights[1])
        log_probabilities = jax.nn.log_softmax(hidden @ weights[2] + weights[3])
        return -jnp.mean(jnp.take_along_axis(log_probabilities, y[:, None], 1))

    def site(weights: Any, x: Any, y: Any, batches: Any) -> Any:
        def step(current: Any, batch: Any) -> Any:
            gradients = jax.grad(loss)(current, x[batch], y[batch])
            return [w - RATE * g for w, g in zip(current, gradients)], None

        final, _ = jax.lax.scan(step, weights, batches)
        return [start - end for start, end in zip(weights, final)]

    @jax.jit
    def one_round(weights: Any, batches: Any) -> Any:
        def add(total: Any, one: Any) -> Any:
            return [a + b for a, b in zip(total, site(weights, *one))], None

        total, _ = jax.lax.scan(add, [jnp.zeros_like(w) for w in weights], (features, labels, batches))
        return [w - d / sites for w, d in zip(weights, total)]

    shapes = [(784, 200), (200,), (200, 10), (10,)]
    kept = {"weights": [jnp.asarray(0.05 * generator.normal(size=shape), jnp.float32) for shape in shapes]}

    def measure() -> float:
        started = time.perf_counter()
        order = np.argsort(generator.random((sites, RECORDS)), axis=1).reshape(sites, -1, BATCH)
        kept["weights"] = one_round(kept["weights"], jnp.asarray(order))
        kept["weights"][0].block_until_ready()
        return time.perf_counter() - started

    measure()
    measure()
    return measure


def mlp_tutorial(sites: int) -> Measure:
    """TFF as its tutorial writes it: tf.data batches, `build_weighted_fed_avg`, the local executor (through our
    worker).
    """
    quiet.allow_deep_protocol_buffers()
    import tensorflow as tf
    import tensorflow_federated as tff

    from tff_hospitals.runtimes.native.runtime import shared_context

    dataset = _images(sites)
    data = [
        tf.data.Dataset.from_tensor_slices((h.train.features, h.train.labels.reshape(-1, 1)))
        .shuffle(RECORDS)
        .batch(BATCH)
        for h in dataset.hospitals
    ]

    def model_fn() -> Any:
        keras = tf.keras.Sequential(
            [
                tf.keras.layers.InputLayer((784,)),
                tf.keras.layers.Dense(200, activation="relu"),
                tf.keras.layers.Dense(10),
            ]
        )
        return tff.learning.models.from_keras_model(
            keras,
            input_spec=data[0].element_spec,
            loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )

    process = tff.learning.algorithms.build_weighted_fed_avg(
        model_fn,
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(RATE),
        server_optimizer_fn=tff.learning.optimizers.build_sgdm(1.0),
    )
    contexts, context = tff.framework.get_context_stack(), shared_context().context
    with contexts.install(context):
        kept = {"state": process.initialize()}

    def measure() -> float:
        with contexts.install(context):
            started = time.perf_counter()
            kept["state"] = process.next(kept["state"], data).state
            return time.perf_counter() - started

    measure()
    measure()
    return measure


def _pictures(sites: int) -> Any:
    import dataclasses

    from tff_hospitals.hospitals import Hospital, Part

    flat = _images(sites)

    def part(one: Any) -> Any:
        return Part(one.features.reshape(-1, 28, 28, 1), one.labels)

    hospitals = tuple(Hospital(h.hospital_id, part(h.train), part(h.test)) for h in flat.hospitals)
    return dataclasses.replace(flat, hospitals=hospitals, feature_shape=(28, 28, 1), feature_names=())


_CNN: dict[str, Any] = {"model": {"name": "cnn", "options": {"filters": [16, 32], "dense_units": 128, "norm": "none"}}}


def cnn_compiled(sites: int) -> Measure:
    """CNN of 16 and 32 convolutions 3x3 and a dense layer of 128, on 28x28 pictures, compiled."""
    return ours(_plan(**_CNN), _pictures(sites), "compiled")


def cnn_tf(sites: int) -> Measure:
    """The same arithmetic as a plain TensorFlow loop: one compiled training step, sites and batches in Python."""
    import numpy as np
    import tensorflow as tf

    from tff_hospitals.training.loop import build_model

    dataset = _pictures(sites)
    model = build_model(_plan(**_CNN), dataset)
    weights, frozen = model.initial_weights(np.array([1, 2], np.int64))
    keras = model.keras_model(weights, frozen)
    data = [(tf.constant(h.train.features), tf.constant(h.train.labels)) for h in dataset.hospitals]
    generator = np.random.default_rng(0)

    @tf.function
    def step(x: Any, y: Any, batch: Any) -> None:
        with tf.GradientTape() as tape:
            logits = keras(tf.gather(x, batch), training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.gather(y, batch), logits))
        for variable, gradient in zip(keras.trainable_variables, tape.gradient(loss, keras.trainable_variables)):
            variable.assign_sub(RATE * gradient)

    def measure() -> float:
        started = time.perf_counter()
        start = [variable.numpy() for variable in keras.trainable_variables]
        total = [np.zeros_like(value) for value in start]
        for x, y in data:
            for variable, value in zip(keras.trainable_variables, start):
                variable.assign(value)
            for batch in generator.permutation(RECORDS).reshape(-1, BATCH):
                step(x, y, tf.constant(batch))
            total = [t + s - v.numpy() for t, s, v in zip(total, start, keras.trainable_variables)]
        for variable, value, change in zip(keras.trainable_variables, start, total):
            variable.assign(value - change / sites)
        return time.perf_counter() - started

    measure()
    measure()
    return measure


def _heart(runtime: str, rounds_per_call: int) -> Measure:
    from tff_hospitals.experiments.presets import preset
    from tff_hospitals.hospitals import load_dataset

    plan = preset("heart_disease").replace(rounds=10_000)
    return ours(plan, load_dataset("heart_disease"), runtime, rounds_per_call)


def heart_compiled(sites: int) -> Measure:
    """Heart disease, logistic regression, 100 local steps of 4, four hospitals; as many rounds per call as between
    evaluations.
    """
    return _heart("compiled", 16)


def heart_native(sites: int) -> Measure:
    """The same in TFF's own executor with its best settings."""
    return _heart("native", 1)


ROWS = {
    function.__name__: function
    for function in (
        mlp_compiled,
        mlp_fused_compiled,
        mlp_scanned_compiled,
        mlp_side_by_side_compiled,
        mlp_cluster,
        mlp_native,
        mlp_adaptive,
        wide_fixed_clip,
        wide_blt,
        mlp_jax,
        mlp_tutorial,
        cnn_compiled,
        cnn_tf,
        heart_compiled,
        heart_native,
    )
}

if __name__ == "__main__":
    quiet.be_quiet()
    if sys.argv[1].endswith(("_compiled", "_cluster", "_adaptive", "_clip", "_blt")):
        quiet.one_thread_per_operation()  # as the scripts do
    paired.serve(lambda: ROWS[sys.argv[1]](int(sys.argv[2])))
