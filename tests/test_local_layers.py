"""FedPer and FedRep against their papers' loops in plain numpy; what hospitals keep stays with them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
import toy

from tff_hospitals.audits.loading import load_run
from tff_hospitals.deployment.agreement import deployment_problems
from tff_hospitals.experiments import baselines, runner
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import Part
from tff_hospitals.models import build_model
from tff_hospitals.plan import Plan, review
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.reports.publishing import publish
from tff_hospitals.training import signal_to_noise
from tff_hospitals.training.loop import train
from tff_hospitals.training.round_inputs import RoundDrawer

pytestmark = pytest.mark.tensorflow
RATE = 0.3
SOME = {"kind": "fixed_size", "hospitals_per_round": 2}
BASE = Plan(rounds=2).replace(
    model={"name": "mlp", "options": {"hidden_units": [4], "activation": "sigmoid"}},
    client={"local_steps": None, "local_epochs": 2, "batch_size": 4, "learning_rate": RATE},
)
DATA = toy.hospitals(sizes=(20, 13, 6))


def of(name, **changes):
    return METHODS[name].plan(BASE, None).replace(**changes)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def gradient(body, head, features, labels):
    """Of the mean cross-entropy of a network with one hidden layer of sigmoids: of the body, and of the head."""
    (inner, shift), (outer, offset) = body, head
    hidden = sigmoid(features @ inner + shift)
    wrong = (sigmoid(hidden @ outer + offset) - labels[:, None]) / len(labels)
    back = (wrong @ outer.T) * hidden * (1 - hidden)
    return [features.T @ back, back.sum(axis=0)], [hidden.T @ wrong, wrong.sum(axis=0)]


def stepped(weights, gradients):
    return [one - RATE * more for one, more in zip(weights, gradients)]


def reference(plan, start, head):
    """Every hospital's head starts alike; body and head go on together, or the head first and then the body."""
    drawer = RoundDrawer(plan, DATA, noise_plan.make(plan, DATA))
    body, own = start, dict.fromkeys(DATA.ids, head)
    for number in range(plan.rounds):
        moved, weights = [], []
        for one in drawer.draw(number).cohort:
            name, part, schedule = one.hospital.hospital_id, one.hospital.train, one.schedule
            mine, kept = body, own[name]
            for step in range(schedule.steps):
                chosen = schedule.indices[step][schedule.mask[step] > 0]
                of_body, of_head = gradient(mine, kept, np.float64(part.features)[chosen], part.labels[chosen])
                first = step < int(plan.client.head_share * schedule.steps + 0.5) if plan.client.head_share else None
                mine = mine if first is True else stepped(mine, of_body)
                kept = kept if first is False else stepped(kept, of_head)
            own[name] = kept
            moved.append(mine)
            weights.append(one.weight)
        body = [np.average(np.array(parts), axis=0, weights=weights) for parts in zip(*moved)]
    return body, own


@pytest.mark.parametrize("name", [pytest.param("fedper", marks=pytest.mark.slow), "fedrep"])
def test_two_rounds_are_those_of_the_paper(name):
    plan = of(name, cohort=SOME)
    model = build_model("mlp", DATA, **plan.model.settings)
    start, frozen = model.initial_weights(Streams.from_seed(plan.seed).child("model").key())
    body, own = reference(plan, [np.float64(one) for one in start], [np.float64(one) for one in frozen])
    run = train(plan, DATA)
    for found, expected in zip(run.weights, body):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    for hospital in DATA.ids:
        for found, expected in zip(run.own[hospital][1], own[hospital]):
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    numbers = 24 + 1  # of the body, and the weight or the number of the round; 5 more are the head's
    assert (run.summary["bytes_up"], run.summary["bytes_down"]) == (2 * 2 * 4 * numbers,) * 2
    heads = [np.ravel(run.own[one][1][0]) for one in DATA.ids]
    assert min(np.abs(one - other).max() for one, other in zip(heads, heads[1:])) > 1e-3


def test_a_head_is_tested_at_its_hospital_and_what_it_says_is_what_the_run_reports():
    plan = of("fedper")
    run = train(plan, DATA)
    for one in DATA.hospitals:
        keras = run.keras_model(one.hospital_id)
        shares = (keras.predict(one.test.features, verbose=0)[:, 0] > 0) == (one.test.labels == 1)
        assert run.summary["accuracy_per_hospital"][one.hospital_id] == pytest.approx(shares.mean())
    with pytest.raises(InvalidInput, match="hospital"):
        run.keras_model("nobody")


def test_a_resumed_run_has_the_same_bits_and_every_hospital_its_own_head(tmp_path):
    plan = of("fedper", rounds=5, checkpoint_every=2, cohort=SOME)
    at_once = train(plan, DATA, run_dir=tmp_path / "once")
    resumed = toy.killed_and_resumed(plan, DATA, tmp_path / "killed", after=3)
    again = train(plan, DATA, run_dir=tmp_path / "killed")
    assert again.already_finished
    for other in (resumed, again):
        assert all(map(np.array_equal, at_once.weights, other.weights))
        for one in DATA.ids:
            assert all(map(np.array_equal, at_once.own[one][1], other.own[one][1]))
    assert resumed.summary["accuracy_per_hospital"] == at_once.summary["accuracy_per_hospital"]


def numbers_in(folder):
    """Every whole file of a folder as bytes."""
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    folder = tmp_path_factory.mktemp("private") / "run"
    noise = {"mechanism": "fixed_clip", "noise_multiplier": 1.0, "delta": 1e-2}
    return train(of("fedrep", privacy=noise, weighting="equal"), DATA, run_dir=folder), folder


