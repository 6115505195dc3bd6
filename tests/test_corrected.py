"""SCAFFOLD, FedDyn, MimeLite, adaptive FedProx and the agnostic mean against their papers' equations, in plain numpy.

Each reference trains a logistic regression by the loops of its paper, on the batches that the run drew. Nothing of the
package's mathematics is used in it.
"""

from __future__ import annotations

import numpy as np
import pytest
import toy

from tff_hospitals.deployment.agreement import deployment_problems
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.plan import Plan, review
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.processes import composition
from tff_hospitals.runtimes import build_runtime
from tff_hospitals.training.loop import build_model, train
from tff_hospitals.training.round_inputs import RoundDrawer
from tff_hospitals.training.updates import UpdateFolder

pytestmark = pytest.mark.tensorflow
RATE, ROUNDS = 0.3, 4
BASE = Plan(rounds=ROUNDS).replace(
    client={"local_steps": None, "local_epochs": 2, "batch_size": 4, "learning_rate": RATE}
)
DATA = toy.hospitals(sizes=(20, 13, 6))
SOME = {"kind": "fixed_size", "hospitals_per_round": 2}
NAMES = ("scaffold", "feddyn", "mime_lite", "fedprox_adaptive", "agnostic")


def of(name, **changes):
    return METHODS[name].plan(BASE, None).replace(**changes)


def run(plan, runtime="compiled"):
    """The weights after every round (flat), the rounds that were drawn, and the last state."""
    model = build_model(plan, DATA)
    parts, noise = composition.compose(plan, DATA, model), noise_plan.make(plan, DATA)
    root = Streams.from_seed(plan.seed)
    start, frozen = model.initial_weights(root.child("model").key())
    state, executor = parts.initial_state(start, root, 0.0), build_runtime(runtime, parts, DATA, frozen)
    drawer, path, drawn = RoundDrawer(plan, DATA, noise), [flat(start)], []
    for number in range(plan.rounds):
        drawn.append(drawer.draw(number))
        state, _ = executor.run_rounds(state, [drawn[-1]])
        path.append(flat(state.weights))
    executor.close()
    return np.array(path), drawn, state, parts


def flat(structure):
    return np.concatenate([np.ravel(np.asarray(one, np.float64)) for one in structure])


def loss_and_gradient(weights, features, labels):
    """Of a logistic regression whose last weight is the bias."""
    score = features @ weights[:-1] + weights[-1]
    wrong = 1 / (1 + np.exp(-score)) - labels
    loss = np.mean(np.logaddexp(0, score) - labels * score)
    return loss, np.append(features.T @ wrong, wrong.sum()) / len(labels)


def batches(one):
    """The hospital's batches of the round."""
    part, schedule = one.hospital.train, one.schedule
    for indices, mask in zip(schedule.indices[: schedule.steps], schedule.mask[: schedule.steps]):
        chosen = indices[mask > 0]
        yield np.asarray(part.features, np.float64)[chosen], np.asarray(part.labels)[chosen]


def descend(start, one, shift=0.0, pull=0.0, share=1.0):
    """Plain steps along share * gradient + shift + pull * (weights - start): the last weights, the number of steps."""
    weights, count = start, 0
    for batch in batches(one):
        gradient = loss_and_gradient(weights, *batch)[1]
        weights = weights - RATE * (share * gradient + shift + pull * (weights - start))
        count += 1
    return weights, count


def whole(one):
    return np.asarray(one.hospital.train.features, np.float64), np.asarray(one.hospital.train.labels)


def scaffold(x, drawn, plan):
    """Algorithm 1, option II."""
    c, own = np.zeros_like(x), {one.hospital_id: np.zeros_like(x) for one in DATA.hospitals}
    for each in drawn:
        weights = [one.weight for one in each.cohort]
        moved, changes = [], []
        for one in each.cohort:
            name = one.hospital.hospital_id
            y, steps = descend(x, one, shift=c - own[name])
            after = own[name] - c + (x - y) / (steps * RATE)
            moved.append(y - x)
            changes.append(after - own[name])
            own[name] = after
        x = x + np.average(moved, axis=0, weights=weights)
        share = 1.0 if plan.cohort.kind == "all" else len(each.cohort) / len(DATA.hospitals)
        c = c + share * np.average(changes, axis=0, weights=weights)
        yield x
    everyone = [own[one.hospital_id] for one in DATA.hospitals]
    sizes = None if plan.weighting == "equal" else [20, 13, 6]
    np.testing.assert_allclose(c, np.average(everyone, axis=0, weights=sizes), atol=1e-12)  # what c stands for


