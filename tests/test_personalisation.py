"""What hospitals make of the finished model for themselves, against its formulas in plain numpy."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest
import toy

from tff_hospitals import reports
from tff_hospitals.deployment.agreement import deployment_problems
from tff_hospitals.experiments.contribution import Contribution
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import Part, batches
from tff_hospitals.plan import Plan, review
from tff_hospitals.reports import plot_cross_site, progress
from tff_hospitals.reports.plot_style import drawing
from tff_hospitals.reports.publishing import publish
from tff_hospitals.reports.run_files import read_run
from tff_hospitals.reports.wording import score_text
from tff_hospitals.training import cross_site, personalisation
from tff_hospitals.training.loop import train
from tff_hospitals.training.metrics import METRICS
from tff_hospitals.training.run_streams import release_name

pytestmark = pytest.mark.tensorflow
RATE, EPOCHS, PULL = 0.3, 3, 0.7


def unlike():
    """The first hospital says yes where the others say no."""
    first, *others = toy.hospitals(sizes=(20, 13, 9)).hospitals
    train, test = (Part(part.features, 1 - part.labels) for part in (first.train, first.test))
    first = dataclasses.replace(first, train=train, test=test)
    return dataclasses.replace(toy.hospitals(), hospitals=(first, *others))


DATA = unlike()
BASE = Plan(rounds=2).replace(client={"learning_rate": RATE, "batch_size": 4, "local_steps": 5})


def of(kind, **changes):
    own = {"kind": kind, "epochs": EPOCHS, **({"pull": PULL} if kind == "ditto" else {})}
    return BASE.replace(personal={**own, **changes})


@pytest.fixture(scope="module")
def runs():
    return {kind: train(of(kind), DATA) for kind in ("fine_tune", "ditto", "interpolate")}


def batches_of(hospital, seed, kept=None):
    """The batches that a hospital draws after the last round."""
    streams = Streams.from_seed(seed).child("fine_tuning", hospital.hospital_id)
    features, labels = np.float64(hospital.train.features), np.asarray(hospital.train.labels)
    if kept is not None:
        features, labels = features[kept], labels[kept]
    schedule = batches.shuffled_epochs(streams.child("batches"), len(labels), batch_size=4, local_epochs=EPOCHS)
    for indices, mask in zip(schedule.indices[: schedule.steps], schedule.mask[: schedule.steps]):
        yield features[indices[mask > 0]], labels[indices[mask > 0]]


def descended(start, steps, pull=0.0, rate=RATE):
    """Gradient descent of a logistic regression, pulled back to where it started."""
    kernel, bias = first_kernel, first_bias = np.float64(start[0])[:, 0], np.float64(start[1])[0]
    for features, labels in steps:
        wrong = 1 / (1 + np.exp(-(features @ kernel + bias))) - labels
        kernel, bias = (
            kernel - rate * (features.T @ wrong / len(labels) + pull * (kernel - first_kernel)),
            bias - rate * (wrong.mean() + pull * (bias - first_bias)),
        )
    return np.append(kernel, bias)


def flat(weights):
    return np.concatenate([np.ravel(one) for one in weights])


def loss(weights, features, labels):
    scores = np.float64(features) @ weights[:-1] + weights[-1]
    return np.mean(np.logaddexp(0, scores) - labels * scores)


@pytest.mark.parametrize(("kind", "pull"), [("fine_tune", 0.0), ("ditto", PULL)])
def test_own_models_are_those_of_the_formula(runs, kind, pull):
    run = runs[kind]
    for one in DATA.hospitals:
        expected = descended(run.weights, batches_of(one, run.plan.seed), pull)
        np.testing.assert_allclose(flat(run.own[one.hospital_id][0]), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"by_round": "client_learning_rate=exponential:0.5"},
        pytest.param({"client": {"learning_rate_schedule": "exponential:0.5"}}, marks=pytest.mark.slow),
    ],
)
def test_the_last_rate_is_that_of_the_round_in_which_the_run_ended(changes, tmp_path):
    """A plateau ends it long before the plan's last round, whose rate would leave own models where they began."""
    plan = of("ditto").replace(rounds=30, stopping={"patience": 1, "threshold": 10.0}, **changes)
    run = train(plan, DATA, run_dir=tmp_path)
    done = run.summary["rounds"]
    assert 1 < done < 5
    for one in DATA.hospitals:
        expected = descended(run.weights, batches_of(one, plan.seed), PULL, RATE * 0.5 ** (done - 1))
        np.testing.assert_allclose(flat(run.own[one.hospital_id][0]), expected, rtol=2e-5, atol=2e-6)
    again = train(plan, DATA, run_dir=tmp_path)
    assert again.already_finished
    assert all(map(np.array_equal, again.own["site_0"][0], run.own["site_0"][0]))


