"""Learning processes for TFF programs: what they compute, promise and refuse."""

from __future__ import annotations

import collections
import functools
import json
import types

import numpy as np
import pytest
import toy

import tff_hospitals
from tff_hospitals import models
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow
ROUNDS = 2
PLAN = Plan().replace(
    rounds=ROUNDS,
    client={"local_steps": None, "local_epochs": 1, "batch_size": 32, "learning_rate": 0.1},
    privacy={"clip_norm": 0.5, "delta": 1e-2},
)
HOSPITAL_LEVEL = PLAN.replace(weighting="equal")


@pytest.fixture(scope="module")
def context():
    from tff_hospitals.runtimes.native.context import native_context

    with native_context() as made:
        yield made


@functools.cache
def hospitals():
    return toy.hospitals()


def keras_model():
    import tensorflow as tf

    return tf.keras.Sequential([tf.keras.Input((5,)), tf.keras.layers.Dense(1, name="output")])


def records(part):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((part.features, part.labels))


def batches(dataset, size=32):
    return [records(one.train).batch(size) for one in dataset]


def run(process, data, rounds=ROUNDS):
    state, results = process.initialize(), []
    for _ in range(rounds):
        result = process.next(state, data)
        state = result.state
        results.append(result)
    return state, results


def weights_of(process, state):
    return [np.asarray(weight) for weight in process.get_model_weights(state).trainable]


# -- the same training as everywhere ---------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"server": {"momentum": 0.9}, "client": {"momentum": 0.5, "proximal_mu": 0.1, "local_epochs": 2}},
        {"client": {"optimizer": "adam", "learning_rate_schedule": "inverse_sqrt"}, "server": {"optimizer": "adam"}},
        {"weighting": "equal", "privacy": {"mechanism": "fixed_clip", "noise_multiplier": 0.3}},
        {"weighting": "equal", "privacy": {"mechanism": "tree", "noise_multiplier": 0.3}},
    ],
    ids=["momentum", "adam", "fixed clip", "tree"],
)
def test_a_process_equals_the_compiled_runtime_where_both_have_the_same_batches(context, changes):
    """Batches are whole hospitals: the order of records is the only thing that differs."""
    plan, dataset = PLAN.replace(**changes), hospitals()
    process = tff_hospitals.build_learning_process("logistic_regression", plan, clients=dataset)
    data = [records(one.train).batch(32).repeat(plan.client.local_epochs) for one in dataset]
    state, results = run(process, data)
    expected = train(plan, dataset)
    for mine, theirs in zip(weights_of(process, state), expected.weights):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
    private = plan.privacy.mechanism != "none"
    seen = results[0].metrics["client_work"]["train"]
    assert bool(seen) != private  # exact sums over records are in no guarantee
    if not private:
        assert int(seen["num_examples"]) == 40 * plan.client.local_epochs
        assert int(seen["num_batches"]) == 3 * plan.client.local_epochs


@pytest.mark.slow
def test_processes_of_two_plans_or_two_models_do_not_share_the_server_s_noise(context):
    """The same seed everywhere: what is common to two models would take the noise off both."""

    def key_of(plan, clients, model="logistic_regression"):
        process = tff_hospitals.build_learning_process(model, plan, clients=clients)
        return tuple(np.asarray(process.initialize().aggregator["key"]).tolist())

    dataset = hospitals()
    private = HOSPITAL_LEVEL.replace(privacy={"mechanism": "fixed_clip", "noise_multiplier": 0.3})
    louder = private.replace(privacy={"noise_multiplier": 0.6})
    keys = [key_of(private, dataset), key_of(louder, dataset), key_of(private, dataset)]
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]
    others = [key_of(private, dataset, model) for model in (keras_model, softmax_model, variable_model)]
    assert len({keys[0], *others}) == 4  # one plan, four models


