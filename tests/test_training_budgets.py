"""Who may still train: every unit of a run keeps its own limit, asked before each round (no TensorFlow)."""

from __future__ import annotations

import pytest
import toy

from tff_hospitals.accounting import Ledger
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan import review
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.budgets import RoundBudgets, limits

BASE = Plan().replace(
    rounds=12,
    client={"local_steps": None, "local_epochs": 1, "batch_size": 4, "learning_rate": 0.1},
    privacy={"clip_norm": 0.5, "delta": 1e-2},
)


@pytest.fixture(scope="module")
def few():
    return toy.hospitals(sizes=(200, 100, 8))


def plan_of(name, **changes):
    return METHODS[name].plan(BASE, 8.0).replace(**changes)


def walk(plan, dataset, cohorts):
    """Takes the rounds that are allowed, as the loop does; returns decisions and the ledger."""
    noise = noise_plan.make(plan, dataset)
    budgets, ledger, decisions = RoundBudgets(plan, dataset, noise), Ledger(noise.delta, noise.adjacency), []
    for part in noise.parts:
        if not next(iter(part.releases.values())).shared:
            ledger.expect(part.unit, dataset.ids)
    for number, cohort in enumerate(cohorts):
        decisions.append(budgets.decide(ledger, number, cohort))
        if decisions[-1].stop is not None:
            break
        present = decisions[-1].may_train
        for part in noise.parts:
            shared = next(iter(part.releases.values())).shared
            for one in (None,) if shared else present:
                steps = 1 if shared else noise_plan.steps_per_round(plan, dataset.records()[one])
                release = next(iter(part.releases.values())) if shared else part.releases[one]
                ledger.record(part.unit, one, number + 1, *release.in_round(number, steps, len(present)))
    return decisions, ledger, noise


def names(plan):
    return [problem.name for problem in review.problems(plan)]


def test_the_limit_holds_for_both_units_and_each_can_have_its_own(few):
    both = plan_of("dp_sgd_fixed_clip", stopping={"max_epsilon": 4.0})
    assert limits(both, noise_plan.make(both, few)) == {
        "record": (4.0, "max_epsilon"),
        "hospital": (4.0, "max_epsilon"),
    }
    own = both.replace(stopping={"outer_max_epsilon": 2.0})
    found = limits(own, noise_plan.make(own, few))
    assert found == {"record": (4.0, "max_epsilon"), "hospital": (2.0, "outer_max_epsilon")}
    outer = own.replace(stopping={"max_epsilon": None})
    assert limits(outer, noise_plan.make(outer, few)) == {"hospital": (2.0, "outer_max_epsilon")}
    free = outer.replace(stopping={"outer_max_epsilon": None})
    assert limits(free, noise_plan.make(free, few)) == {}
    assert not RoundBudgets(free, few, noise_plan.make(free, few))


@pytest.mark.parametrize(
    ("stopping", "allowed", "named"),
    [
        ({"max_epsilon": 4.0}, {"record": 4.0, "hospital": 4.0}, "max_epsilon"),
        ({"max_epsilon": 7.9, "outer_max_epsilon": 3.0}, {"record": 7.9, "hospital": 3.0}, "outer_max_epsilon"),
        ({"outer_max_epsilon": 3.0}, {"record": 8.0, "hospital": 3.0}, "outer_max_epsilon"),
    ],
)
def test_noise_of_the_server_that_is_used_up_ends_the_run_for_all(few, stopping, allowed, named):
    """Inside, the noise is far more than the limit asks for: it is the hospital level that ends the run."""
    plan = plan_of("dp_sgd_fixed_clip", privacy={"target_epsilon": 2.0}, stopping=stopping)
    decisions, ledger, _ = walk(plan, few, [few.ids] * 12)
    assert len(decisions) < 12
    assert decisions[-1].may_train == ()
    limit = allowed["hospital"]
    assert decisions[-1].stop.startswith("every hospital would reach epsilon ")
    assert decisions[-1].stop.endswith(f"per hospital at delta 0.01 (rdp); its budget is {limit:g} ({named})")
    for unit, most in allowed.items():
        assert 0 < ledger.epsilon(unit) <= most


