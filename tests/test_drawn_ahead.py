"""Rounds that are drawn while others are trained are the rounds that would have been drawn."""

from __future__ import annotations

import threading

import pytest
import toy

from tff_hospitals.plan import Plan
from tff_hospitals.plan.parts import ClientPlan, PrivacyPlan
from tff_hospitals.training.drawn_ahead import DrawnAhead
from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow


@pytest.mark.parametrize("cores", [1, 2])
def test_each_round_is_drawn_once_and_in_order(cores):
    drawn, threads = [], set()

    def draw(number):
        drawn.append(number)
        threads.add(threading.current_thread().name.split("_0")[0])
        return number

    ahead = DrawnAhead(draw, cores=cores)
    got = [ahead.rounds(start, start + 3, last=8 if start < 6 else 9) for start in (0, 3, 6)]
    assert got == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert drawn == sorted(drawn) == [*range(9)]
    assert ("drawn_ahead" in threads) == (cores == 2)


def test_a_failure_comes_when_its_round_does():
    def draw(number):
        if number == 3:
            raise ValueError(f"round {number}")
        return number

    ahead = DrawnAhead(draw, cores=2)
    assert ahead.rounds(0, 2, last=9) == [0, 1]
    with pytest.raises(ValueError, match="round 3"):
        ahead.rounds(2, 4, last=9)
    ahead.stop()


@pytest.mark.parametrize("privacy", [PrivacyPlan(), PrivacyPlan(mechanism="dp_sgd", noise_multiplier=1.0)])
def test_a_run_is_the_same_with_one_core_and_two(privacy, monkeypatch):
    """Poisson batches, whose sizes differ, too."""
    client = ClientPlan(batch_size=4, local_steps=3)
    plan, dataset = Plan(rounds=5, evaluate_every=2, client=client, privacy=privacy), toy.hospitals()
    runs = []
    for cores in (1, 2):
        monkeypatch.setattr(
            "tff_hospitals.training.session.DrawnAhead", lambda draw, c=cores: DrawnAhead(draw, cores=c)
        )
        runs.append(train(plan, dataset))
    for one, other in zip(runs[0].weights, runs[1].weights):
        assert one.tobytes() == other.tobytes()