def test_a_keras_function_starts_where_the_seed_says_and_takes_weights_and_rates(context):
    import tensorflow as tf

    spec = collections.OrderedDict(x=tf.TensorSpec([None, 5], tf.float32), y=tf.TensorSpec([None, 1], tf.int32))
    process = tff_hospitals.build_learning_process(keras_model, PLAN, input_spec=spec)
    again = tff_hospitals.build_learning_process(keras_model, PLAN.replace(seed=7), input_spec=spec)
    first, other = process.initialize(), again.initialize()
    (kernel, bias), (other_kernel, _) = weights_of(process, first), weights_of(again, other)
    assert np.abs(kernel).max() > 0
    assert np.abs(kernel - other_kernel).max() > 0
    np.testing.assert_array_equal(weights_of(process, process.initialize())[0], kernel)

    def as_dict(features, labels):
        return collections.OrderedDict(x=features, y=tf.cast(labels[:, tf.newaxis], tf.int32))

    data = [dataset.map(as_dict) for dataset in batches(hospitals(), 8)]
    after = process.next(first, data).state
    assert np.abs(weights_of(process, after)[0] - kernel).max() > 0
    back = process.set_model_weights(after, process.get_model_weights(first))
    np.testing.assert_array_equal(weights_of(process, back)[0], kernel)
    hparams = process.get_hparams(back)
    assert hparams == {"client_work": {"learning_rate": 0.1}, "finalizer": {"learning_rate": 1.0}}
    hparams["client_work"]["learning_rate"] = np.float64(0.0)
    still = process.next(process.set_hparams(back, hparams), data).state
    np.testing.assert_array_equal(weights_of(process, still)[0], kernel)
    model = keras_model()
    process.get_model_weights(first).assign_weights_to(model)
    np.testing.assert_array_equal(model.get_weights()[0], kernel)
    assert bias.shape == (1,)


def softmax_model():
    import tensorflow as tf

    return tf.keras.Sequential([tf.keras.Input((5,)), tf.keras.layers.Dense(2)])


def softmax_loss():
    import tensorflow as tf

    return tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def batch_spec():
    import tensorflow as tf

    return (tf.TensorSpec([None, 5], tf.float32), tf.TensorSpec([None], tf.int64))


def variable_model():
    import tensorflow_federated as tff

    return tff.learning.models.from_keras_model(softmax_model(), loss=softmax_loss(), input_spec=batch_spec())


def tff_functional_model():
    import tensorflow_federated as tff

    return tff.learning.models.functional_model_from_keras(softmax_model(), softmax_loss(), input_spec=batch_spec())


