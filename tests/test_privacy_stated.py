"""Epsilon as a run states and limits it: both units, every mechanism, and the conversion that is named."""

from __future__ import annotations

import dataclasses
import math

import dp_accounting
import pytest
import toy
from few_fast import few_fast
from test_privacy_plans import BASE, COUNTING, KINDS, PRIVATE, every_method, hospitals_for, plan_of

from tff_hospitals.accounting.gaussian import exact_delta
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.training.loop import build_model, train

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def few():
    return toy.hospitals()


@pytest.fixture(scope="module")
def many():
    return toy.hospitals(sizes=(6,) * 40)


@pytest.fixture(scope="module")
def model(few):
    return build_model(BASE, few)


@pytest.mark.parametrize("name", few_fast([one for one in PRIVATE if one not in COUNTING], KINDS, ("blt", "local_dp")))
def test_a_budget_ends_every_mechanism_in_time(name, few, model):
    plan = plan_of(name).replace(rounds=12, stopping={"max_epsilon": 4.0})  # the noise is that of epsilon 8
    run = train(plan, few, model=model)
    assert 0 < run.summary["epsilon"] <= 4.0
    assert (run.summary["second_epsilon"] or 0.0) <= 4.0
    assert run.summary["rounds"] < 12 or any("left the cohort" in text for text in run.summary["warnings"])


def test_an_outer_budget_ends_the_run_and_is_named(few, model):
    plan = plan_of("dp_sgd_fixed_clip").replace(rounds=12, stopping={"outer_max_epsilon": 3.0})
    summary = train(plan, few, model=model).summary
    assert summary["stop_reason"].startswith("privacy budget spent: every hospital would reach epsilon 3.")
    assert "per hospital" in summary["stop_reason"]
    assert summary["stop_reason"].endswith("its budget is 3 (outer_max_epsilon)")
    assert 0 < summary["second_epsilon"] <= 3.0
    assert summary["rounds"] < 12


def test_shares_that_a_leaving_hospital_takes_along_are_missed_before_the_round(model):
    """site_2 leaves for its records' sake; the two that stay bring less noise, and the limit outside still holds."""
    dataset = toy.hospitals(sizes=(200, 100, 8))
    plan = plan_of("dp_sgd").replace(
        rounds=12,
        weighting="equal",
        privacy={"target_epsilon": None, "noise_multiplier": 1.0, "outer": "skellam", "outer_noise_multiplier": 3.0},
        stopping={"max_epsilon": 3.0, "outer_max_epsilon": 4.0},
    )
    run = train(plan, dataset)
    shares = [event.shares for event, _ in run.ledger.events("hospital")]
    assert shares[:2] == [3, 2]
    assert any(text.startswith("site_2 left the cohort before round") for text in run.summary["warnings"])
    assert 0 < run.summary["epsilon"] <= 3.0
    assert 0 < run.summary["second_epsilon"] <= 4.0


@pytest.mark.parametrize("runtime", ["compiled", "native"])
def test_a_round_whose_whole_cohort_has_spent_its_budget_leaves_the_model_alone(runtime):
    dataset = toy.hospitals(sizes=(200, 8))
    plan = plan_of("dp_sgd").replace(
        rounds=12,
        cohort={"kind": "cyclic", "hospitals_per_round": 1},
        privacy={"target_epsilon": None, "noise_multiplier": 1.0},
        stopping={"max_epsilon": 2.0},
    )
    run = train(plan, dataset, runtime=runtime)
    assert run.summary["rounds"] == 12
    steps = {one: run.ledger.steps("record", one) for one in dataset.ids}
    assert steps["site_0"] == 6 * 50
    assert steps["site_1"] < 6 * 2
    assert run.summary["epsilon"] <= 2.0


@pytest.mark.parametrize("name", ["dp_sgd", "fixed_clip"])
def test_tiny_noise_has_no_loss_distribution_and_the_run_says_why(name, few, model):
    plan = plan_of(name, rounds=2, privacy={"target_epsilon": None, "noise_multiplier": 1e-6})
    summary = train(plan, few, model=model).summary
    assert math.isfinite(summary["epsilon"])
    certificate, key = summary["certificate"], "site_0" if name == "dp_sgd" else ""
    assert certificate["pld"][key] is None
    assert "cells" in certificate["left_out"]["pld"][key]
    if name == "fixed_clip":  # Gaussian noise without sampling has a closed form
        assert summary["epsilon_pld"] < summary["epsilon"]
        assert summary["epsilon_pld_missing"] is None
    else:
        assert summary["epsilon_pld"] is None
        assert summary["epsilon_pld_missing"].startswith("would need a loss distribution of ")