def test_a_hospital_leaves_at_whichever_unit_is_spent_first(few):
    """The outer limit of local noise is spent by all at once, the inner one by the smallest hospital first."""
    plan = plan_of("dp_sgd_fixed_clip", privacy={"outer": "local_dp", "target_epsilon": None, "noise_multiplier": 1.0})
    inner = plan.replace(stopping={"max_epsilon": 3.0, "outer_max_epsilon": 7.0})
    inside, ledger, _ = walk(inner, few, [few.ids] * 12)
    small = [number for number, one in enumerate(inside) if " per record " in one.reasons.get("site_2", "")]
    assert small  # the smallest samples its records most often
    assert inside[small[0]].may_train == ("site_0", "site_1")
    assert inside[-1].reasons["site_0"].endswith("its budget is 7 (outer_max_epsilon)")
    for one in few.ids:
        assert 0 < ledger.epsilon("record", one) <= 3.0
        assert 0 < ledger.epsilon("hospital", one, "gaussian_exact") <= 7.0
    assert ledger.steps("hospital", "site_2") < ledger.steps("hospital", "site_0")
    outside, ledger, _ = walk(plan.replace(stopping={"outer_max_epsilon": 3.0}), few, [few.ids] * 12)
    assert {one.may_train for one in outside[:-1]} == {few.ids}
    assert outside[-1].may_train == ()
    assert outside[-1].stop.startswith("site_0 would reach")
    assert max(ledger.epsilon("hospital", one, "gaussian_exact") for one in few.ids) <= 3.0


def test_a_spent_cohort_does_not_end_a_run_that_others_can_go_on_with(few):
    plan = plan_of("dp_sgd", privacy={"target_epsilon": None, "noise_multiplier": 1.0}, stopping={"max_epsilon": 3.0})
    decisions, ledger, _ = walk(plan, few, [("site_2",)] * 12)
    spent = next(one for one in decisions if not one.may_train)
    assert "site_2" in spent.reasons
    assert spent.stop is None  # site_0 and site_1 have everything left
    assert len(decisions) == 12
    assert ledger.epsilon("record", "site_2") <= 3.0
    decisions, _, _ = walk(plan.replace(rounds=300), few, [few.ids] * 300)
    assert decisions[-1].stop is not None
    assert len(decisions) < 300


def test_an_empty_cohort_pays_for_noise_of_the_server_as_well(few):
    """Nobody in a Poisson cohort: the release happens all the same, and may be one too many."""
    plan = plan_of("fixed_clip", stopping={"max_epsilon": 4.0})
    decisions, ledger, _ = walk(plan, few, [()] * 12)
    assert decisions[-1].stop.startswith("every hospital would reach")
    assert 0 < ledger.epsilon("hospital") <= 4.0
    inside = plan_of("dp_sgd", stopping={"max_epsilon": 4.0})
    decisions, _, _ = walk(inside, few, [()] * 12)
    assert all(one.stop is None and one.reasons == {} for one in decisions)


def test_limits_that_nothing_uses_or_nothing_keeps_are_refused():
    assert names(plan_of("dp_sgd", stopping={"outer_max_epsilon": 2.0})) == ["outer_max_epsilon"]
    two = plan_of("dp_sgd_fixed_clip")
    assert names(two.replace(stopping={"max_epsilon": 1.0, "outer_max_epsilon": 2.0})) == []
    assert names(two.replace(stopping={"outer_max_epsilon": 0.0})) == ["outer_max_epsilon"]
    assert names(two.replace(stopping={"outer_max_epsilon": float("nan")})) == ["outer_max_epsilon"]
    swept = two.replace(privacy={"selected_from": 3.0}, stopping={"outer_max_epsilon": 2.0})
    assert names(swept) == ["outer_max_epsilon"]