@pytest.mark.parametrize("kind", ["VariableModel", "FunctionalModel"])
def test_models_of_tff_train_by_their_own_client_work(context, kind):
    """Without privacy it is TFF's own federated averaging."""
    import tensorflow_federated as tff

    model = variable_model if kind == "VariableModel" else tff_functional_model()
    process = tff_hospitals.build_learning_process(model, PLAN)
    theirs = tff.learning.algorithms.build_weighted_fed_avg(
        model,
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.1),
        server_optimizer_fn=tff.learning.optimizers.build_sgdm(1.0),
    )
    start = process.initialize()
    state = theirs.set_model_weights(theirs.initialize(), process.get_model_weights(start))
    data = batches(hospitals(), 8)
    mine, expected = process.next(start, data), theirs.next(state, data)
    for one, other in zip(weights_of(process, mine.state), weights_of(theirs, expected.state)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert mine.metrics["client_work"]["train"] == pytest.approx(expected.metrics["client_work"]["train"])


# -- record-level privacy ----------------------------------------------------------


def test_poisson_batches_have_their_distribution_and_differ_from_call_to_call():
    import tensorflow as tf

    from tff_hospitals.tff import sampling

    steps, size, chance = 400, 30, 0.2
    drawn = sampling.poisson(
        tf.constant([3, 4], tf.int64), tf.constant(size), tf.constant(chance, tf.float64), tf.constant(steps)
    )
    indices, mask = drawn["indices"].numpy(), drawn["mask"].numpy()
    assert indices.shape == mask.shape == (steps, int(mask.sum(axis=1).max()))
    assert all(len(set(row[keep > 0])) == keep.sum() for row, keep in zip(indices, mask))  # no record twice in a step
    sizes = mask.sum(axis=1)
    assert abs(sizes.mean() - size * chance) < 4 * np.sqrt(size * chance * (1 - chance) / steps)
    assert 0.8 < sizes.var() / (size * chance * (1 - chance)) < 1.25  # fixed-size batches have variance 0
    counts = np.bincount(indices[mask > 0], minlength=size)
    assert abs(counts - steps * chance).max() < 5 * np.sqrt(steps * chance * (1 - chance))
    one, other = sampling.system_key().numpy(), sampling.system_key().numpy()
    assert (one != other).all()
    empty = sampling.poisson(
        tf.constant([3, 4], tf.int64), tf.constant(5), tf.constant(0.0, tf.float64), tf.constant(3)
    )
    assert empty["mask"].numpy().tolist() == [[0.0]] * 3


def test_batches_in_the_same_order_come_back_after_a_pass():
    import tensorflow as tf

    from tff_hospitals.tff import sampling

    drawn = sampling.same_order(tf.constant([3, 4], tf.int64), tf.constant(7), 3, tf.constant(6))
    indices, mask = drawn["indices"].numpy(), drawn["mask"].numpy()
    assert sorted(indices[:3][mask[:3] > 0].tolist()) == list(range(7))
    np.testing.assert_array_equal(indices[:3], indices[3:])
    np.testing.assert_array_equal(mask[:3], mask[3:])


def test_record_level_noise_has_the_planned_scale_and_is_fresh_for_every_client_and_round(context):
    """Records without features: only the bias has a gradient, so that the kernel moves by noise alone."""
    plan = PLAN.replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 0.8}, weighting="equal")
    dataset = toy.hospitals(sizes=(20, 20), shape=(200,), scale=0.0)
    process = tff_hospitals.build_learning_process("logistic_regression", plan, clients=dataset, record_copies=1)
    state, kernels = process.initialize(), []
    data = [records(one.train) for one in dataset]
    for _ in range(6):
        after = process.next(state, data).state
        kernels.append((weights_of(process, after)[0] - weights_of(process, state)[0]).ravel())
        state = after
    # One step with q = 1 at each of two clients: rate * multiplier * clip / expected batch / sqrt(2).
    expected = 0.1 * 0.8 * 0.5 / 20 / np.sqrt(2)
    found = np.std(kernels)
    assert expected * 0.9 < found < expected * 1.1  # the same draws at both clients would be sqrt(2) larger
    correlations = np.corrcoef(kernels)[np.triu_indices(6, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(200)


def test_a_client_that_was_not_accounted_for_gets_no_round(context):
    plan = PLAN.replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 0.8})
    sizes = {"north": 20, "south": 13}
    process = tff_hospitals.build_learning_process(keras_model, plan, clients=sizes, record_copies=1)
    known, _, stranger = (records(one.train) for one in hospitals())
    process.next(process.initialize(), [known])
    with pytest.raises(Exception, match="not among clients="):
        process.next(process.initialize(), [known, stranger])


# -- what is refused ---------------------------------------------------------------


def refusal(*arguments, **named):
    with pytest.raises(InvalidInput) as error:
        tff_hospitals.build_learning_process(*arguments, **named)
    text = str(error.value)
    assert len(text.splitlines()) <= 24
    assert "Remedy" in text
    return text


