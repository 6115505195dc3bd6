"""The programs that `peers.py` measures, each in its library's environment: named by the first argument.

Every library is used through its documented interface, in the way that its own examples recommend for one machine
without accelerators.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import peers_work


def compiled(sites: int) -> None:
    """This package as its scripts run it: one round per call; batches are drawn, metrics come back."""
    from tff_hospitals.foundations import quiet

    quiet.one_thread_per_operation()
    _ours(sites)


def python(sites: int) -> None:
    """This package as somebody's own Python runs it, after TensorFlow was imported."""
    import tensorflow  # noqa: F401  # the order that is hardest for us

    _ours(sites)


def _ours(sites: int) -> None:
    import dataclasses

    import numpy as np
    import round_time_rows

    from tff_hospitals.foundations import quiet
    from tff_hospitals.foundations.random_streams import Streams
    from tff_hospitals.hospitals import Hospital, Part, load_dataset
    from tff_hospitals.plan import noise as noise_plan
    from tff_hospitals.processes import composition
    from tff_hospitals.runtimes import build_runtime
    from tff_hospitals.training.drawn_ahead import DrawnAhead
    from tff_hospitals.training.loop import build_model
    from tff_hospitals.training.round_inputs import RoundDrawer

    quiet.be_quiet()
    features, classes = peers_work.FEATURES, peers_work.CLASSES
    made = load_dataset("synthetic", sites=sites, records_per_site=1, features=features, num_classes=classes)
    hospitals = tuple(
        Hospital(one.hospital_id, Part(x, y.astype(np.int64)), one.test)
        for one, (x, y) in zip(made.hospitals, map(peers_work.site_records, range(sites)))
    )
    dataset = dataclasses.replace(made, hospitals=hospitals)
    plan = round_time_rows.mlp_plan()
    model = build_model(plan, dataset)
    parts = composition.compose(plan, dataset, model)
    _, frozen = model.initial_weights(np.array([1, 2], np.int64))
    noise = noise_plan.make(plan, dataset)
    ahead = DrawnAhead(RoundDrawer(plan, dataset, noise).draw)
    executor = build_runtime("compiled", parts, dataset, frozen)
    state = parts.initial_state(tuple(peers_work.first_weights()), Streams.from_seed(1), noise.server_multiplier)
    kept: dict[str, Any] = {"state": state, "round": 0}

    def one_round() -> None:
        number = kept["round"]
        kept["state"], _ = executor.run_rounds(kept["state"], ahead.rounds(number, number + 1, plan.rounds))
        kept["round"] = number + 1

    peers_work.repeat(sites, one_round, lambda: [np.asarray(one) for one in kept["state"].weights])


def by_hand_xla(sites: int) -> None:
    """The limit of TensorFlow with XLA: the same arithmetic with hand-written gradients and nothing around it."""
    _by_hand(sites, compiled=True)


def by_hand(sites: int) -> None:
    """The limit of TensorFlow without XLA, whose matrix products are oneDNN's."""
    _by_hand(sites, compiled=False)


