"""What hospitals add and how unlike they are: figures by hand, noised counts, and nothing of a private run outside."""

from __future__ import annotations

import csv
import dataclasses
import json
import math

import numpy as np
import pytest
import toy

from tff_hospitals import reports
from tff_hospitals.experiments import baselines, contribution, front_door
from tff_hospitals.experiments.contribution import Contribution
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.foundations import files
from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import load_dataset, shift
from tff_hospitals.hospitals.secret import DataSecret
from tff_hospitals.plan import Plan
from tff_hospitals.reports import contribution_page
from tff_hospitals.reports.publishing import publish
from tff_hospitals.training import heterogeneity
from tff_hospitals.training.loop import train
from tff_hospitals.training.odometer import Odometer
from tff_hospitals.training.updates import StoredRound

pytestmark = pytest.mark.tensorflow

BASE = Plan(rounds=2).replace(client={"local_steps": 3, "batch_size": 5}, model={"name": "logistic_regression"})
OF_UPDATES = ("cosine_to_mean", "distance_to_mean", "gradient_diversity", "times_diversity")


def test_shifts_are_those_of_the_definitions():
    assert shift.total_variation([0.5, 0.5], [0.1, 0.9]) == pytest.approx(0.4)
    assert shift.jensen_shannon([0.3, 0.7], [0.3, 0.7]) == pytest.approx(0.0)
    assert shift.jensen_shannon([0.5, 0.5], [1.0, 0.0]) == pytest.approx(0.311278, abs=1e-6)  # by hand, in bits
    one, other = np.array([10.0, 0, 0, 30]), np.array([20.0, 0, 0, 20])
    first, second = shift.shares(one + 0.5), shift.shares(other + 0.5)
    by_hand = sum((p - q) * math.log(p / q) for p, q in zip(first, second))
    assert shift.stability_index(one, other) == pytest.approx(by_hand)
    # a column of zeros and ones: (0.75 - 0.5) / sqrt((0.1875 + 0.25) / 2)
    assert shift.mean_difference(one, other) == pytest.approx(0.25 / math.sqrt(0.21875))


def test_mean_differences_of_binned_columns_are_near_those_of_the_records():
    dataset = load_dataset("heart_disease")  # scaled by each hospital for itself: counts are of original units
    rows = {(row["hospital"], row["column"]): row for row in shift.column_rows(shift.counts(dataset))}
    low, high = (np.array([getattr(column, side) for column in dataset.schema.columns]) for side in ("low", "high"))
    values = {one.hospital_id: np.clip(one.restore(one.train.features), low, high) for one in dataset.hospitals}
    for place, name in enumerate(dataset.feature_names):
        for one in dataset.ids:
            rest = np.concatenate([found[:, place] for key, found in values.items() if key != one])
            own = values[one][:, place]
            exact = (own.mean() - rest.mean()) / math.sqrt((own.var() + rest.var()) / 2)
            assert rows[one, name]["mean_difference"] == pytest.approx(exact, abs=0.03, rel=0.03), (one, name)
    labels = {row["hospital"]: row for row in shift.label_rows(shift.counts(dataset))}
    assert labels["switzerland"]["total_variation"] == pytest.approx(
        1 - 222 / 456
    )  # all ill there, 222 of 456 elsewhere
    assert labels["cleveland"]["jensen_shannon"] < 0.01


def test_noised_counts_have_the_noise_that_is_charged_and_leave_out_what_has_no_public_bounds():
    dataset = load_dataset("heart_disease", scaling="fixed_bounds")
    exact = shift.counts(dataset)
    found = []
    for seed in range(60):
        noised = shift.counts(dataset, noise_multiplier=0.5, streams=Streams.from_seed(seed))
        sums = exact.columns["cleveland"].reshape(noised.columns["cleveland"].shape + (-1,)).sum(axis=-1)
        place = sums > 10  # far from 0, where nothing is cut off
        found.append((noised.columns["cleveland"] - sums)[place])
    deviation = np.std(np.concatenate(found))
    wanted = 0.5 * math.sqrt(1 + len(dataset.feature_names))
    assert 0.93 * wanted < deviation < 1.07 * wanted
    bounded = [axis.name for axis in noised.axes]
    assert bounded == list(dataset.feature_names)
    plain = shift.counts(toy.hospitals(), noise_multiplier=1.0)
    assert plain.axes == ()
    assert plain.left_out == ("x1", "x2", "x3", "x4", "x5")
    medians = load_dataset("heart_disease_all_rows", impute="median", scaling="fixed_bounds")
    left_out = shift.counts(medians, noise_multiplier=1.0).left_out
    assert "chol" in left_out
    assert "age" not in left_out
    with pytest.raises(InvalidInput, match="counts_noise_multiplier"):
        shift.counts(dataset, noise_multiplier=0.0)