def test_what_a_promise_takes_for_granted_must_be_said():
    dp_sgd = PLAN.replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 0.8})
    text = refusal(keras_model, dp_sgd)
    assert "clients=None: is needed by a plan with privacy" in text
    assert "record_copies=None: is needed with record-level privacy" in text
    assert "record_copies=2: must be at most records_per_patient" in refusal(
        keras_model, dp_sgd, clients={"a": 20}, record_copies=2
    )
    poisson = HOSPITAL_LEVEL.replace(
        privacy={"mechanism": "fixed_clip", "noise_multiplier": 0.8},
        cohort={"kind": "poisson", "sampling_probability": 0.5},
    )
    assert "caller_samples=None: must say how clients are drawn" in refusal(keras_model, poisson, clients=hospitals())
    assert "caller_samples='all'" in refusal(keras_model, poisson, clients=hospitals(), caller_samples="all")
    assert "caller_samples='poisson': must be the plan's cohort kind" in refusal(
        keras_model, PLAN, caller_samples="poisson"
    )
    assert "error_feedback" in refusal(keras_model, PLAN.replace(upload="topk:0.5", error_feedback=True))


def test_models_that_do_not_fit_are_named():
    dp_sgd = PLAN.replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 0.8})
    assert "is a name" in refusal("mlp", PLAN)
    assert "must be a name, a function" in refusal(7, PLAN)
    assert "was made already" in refusal(keras_model(), PLAN)
    assert "returned int, no Keras model" in refusal(lambda: 7, PLAN)
    clips = refusal(variable_model, dp_sgd, clients={"a": 20}, record_copies=1)
    assert "clips the gradient of every record" in clips
    assert "proximal_mu=0.1" in refusal(variable_model, PLAN.replace(client={"proximal_mu": 0.1}))
    wide = models.build_model("logistic_regression", models.ModelSignature((6,), 2, "binary"))
    assert "clients=((5,), 2, 'binary'): must be those of the model, ((6,)" in refusal(wide, PLAN, clients=hospitals())
    assert "must be 'binary', that of clients=" in refusal(keras_model, PLAN, clients=hospitals(), task="multiclass")
    assert "task='colour'" in refusal(keras_model, PLAN, task="colour")


def test_metrics_of_a_variable_model_that_cannot_be_finalised_are_named():
    made = variable_model()
    original = type(made).metric_finalizers
    broken = type("Broken", (type(made),), {})

    def without_one(self):
        found = original(self)
        found.pop("num_batches")
        found["loss"] = 3
        return found

    broken.metric_finalizers = without_one

    def model():
        fresh = variable_model()
        fresh.__class__ = broken
        return fresh

    text = refusal(model, PLAN)
    assert "metric of the VariableModel='num_batches': is reported and has no finalizer" in text
    assert "finalizer of the metric='loss': must be callable" in text

    def dividing_by_text(self):
        return {**original(self), "loss": lambda values: values / "records"}

    broken.metric_finalizers = dividing_by_text
    assert "finalizer of the metric='loss': fails on what the model reports" in refusal(model, PLAN)


def next_refusal(process, data):
    with pytest.raises(InvalidInput) as error:
        process.next(None, data)
    text = str(error.value)
    assert len(text.splitlines()) <= 24
    return text


def test_data_sets_that_do_not_fit_are_named_client_by_client(context):
    import tensorflow as tf

    process = tff_hospitals.build_learning_process(keras_model, PLAN)
    good, *_ = batches(hospitals(), 8)
    part = hospitals().hospitals[0].train
    unbatched = next_refusal(process, [good, records(part)])
    assert "data set of client 1" in unbatched
    assert "has no batch dimension" in unbatched
    assert "call dataset.batch(...)" in unbatched
    assert "endless" in next_refusal(process, [good.repeat()])
    wide = tf.data.Dataset.from_tensor_slices((np.ones((4, 6), np.float32), np.ones(4, np.int64))).batch(2)
    assert "must have features of shape [?, 5], as the model takes them" in next_refusal(process, [wide])
    double = good.map(lambda features, labels: (tf.cast(features, tf.float64), labels))
    assert "features in the data set of client 0='float64 [?, 5]': must be float32" in next_refusal(process, [double])
    named = good.map(lambda features, labels: collections.OrderedDict(x=features, y=labels))
    assert "must have elements of the form (float32 [?, 5], int64 [?])" in next_refusal(process, [named])
    assert "map the data sets to such pairs" in refusal(keras_model, PLAN, input_spec=tf.TensorSpec([None, 5]))