def _by_hand(sites: int, *, compiled: bool) -> None:
    """One program for as many sites as a core has, on every core at once."""
    import concurrent.futures
    import os

    os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import numpy as np
    import tensorflow as tf

    cores = min(len(os.sched_getaffinity(0)), sites)
    steps = peers_work.RECORDS // peers_work.BATCH

    def step(weights: Any, x: Any, y: Any) -> list[Any]:
        before = x @ weights[0] + weights[1]
        hidden = tf.nn.relu(before)
        towards = (
            tf.nn.softmax(hidden @ weights[2] + weights[3]) - tf.one_hot(y, peers_work.CLASSES)
        ) / peers_work.BATCH
        back = tf.matmul(towards, weights[2], transpose_b=True) * tf.cast(before > 0, tf.float32)
        gradients = [tf.matmul(x, back, transpose_a=True), tf.reduce_sum(back, 0)]
        gradients += [tf.matmul(hidden, towards, transpose_a=True), tf.reduce_sum(towards, 0)]
        return [weight - peers_work.RATE * gradient for weight, gradient in zip(weights, gradients)]

    def part(weights: Any, features: Any, labels: Any, batches: Any) -> Any:
        def site(number: Any, total: Any) -> Any:
            def one(place: Any, current: Any) -> Any:
                rows = tf.reshape(batches[number, place], [peers_work.BATCH])
                return place + 1, step(current, tf.gather(features[number], rows), tf.gather(labels[number], rows))

            _, trained = tf.while_loop(lambda place, _: place < steps, one, (0, list(weights)))
            return number + 1, [a + b for a, b in zip(total, trained)]

        zero = [tf.zeros_like(weight) for weight in weights]
        return tf.while_loop(lambda number, _: number < features.shape[0], site, (0, zero))[1]

    program = tf.function(part, jit_compile=compiled, autograph=False)
    records = [peers_work.site_records(number) for number in range(sites)]
    features, labels = (np.stack(one) for one in zip(*records))
    shares = np.array_split(np.arange(sites), cores)
    data = [(tf.constant(features[share]), tf.constant(labels[share])) for share in shares]
    generator = np.random.default_rng(0)
    kept: dict[str, Any] = {"weights": [tf.constant(one) for one in peers_work.first_weights()]}
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:

        def one_round() -> None:
            order = np.argsort(generator.random((sites, peers_work.RECORDS)), axis=1)
            batches = order.reshape(sites, steps, peers_work.BATCH).astype(np.int32)
            work = [(kept["weights"], *own, tf.constant(batches[share])) for own, share in zip(data, shares)]
            parts = list(pool.map(lambda arguments: program(*arguments), work))
            kept["weights"] = [sum(one) / sites for one in zip(*parts)]

        peers_work.repeat(sites, one_round, lambda: [one.numpy() for one in kept["weights"]])


def jax_devices(sites: int) -> None:
    """The limit: the same arithmetic as one program of JAX, sites divided among as many host devices as cores.

    `shard_map` over the devices, a scan over the sites of each, a scan over the steps of a site inside, and the mean of
    all of them.
    """
    import os

    devices = len(os.sched_getaffinity(0))
    devices = max(count for count in range(1, devices + 1) if sites % count == 0)
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    import jax
    import jax.numpy as jnp
    import numpy as np

    today: Any = jax  # which has more than the version beside TensorFlow Federated
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    def loss(weights: Any, x: Any, y: Any) -> Any:
        hidden = jax.nn.relu(x @ weights[0] + weights[1])
        log_probabilities = jax.nn.log_softmax(hidden @ weights[2] + weights[3])
        return -jnp.mean(jnp.take_along_axis(log_probabilities, y[:, None], 1))

    def site(weights: Any, x: Any, y: Any, batches: Any) -> Any:
        def step(current: Any, batch: Any) -> Any:
            gradients = jax.grad(loss)(current, x[batch], y[batch])
            return [w - peers_work.RATE * g for w, g in zip(current, gradients)], None

        return jax.lax.scan(step, weights, batches)[0]

    def of_device(weights: Any, features: Any, labels: Any, batches: Any) -> Any:
        own = [today.lax.pcast(one, "sites", to="varying") for one in weights]

        def add(total: Any, one: Any) -> Any:
            return [a + b for a, b in zip(total, site(own, *one))], None

        total, _ = jax.lax.scan(add, [jnp.zeros_like(one) for one in own], (features, labels, batches))
        return [jax.lax.psum(one, "sites") / sites for one in total]

    mesh = Mesh(np.array(jax.devices()), ("sites",))
    whole, shared = PartitionSpec(), PartitionSpec("sites")
    one_round_of = jax.jit(
        today.shard_map(of_device, mesh=mesh, in_specs=(whole, shared, shared, shared), out_specs=whole)
    )
    records = [peers_work.site_records(number) for number in range(sites)]
    features, labels = (jax.device_put(np.stack(one), NamedSharding(mesh, shared)) for one in zip(*records))
    generator = np.random.default_rng(0)
    kept: dict[str, Any] = {"weights": [jnp.asarray(one) for one in peers_work.first_weights()]}

    def one_round() -> None:
        order = np.argsort(generator.random((sites, peers_work.RECORDS)), axis=1)
        batches = order.reshape(sites, -1, peers_work.BATCH).astype(np.int32)
        kept["weights"] = one_round_of(kept["weights"], features, labels, batches)
        jax.block_until_ready(kept["weights"])

    peers_work.repeat(sites, one_round, lambda: kept["weights"])


