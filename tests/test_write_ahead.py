"""What is charged before it exists: secure noise that is interrupted, extended runs, and the odometer."""

from __future__ import annotations

import dataclasses

import pytest
import toy

from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals.secret import DataSecret
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.loop import train
from tff_hospitals.training.odometer import Odometer

pytestmark = pytest.mark.tensorflow
PLAN = Plan(rounds=6, checkpoint_every=4, weighting="equal", seed=1).replace(
    client={"local_steps": 3, "batch_size": 5}, privacy={"mechanism": "fixed_clip", "noise_multiplier": 2.0}
)


def die_after(rounds):
    def die(progress):
        if progress.round == rounds:
            raise KeyboardInterrupt

    return die


@pytest.mark.parametrize(("mechanism", "after"), [("fixed_clip", 2), ("fixed_clip", 5), ("tree", 5), ("dp_sgd", 5)])
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