def test_record_level_privacy_refuses_batches(context):
    plan = PLAN.replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 0.8})
    process = tff_hospitals.build_learning_process(keras_model, plan, clients=hospitals().records(), record_copies=1)
    text = next_refusal(process, batches(hospitals()))
    assert text.count("record-level privacy draws its batches itself") == 3
    assert "unbatch()" in text


# -- events ------------------------------------------------------------------------


def claims_of(plan, dataset):
    from tff_hospitals.tff.process import Claims

    return types.SimpleNamespace(
        claims=Claims(plan, dataset, noise_plan.make(plan, dataset), plan.cohort.kind, 1),
        before_round=lambda call: None,
    )


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.private and not method.runs_on])
def test_a_process_accounts_for_what_a_run_of_its_plan_accounts_for(name):
    from tff_hospitals.tff import extract_dp_event, ledger_of

    plan = METHODS[name].plan(PLAN.replace(rounds=4), 5.0)
    noise = {"dp_sgd": 0.7, "fixed_clip": 0.3}.get(plan.privacy.mechanism, 0.2)
    plan = plan.replace(privacy={"target_epsilon": None, "noise_multiplier": noise})
    process = claims_of(plan, hospitals())
    run_of_plan = train(plan, hospitals())
    assert ledger_of(process, 4) == run_of_plan.ledger
    state = types.SimpleNamespace(client_work={"round": 4}, aggregator={})
    if plan.privacy.mechanism == "skellam":
        with pytest.raises(InvalidInput, match="has no event in dp_accounting"):
            extract_dp_event(process, state)
    else:
        assert "DpEvent" in type(extract_dp_event(process, state)).__name__


def test_a_ledger_is_charged_before_the_round_and_goes_on_after_a_restart(context, tmp_path):
    import asyncio

    from tff_hospitals.tff import LedgerReleaseManager, extract_dp_event, ledger_of

    plan = HOSPITAL_LEVEL.replace(privacy={"mechanism": "fixed_clip", "noise_multiplier": 2.0})
    process = tff_hospitals.build_learning_process("logistic_regression", plan, clients=hospitals())
    path = tmp_path / "ledger.json"
    manager = LedgerReleaseManager(process, path)
    state, data = process.initialize(), batches(hospitals())
    result = process.next(state, data)
    assert json.loads(path.read_text())["charged"] == {"0": 1}  # on disk although nothing was released yet
    asyncio.run(manager.release(result.metrics, 1))
    asyncio.run(manager.release(result.metrics, 1))  # a release is not a round
    assert manager.ledger == ledger_of(process, 1)
    assert [row["round"] for row in manager.rows] == [1]
    process.next(state=state, client_data=data)  # the round is drawn again: that costs
    assert manager.ledger.steps("hospital") == 2
    assert manager.epsilon("hospital") == ledger_of(process, 2).epsilon("hospital")
    again = LedgerReleaseManager(claims_of(plan, hospitals()), path)
    assert again.ledger == manager.ledger
    asyncio.run(again.release({}, 2))  # run elsewhere, and charged now
    assert again.ledger.steps("hospital") == 3
    assert again.rows[-1]["epsilon"] > again.rows[0]["epsilon"] > 0
    other = claims_of(plan.replace(privacy={"noise_multiplier": 3.0}), hospitals())
    with pytest.raises(InvalidInput, match="must be the ledger of this plan and these clients"):
        LedgerReleaseManager(other, path)
    assert extract_dp_event(process, state).events == []
    assert len(extract_dp_event(process, result.state).events) == 1
