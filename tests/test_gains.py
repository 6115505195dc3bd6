"""Who gains from taking part: differences from training alone on the same patients, and fine-tuned models."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import toy

from tff_hospitals import reports
from tff_hospitals.accounting import Ledger
from tff_hospitals.experiments import baselines, runner
from tff_hospitals.experiments import comparison as comparisons
from tff_hospitals.experiments.comparison import Comparison
from tff_hospitals.experiments.intervals import METRICS, Resamples, interval
from tff_hospitals.experiments.outcome import Outcome
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import Part
from tff_hospitals.plan import Plan
from tff_hospitals.reports.gains import gain_sentence, gain_sentences, verdicts
from tff_hospitals.reports.rows import Row
from tff_hospitals.training.loop import train
from tff_hospitals.training.metrics import Predictions
from tff_hospitals.training.personalisation import Personalisation

pytestmark = pytest.mark.tensorflow
TUNED = {"kind": "fine_tune", "epochs": 20}
SITES = ("site_0", "site_1", "site_2")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gains") / "run"
    dataset = toy.hospitals(sizes=(40, 12, 30))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "load", lambda data: dataset)
        given = {"rounds": 2, "local_steps": 5, "noise_multiplier": 1.0, "delta": 0.01}
        asked = Comparison(
            ("local", "weighted_mean", "dp_sgd"), (), (1, 2), given=given, baseline_epochs=5, finetune_epochs=3
        )
        comparisons.run(asked, folder)
    reports.write_report(folder)
    return folder, json.loads((folder / "summary.json").read_text()), dataset


def test_a_gain_is_the_paired_difference_from_training_alone(done):
    _, summary, _ = done
    alone = summary["rows"][0]
    assert alone["method"] == "local"
    assert "gain_per_hospital" not in alone
    for row in summary["rows"][1:]:
        assert set(row["gain_per_hospital"]) == set(SITES)
        for one in SITES:
            difference = row["accuracy_per_hospital"][one] - alone["accuracy_per_hospital"][one]
            assert row["gain_per_hospital"][one] == pytest.approx(difference)
            assert row["gain_low_per_hospital"][one] <= difference + 1e-9
            assert row["gain_high_per_hospital"][one] >= difference - 1e-9


def predicted(shares, records):
    """Predictions of which a share is right at each hospital."""
    correct = np.concatenate([np.arange(records) < share * records for share in shares]).astype(float)
    return Predictions("binary", np.arange(len(correct)) % 2, 1 - correct, correct, np.full(len(correct), 0.5))


@pytest.mark.parametrize(("headline", "sign"), [("accuracy", 1), ("loss", -1)])
def test_who_gains_and_who_loses_is_told_whichever_way_the_metric_goes(headline, sign):
    dataset = toy.hospitals()
    test = Part(np.zeros([200, 5], np.float32), np.arange(200) % 2)
    dataset = dataclasses.replace(
        dataset, hospitals=tuple(dataclasses.replace(one, test=test) for one in dataset.hospitals)
    )
    outcome, found = Outcome([dataset], 1, headline), {}
    for kind, shares in (("local", (0.5, 0.9, 0.7)), ("federated", (0.8, 0.6, 0.7))):
        predictions = predicted(shares, 200)
        rates = dict(zip(SITES, shares if sign > 0 else (1 - share for share in shares)))
        run = runner.RunResult({"curve": []}, predictions, Ledger(delta=0.01))
        row = {"method": kind, "kind": kind, "unit": "none", f"{headline}_per_hospital": rates, "warnings": []}
        outcome.enter(row, [run])
        found[kind] = predictions
    row = outcome.fields()["rows"][1]
    read = comparisons.row_from_json(row)
    assert list(verdicts(read).values()) == ["gains", "loses", "cannot tell"]
    assert row["gain_per_hospital"]["site_0"] == pytest.approx(0.3)
    resamples = Resamples([{one: range(200) for one in SITES}], 1)
    draws = [resamples.draw(METRICS[headline], [found[kind]]).of_hospital("site_0") for kind in ("federated", "local")]
    low, high = interval(sign * (draws[0] - draws[1]))
    assert (row["gain_low_per_hospital"]["site_0"], row["gain_high_per_hospital"]["site_0"]) == (low, high)


def test_fine_tuning_moves_each_hospitals_own_model_and_costs_no_privacy(done):
    folder, summary, _ = done
    names = [row["method"] for row in summary["rows"]]
    assert names == ["local", "weighted_mean", "weighted_mean_fine_tuned", "dp_sgd", "dp_sgd_fine_tuned"]
    private, tuned = summary["rows"][3:]
    assert tuned["epsilon"] == private["epsilon"]
    assert any("must stay there" in text for text in tuned["warnings"])
    assert not any("must stay there" in text for row in summary["rows"][:4] for text in row["warnings"])
    assert summary["joint_epsilon"]["runs"] == 2
    kept = {path.parent.name for path in folder.rglob("own_models")}
    assert kept == {"inside"}


def test_own_models_follow_from_the_hospitals_own_records_alone():
    dataset = toy.hospitals(sizes=(40, 12, 30))
    plan = Plan(rounds=1).replace(client={"learning_rate": 0.5, "batch_size": 8}, personal=TUNED)
    run = train(plan, dataset)
    own = {one: weights for one, (weights, _) in run.own.items()}
    first, *others = dataset.hospitals
    poor = [dataclasses.replace(one, train=Part(-one.train.features, one.train.labels)) for one in others]
    changed = dataclasses.replace(dataset, hospitals=(first, *poor))
    found = Personalisation(plan, run.model, changed)(run.weights, run.frozen, plan.seed).weights
    again = {one: weights for one, (weights, _) in found.items()}
    for one, other in zip(own["site_0"], again["site_0"]):
        assert np.array_equal(one, other)
    assert not all(np.allclose(one, other) for one, other in zip(own["site_1"], again["site_1"]))

    def loss(weights):
        outputs = run.model.predict(weights, run.frozen, first.train.features, training=False)
        return float(np.mean(run.model.per_record_loss(outputs, first.train.labels)))

    assert loss(own["site_0"]) < loss(run.weights)


def test_the_page_and_the_table_say_who_gains(done):
    folder, _, _ = done
    page = (folder / "report.html").read_text()
    assert "What each hospital gains over training alone" in page
    assert (folder / "plots" / "gain_per_hospital.png").stat().st_size > 1000
    assert "gain_site_0" in (folder / "summary.csv").read_text().splitlines()[0]


def test_hospitals_whose_own_model_nothing_would_measure_are_named(monkeypatch, tmp_path):
    dataset = toy.hospitals()
    first = dataset.hospitals[0]
    empty = dataclasses.replace(first, test=Part(first.test.features[:0], first.test.labels[:0]))
    dataset = dataclasses.replace(dataset, hospitals=(empty, *dataset.hospitals[1:]))
    monkeypatch.setattr(baselines, "load", lambda data: dataset)
    with pytest.raises(InvalidInput, match="test records at every hospital, and there are none at site_0"):
        comparisons.run(Comparison(("mean",), (), (1,), finetune_epochs=2), tmp_path / "run")
    with pytest.raises(InvalidInput, match="finetune_epochs"):
        comparisons.run(Comparison(("mean",), (), (1,), finetune_epochs=0), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_sentence_names_the_promise_and_counts_who_loses():
    """Rows of one method at two targets are told apart."""
    gained = {"a": 0.1, "b": -0.1, "c": -0.2, "d": -0.3, "e": -0.4}
    ends = {
        f"gain_{end}_per_hospital": {one: value + by for one, value in gained.items()}
        for end, by in (("low", -0.01), ("high", 0.01))
    }
    row = Row("dp_sgd", target_epsilon=1.0, unit="record", epsilon=1.0, values={"gain_per_hospital": gained, **ends})
    said = gain_sentence(row)
    assert said == "dp_sgd, ε = 1, against each hospital alone: a gains, b, c, d and e lose."
    row.values["gain_low_per_hospital"]["a"] = -0.1
    assert gain_sentence(row).endswith(": b, c, d and e lose; of 1 other the test records cannot tell.")
    row.values["gain_high_per_hospital"].update(dict.fromkeys("bcde", 0.1))
    assert gain_sentence(row).endswith("alone: no hospital gains or loses more than chance may have it.")
    other = dataclasses.replace(row, target_epsilon=5.0)
    (said,) = gain_sentences([row, other])
    assert said.endswith("more than chance may have it from dp_sgd, ε = 1; dp_sgd, ε = 5.")
