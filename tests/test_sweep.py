"""Grids of settings: every combination is a row, bad axes are refused, and a point that fails shows."""

from __future__ import annotations

import dataclasses

import pytest
import toy

from tff_hospitals.experiments import baselines, compare_command, front_door
from tff_hospitals.experiments import comparison as comparisons
from tff_hospitals.experiments.comparison import Comparison
from tff_hospitals.experiments.grid import method_at, parse_grid, points
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.experiments.runner import MethodRunner
from tff_hospitals.experiments.sweep import job_of
from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan import Plan
from tff_hospitals.training.results import TrainingError

pytestmark = pytest.mark.tensorflow

GRID = parse_grid(["local_steps:2|5", "client_learning_rate:0.05|0.2"])


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], "at least one flag"),
        (["local_steps:"], "has no values"),
        (["server_optimizer:|"], "has no values"),
        (["local_steps:1:5"], "different values"),
        (["local_steps:1|1"], "different values"),
        (["local_steps:1|x"], "whole number"),
        (["local_stebs:1|2"], "local_steps"),
        (["client_learning_rate:0.1|-1"], "client_learning_rate"),
        (["seed:1|2"], "is what settings are compared for"),
        (["rounds:1|2", "rounds:3|4"], "comes twice"),
        (
            ["rounds:" + "|".join(map(str, range(1, 30))), "batch_size:" + "|".join(map(str, range(1, 30)))],
            "at most 500",
        ),
    ],
)
def test_axes_without_use_are_refused_with_remedy(texts, words):
    with pytest.raises(InvalidInput, match=words):
        parse_grid(texts)


def test_every_combination_is_a_method_of_its_own_and_baselines_stay():
    found = points(GRID, METHODS["mean"], METHODS["mean"].plan(Plan(), None))
    assert [(plan.client.local_steps, plan.client.learning_rate) for _, plan in found] == [
        (2, 0.05),
        (2, 0.2),
        (5, 0.05),
        (5, 0.2),
    ]
    assert len({method.name for method, _ in found}) == len({method.label for method, _ in found}) == 4
    assert all(plan.method == method.name for method, plan in found)
    assert points(GRID, METHODS["local"], Plan()) == [(METHODS["local"], Plan())]
    some = parse_grid(["clip_norm:0.5|1.0", "local_steps:2|5"])
    assert len(points(some, METHODS["mean"], METHODS["mean"].plan(Plan(), None))) == 2  # which has no clip norm
    assert points(some, METHODS["mean"], METHODS["mean"].plan(Plan(), None))[0][0].label.endswith("(-, 2)")
    assert len(points(some, METHODS["dp_sgd"], METHODS["dp_sgd"].plan(Plan(), 3.0))) == 4
    encoded = parse_grid(["upload:rotate,quantize:4|rotate,quantize:8"])
    names = [method.name for method, _ in points(encoded, METHODS["mean"], Plan())]
    assert not any(letter in name for name in names for letter in ":/\\ ")


def test_a_machine_of_a_cluster_makes_the_same_method_of_the_words(tmp_path):
    method, plan = points(GRID, METHODS["mean"], METHODS["mean"].plan(Plan(), None))[1]
    job = job_of(MethodRunner(method, plan, toy.hospitals(), "compiled", tmp_path, None), 1)
    assert method_at(job.method, job.label) == method


def test_every_setting_of_a_run_travels_to_the_machine_that_runs_it(tmp_path):
    set_otherwise = {"method", "plan", "dataset", "runtime", "folder", "models"}
    settings = {field.name for field in dataclasses.fields(MethodRunner)} - set_otherwise
    values = {name: f"a value of {name}" for name in settings}
    job = job_of(MethodRunner(METHODS["mean"], Plan(), toy.hospitals(), "compiled", tmp_path, **values), 1)
    assert {name: getattr(job, name) for name in settings} == values


def test_one_table_of_all_points_and_seeds_and_a_failure_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "load", lambda data: toy.hospitals())
    whole, failing = MethodRunner.run_seeds, []

    def run_seeds(self, seeds, on_start=None):
        if self.method.name in failing:
            raise TrainingError("round 1: the update of hospital 'site_0' has norm nan")
        return whole(self, seeds, on_start)

    monkeypatch.setattr(MethodRunner, "run_seeds", run_seeds)
    asked = Comparison(("mean",), (), (1, 2), given={"rounds": 1}, grid=parse_grid(["local_steps:2|5"]))
    failing.append("mean@local_steps=5")
    summary = comparisons.run(asked, tmp_path / "run")
    assert [row["method"] for row in summary["rows"]] == ["mean@local_steps=2", "mean@local_steps=5"]
    assert summary["rows"][0]["label"] == "FedAvg, equal weights (2)"
    assert len(summary["rows"][0]["accuracy_per_seed"]) == 2
    assert summary["title"].endswith("in brackets: local_steps")
    assert summary["rows"][1]["status"] == "failed"
    assert ["norm nan" in text for text in comparisons.failures(summary)] == [True]
    failing.clear()
    assert comparisons.failures(comparisons.run(asked, tmp_path / "run")) == []  # goes on where it failed
    other = Comparison(("mean",), (), (1, 2), given={"rounds": 1}, grid=parse_grid(["local_steps:2|6"]))
    with pytest.raises(RecordError, match="differs in grid"):
        comparisons.run(other, tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "axes", "words"),
    [
        ({"local_steps": 3}, ["local_steps:2|5"], "is in the grid as well"),
        ({}, ["clip_norm:1.0|2.0"], "is only used with"),
    ],
)
def test_a_grid_that_says_nothing_new_is_refused_before_training(given, axes, words, tmp_path):
    with pytest.raises(InvalidInput, match=words):
        comparisons.run(Comparison(("mean",), (), (1,), given=given, grid=parse_grid(axes)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_passes_its_grid_on_and_needs_one(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(compare_command, "compare", lambda default, grid: asked.append((default, grid)))
    folder = f"--run_dir={tmp_path / 'run'}"
    with pytest.raises(SystemExit) as ended:
        front_door.main("sweep", ["sweep", "--grid=local_steps:2|5", folder])
    assert ended.value.code == 0
    assert asked == [(("weighted_mean",), (("local_steps", (2, 5)),))]
    with pytest.raises(SystemExit) as ended:
        front_door.main("sweep", ["sweep", folder])
    assert ended.value.code == 2
    assert "--grid" in capsys.readouterr().err