def test_local_noise_is_calibrated_by_the_exact_gaussian(few, model, tmp_path):
    """Balle and Wang 2018: T rounds of full participation are one Gaussian of multiplier / sqrt(T)."""
    plan = plan_of("local_dp")
    noise = noise_plan.make(plan, few)
    assert noise.conversion == "gaussian_exact"
    mu = math.sqrt(plan.rounds) / noise.multipliers["site_0"]
    assert exact_delta(mu, 8.0) == pytest.approx(1e-2, rel=1e-5)
    named = noise_plan.make(plan.replace(privacy={"conversion": "rdp"}), few)
    assert named.conversion == "rdp"
    assert named.multipliers["site_0"] > 1.05 * noise.multipliers["site_0"]
    summary = train(plan, few, model=model, run_dir=tmp_path / "run").summary
    assert summary["conversion"] == "gaussian_exact"
    assert 7.999 < summary["epsilon"] <= 8.0 * (1 + 1e-9)
    assert set(summary["epsilon_per_hospital"].values()) == {summary["epsilon"]}
    assert summary["epsilon_rdp"] > 1.05 * summary["epsilon"]
    assert "Computed by: exact Gaussian mechanism (Balle and Wang 2018)." in summary["guarantee"]
    assert summary["curve"][-1]["epsilon"] == summary["epsilon"]
    certificate = summary["certificate"]
    assert certificate["conversion"] == "gaussian_exact"
    assert certificate["pld"]["site_0"] == pytest.approx(summary["epsilon"], rel=2e-3)
    if hasattr(dp_accounting, "get_epsilon_gaussian"):
        assert certificate["gaussian_exact"]["site_0"] == pytest.approx(summary["epsilon"], rel=1e-6)
    loose = train(plan.replace(privacy={"conversion": "rdp"}), few, model=model).summary
    assert (loose["conversion"], loose["epsilon"]) == ("rdp", loose["epsilon_rdp"])
    assert "Renyi DP" in loose["guarantee"]


@every_method
def test_only_local_dp_has_another_conversion_by_default(name, few, many):
    noise = noise_plan.make(plan_of(name), hospitals_for(name, few, many))
    expected = "gaussian_exact" if name == "local_dp" else "rdp"
    assert {part.conversion for part in noise.parts} == {expected}


def test_the_exact_gaussian_is_left_where_something_else_was_released(few):
    laplace = {"kind": "laplace", "noise_multiplier": 9.0, "unit": "hospital", "count": 1}
    gaussian = {**laplace, "kind": "gaussian"}
    for event, conversion in ((laplace, "rdp"), (gaussian, "gaussian_exact")):
        dataset = dataclasses.replace(few, preprocessing=dataclasses.replace(few.preprocessing, events=(event,)))
        assert noise_plan.make(plan_of("local_dp"), dataset).conversion == conversion
    winner = noise_plan.make(plan_of("local_dp", privacy={"selected_from": 3.0}), few)
    assert winner.conversion == "rdp"


def test_each_unit_is_stated_in_its_own_conversion(few, model):
    plan = plan_of("dp_sgd_fixed_clip", privacy={"outer": "local_dp"})
    summary = train(plan, few, model=model).summary
    assert (summary["conversion"], summary["second_conversion"]) == ("rdp", "gaussian_exact")
    assert 7.999 < summary["second_epsilon"] <= 8.0 * (1 + 1e-9)
    (said,) = [text for text in summary["warnings"] if text.startswith("two guarantees")]
    assert "epsilon 8 per hospital at delta 0.01 (gaussian_exact)" in said
    assert summary["certificate"]["second_unit"]["conversion"] == "gaussian_exact"
    assert set(summary["certificate"]["second_unit"]["pld"]) == set(few.ids)


def test_a_run_states_its_epsilon_in_the_conversion_that_was_named(few, model):
    summary = train(plan_of("dp_sgd", privacy={"conversion": "pld"}), few, model=model).summary
    assert summary["conversion"] == "pld"
    assert summary["epsilon"] == summary["epsilon_pld"] <= 8.0 * (1 + 1e-9)
    assert summary["epsilon_rdp"] > summary["epsilon"] > 7.99
    assert summary["curve"][-1]["epsilon"] == summary["epsilon"]
    tiny = plan_of("dp_sgd", rounds=2, privacy={"conversion": "pld", "target_epsilon": None, "noise_multiplier": 1e-6})
    stated = train(tiny, few, model=model).summary
    assert (stated["conversion"], stated["epsilon_pld"]) == ("rdp", None)  # no loss distribution fits into memory
    assert stated["epsilon"] == stated["epsilon_rdp"] > 1e9
    limited = train(tiny.replace(stopping={"max_epsilon": 5.0}), few, model=model).summary
    assert limited["stop_reason"].startswith("privacy budget spent: site_0 would reach epsilon inf")
