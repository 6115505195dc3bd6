"""FedNova and q-FedAvg against the formulas of their papers, hospital by hospital."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import toy

from tff_hospitals.deployment.agreement import deployment_problems
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.plan import Plan, review
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.processes import composition
from tff_hospitals.processes.rounds import own_element
from tff_hospitals.runtimes import build_runtime
from tff_hospitals.training.loop import build_model
from tff_hospitals.training.round_inputs import RoundDrawer

pytestmark = pytest.mark.tensorflow
BASE = Plan(rounds=1).replace(
    client={"local_steps": None, "local_epochs": 2, "batch_size": 4, "learning_rate": 0.1},
    server={"learning_rate": 1.0},
)
DATA = toy.hospitals(sizes=(20, 13, 6))


def one_round(name, **changes):
    """The update of a round (float64, flat), every hospital's own [hospitals, parameters], the cohort and the model."""
    plan = METHODS[name].plan(BASE, None).replace(**changes)
    model = build_model(plan, DATA)
    parts, noise, root = (
        composition.compose(plan, DATA, model),
        noise_plan.make(plan, DATA),
        Streams.from_seed(plan.seed),
    )
    start, frozen = model.initial_weights(root.child("model").key())
    drawn = RoundDrawer(plan, DATA, noise).draw(0)
    executor = build_runtime("compiled", parts, DATA, frozen)
    state, _ = executor.run_rounds(parts.initial_state(start, root, noise.server_multiplier), [drawn])
    executor.close()
    work, deltas = parts.client_work, []
    for one in drawn.cohort:
        element = own_element(one, model.task, frozen)
        final, _, _ = work.run(tuple(map(tf.constant, start)), tf.constant(0.1), element, None, work.settings())
        deltas.append(flat(start) - flat(final))
    return flat(start) - flat(state.weights), np.array(deltas), drawn.cohort, (model, start, frozen)


def flat(structure):
    return np.concatenate([np.ravel(np.asarray(one, np.float64)) for one in structure])


@pytest.mark.parametrize(("weighting", "momentum"), [("records", 0.0), ("equal", 0.0), ("records", 0.7)])
def test_fednova_is_the_normalised_mean_of_its_paper(weighting, momentum):
    update, deltas, cohort, _ = one_round("fednova", weighting=weighting, client={"momentum": momentum})
    records = np.array([20, 13, 6]) if weighting == "records" else np.ones(3)
    share = records / records.sum()
    steps = [one.schedule.steps for one in cohort]
    assert steps == [10, 8, 4]
    # |a_i|: how often the gradient of each step has been added, momentum included, by a loop over the steps (sec. 4.2).
    length = np.array([sum(sum(momentum**j for j in range(count - k)) for k in range(count)) for count in steps])
    expected = (share * length).sum() * (share / length) @ deltas
    np.testing.assert_allclose(update, expected, rtol=1e-4, atol=1e-6)
    assert not np.allclose(update, share @ deltas, rtol=1e-2)


@pytest.mark.parametrize("q", [0.0, 0.5, 2.0])
def test_q_fedavg_is_algorithm_2_of_its_paper(q):
    update, deltas, _, (model, start, frozen) = one_round("q_fedavg", privacy={"fairness": q})
    losses = []
    for one in DATA.hospitals:
        outputs = model.predict(start, frozen, one.train.features, training=False)
        losses.append(float(np.mean(model.per_record_loss(outputs, one.train.labels))))
    lipschitz, above, below = 1 / 0.1, 0.0, 0.0
    for loss, delta in zip(losses, deltas):
        gradient = lipschitz * delta  # Delta w_k in the paper
        above = above + loss**q * gradient
        below = below + q * loss ** (q - 1) * (gradient**2).sum() + lipschitz * loss**q
    np.testing.assert_allclose(update, above / below, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("fednova", {"client": {"optimizer": "adam"}}, "--client_optimizer=sgd"),
        ("fednova", {"client": {"proximal_mu": 0.1}}, "normalises plain steps"),
        ("q_fedavg", {"weighting": "records"}, "--weighting=equal"),
        ("q_fedavg", {"upload": "rotate,quantize:4"}, "drop --upload"),
        ("q_fedavg", {"privacy": {"secure_sum": True}}, "drop --secure_sum"),
        ("q_fedavg", {"privacy": {"fairness": -1.0}}, "fairness"),
        ("q_fedavg", {"privacy": {"mechanism": "dp_sgd", "outer": "q_fedavg", "noise_multiplier": 1.0}}, "exact loss"),
        ("fednova", {"privacy": {"mechanism": "dp_sgd", "outer": "fednova", "noise_multiplier": 1.0}}, "another rule"),
    ],
)
def test_what_does_not_go_together_is_refused_with_remedy(name, changes, words):
    found = review.problems(METHODS[name].plan(BASE, None).replace(**changes), DATA)
    assert any(words in str(problem) for problem in found), found


@pytest.mark.parametrize(("name", "words"), [("fednova", "factor"), ("q_fedavg", "loss")])
def test_real_hospitals_do_not_send_what_simulated_ones_tell(name, words):
    found = deployment_problems(METHODS[name].plan(BASE, None), 3)
    assert any(words in str(problem) for problem in found), found
