"""The main job as a federated program: TFF's managers and context, our process, ledger and certificate."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest
import toy
from few_fast import few_fast

from tff_hospitals.accounting import Ledger
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.loop import train

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]
PLAN = Plan(rounds=3, weighting="equal").replace(
    client={"local_steps": None, "local_epochs": 1, "batch_size": 8},
    model={"name": "logistic_regression"},
    privacy={"mechanism": "fixed_clip", "noise_multiplier": 2.0, "delta": 1e-2},
)


class Interrupted(Exception):
    pass


def test_an_interrupted_program_goes_on_and_every_round_is_charged_once(tmp_path):
    from tff_hospitals.tff.program import run_program

    dataset = toy.hospitals()

    def stop(number, pooled):
        if number == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_program(PLAN, dataset, tmp_path, stop)
    seen = []
    result = run_program(PLAN, dataset, tmp_path, lambda number, pooled: seen.append(number))
    assert seen == [3]  # the first two rounds are not done again
    run = train(PLAN, dataset)
    assert result.epsilon == {"hospital": pytest.approx(run.summary["epsilon"])}
    assert json.loads((tmp_path / "ledger.json").read_text())["charged"] == {"0": 1, "1": 1, "2": 1}
    certificate = json.loads((tmp_path / "certificate.json").read_text())["hospital"]
    assert certificate["rdp"][""] == pytest.approx(result.epsilon["hospital"], rel=1e-3)
    rows = list(csv.DictReader((tmp_path / "inside" / "evaluation.csv").open()))
    assert [row["round"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["loss"]) == pytest.approx(result.evaluation["pooled"]["loss"], rel=1e-5)
    with pytest.raises(InvalidInput, match="must be the ledger of this plan and these clients"):
        run_program(PLAN.replace(rounds=4), dataset, tmp_path)


def test_cohorts_are_those_of_every_runtime_and_secure_sums_are_simulated(tmp_path):
    from tff_hospitals.tff.program import run_program

    dataset = toy.hospitals()
    some = {"kind": "fixed_size", "hospitals_per_round": 2}
    plan = PLAN.replace(rounds=2, cohort=some, privacy={"secure_sum": True, "noise_multiplier": 0.5})
    result = run_program(plan, dataset, tmp_path)
    assert result.rounds == 2
    assert result.epsilon["hospital"] == pytest.approx(train(plan, dataset).summary["epsilon"])


def test_without_noise_the_last_round_is_that_of_a_run_on_the_same_batches(tmp_path):
    """One batch a round: TFF's order of records and ours are the same."""
    from tff_hospitals.tff.program import run_program

    dataset = toy.hospitals()
    plan = PLAN.replace(
        privacy={"mechanism": "none", "noise_multiplier": None, "delta": None}, client={"batch_size": 64}, rounds=2
    )
    result, run = run_program(plan, dataset, tmp_path), train(plan, dataset)
    assert result.epsilon == {}
    for one, other in zip(result.weights[0], run.weights):
        assert abs(one - other).max() < 1e-5
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert float(rows[0]["train/num_examples"]) == 40


@pytest.mark.parametrize(("mechanism", "code"), few_fast([("fixed_clip", 0), ("dp_sgd", 3)], slow=[("fixed_clip", 0)]))
def test_the_promise_of_a_program_is_put_to_the_test(mechanism, code, tmp_path, capsys):
    """Hospital level in full; batches that TFF drew are not tested by ours, and then the audit says too little."""
    from tff_hospitals.experiments import program_command
    from tff_hospitals.tff.program import run_program

    dataset = toy.hospitals()
    plan = PLAN.replace(privacy={"mechanism": mechanism}, weighting="equal" if mechanism == "fixed_clip" else "records")
    result = run_program(plan, dataset, tmp_path)
    assert program_command.audited(plan, dataset, result, str(tmp_path)) == code
    found = json.loads((tmp_path / "inside" / "audit.json").read_text())
    assert all(one["passed"] for one in found["self_tests"])
    assert any(one["name"].startswith("ledger: events of every round") for one in found["self_tests"])
    missing = {one["name"] for one in found["not_tested"]}
    assert "replay: the published model" in missing
    assert any(name.startswith("batches: ") for name in missing) == (mechanism == "dp_sgd")
    assert all("no test of the batches" in gap for gap in found["gaps"])
    assert ("NOT TESTED: replay" in capsys.readouterr().out) is True
    nothing = dataclasses.replace(result, ledger=Ledger(delta=1e-2))
    assert program_command.audited(plan, dataset, nothing, str(tmp_path)) == 3
