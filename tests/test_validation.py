from __future__ import annotations

import math

import pytest

from tff_hospitals.foundations.validation import InvalidInput, in_range, one_of, raise_if, whole_number


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "0.1", True, None])
def test_rates_that_are_not_positive_finite_numbers_are_refused(value):
    problem = in_range("rate", value, low=0.0, low_open=True, remedy="give 0.1")
    assert problem is not None
    assert problem.remedy == "give 0.1"
    assert "> 0.0" in problem.bound


@pytest.mark.parametrize(("value", "allowed"), [(0.0, True), (1.0, False), (0.999, True), (-1e-9, False)])
def test_open_and_closed_ends(value, allowed):
    assert (in_range("x", value, low=0.0, high=1.0, high_open=True, remedy="r") is None) is allowed


def test_a_float_is_not_a_whole_number():
    assert whole_number("rounds", 3.0, low=1, remedy="r") is not None
    assert whole_number("rounds", 3, low=1, high=3, remedy="r") is None
    assert whole_number("rounds", 4, low=1, high=3, remedy="r") is not None


def test_unknown_names_offer_the_nearest():
    problem = one_of("aggregator", "fedavgg", ["fedavg", "fedadam", "dp_sgd"])
    assert problem is not None
    assert "'fedavg'" in problem.remedy
    assert "dp_sgd" in problem.bound


def test_all_problems_are_raised_at_once():
    problems = [whole_number("a", 0, low=1, remedy="r1"), None, whole_number("b", 0, low=1, remedy="r2")]
    with pytest.raises(InvalidInput) as caught:
        raise_if(problems)
    assert [problem.name for problem in caught.value.problems] == ["a", "b"]
    assert str(caught.value).splitlines() == [
        "a=0: must be >= 1. Remedy: r1.",
        "b=0: must be >= 1. Remedy: r2.",
    ]


def test_no_problem_raises_nothing():
    assert raise_if([None, None]) is None


def test_a_whole_number_beyond_every_float_is_still_compared():
    assert in_range("x", 10**400, low=0, remedy="r") is None
    assert in_range("x", 10**400, high=1.0, remedy="r").bound == "must be <= 1.0"
    assert whole_number("x", -(10**400), low=1, remedy="r").bound == "must be >= 1"