def test_a_strong_pull_keeps_an_own_model_near_the_federated_one(runs):
    def away(run):
        return max(np.abs(flat(run.own[one][0]) - flat(run.weights)).max() for one in DATA.ids)

    assert 0 < away(runs["ditto"]) < 0.7 * away(runs["fine_tune"])


def test_an_interpolation_is_chosen_by_records_that_were_held_out(runs):
    run = runs["interpolate"]
    chosen = run.summary["personal"]["own_share_per_hospital"]
    for one in DATA.hospitals:
        streams = Streams.from_seed(run.plan.seed).child("fine_tuning", one.hospital_id)
        order = streams.child("validation").generator().permutation(one.train.records)
        count = round(0.2 * one.train.records)
        out, kept = np.sort(order[:count]), np.sort(order[count:])
        own = descended(run.weights, batches_of(one, run.plan.seed, kept))
        between = [flat(run.weights) + share * (own - flat(run.weights)) for share in np.arange(11) / 10]
        losses = [loss(weights, one.train.features[out], one.train.labels[out]) for weights in between]
        best = int(np.argmin(losses))
        assert chosen[one.hospital_id] == pytest.approx(best / 10)
        np.testing.assert_allclose(flat(run.own[one.hospital_id][0]), between[best], rtol=2e-5, atol=2e-6)
    assert len(set(chosen.values())) > 1


def test_test_records_decide_nothing_about_own_models(runs):
    """An interpolation that looked at them would change with them."""
    turned = [dataclasses.replace(one, test=Part(one.test.features, 1 - one.test.labels)) for one in DATA.hospitals]
    again = train(of("interpolate"), dataclasses.replace(DATA, hospitals=tuple(turned)))
    for one in DATA.ids:
        assert all(map(np.array_equal, again.own[one][0], runs["interpolate"].own[one][0]))


def test_whatever_hospitals_make_the_federated_run_is_the_same_release(runs):
    plain = train(BASE, DATA)
    for run in runs.values():
        assert all(map(np.array_equal, run.weights, plain.weights))
        assert run.summary["accuracy_per_hospital"] == plain.summary["accuracy_per_hospital"]
        assert (run.summary["bytes_up"], run.summary["bytes_down"]) == (
            plain.summary["bytes_up"],
            plain.summary["bytes_down"],
        )
        assert any("nothing of it is released" in text for text in run.summary["statements"])
    private = of("ditto").replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.0})
    assert release_name(private, DATA) == release_name(private.replace(personal={"kind": "none"}), DATA)


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    folder = tmp_path_factory.mktemp("private") / "run"
    noise = {"mechanism": "fixed_clip", "noise_multiplier": 1.0, "delta": 1e-2}
    return train(of("ditto").replace(privacy=noise, weighting="equal"), DATA, run_dir=folder), folder


def test_own_models_and_what_they_show_stay_inside(private, tmp_path):
    run, folder = private
    assert sorted(path.name for path in (folder / "inside" / "own_models").iterdir()) == list(DATA.ids)
    assert json.loads((folder / "summary.json").read_text())["personal"] == {"kind": "ditto", "epochs": EPOCHS}
    assert "accuracy_per_hospital" in json.loads((folder / "inside" / "summary.json").read_text())["personal"]
    assert not (folder / "own_models").exists()
    publish(folder, tmp_path / "out", research=True, dataset=DATA)
    shown = b"".join(path.read_bytes() for path in sorted((tmp_path / "out").rglob("*")) if path.is_file())
    for path in (folder / "inside" / "own_models").rglob("*"):
        assert path.is_dir() or path.read_bytes() not in shown
    with (folder / "cross_site.csv").open() as file:
        assert not any(row["accuracy"] for row in csv.DictReader(file) if "accuracy" in row)
    again = train(run.plan, DATA, run_dir=folder)
    assert again.already_finished
    assert again.summary["personal"]["accuracy_mean"] == run.summary["personal"]["accuracy_mean"]
    for one in DATA.ids:
        assert all(map(np.array_equal, again.own[one][0], run.own[one][0]))


def test_across_sites_every_model_meets_every_hospitals_test_records(private):
    run, folder = private
    with (folder / "inside" / "cross_site.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["tested_on"]) for row in rows] == [
        (model, site) for model in (*DATA.ids, cross_site.FEDERATED) for site in DATA.ids
    ]
    models = {**{one: run.own[one][0] for one in DATA.ids}, cross_site.FEDERATED: run.weights}
    for row in rows:
        test = DATA.hospital(row["tested_on"]).test
        right = (np.append(test.features, np.ones([10, 1]), axis=1) @ flat(models[row["model"]]) > 0) == test.labels
        assert float(row["accuracy"]) == pytest.approx(right.mean())
    diagonal = {row["model"]: float(row["accuracy"]) for row in rows if row["model"] == row["tested_on"]}
    assert diagonal == pytest.approx(run.summary["personal"]["accuracy_per_hospital"])