def fedjax(sites: int) -> None:
    """FedJAX: `fedjax.algorithms.fed_avg` with its `for_each_client` of jitted steps, its choice for one device."""
    import fedjax
    import jax
    import jax.numpy as jnp
    from fedjax.algorithms import fed_avg

    def loss(weights: Any, batch: Any, rng: Any) -> Any:
        del rng
        hidden = jax.nn.relu(batch["x"] @ weights[0] + weights[1])
        log_probabilities = jax.nn.log_softmax(hidden @ weights[2] + weights[3])
        return -jnp.mean(jnp.take_along_axis(log_probabilities, batch["y"][:, None], 1))

    algorithm = fed_avg.federated_averaging(
        jax.grad(loss),
        client_optimizer=fedjax.optimizers.sgd(peers_work.RATE),
        server_optimizer=fedjax.optimizers.sgd(1.0),
        client_batch_hparams=fedjax.ShuffleRepeatBatchHParams(batch_size=peers_work.BATCH, num_epochs=1),
    )
    data = [fedjax.ClientDataset(dict(zip("xy", peers_work.site_records(site)))) for site in range(sites)]
    first = [jnp.asarray(one) for one in peers_work.first_weights()]
    kept = {"state": algorithm.init(first), "key": jax.random.PRNGKey(0)}

    def one_round() -> None:
        kept["key"], *keys = jax.random.split(kept["key"], sites + 1)
        clients = [(b"%d" % site, data[site], keys[site]) for site in range(sites)]
        kept["state"], _ = algorithm.apply(kept["state"], clients)
        jax.block_until_ready(kept["state"].params)

    peers_work.repeat(sites, one_round, lambda: kept["state"].params)


def pfl(sites: int) -> None:
    """pfl-research on PyTorch: `FederatedAveraging` over a `SimulatedBackend` in one process.

    Its in-memory data sets hand out records in their order, so the data set that is made for a sampled user is
    permuted. One thread: with batches this small two are no faster, and many times slower if another program runs.
    """
    import torch
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam.base import NNTrainHyperParams
    from pfl.metrics import Metrics, Weighted
    from pfl.model.pytorch import PyTorchModel

    torch.set_num_threads(1)

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            first, first_bias, second, second_bias = map(torch.from_numpy, peers_work.first_weights())
            self.hidden = torch.nn.Linear(peers_work.FEATURES, peers_work.HIDDEN)
            self.logits = torch.nn.Linear(peers_work.HIDDEN, peers_work.CLASSES)
            with torch.no_grad():
                self.hidden.weight.copy_(first.T)
                self.hidden.bias.copy_(first_bias)
                self.logits.weight.copy_(second.T)
                self.logits.bias.copy_(second_bias)

        def forward(self, x: Any) -> Any:
            return self.logits(torch.relu(self.hidden(x)))

        def loss(self, x: Any, y: Any) -> Any:
            return torch.nn.functional.cross_entropy(self(x), y)

        @torch.no_grad()
        def metrics(self, x: Any, y: Any) -> Any:
            return {"loss": Weighted(float(self.loss(x, y)) * len(y), len(y))}

    records = [tuple(map(torch.from_numpy, peers_work.site_records(site))) for site in range(sites)]
    records = [(x, y.long()) for x, y in records]

    def user(site: int) -> Any:
        order = torch.randperm(peers_work.RECORDS)
        return PyTorchTensorDataset(tuple(one[order] for one in records[site]), user_id=str(site))

    def users() -> Any:
        return FederatedDataset(user, get_user_sampler("minimize_reuse", list(range(sites))))

    network = Network()
    model = PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), 1.0))
    turns = peers_work.Turns(sites)

    def weights() -> Any:
        found = [network.hidden.weight.T, network.hidden.bias, network.logits.weight.T, network.logits.bias]
        return [one.detach().numpy() for one in found]

    class AfterRound(TrainingProcessCallback):
        def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> Any:
            return not turns.round_done(weights), Metrics()

    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=10**9, evaluation_frequency=10**9, train_cohort_size=sites, val_cohort_size=None
        ),
        SimulatedBackend(users(), users()),
        model,
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=peers_work.RATE, local_batch_size=peers_work.BATCH),
        callbacks=[AfterRound()],
    )


def flower(sites: int) -> None:
    """Flower: see `peers_flower`."""
    import peers_flower

    peers_flower.flower(sites)


_BY_THEIR_NAMES = (compiled, python, by_hand_xla, by_hand, fedjax, pfl, flower)
ROWS = {"jax": jax_devices, **{function.__name__: function for function in _BY_THEIR_NAMES}}

if __name__ == "__main__":
    ROWS[sys.argv[1]](int(sys.argv[2]))
