from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from tff_hospitals.foundations.files import RecordError
from tff_hospitals.hospitals import load_dataset
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan import review
from tff_hospitals.plan.plan import Plan


@pytest.fixture(scope="module")
def heart():
    return load_dataset("heart_disease")


def names(plan, dataset=None):
    return [problem.name for problem in review.problems(plan, dataset)]


def test_a_sound_plan_has_no_problems(heart):
    assert review.problems(Plan(), heart) == []
    assert review.problems(Plan().replace(privacy={"mechanism": "dp_sgd", "target_epsilon": 1.0}), heart) == []


def test_json_round_trip_through_text():
    plan = Plan().replace(data={"options": {"alpha": 0.3}}, privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.1})
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert Plan.from_json(plan.to_json()).fingerprint() == plan.fingerprint()


def test_unknown_fields_of_a_stored_plan_are_named():
    with pytest.raises(RecordError, match="'aggregatr' is unknown"):
        Plan.from_json({"aggregatr": "x"})
    with pytest.raises(RecordError, match="part 'client'"):
        Plan.from_json({"client": {"learning_rat": 1.0}})


def test_every_field_changes_the_fingerprint():
    plan = Plan()
    changed = [
        plan.replace(rounds=16),
        plan.replace(seed=43),
        plan.replace(client={"batch_size": 5}),
        plan.replace(privacy={"clip_norm": 1.2}),
        plan.replace(upload="quantize:8"),
    ]
    assert len({one.fingerprint() for one in (plan, *changed)}) == 6


def test_a_plan_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Plan().rounds = 3


def test_all_problems_come_at_once():
    plan = Plan().replace(
        rounds=0, client={"learning_rate": -1.0, "batch_size": 0}, server={"optimizer": "adm"}, weighting="size"
    )
    assert names(plan) == ["client_learning_rate", "batch_size", "weighting", "server_optimizer", "rounds"]
    for problem in review.problems(plan):
        assert problem.bound
        assert problem.remedy


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"client": {"learning_rate": 0.0}}, "client_learning_rate"),
        ({"client": {"learning_rate": float("nan")}}, "client_learning_rate"),
        ({"client": {"local_epochs": 1}}, "local_epochs, local_steps"),
        ({"client": {"local_steps": None}}, "local_epochs, local_steps"),
        ({"client": {"local_steps": 0}}, "local_steps"),
        ({"client": {"learning_rate_schedule": "cosine"}}, "learning_rate_schedule"),
        ({"client": {"learning_rate_schedule": "step:3"}}, "learning_rate_schedule"),
        ({"client": {"momentum": 1.0}}, "client_momentum"),
        ({"cohort": {"kind": "poisson"}}, "hospital_sampling_probability"),
        ({"cohort": {"kind": "fixed_size"}}, "hospitals_per_round"),
        ({"cohort": {"kind": "all", "hospitals_per_round": 2}}, "hospitals_per_round"),
        ({"privacy": {"mechanism": "none", "target_epsilon": 1.0}}, "target_epsilon"),
        ({"privacy": {"mechanism": "dp_sgd"}}, "noise_multiplier, target_epsilon"),
        ({"privacy": {"mechanism": "dp_sgd", "target_epsilon": 0.0}}, "target_epsilon"),
        ({"privacy": {"mechanism": "dp_sgd", "target_epsilon": 1.0, "clip_norm": 0.0}}, "clip_norm"),
        ({"privacy": {"mechanism": "dp_sgd", "target_epsilon": 1.0, "clip_norm": float("inf")}}, "clip_norm"),
        ({"privacy": {"mechanism": "dp_sgd", "target_epsilon": 1.0, "delta": 1.0}}, "delta"),
        ({"privacy": {"mechanism": "fixed_clip", "noise_multiplier": 1.0}}, "weighting"),
        ({"privacy": {"mechanism": "dp_sdg", "noise_multiplier": 1.0}}, "mechanism"),
        ({"stopping": {"max_epsilon": 3.0}}, "max_epsilon"),
        ({"stopping": {"patience": 0}}, "patience"),
        ({"server": {"momentum": -0.1}}, "server_momentum"),
    ],
)
def test_bad_values_are_named(changes, name):
    assert name in names(Plan().replace(**changes))


