"""A run that came to nothing says so, and which rate to lower; what a plateau rule cannot look at is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import toy

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import HospitalDataset, Part
from tff_hospitals.hospitals.division import Division
from tff_hospitals.plan import review
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training import stopping
from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow


def without_tests(data):
    """The same hospitals, none of which has a test record."""
    bare = tuple(
        dataclasses.replace(one, test=Part(one.test.features[:0], one.test.labels[:0])) for one in data.hospitals
    )
    return dataclasses.replace(data, hospitals=bare)


def test_a_model_without_a_finite_loss_is_called_diverged():
    plan = Plan(rounds=3).replace(server={"optimizer": "adam", "learning_rate": 1e38})
    run = train(plan, toy.hospitals())
    (words,) = [text for text in run.summary["warnings"] if text.startswith(stopping.DIVERGED)]
    assert "lower --server_learning_rate (now 1e+38)" in words
    assert run.summary["accuracy_mean"] is None
    healthy = train(Plan(rounds=2), toy.hospitals())
    assert not any(text.startswith(stopping.DIVERGED) for text in healthy.summary["warnings"])


@pytest.mark.parametrize(
    ("pooled", "diverged"),
    [
        ({"loss": 1e30, "accuracy": 0.56}, True),
        ({"loss": 5e4, "accuracy": 0.5}, False),  # noise of a private method
        ({"loss": 1e12, "rmse": 1e6, "r2": -3.0}, False),  # a target in a small currency
        ({"loss": 1e12, "rmse": 1e6, "r2": float("nan")}, False),  # one test record has no spread
        ({"loss": 1e30, "rmse": 1e15, "r2": -1e20}, True),
        ({"loss": float("inf"), "accuracy": 0.56}, True),
    ],
)
def test_a_senseless_loss_is_as_good_as_an_infinite_one(pooled, diverged):
    words = stopping.final_warnings(Plan(), {**pooled, "records": 20.0})
    assert any(text.startswith(stopping.DIVERGED) for text in words) is diverged


def test_the_rate_to_lower_is_that_of_whoever_could_have_done_it():
    adaptive = Plan().replace(server={"optimizer": "yogi", "learning_rate": 1e30})
    assert stopping.smaller_steps(adaptive, 0).startswith("lower --client_learning_rate")  # no server step yet
    assert stopping.smaller_steps(adaptive, 1).startswith("lower --server_learning_rate (now 1e+30)")
    assert "server" not in stopping.smaller_steps(Plan(), 1)


def test_a_plateau_of_a_metric_that_does_not_exist_is_refused():
    plan = Plan(rounds=1).replace(stopping={"metric": "accuracy", "patience": 3})
    numbers = HospitalDataset.from_arrays(
        {"a": (np.ones([20, 2]), np.arange(20.0))}, task="regression", division=Division(test_fraction=0.3)
    )
    with pytest.raises(InvalidInput, match=r"does not exist for regression. Remedy: set --stopping_metric=loss"):
        train(plan, numbers)
    assert review.problems(plan, toy.hospitals()) == []
    assert review.problems(plan.replace(stopping={"patience": None, "metric": "loss"}), numbers) == []


def test_no_test_record_is_said_and_no_plateau_is_seen_in_nothing():
    data = without_tests(toy.hospitals())
    run = train(Plan(rounds=1), data)
    assert any("no hospital has a test record" in text for text in run.summary["warnings"])
    with pytest.raises(InvalidInput, match="needs test records"):
        train(Plan(rounds=1).replace(stopping={"patience": 1}), data)