def feddyn(x, drawn, plan):
    """Algorithm 1, gradients of the linear and the quadratic term by hand."""
    alpha, h = plan.client.proximal_mu, np.zeros_like(x)
    own = {one.hospital_id: np.zeros_like(x) for one in DATA.hospitals}  # the gradients of earlier rounds
    for each in drawn:
        ends, weights = [], [one.weight for one in each.cohort]
        for one in each.cohort:
            name = one.hospital.hospital_id
            end, _ = descend(x, one, shift=-own[name], pull=alpha)
            own[name] = own[name] - alpha * (end - x)
            ends.append(end)
        share = 1.0 if plan.cohort.kind == "all" else len(each.cohort) / len(DATA.hospitals)
        h = h - alpha * share * np.average(np.array(ends) - x, axis=0, weights=weights)
        x = np.average(ends, axis=0, weights=weights) - h / alpha
        yield x


def mime_lite(x, drawn, plan):
    """Algorithm 2 with momentum."""
    beta, m = plan.client.momentum, np.zeros_like(x)
    for each in drawn:
        weights = [one.weight for one in each.cohort]
        ends = [descend(x, one, shift=beta * m, share=1 - beta)[0] for one in each.cohort]
        gradients = [loss_and_gradient(x, *whole(one))[1] for one in each.cohort]
        m = (1 - beta) * np.average(gradients, axis=0, weights=weights) + beta * m
        x = np.average(ends, axis=0, weights=weights)
        yield x


def fedprox_adaptive(x, drawn, plan):
    """Section 5.3.3: up by .1 when the loss rises, down by .1 when it has fallen five times in a row."""
    mu, last, falls = plan.client.proximal_mu, None, 0
    for each in drawn:
        weights = [one.weight for one in each.cohort]
        loss = np.average([loss_and_gradient(x, *whole(one))[0] for one in each.cohort], weights=weights)
        ends = [descend(x, one, pull=mu)[0] for one in each.cohort]
        x = np.average(ends, axis=0, weights=weights)
        yield x
        if last is not None and loss > last:
            mu, falls = mu + 0.1, 0
        elif last is not None and loss < last:
            falls += 1
            if falls == 5:
                mu, falls = max(0.0, mu - 0.1), 0
        last = loss


def agnostic(x, drawn, plan):
    """Figure 1: descent by the mixture, ascent of the mixture; the projection by bisection, not by sorting."""
    mixture = np.full(3, 1 / 3)
    for each in drawn:
        losses = np.array([loss_and_gradient(x, *whole(one))[0] for one in each.cohort])
        x = np.average([descend(x, one)[0] for one in each.cohort], axis=0, weights=mixture)
        mixture = nearest_mixture(mixture + plan.privacy.agnostic_learning_rate * losses)
        yield x