def test_equal_updates_have_diversity_one_and_opposite_ones_none_that_is_finite():
    one, weights = (np.array([[3.0, 4.0]]), np.array([0.0])), {"a": 1.0, "b": 3.0}
    rows, together = heterogeneity.measured(StoredRound(1, (), {"a": one, "b": one}), weights)
    assert together["times_diversity"] == pytest.approx(1.0)
    assert [(row["update_norm"], row["cosine_to_mean"], row["distance_to_mean"]) for row in rows] == [
        (5.0, pytest.approx(1.0), pytest.approx(0.0))
    ] * 2
    against = tuple(-part for part in one)
    rows, together = heterogeneity.measured(StoredRound(1, (), {"a": one, "b": against}), weights)
    assert together["gradient_diversity"] is None
    assert [row["cosine_to_mean"] for row in rows] == [pytest.approx(-1.0), pytest.approx(1.0)]  # b counts three times
    zero = tuple(0 * part for part in one)
    rows, _ = heterogeneity.measured(StoredRound(1, (), {"a": zero, "b": one}), weights)
    assert rows[0]["cosine_to_mean"] is None


@pytest.fixture(scope="module")
def open_run(tmp_path_factory):
    folder, dataset, started = tmp_path_factory.mktemp("open") / "run", toy.hospitals(), []
    asked = Contribution(METHODS["weighted_mean"], METHODS["weighted_mean"].plan(BASE, None), (1,), ("site_1",))
    found = contribution.run(asked, dataset, folder, on_run=lambda *of: started.append(of))
    assert [of[1:] for of in started] == [(1, 2), (2, 2)]
    return asked, dataset, folder, found