def test_nothing_that_is_published_holds_a_hospitals_own_layers(private, tmp_path):
    run, folder = private
    assert sorted(path.name for path in (folder / "inside" / "own_models").iterdir()) == list(DATA.ids)
    assert any("must stay there" in text for text in run.summary["warnings"])
    plain = json.loads((folder / "summary.json").read_text())
    assert "accuracy_per_hospital" not in plain  # exact figures of test records stay inside
    publish(folder, tmp_path / "out", research=True, dataset=DATA)
    assert not [path for path in (tmp_path / "out").rglob("*") if "own" in path.name or path.name in DATA.ids]
    shown, inside = numbers_in(tmp_path / "out"), numbers_in(folder / "inside" / "own_models")
    assert not set(inside) & set(shown)
    saved = tf.keras.models.load_model(tmp_path / "out" / "model.keras")
    np.testing.assert_array_equal(saved.get_layer("output").kernel, run.frozen[0])  # as the seed gives it
    own = tf.keras.models.load_model(folder / "inside" / "own_models" / "site_1" / "model.keras")
    np.testing.assert_array_equal(own.get_layer("output").kernel, run.own["site_1"][1][0])
    with pytest.raises(InvalidInput, match="local_layers"):
        load_run(folder, DATA)


@pytest.mark.slow
def test_private_runs_account_as_if_all_layers_travelled():
    """The head is a part of what is clipped and noised; that it does not travel takes nothing off the ledger."""
    plan = of("fedrep", privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-2})
    run, native = train(plan, DATA), train(plan, DATA, runtime="native")
    expected = noise_plan.make(plan.replace(model={"local_layers": ""}, client={"head_share": None}), DATA)
    assert run.summary["noise_multiplier_per_hospital"] == dict(expected.multipliers)
    for one in DATA.hospitals:
        steps = plan.rounds * noise_plan.steps_per_round(plan, one.train.records)
        assert run.ledger.steps("record", one.hospital_id) == steps
    for one, other in zip((*run.weights, *run.own["site_1"][1]), (*native.weights, *native.own["site_1"][1])):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_baselines_keep_nothing_and_a_row_counts_every_hospitals_own_model(tmp_path):
    plan = baselines.baseline_plan(of("fedrep"), 1)
    assert (plan.model.local_layers, plan.client.head_share) == ("", None)
    method = METHODS["fedper"]
    found = runner.MethodRunner(method, of("fedper"), DATA, "compiled", tmp_path, 1).run(1)
    start = 0
    for one in DATA.hospitals:
        share = found.predictions[start : start + one.test.records].correct.mean()
        assert found.row["accuracy_per_hospital"][one.hospital_id] == pytest.approx(share)
        start += one.test.records


def without_tests():
    first = DATA.hospitals[0]
    empty = dataclasses.replace(first, test=Part(first.test.features[:0], first.test.labels[:0]))
    return dataclasses.replace(DATA, hospitals=(empty, *DATA.hospitals[1:]))


REFUSED = [
    ({"upload": "rotate,quantize:4"}, "drop --upload"),
    ({"skip_below": 0.1}, "drop --skip_below"),
    ({"privacy": {"mechanism": "scaffold"}}, "take weighted_mean or mean"),
    ({"poison": "backdoor:site_0"}, "take another attack"),
    ({"client": {"head_share": 1.0}}, "head_share"),
    ({"client": {"head_share": 0.04}}, "leaves no step to one of the two halves of a round"),
    ({"model": {"local_layers": ""}, "client": {"head_share": 0.5}}, "only used with local_layers"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_what_does_not_go_together_is_refused_with_remedy(changes, words):
    found = review.problems(of("fedper", **changes), DATA)
    assert any(words in str(problem) for problem in found), found


def test_layers_that_are_not_there_and_hospitals_without_records_are_refused():
    found = review.problems(of("fedper"), without_tests())
    assert any("test records at every hospital, and there are none at site_0" in str(one) for one in found)
    for layers, words in (("nothing", "the layers are"), ("dense_1,output", "nothing would travel")):
        with pytest.raises(InvalidInput, match=words):
            build_model("mlp", DATA, local_layers=layers)
    with pytest.raises(InvalidInput, match="lora_rank"):
        build_model("mlp", DATA, local_layers="output", lora_rank=1)
    with pytest.raises(InvalidInput, match="local_layers"):
        train(of("fedper"), DATA, server_held=DATA.hospitals[0].test)


def test_real_hospitals_and_programs_of_tffs_own_are_not_asked_to_keep_layers():
    from tff_hospitals.tff import process

    assert any("simulate it" in str(problem) for problem in deployment_problems(of("fedper"), 3))
    with pytest.raises(InvalidInput, match="stateless clients"):
        process.build_learning_process("mlp", of("fedper"), clients=DATA)


def test_expected_noise_is_that_of_the_steps_that_train_what_travels(monkeypatch):
    """Noise that drowns everything: the norm of an update is the one that is expected of its noise."""
    seen = []
    monkeypatch.setattr(signal_to_noise, "ratio", lambda update_norm, noise_norm: seen.append(update_norm / noise_norm))
    plan = of("fedrep", privacy={"mechanism": "dp_sgd", "noise_multiplier": 500.0, "delta": 1e-2})
    train(plan.replace(rounds=1), DATA)
    assert len(seen) == len(DATA.ids)
    assert all(0.8 < one < 1.2 for one in seen), seen