def test_a_cohort_larger_than_the_federation_is_refused(heart):
    plan = Plan().replace(cohort={"kind": "fixed_size", "hospitals_per_round": 5})
    assert names(plan) == []
    assert names(plan, heart) == ["hospitals_per_round"]


def test_an_epsilon_that_no_noise_reaches_is_refused_before_training():
    """Noised preprocessing comes out of the same budget; what it spent, no noise in training brings back."""
    spent = load_dataset("heart_disease", scaling="dp_moments", scaling_noise_multiplier=1.0)
    plan = Plan().replace(privacy={"mechanism": "dp_sgd", "target_epsilon": 0.5})
    (problem,) = review.problems(plan, spent)[:1]
    assert "epsilon" in problem.name
    assert problem.remedy
    assert review.problems(plan.replace(privacy={"target_epsilon": 20.0}), spent) == []


def test_adaptive_clipping_names_its_bound_for_four_hospitals(heart):
    plan = Plan().replace(weighting="equal", privacy={"mechanism": "adaptive_clip", "target_epsilon": 5.0})
    (problem,) = review.problems(plan, heart)
    assert problem.name == "noise_multiplier"
    assert "below 0.4" in problem.bound  # four hospitals over ten
    assert review.problems(plan.replace(privacy={"target_epsilon": None, "noise_multiplier": 0.39}), heart) == []


def test_noise_is_calibrated_for_each_hospital_by_its_size(heart):
    """Noise multipliers for 1,500 steps, q = 1/ceil(n/4), delta 1e-3, recomputed with dp_accounting 0.6.0."""
    plan = Plan().replace(privacy={"mechanism": "dp_sgd", "target_epsilon": 1.0, "delta": 1e-3})
    multipliers = noise_plan.make(plan, heart).multipliers
    expected = {"cleveland": 2.387, "hungary": 2.739, "switzerland": 14.10, "va_long_beach": 5.190}
    assert multipliers == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("records", "steps"), [(199, 50), (200, 50), (201, 51), (1, 1)])
def test_steps_of_an_epoch(records, steps):
    plan = Plan().replace(client={"local_epochs": 2, "local_steps": None})
    assert noise_plan.steps_per_round(plan, records) == 2 * steps
    assert noise_plan.sampling_probability(plan, records) == 1 / steps


def test_delta_is_a_power_of_ten_below_one_over_records(heart):
    assert noise_plan.default_delta(heart) == 1e-3  # 199 records at the largest hospital
    assert noise_plan.delta_of(Plan().replace(privacy={"delta": 1e-6}), heart) == 1e-6


def test_warnings_say_what_will_disappoint(heart):
    fixed = Plan().replace(weighting="equal", privacy={"mechanism": "fixed_clip", "target_epsilon": 1.0})
    assert any("few hospitals cannot hide" in text for text in review.warnings(fixed, heart))
    leaky = Plan().replace(privacy={"mechanism": "dp_sgd", "target_epsilon": 1.0, "delta": 0.5})
    words = review.warnings(leaky, heart)
    assert any("delta 0.5 is not below" in text for text in words)
    assert any("not the preprocessing" in text for text in words)
    assert not any("not the preprocessing" in text for text in review.warnings(Plan(), heart))


def test_plans_are_made_and_checked_without_tensorflow():
    code = (
        "import sys; from tff_hospitals.plan import Plan, review; from tff_hospitals.hospitals import load_dataset;"
        "p = Plan().replace(privacy={'mechanism': 'dp_sgd', 'target_epsilon': 1.0});"
        "assert review.problems(p, load_dataset('heart_disease')) == [];"
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