def nearest_mixture(values):
    low, high = values.min() - 1, values.max()
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(values - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(values - low, 0)


REFERENCES = {one.__name__: one for one in (scaffold, feddyn, mime_lite, fedprox_adaptive, agnostic)}
UNSTEADY = {"client": {"proximal_mu": 0.3}, "cohort": SOME, "rounds": 14, "weighting": "equal"}
CASES = [
    ("scaffold", {}),
    ("scaffold", {"cohort": SOME, "weighting": "equal"}),
    ("feddyn", {}),
    ("feddyn", {"cohort": SOME, "weighting": "equal"}),
    ("mime_lite", {"cohort": SOME}),
    ("fedprox_adaptive", UNSTEADY),
    ("agnostic", {"privacy": {"agnostic_learning_rate": 2.0}}),
]


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_every_round_is_that_of_the_paper(name, changes):
    plan = of(name, **changes)
    path, drawn, _, _ = run(plan)
    expected = list(REFERENCES[name](path[0], drawn, plan))
    np.testing.assert_allclose(path[1:], expected, rtol=2e-4, atol=2e-5)
    plain, _, _, _ = run(of("mean" if plan.weighting == "equal" else "weighted_mean", **{**changes, "privacy": {}}))
    assert np.abs(path[-1] - plain[-1]).max() > 1e-3  # it is another algorithm


def test_an_adaptive_weight_rises_and_falls():
    """The case above is one in which both happen; else it would prove nothing."""
    plan = of("fedprox_adaptive", **UNSTEADY)
    _, drawn, state, _ = run(plan)
    steady = of("fedprox_adaptive", client={"proximal_mu": 0.3}, rounds=7)
    _, _, after, _ = run(steady)
    assert float(state.aggregator["told"][0]) > 0.35  # cohorts of other hospitals have other losses
    assert float(after.aggregator["told"][0]) == pytest.approx(0.2)  # six rounds of falling loss
    assert len(drawn) == 14


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_what_hospitals_keep_is_in_checkpoints_and_a_resumed_run_has_the_same_bits(name, tmp_path):
    plan = of(name, cohort=SOME, weighting="equal", rounds=5, checkpoint_every=2)
    at_once = train(plan, DATA, run_dir=tmp_path / "once")
    resumed = toy.killed_and_resumed(plan, DATA, tmp_path / "killed", after=3)
    for one, other in zip(at_once.weights, resumed.weights):
        np.testing.assert_array_equal(one, other)


def test_two_models_travel_each_way_with_scaffold():
    for name, models in (("weighted_mean", (1, 1)), ("scaffold", (2, 2)), ("feddyn", (1, 1)), ("mime_lite", (2, 2))):
        plan = of(name)
        parts = composition.compose(plan, DATA, build_model(plan, DATA))
        model = 4 * parts.client_work.scalars
        assert parts.wire_bytes() == (models[0] * model + 4, models[1] * model + 4), name


def test_stored_updates_are_those_that_were_sent(tmp_path):
    """An update that is computed again for an audit needs the variates that it was made with."""
    run_once = train(of("scaffold"), DATA, run_dir=tmp_path, store_updates=1)
    stored = [UpdateFolder(tmp_path).read(number) for number in range(1, ROUNDS + 1)]
    after = [*[one.weights for one in stored[1:]], run_once.weights]
    for one, later in zip(stored, after):
        mean = np.average([flat(delta) for delta in one.deltas.values()], axis=0, weights=[20, 13, 6])
        np.testing.assert_allclose(flat(later), flat(one.weights) - mean, atol=2e-6)


REFUSED = [
    ("scaffold", {"client": {"optimizer": "adam"}}, "--client_optimizer=sgd"),
    ("scaffold", {"client": {"momentum": 0.5}}, "drop --client_momentum"),
    ("scaffold", {"client": {"proximal_mu": 0.5}}, "drop --proximal_mu"),
    ("scaffold", {"cohort": SOME}, "--cohort=all"),
    ("feddyn", {"client": {"proximal_mu": 0.0}}, "--proximal_mu=0.1"),
    ("mime_lite", {"client": {"momentum": 0.0}}, "--client_momentum=0.9"),
    ("agnostic", {"cohort": SOME}, "--cohort=all"),
    ("agnostic", {"weighting": "records"}, "--weighting=equal"),
    ("agnostic", {"privacy": {"agnostic_learning_rate": -1.0}}, "agnostic_learning_rate"),
    *((name, {"upload": "rotate,quantize:4"}, "drop --upload") for name in NAMES),
    *((name, {"skip_below": 0.1}, "drop --skip_below") for name in NAMES),
    *((name, {"privacy": {"secure_sum": True}}, "drop --secure_sum") for name in NAMES),
    *(
        (name, {"privacy": {"mechanism": "dp_sgd", "outer": name, "noise_multiplier": 1.0}}, "ledger has no entry")
        for name in NAMES
    ),
    *((name, {"privacy": {"secure_noise": True}}, "secure_noise") for name in NAMES),
    *((name, {"privacy": {"zeroing": "fixed"}}, "zeroing") for name in NAMES),
]


@pytest.mark.parametrize(("name", "changes", "words"), REFUSED)
def test_what_does_not_go_together_is_refused_with_remedy(name, changes, words):
    found = review.problems(of(name, **changes), DATA)
    assert any(words in str(problem) for problem in found), found


@pytest.mark.parametrize("name", NAMES)
def test_real_hospitals_are_not_asked_for_what_their_messages_do_not_hold(name):
    assert any("simulate it" in str(problem) for problem in deployment_problems(of(name), 3))
