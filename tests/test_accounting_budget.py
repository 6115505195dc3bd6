"""Budgets: who may train on, who has spent theirs, and how many steps are left, from the ledger alone."""

import math

import pytest

from tff_hospitals.accounting import Budget, Ledger, MechanismEvent, epsilon_of
from tff_hospitals.foundations import validation

STEP = MechanismEvent("gaussian", noise_multiplier=10.0)
RARE = MechanismEvent("poisson_gaussian", noise_multiplier=2.4, sampling_probability=0.02)
OFTEN = MechanismEvent("poisson_gaussian", noise_multiplier=2.4, sampling_probability=0.125)


def test_steps_left_are_exact():
    """The last affordable step keeps the limit, one more breaks it."""
    ledger, budget = Ledger(1e-5), Budget({"record": 1.0})
    left = budget.affordable_steps(ledger, "record", "va", STEP)
    assert epsilon_of(STEP, 1e-5, count=left) <= 1.0 < epsilon_of(STEP, 1e-5, count=left + 1)
    ledger.record("record", "va", 1, STEP, left - 2)
    assert budget.affordable_steps(ledger, "record", "va", STEP) == 2
    assert budget.affordable_steps(ledger, "record", "va", STEP, at_most=1) == 1
    ledger.record("record", "va", 2, STEP, 2)
    assert budget.affordable_steps(ledger, "record", "va", STEP) == 0
    assert budget.exceeded(ledger, "record") == ()
    ledger.record("record", "va", 3, STEP, 1)
    assert budget.exceeded(ledger, "record") == ("va",)


def test_a_spent_hospital_leaves_and_the_others_go_on():
    """A loop that always asks never exceeds any budget, and ends when nobody is left."""
    ledger, budget = Ledger(1e-3), Budget({"record": 1.0})
    planned = {"cleveland": [(RARE, 100)], "switzerland": [(OFTEN, 100)]}
    cohorts = []
    for round_number in range(1, 100):
        decision = budget.decide(ledger, "record", planned)
        if decision.stop:
            break
        cohorts.append(decision.may_train)
        for hospital_id in decision.may_train:
            ledger.record("record", hospital_id, round_number, *planned[hospital_id][0])
    assert cohorts[-1] == ("cleveland",)
    assert set(decision.exhausted) == {"cleveland", "switzerland"}
    assert "switzerland would reach epsilon" in decision.reasons["switzerland"]
    assert "its budget is 1" in decision.reasons["switzerland"]
    assert len(cohorts) == 15  # noise 2.4 lasts 1,517 steps of Cleveland's
    assert ledger.worst_epsilon("record")[0] <= 1.0


def test_budgets_of_their_own():
    budget = Budget({"record": {"a": 0.5, "b": 5.0}})
    planned = {name: [(STEP, 10)] for name in ("a", "b", "c")}
    decision = budget.decide(Ledger(1e-5), "record", planned)
    assert decision.may_train == ("b", "c")  # c has no limit
    assert budget.target("record") == 0.5
    assert budget.target("hospital", "a") == math.inf


def test_shared_releases_count_for_a_hospital_without_entries():
    ledger, budget = Ledger(1e-5), Budget({"hospital": 2.0})
    ledger.record("hospital", None, 1, STEP, 10)
    alone = budget.epsilon_after(ledger, "hospital", "new", [(STEP, 5)])
    assert alone == pytest.approx(epsilon_of(STEP, 1e-5, count=15))
    ledger.record("hospital", "old", 1, STEP, 1)
    assert budget.epsilon_after(ledger, "hospital", "new", [(STEP, 5)]) == pytest.approx(alone)
    assert budget.epsilon_after(ledger, "hospital", "old", []) == pytest.approx(epsilon_of(STEP, 1e-5, count=11))


def test_a_growing_tree_is_asked_about_as_a_whole():
    """Step 9 of a tree opens a new level: four nodes become four for step 8 but five from step 16 on."""
    ledger, budget = Ledger(1e-5, "replace_special"), Budget({"hospital": 3.0})

    def tree(steps):
        return MechanismEvent("tree", noise_multiplier=2.0, steps=steps, restart=0)

    ledger.record("hospital", None, 1, tree(8))
    eight = ledger.epsilon("hospital")
    assert budget.epsilon_after(ledger, "hospital", None, [(tree(15), 1)]) == pytest.approx(eight)
    assert budget.epsilon_after(ledger, "hospital", None, [(tree(16), 1)]) > eight


def test_no_noise_is_never_affordable():
    decision = Budget({"record": 8.0}).decide(Ledger(1e-5), "record", {"a": [(MechanismEvent("non_private"), 1)]})
    assert decision.stop
    assert "epsilon inf" in decision.reasons["a"]


def test_the_conversion_is_that_of_the_promise():
    """The loss distribution is tighter, so the same promise pays for more steps."""
    left = {
        name: Budget({"record": 1.0}, name).affordable_steps(Ledger(1e-3), "record", "a", RARE, at_most=4000)
        for name in ("rdp_classical", "rdp", "pld")
    }
    assert left["rdp_classical"] < left["rdp"] == 1517 < left["pld"]


@pytest.mark.parametrize(
    ("targets", "conversion", "words"),
    [
        ({"patient": 1.0}, "rdp", "unit of the budget='patient'"),
        ({"record": 0.0}, "rdp", "epsilon budget of every hospital=0.0"),
        ({"record": {"va": -2.0}}, "rdp", "epsilon budget of va=-2.0"),
        ({"record": 1.0}, "rpd", "conversion='rpd'"),
    ],
)
def test_bad_budgets(targets, conversion, words):
    with pytest.raises(validation.InvalidInput, match=words):
        Budget(targets, conversion)