def test_a_contribution_is_what_training_without_a_hospital_costs(open_run):
    asked, dataset, folder, found = open_run
    metric = f"{found['headline']}_per_hospital"
    (row,) = found["hospitals"]
    whole = json.loads((folder / "runs" / "weighted_mean-seed1" / "summary.json").read_text())[metric]
    alone = train(asked.plan.replace(seed=1), baselines.without(dataset, "site_1"), evaluate_on=dataset)
    effect = {name: whole[name] - value for name, value in alone.summary[metric].items()}
    assert found["effect_at"] == {"site_1": pytest.approx(effect)}
    assert row["contribution"] == pytest.approx(np.mean(list(effect.values())))
    assert row["own"] == pytest.approx(effect["site_1"])
    assert row["others"] == pytest.approx((effect["site_0"] + effect["site_2"]) / 2)
    assert row["low"] <= row["contribution"] <= row["high"]
    assert [of["round"] for of in found["drift"]["rounds"]] == [1, 2]
    assert len(found["drift"]["hospitals"]) == 2 * len(dataset.ids)
    assert not list(folder.glob("runs/*/updates"))  # single updates were looked at and are gone
    with (folder / "contribution.csv").open() as file:
        assert [of["hospital"] for of in csv.DictReader(file)] == ["site_1"]
    with (folder / "drift_by_hospital.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6


def test_an_answer_that_is_there_is_read_and_another_question_is_refused(open_run):
    asked, dataset, folder, found = open_run
    assert contribution.run(asked, dataset, folder, on_run=pytest.fail) == found
    with pytest.raises(RecordError, match="seeds"):
        contribution.run(dataclasses.replace(asked, seeds=(2,)), dataset, folder)


def test_the_page_draws_all_of_it(open_run, tmp_path):
    folder, found = tmp_path, open_run[3]
    both = [{**found["hospitals"][0], "hospital": one} for one in ("site_0", "site_1")]
    found = {**found, "hospitals": both, "effect_at": dict.fromkeys(("site_0", "site_1"), found["effect_at"]["site_1"])}
    files.write_json(folder / contribution_page.RESULT, found)
    (path,) = reports.write_report(folder)  # as `tff-hospitals report` draws it again
    page = path.read_text()
    for name in ("contribution", "contribution_at", "drift", "partition", "feature_shift"):
        assert (folder / "plots" / f"{name}.png").stat().st_size > 5000
        assert f'id="{name}"' in page
    assert "Updates of single hospitals, not shown" not in page


def test_nothing_that_no_epsilon_covers_leaves_a_private_run(tmp_path, monkeypatch, capsys):
    secret = DataSecret(bytes(32), True, tmp_path / "kept")
    dataset = dataclasses.replace(toy.hospitals(sizes=(20, 20, 20)), secret=secret, simulated=False)
    monkeypatch.setattr(baselines, "load", lambda data: dataset)
    monkeypatch.setattr(contribution_page, "_pictures", lambda found: [])  # drawn elsewhere, of the same figures
    folder = tmp_path / "run"
    words = ["tff-hospitals", "contribution", "--aggregator=dp_sgd", "--model=logistic_regression", "--rounds=2"]
    words += ["--local_steps=3", "--noise_multiplier=1", "--delta=.01", "--seeds=1", "--progress=false"]
    words += ["--left_out=site_2", "--counts_noise_multiplier=2", f"--run_dir={folder}"]
    with pytest.raises(SystemExit) as ended:
        front_door.main(argv=words)
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert "updates of single hospitals: not shown: the plan protects" in shown
    found = contribution_page.read(folder)
    assert found["drift"]["hospitals"] == found["drift"]["rounds"] == []
    assert found["joint_epsilon"]["runs"] == 3  # with all, without one, and the noised counts
    (total,) = Odometer(dataset.secret).totals()
    assert total.runs == 3
    assert total.epsilon == pytest.approx(found["joint_epsilon"]["record"]["epsilon"])
    published = publish(folder / "runs" / "dp_sgd-seed1", tmp_path / "out", research=True, dataset=dataset)
    outside = [path for path in folder.rglob("*") if path.is_file() and "inside" not in path.parts]
    assert {path.name for path in outside if path.parent == folder} == {
        *("question.json", "ledger.json", "noised_counts.json", "label_shift.csv", "feature_shift.csv")
    }
    assert (folder / "inside" / "contribution.html").is_file()
    for path in (*outside, *published):
        if path.suffix in (".csv", ".json", ".html"):
            assert not [word for word in OF_UPDATES if word in path.read_text()], path
        assert "updates" not in path.parts
    assert (folder / "inside" / "label_shift.csv").exists()
    exact = {row["hospital"]: row["total_variation"] for row in shift.label_rows(shift.counts(dataset))}
    assert all(row["total_variation"] != exact[row["hospital"]] for row in found["shift"]["labels"])
    drawn = (folder / "noised_counts.json").read_text()
    plan = Plan.from_json(files.read_json(folder / "runs" / "dp_sgd-seed1" / "plan.json"))
    asked = Contribution(METHODS["dp_sgd"], plan, (1,), counts_noise_multiplier=2.0)
    counts, _ = contribution._counts(asked, dataset, folder)  # the same question again
    assert shift.label_rows(counts) == found["shift"]["labels"]
    assert (folder / "noised_counts.json").read_text() == drawn  # one release: it is not drawn again
    assert Odometer(dataset.secret).totals()[0].runs == 3


@pytest.mark.parametrize("scaling", ["per_hospital", "pooled", "dp_moments"])
def test_counts_of_columns_whose_scale_follows_the_records_are_refused(scaling):
    """One record less, and others change their bin by a rounding of the scale: 94 where 4 was promised."""
    more = {"scaling_noise_multiplier": 5.0} if scaling == "dp_moments" else {}
    dataset = load_dataset("heart_disease", scaling=scaling, **more)
    asked = Contribution(METHODS["dp_sgd"], METHODS["dp_sgd"].plan(BASE, 2.0), (1,), counts_noise_multiplier=2.0)
    assert [of.name for of in asked.problems(dataset)] == ["counts_noise_multiplier"]
    with pytest.raises(InvalidInput, match=f"{scaling} follows the records.*Remedy: take --data_option=scaling"):
        shift.counts(dataset, noise_multiplier=2.0)
    public = load_dataset("heart_disease", scaling="fixed_bounds")
    assert asked.problems(public) == []
    assert shift.counts(public, noise_multiplier=2.0).noise_multiplier == 2.0


@pytest.mark.parametrize("mechanism", ["dp_sgd", "fixed_clip", "local_dp"])
def test_what_is_not_noised_is_not_shown_under_any_guarantee(mechanism):
    plan = METHODS[mechanism].plan(BASE, None)
    dataset = toy.hospitals()
    asked = Contribution(METHODS[mechanism], plan, (1,))
    assert heterogeneity.why_not_shown(plan) is not None
    told = contribution._shift(shift.counts(dataset), asked, dataset)
    assert told["not_shown"].startswith("not shown: ")
    assert told["labels"] == told["columns"] == []
    assert told["counts"] == {}


def test_updates_that_nobody_can_compare_are_not_shown():
    late = METHODS["fedbuff"].plan(BASE, None)
    assert "start from different models" in str(heterogeneity.why_not_shown(late))
    plan = BASE.replace(privacy={"secure_sum": "simulated"})
    assert "summed securely" in str(heterogeneity.why_not_shown(plan))
    assert heterogeneity.why_not_shown(BASE) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": ()}, "one or more different numbers"),
        ({"left_out": ("site_9",)}, "site_9"),
        ({"headline": "rmse"}, "rmse"),
        ({"counts_noise_multiplier": -1.0}, "counts_noise_multiplier"),
        ({"method": "dp_sgd", "store_updates": 1}, "no epsilon covers"),
        ({"method": "fixed_clip", "counts_noise_multiplier": 1.0}, "whole hospitals"),
    ],
)
def test_questions_without_an_answer_are_refused(changes, words):
    method = METHODS[changes.get("method", "weighted_mean")]
    asked = Contribution(method, method.plan(BASE, None), (1,))
    asked = dataclasses.replace(asked, **{**changes, "method": method})
    found = asked.problems(toy.hospitals())
    assert any(words in str(problem) for problem in found), found
    assert any("one hospital" in str(problem) for problem in asked.problems(toy.hospitals(sizes=(20,))))


