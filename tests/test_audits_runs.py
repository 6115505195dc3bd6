"""Audits of whole runs: what membership attacks find, what canaries prove, and broken mechanisms caught."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from toy import hospitals

from tff_hospitals.audits import membership, shadows, statistics
from tff_hospitals.audits.bounds import one_run
from tff_hospitals.audits.loading import load_run
from tff_hospitals.audits.options import AuditOptions
from tff_hospitals.audits.run_audit import audit_run
from tff_hospitals.audits.sentences import sentences
from tff_hospitals.experiments import audit_rows, comparison
from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import load_dataset
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.reports import read_summary, write_report
from tff_hospitals.training.loop import build_model, train
from tff_hospitals.training.round_inputs import RoundDrawer
from tff_hospitals.training.run_record import fullest

pytestmark = pytest.mark.tensorflow
HEART = Plan(rounds=3, evaluate_every=3, checkpoint_every=3).replace(client={"local_steps": 20})
PRIVATE = HEART.replace(privacy={"mechanism": "dp_sgd", "target_epsilon": 2.0})
SERVER = HEART.replace(weighting="equal", privacy={"mechanism": "fixed_clip", "target_epsilon": 2.0})


@pytest.fixture(scope="module")
def heart():
    return load_dataset("heart_disease")


@pytest.fixture(scope="module")
def run_dirs(heart, tmp_path_factory):
    """Finished runs: without a mechanism, with record-level and with hospital-level noise."""
    folder = tmp_path_factory.mktemp("runs")
    for name, plan, every in (("plain", HEART, 1), ("private", PRIVATE, None), ("server", SERVER, None)):
        train(plan, heart, run_dir=folder / name, store_updates=every)
    return folder


# --------------------------------------------------------------------------------------------------------- membership


def test_membership_of_an_overfitted_model_is_found_and_of_records_never_seen_is_not():
    """Half of the records of a small hospital are learnt by heart; labels are coins, so nothing generalises."""
    dataset = hospitals(sizes=(60, 60), shape=(20,), seed=3)
    generator = np.random.default_rng(0)
    made = []
    for hospital in dataset:
        test = dataclasses.replace(
            hospital.train, features=generator.normal(size=(60, 20)).astype(np.float32), labels=hospital.train.labels
        )
        train_part = dataclasses.replace(hospital.train, labels=generator.integers(0, 2, 60))
        made.append(
            dataclasses.replace(
                hospital, train=train_part, test=dataclasses.replace(test, labels=generator.integers(0, 2, 60))
            )
        )
    dataset = dataclasses.replace(dataset, hospitals=tuple(made))
    plan = Plan(rounds=10, evaluate_every=10, checkpoint_every=10).replace(
        model={"name": "mlp", "options": {"hidden_units": [64]}}, client={"learning_rate": 0.2, "local_steps": 60}
    )
    model = build_model(plan, dataset)
    records = shadows.Records.of(dataset)
    run = train(plan, dataset, model=model)
    losses = shadows.losses_of(model, dataset, run.weights, run.frozen, records)
    found = shadows.train_shadows(plan, dataset, model, records, count=16)
    assert (found.included.sum(axis=1) == 120).all()
    for score in (
        membership.loss_threshold(losses),
        membership.calibrated(losses, found),
        membership.lira(losses, found),
    ):
        outcome = statistics.evaluate(score[records.member], score[~records.member], fprs=(0.05,))
        assert outcome.auc_interval.low > 0.6
    # The same attack against a model of other records: members and others are alike to it.
    other = shadows.losses_of(model, dataset, *model.initial_weights(np.array([5, 5], np.int64)), records)
    score = membership.calibrated(other, found)
    assert statistics.evaluate(score[records.member], score[~records.member], fprs=()).auc_interval.covers(0.5)


# --------------------------------------------------------------------------------------------------------- the promise


@pytest.mark.slow
def test_one_run_with_canaries_proves_a_leak_without_noise_and_nothing_beyond_the_ledger_with_it(heart):
    plain = HEART.replace(rounds=8, evaluate_every=8, model={"name": "mlp"})
    model = build_model(plain, heart)
    without = one_run.one_run(plain, heart, model, delta=1e-3)
    assert without.guesses.canaries == 100 + 86 + 15 + 42
    assert 0.35 < without.included.mean() < 0.65
    assert without.guesses.lower_bound > 0.3
    area = statistics.area_under_roc(without.scores[without.included], without.scores[~without.included])
    assert area > 0.75
    noisy = plain.replace(privacy={"mechanism": "dp_sgd", "target_epsilon": 1.0})
    assert one_run.one_run(noisy, heart, model, delta=1e-3).guesses.lower_bound <= 1.0


def test_a_left_out_record_is_in_no_batch_and_the_others_stay(heart):
    one = RoundDrawer(PRIVATE, heart, noise_plan.make(PRIVATE, heart)).draw(0).cohort[0]
    left_out = np.zeros(199, bool)
    left_out[:50] = True
    kept = one_run.without(one, left_out).schedule
    before, after = one.schedule.mask > 0, kept.mask > 0
    assert (kept.indices[after] >= 50).all()
    assert after.sum() == (one.schedule.indices[before] >= 50).sum()


# ------------------------------------------------------------------------------------------------------ the whole audit


def test_a_run_is_rebuilt_from_its_directory(heart, run_dirs):
    run = load_run(run_dirs / "private")
    trained = train(PRIVATE, heart)
    assert all(np.array_equal(a, b) for a, b in zip(run.weights, trained.weights))
    assert run.ledger == trained.ledger
    assert run.dataset.fingerprint() == heart.fingerprint()


@pytest.mark.slow
def test_the_audit_of_a_run_fills_every_part_and_column(run_dirs):
    options = AuditOptions(shadow_models=4, rebuilt_records=6, audit_runs=10)
    result = audit_run(run_dirs / "plain", options)
    assert result["skipped"] == {}
    stored = json.loads((run_dirs / "plain" / "audit.json").read_text())
    assert stored["columns"] == result["columns"]
    groups = result["membership"]["attacks"]["lira"]["groups"]
    assert set(groups) == {"all", "outliers", "cleveland", "hungary", "switzerland", "va_long_beach"}
    assert [one["round"] for one in result["membership"]["rounds"]] == [1, 2, 3]
    assert groups["all"]["unsupported"] == (0.001,)
    assert {row["defence"] for row in result["defences"]} >= {
        "none",
        "clipping",
        "dp_sgd",
        "secure_sum",
        "quantisation",
    }
    errors = {row["defence"]: row["reconstruction_error"] for row in result["defences"]}
    assert errors["none"] < 1e-2 < 0.5 < errors["dp_sgd"]
    page = write_report(run_dirs / "plain")[-1].read_text()
    assert "What attacks got out of it" in page
    assert "within" not in "".join(one["words"] for one in result["promise"]["bounds"])
    assert (result["promise"]["verdict"], result["promise"]["self_tests"]) == ("no promise", [])
    assert "promises nothing" in page
    assert (run_dirs / "plain" / "plots" / "audit_rebuilt.png").stat().st_size > 10_000
    assert [one["attack"] for one in result["reconstruction"]["others"]] == ["gradient_matching"]
    example = result["reconstruction"]["examples"][0]
    assert example["errors"]["age"] < 0.1
    assert any("0.1 % FPR needs more records" in line for line in sentences(result))


@pytest.mark.parametrize(("name", "unit", "bounds"), [("private", "record", 5), ("server", "hospital", 2)])
@pytest.mark.slow
def test_the_audit_compares_with_the_ledger_at_the_right_unit(run_dirs, name, unit, bounds):
    result = audit_run(
        run_dirs / name, AuditOptions(parts=("promise", "reconstruction"), audit_runs=400, rebuilt_records=6)
    )
    promise = result["promise"]
    assert len(promise["bounds"]) == bounds
    mine = [one for one in promise["bounds"] if one["unit"] == unit]
    assert all(one["words"].startswith(f"PASS at {unit} level") for one in mine)
    assert (promise["verdict"], promise["exit_code"], promise["gaps"]) == ("pass", 0, [])
    assert result["columns"]["epsilon_lower_bound"] == max(one["lower_bound"] for one in mine)
    assert (result["columns"]["reconstruction_error"] > 0.5) == (unit == "record")
    page = write_report(run_dirs / name)[-1].read_text()
    assert "The promise stands" in page
    assert "the weakest would have noticed" in page


def test_an_audit_of_one_part_keeps_what_an_earlier_one_found(run_dirs):
    """The page lost the attacks of the whole audit when the promise alone was tested again."""
    few, path = AuditOptions(rebuilt_records=2, parts=("reconstruction",)), run_dirs / "server" / "audit.json"
    first = audit_run(run_dirs / "server", few)
    again = audit_run(run_dirs / "server", dataclasses.replace(few, parts=("attribute",)))
    stored = json.loads(path.read_text())
    assert "reconstruction" not in again
    assert stored["reconstruction"]["error"] == first["reconstruction"]["error"]
    assert stored["columns"]["reconstruction_error"] == first["columns"]["reconstruction_error"]
    assert "attribute" in stored
    path.write_text(path.read_text().replace('"rounds": 3', '"rounds": 2'))  # the run was extended since
    audit_run(run_dirs / "server", dataclasses.replace(few, parts=("attribute",)))
    assert "reconstruction" not in json.loads(path.read_text())


def test_bad_input_of_an_audit_is_named(run_dirs, tmp_path):
    private = run_dirs / "private"
    with pytest.raises(InvalidInput, match=r"fpr=0\.0001: 254 records .* no rate below 0\.003937"):
        audit_run(private, AuditOptions(fprs=(0.0001,)))
    with pytest.raises(RecordError, match=r"no stored updates.*--store_updates=1"):
        audit_run(private, AuditOptions(parts=("updates",)))
    with pytest.raises(InvalidInput, match="'num': is the target"):
        audit_run(private, AuditOptions(parts=("attribute",), attributes=("num",)))
    with pytest.raises(InvalidInput, match=r"attacks='promis'.*did you mean 'promise'"):
        audit_run(private, AuditOptions(parts=("promis",)))
    with pytest.raises(RecordError, match=r"no plan\.json"):
        audit_run(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(private, copy)
    whole = fullest(copy, "record.json")
    record = json.loads(whole.read_text())
    record["dataset"]["fingerprint"] = "0" * 16
    whole.write_text(json.dumps(record))
    with pytest.raises(RecordError, match="was trained on other data"):
        audit_run(copy)
    (copy / "summary.json").unlink()
    with pytest.raises(RecordError, match="has not finished"):
        audit_run(copy)


def test_without_the_attack_suite_of_tensorflow_privacy_the_reason_is_said(monkeypatch):
    """The wheel of version 0.9.0 lacks it; an installation from source has it."""
    import sys

    name = "tensorflow_privacy.privacy.privacy_tests.membership_inference_attack.membership_inference_attack"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InvalidInput, match=r"lacks its attack suite.*released without privacy_tests"):
        membership.suite(np.zeros(5), np.ones(4))


@pytest.mark.slow
def test_a_comparison_with_an_audit_has_its_columns_figure_and_pages(tmp_path, monkeypatch):
    quick = {**audit_rows.OPTIONS, "shadow_models": 4, "rebuilt_records": 6, "audit_runs": 200}
    monkeypatch.setattr(audit_rows, "OPTIONS", quick)
    asked = comparison.Comparison(
        methods=("pooled", "weighted_mean", "dp_sgd"),
        target_epsilons=(2.0,),
        seeds=(1,),
        given={"rounds": 2, "local_steps": 10},
        baseline_epochs=2,
        audit=True,
        store_updates=1,
    )
    comparison.run(asked, tmp_path)
    write_report(tmp_path)
    pooled, plain, private = read_summary(tmp_path).rows
    assert pooled.get("reconstruction_error") is None
    assert 0.3 < pooled.get("membership_auc") < 0.8
    assert plain.get("reconstruction_error") < 1e-2 < private.get("reconstruction_error")
    assert private.get("epsilon_lower_bound") <= private.epsilon
    assert not [text for text in (*plain.warnings, *private.warnings) if "audit" in text]
    assert (tmp_path / "plots" / "attacks_against_epsilon.png").is_file()
    assert (tmp_path / "runs" / "dp_sgd-eps2-seed1" / "updates" / "round_000002.npz").is_file()
    page = (tmp_path / "report.html").read_text()
    assert "membership AUC" in page
    assert "runs/dp_sgd-eps2-seed1/report.html" in page
    # An audit changes nothing that was trained, so it may be asked for later.
    comparison.run(dataclasses.replace(asked, audit=False, store_updates=None), tmp_path)