def test_the_page_of_a_run_draws_them_and_says_what_own_models_reach(private):
    run, folder = private
    reports.write_report(folder)
    assert (folder / "plots" / "cross_site.png").stat().st_size > 1000
    page = (folder / "report.html").read_text()
    assert "Whose model serves whom" in page
    assert "own model, " in page
    assert "ditto, 3 epochs: accuracy" in progress.run_summary(run.summary)
    with drawing():
        picture = plot_cross_site.cross_site(read_run(folder))
    shown = {text.get_text() for text in picture.figure.axes[0].texts}
    assert shown == {score_text(METRICS["accuracy"], float(row["accuracy"])) for row in read_run(folder).across}
    assert plot_cross_site.cross_site(dataclasses.replace(read_run(folder), across=())) is None


def test_a_hospital_that_anothers_model_serves_better_is_named(private):
    _, folder = private
    rows = [("a", "a", "0.5"), ("a", "b", "0.5"), ("b", "a", "0.7"), ("b", "b", "")]
    across = tuple({"model": one, "tested_on": other, "accuracy": value} for one, other, value in rows)
    with drawing():
        picture = plot_cross_site.cross_site(dataclasses.replace(read_run(folder), across=across))
    assert "does better than their own on the test records of a." in picture.caption
    across = tuple({**row, "accuracy": row["accuracy"] if row["model"] != row["tested_on"] else ""} for row in across)
    with drawing():
        picture = plot_cross_site.cross_site(dataclasses.replace(read_run(folder), across=across))
    assert "nothing can be told" in picture.caption


def test_too_many_hospitals_have_no_table_across_sites():
    assert cross_site.rows(None, {str(one): ((), ()) for one in range(cross_site.MOST_SITES + 1)}) == []
    assert cross_site.rows(None, {}) == []


def test_two_records_are_one_to_train_on_and_one_to_choose_by():
    part = Part(np.arange(2.0)[:, None], np.arange(2))
    for share in (0.01, 0.5, 0.99):
        out, rest = personalisation.held_out(part, share, Streams.from_seed(1))
        assert (out.records, rest.records) == (1, 1)
        assert {*out.labels, *rest.labels} == {0, 1}


def without_tests():
    first = DATA.hospitals[0]
    empty = dataclasses.replace(first, test=Part(first.test.features[:0], first.test.labels[:0]))
    return dataclasses.replace(DATA, hospitals=(empty, *DATA.hospitals[1:]))


REFUSED = [
    (of("fine_tune"), without_tests(), "needs test records at every hospital, and there are none at site_0"),
    (of("interpolate"), toy.hospitals(sizes=(20, 1)), "there is one at site_1"),
    (of("ditto", pull=0.0), DATA, "ditto_pull"),
    (of("ditto", pull=1e6), DATA, "must stay below 1: a step would leap"),
    (of("ditto").replace(by_round="client_learning_rate=linear:5"), DATA, "client_learning_rate=1.5 must stay below 1"),
    (of("ditto", epochs=0), DATA, "personal_epochs"),
    (of("interpolate", validation_share=1.0), DATA, "personal_validation_share"),
    (of("other"), DATA, "personalisation"),
    (of("fine_tune").replace(model={"name": "mlp", "local_layers": "output"}), DATA, "drop one of the two"),
]


@pytest.mark.parametrize(("plan", "dataset", "words"), REFUSED)
def test_what_cannot_be_made_or_measured_is_refused_with_remedy(plan, dataset, words):
    found = review.problems(plan, dataset)
    assert any(words in str(problem) for problem in found), found


def test_who_does_not_train_and_is_tested_has_no_model_of_its_own():
    fewer = dataclasses.replace(DATA, hospitals=DATA.hospitals[1:])
    for plan in (of("ditto"), BASE.replace(model={"name": "mlp", "local_layers": "output"})):
        with pytest.raises(InvalidInput, match="site_0 would have none"):
            train(plan, fewer, evaluate_on=DATA)
        asked = Contribution(METHODS["weighted_mean"], plan, (1,))
        assert any("who is left out would have none" in str(problem) for problem in asked.problems(DATA))


def test_real_hospitals_are_not_asked_for_it():
    assert any("simulate it" in str(problem) for problem in deployment_problems(of("ditto"), 3))