def test_what_a_left_out_hospital_makes_impossible_is_refused_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(baselines, "load", lambda data: toy.hospitals())
    words = ["--cohort=fixed", "--hospitals_per_round=3", "--seeds=1", f"--run_dir={tmp_path / 'b'}"]
    with pytest.raises(SystemExit) as ended:
        front_door.main(argv=["tff-hospitals", "contribution", *words])
    assert ended.value.code == 2
    assert "hospitals_per_round" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def kept(tmp_path):
    secret = DataSecret(bytes(32), True, tmp_path / "kept")
    return dataclasses.replace(toy.hospitals(sizes=(20, 20, 20)), secret=secret, simulated=False)


def test_noised_counts_that_are_gone_are_not_drawn_again(tmp_path):
    dataset, folder = kept(tmp_path), tmp_path / "run"
    asked = Contribution(METHODS["dp_sgd"], METHODS["dp_sgd"].plan(BASE, 2.0), (1,), counts_noise_multiplier=2.0)
    contribution._counts(asked, dataset, folder)
    (folder / "noised_counts.json").unlink()
    with pytest.raises(files.RecordError, match="drawn again it would be another release"):
        contribution._counts(asked, dataset, folder)
    assert Odometer(dataset.secret).totals()[0].runs == 1


@pytest.mark.tensorflow
def test_nothing_is_charged_for_a_question_that_its_limit_does_not_let_end(tmp_path):
    """The counts alone fit below the limit, and the runs do not."""
    dataset, method = kept(tmp_path), METHODS["dp_sgd"]
    asked = Contribution(
        method, method.plan(BASE, 2.0), (1,), left_out=("site_0",), counts_noise_multiplier=8.0, max_total_epsilon=2.1
    )
    with pytest.raises(InvalidInput, match=r"3 runs on these data would together reach .*; 0 is spent"):
        contribution.run(asked, dataset, tmp_path / "run")
    assert Odometer(dataset.secret).totals() == []


def test_what_is_released_together_is_said_in_words_that_fit():
    joint = {"runs": 1, "record": {"epsilon": 2.0, "delta": 1e-3}, "runs_without_guarantee": 6}
    found = {"joint_epsilon": joint, "private": False, "shift": {"noise_multiplier": 2.0}}
    assert contribution_page._joint(found)[0].startswith("Joint epsilon of 1 release (the noised counts): 2")
    found.update(private=True, joint_epsilon={**joint, "runs": 7})
    words = "all 7 releases (every seed, with all hospitals and without one and the noised counts)"
    assert words in contribution_page._joint(found)[0]
