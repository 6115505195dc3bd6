"""What is charged before it exists: secure noise that is interrupted, extended runs, and the odometer."""

from __future__ import annotations

import dataclasses

import pytest
import toy
from few_fast import few_fast

from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals.secret import DataSecret
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.loop import train
from tff_hospitals.training.odometer import Odometer
from tff_hospitals.training.write_ahead import WriteAhead

pytestmark = pytest.mark.tensorflow
PLAN = Plan(rounds=6, checkpoint_every=4, weighting="equal", seed=1).replace(
    client={"local_steps": 3, "batch_size": 5}, privacy={"mechanism": "fixed_clip", "noise_multiplier": 2.0}
)


def die_after(rounds):
    def die(progress):
        if progress.round == rounds:
            raise KeyboardInterrupt

    return die


@pytest.mark.parametrize(
    ("mechanism", "after"),
    few_fast([("fixed_clip", 2), ("fixed_clip", 5), ("tree", 5), ("dp_sgd", 5)], [("fixed_clip", 5), ("dp_sgd", 5)]),
)
def test_rounds_that_an_interruption_lost_are_charged(mechanism, after, tmp_path):
    """Before: 1.00 was stated and 1.22 released."""
    plan, data = PLAN.replace(privacy={"mechanism": mechanism, "secure_noise": True}), toy.hospitals()
    whole = train(plan, data, run_dir=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(plan, data, run_dir=tmp_path / "cut", on_round=die_after(after))
    resumed = train(plan, data, run_dir=tmp_path / "cut")
    lost = after if after < 4 else after - 4
    assert resumed.summary["epsilon"] > whole.summary["epsilon"]
    assert f"lost the results of {lost} rounds" in resumed.summary["statements"][0]
    if mechanism != "tree":
        unit, of = ("record", "site_0") if mechanism == "dp_sgd" else ("hospital", None)
        each = 3 if mechanism == "dp_sgd" else 1
        assert resumed.ledger.steps(unit, of) == each * (6 + lost)
    seeded = plan.replace(privacy={"secure_noise": False})
    with pytest.raises(KeyboardInterrupt):
        train(seeded, data, run_dir=tmp_path / "seeded", on_round=die_after(after))
    assert train(seeded, data, run_dir=tmp_path / "seeded").summary["epsilon"] == whole.summary["epsilon"]


def test_without_its_charges_a_secure_run_is_not_resumed(tmp_path):
    plan = PLAN.replace(privacy={"secure_noise": True})
    with pytest.raises(KeyboardInterrupt):
        train(plan, toy.hospitals(), run_dir=tmp_path, on_round=die_after(5))
    (tmp_path / "charges.jsonl").unlink()
    with pytest.raises(RecordError, match=r"charges.jsonl is missing.*Remedy"):
        train(plan, toy.hospitals(), run_dir=tmp_path)


def test_the_odometer_adds_up_and_stops(tmp_path):
    secret = DataSecret(bytes(range(32)), False, tmp_path / "own")
    data = dataclasses.replace(toy.hospitals(), secret=secret)
    first = train(PLAN, data)
    train(PLAN, data)  # the same release
    (total,) = [one for one in Odometer(secret).totals() if one.unit == "hospital"]
    assert (total.runs, total.epsilon) == (1, pytest.approx(first.summary["epsilon"]))
    with pytest.raises(InvalidInput, match="2 runs on these data would together reach"):
        train(PLAN.replace(seed=2), data, max_total_epsilon=1.1 * total.epsilon)
    train(PLAN.replace(seed=2), data)
    (more,) = [one for one in Odometer(secret).totals() if one.unit == "hospital"]
    assert more.runs == 2
    assert total.epsilon < more.epsilon < 2 * total.epsilon


def test_a_finished_run_is_extended_and_its_epsilon_stated_first(tmp_path):
    data, said = toy.hospitals(), []
    short = train(PLAN, data, run_dir=tmp_path)
    longer = train(PLAN.replace(rounds=9), data, run_dir=tmp_path, on_note=said.append)
    assert longer.summary["rounds"] == 9
    assert longer.summary["epsilon"] > short.summary["epsilon"]
    assert "extended from 6 to 9 rounds" in said[0]


def test_a_secure_run_whose_charges_were_cut_is_not_resumed(tmp_path):
    """Before: 2.61 was stated where 3.33 was released."""
    plan = PLAN.replace(checkpoint_every=1, privacy={"secure_noise": True})
    for after in (3, 4):
        with pytest.raises(KeyboardInterrupt):
            train(plan, toy.hospitals(), run_dir=tmp_path, on_round=die_after(after))
    journal = tmp_path / "charges.jsonl"
    whole = journal.read_text().splitlines(keepends=True)
    for cut in (whole[:1], whole[:-2], whole[3:]):  # an old copy, a shorter last attempt, the first attempt gone
        journal.write_text("".join(cut))
        with pytest.raises(RecordError, match=r"charges.jsonl holds less than it did.*Remedy"):
            train(plan, toy.hospitals(), run_dir=tmp_path)
    journal.write_text("".join(whole))
    assert train(plan, toy.hospitals(), run_dir=tmp_path).ledger.steps("hospital", None) >= plan.rounds


def limit_of(plan, folder):
    """Enough for one run and not for two."""
    secret = DataSecret(bytes(range(32)), False, folder / "another")
    train(plan, dataclasses.replace(toy.hospitals(), secret=secret))
    return 1.2 * max(total.epsilon for total in Odometer(secret).totals())


@pytest.mark.parametrize("secure", [False, True])
def test_runs_that_start_together_keep_the_limit_together(secure, tmp_path):
    """Before: both looked before either was charged, and both trained."""
    data = dataclasses.replace(toy.hospitals(), secret=DataSecret(bytes(range(32)), False, tmp_path / "own"))
    plans = [PLAN.replace(seed=seed, privacy={"secure_noise": secure}) for seed in (1, 2)]
    limit = limit_of(plans[0], tmp_path)
    begun, ended = [], []

    def second_run(_progress):
        if not begun:
            begun.append(True)
            try:
                train(plans[1], data, max_total_epsilon=limit)
            except InvalidInput as refused:
                ended.append(str(refused))

    try:
        train(plans[0], data, max_total_epsilon=limit, on_round=second_run)
    except InvalidInput as refused:
        ended.append(str(refused))
    assert begun
    assert "would together reach" in ended[0]
    assert max(total.epsilon for total in Odometer(data.secret).totals()) <= limit


def test_a_limit_is_looked_at_where_nobody_can_come_between(tmp_path, monkeypatch):
    secret = DataSecret(bytes(range(32)), False, tmp_path / "own")
    data = dataclasses.replace(toy.hospitals(), secret=secret)
    limit = limit_of(PLAN, tmp_path)
    planned = []

    def plan_both(charges, *arguments):
        ledger = plan_ahead(charges, *arguments)
        if not planned:
            planned.append(True)
            train(PLAN.replace(seed=2), data, max_total_epsilon=limit)  # begins and ends before this one is charged
        return ledger

    plan_ahead = WriteAhead.plan_ahead
    monkeypatch.setattr(WriteAhead, "plan_ahead", plan_both)
    with pytest.raises(InvalidInput, match="2 runs on these data would together reach"):
        train(PLAN, data, max_total_epsilon=limit)
    (total,) = [one for one in Odometer(secret).totals() if one.unit == "hospital"]
    assert total.runs == 1
