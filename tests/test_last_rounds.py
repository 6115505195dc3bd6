"""A method that still gets better is told from one that has come to its end, however noisy, and is not ranked."""

from __future__ import annotations

import numpy as np
import pytest
import toy

from tff_hospitals.accounting import Ledger
from tff_hospitals.experiments.last_rounds import known, remedy, still_rising
from tff_hospitals.plan.plan import Plan

ROUNDS = np.arange(1, 16)


def curves(accuracy, loss=None, seeds=5, noise=0.0, seed=0):
    """One curve per seed: the same course with noise of its own."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(seeds):
        one = np.broadcast_to(accuracy, ROUNDS.shape) + noise * generator.normal(size=len(ROUNDS))
        other = np.broadcast_to(0.5 if loss is None else loss, ROUNDS.shape)
        found.append([{"round": r, "accuracy_mean": a, "loss_mean": b} for r, a, b in zip(ROUNDS.tolist(), one, other)])
    return found


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_a_method_that_still_rises_is_told(seeds):
    words = still_rising(curves(0.6 + 0.01 * ROUNDS, seeds=seeds, noise=0.001), "accuracy")
    assert words.startswith("accuracy still rises by ")
    assert words.endswith("in 4 rounds")
    assert float(words.split("by ")[1].split(" points")[0]) == pytest.approx(4.0, abs=0.3)


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_a_method_that_has_come_to_its_end_is_left_alone(seeds):
    assert still_rising(curves(0.8 - 0.3 * np.exp(-ROUNDS), seeds=seeds), "accuracy") is None
    assert still_rising(curves(0.8, loss=0.4 + 0.01 * ROUNDS, seeds=seeds), "accuracy") is None  # past its best


@pytest.mark.parametrize("seeds", [1, 2, 5])
@pytest.mark.parametrize("walk", [False, True], ids=["noise", "random walk"])
def test_noise_around_nothing_is_seldom_taken_for_a_rise(seeds, walk):
    """Nominal: one in forty. Noise of the weights adds up from round to round, which a plain regression ignores."""
    alarms = 0
    for seed in range(200):
        found = curves(0.7, seeds=seeds, noise=0.02, seed=seed)
        for curve in found if walk else ():
            values = 0.7 + np.cumsum([point["accuracy_mean"] - 0.7 for point in curve])
            for point, value in zip(curve, values):
                point["accuracy_mean"] = value
        alarms += still_rising(found, "accuracy") is not None
    assert alarms <= 16  # 5 expected; more than 16 has a chance of 1e-4


def test_noise_does_not_hide_a_rise_that_is_larger():
    found = [still_rising(curves(0.6 + 0.01 * ROUNDS, noise=0.01, seed=seed), "accuracy") for seed in range(50)]
    assert sum(one is not None for one in found) >= 40


def test_a_loss_that_falls_counts_where_the_headline_only_jumps():
    words = still_rising(curves(0.8, loss=0.6 - 0.01 * ROUNDS), "accuracy")
    assert words.startswith("loss still falls by 0.040")


def test_gains_that_do_not_count_do_not_count():
    assert still_rising(curves(0.8 + 0.0005 * ROUNDS, loss=0.5 - 1e-4 * ROUNDS), "accuracy") is None


def test_nothing_is_said_of_few_rounds():
    few = [curve[:3] for curve in curves(0.1 * ROUNDS)]
    assert not known(few)
    assert still_rising(few, "accuracy") is None
    assert not known([])


def test_what_the_task_does_not_have_is_passed_over():
    undefined = [[{**point, "auc_mean": None} for point in curve] for curve in curves(0.1)]
    assert still_rising(undefined, "auc") is None


def test_the_remedy_is_that_of_the_end_it_had():
    plan = Plan(rounds=15).replace(client={"learning_rate": 0.01})
    assert remedy(plan, "round limit reached") == (
        "more --rounds (now 15), or a larger --client_learning_rate (now 0.01)"
    )
    adam = plan.replace(server={"optimizer": "adam", "learning_rate": 0.1})
    assert "--server_learning_rate (now 0.1)" in remedy(adam, "round limit reached")
    assert "--patience" in remedy(plan.replace(stopping={"patience": 2}), "plateau: loss did not improve")
    assert "budget" in remedy(plan, "privacy budget spent: epsilon")


@pytest.mark.tensorflow
def test_the_row_says_so_and_the_headline_does_not_rank_it():
    from tff_hospitals.experiments.outcome import Outcome
    from tff_hospitals.experiments.runner import RunResult
    from tff_hospitals.reports.columns import row_from_json
    from tff_hospitals.training.metrics import Predictions

    data = toy.hospitals()
    records = sum(data.records(train=False).values())
    labels = np.arange(records) % 2
    found = Predictions("binary", labels, np.zeros(records), np.ones(records), 0.8 * labels)
    outcome = Outcome([data], seeds=3)
    for name, course in (("rises", 0.6 + 0.01 * ROUNDS), ("ended", np.full(15, 0.7))):
        runs = [RunResult({"curve": curve}, found, Ledger(1e-3)) for curve in curves(course, seeds=3)]
        row = {"method": name, "unit": "none", "accuracy_mean": 0.7, "warnings": [], "stop_reason": "round limit"}
        outcome.enter(row, runs, Plan())
    rises, ended = (row_from_json(row) for row in outcome.fields()["rows"])
    assert (rises.ranked, ended.ranked) == (False, True)
    assert (rises.get("converged"), ended.get("converged")) == (False, True)
    assert rises.warnings[0].startswith("not trained to its end, so it is not ranked: accuracy still rises")
    assert ended.warnings == ()
