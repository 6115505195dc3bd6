"""The benchmark of algorithms in a tiny setting: rounds, settings by one grid, a table."""

from __future__ import annotations

import importlib
import pathlib
from typing import Any

import pytest


@pytest.fixture
def benchmark(checkout: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    return importlib.import_module("algorithms")


@pytest.mark.tensorflow
@pytest.mark.slow
def test_rounds_are_counted_until_the_target_is_reached(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CLIENT_RATES", (0.1, 1e30)), ("TUNING_SEEDS", (1,)), ("DATA", benchmark.TUNING_DATA)):
        monkeypatch.setattr(benchmark, name, value)
    saved: list[list[str]] = []
    found = benchmark.measure(["mean"], 1, 3, 0.3, lambda one: saved.append(list(one)))["mean"]
    assert saved == [["mean"]]
    assert found["settings"][0] == {"client": {"learning_rate": 0.1}}  # the other rate gives no model at all
    assert found["tried"][1]["rounds"] == 4  # never, which counts as one round more than there are
    assert found["rounds"][0] in (1, 2, 3)
    assert found["accuracies"][0] >= 0.3
    monkeypatch.setattr(benchmark, "CLIENT_RATES", (0.1,))
    never = benchmark.measure(["mean"], 1, 1, 1.0, lambda one: None)["mean"]
    assert never["rounds"] == [None]
    assert never["accuracies"][0] < 1.0


def test_the_table_puts_the_fastest_first_and_counts_those_that_never_got_there(benchmark: Any) -> None:
    one = {"label": "A", "settings": [{"client": {"learning_rate": 0.1}}, {}], "rounds": [9, None, None]}
    two = {"label": "B", "settings": [{"client": {"learning_rate": 0.3}}], "rounds": [5, 7, None]}
    late = {"label": "C", "settings": [{"cohort": {"staleness_exponent": 0.5}}], "rounds": [15, 17, None]}
    times = ([4.5, None, None], [2.5, 3.25, None], [1.0, 1.5, None])
    table = {
        name: {**row, "seconds": seconds} for name, row, seconds in zip(("a", "b", "fedbuff"), (one, two, late), times)
    }
    lines = benchmark.table(table, 10, 0.9).splitlines()
    assert lines[2:] == [
        "| B (`b`) | client learning_rate 0.3 | 7 | 5, 7, never | 3.25 |",
        "| A (`a`) | client learning_rate 0.1 | > 10 | 9, never, never | never |",
        "| C (`fedbuff`) | cohort staleness_exponent 0.5 | 17 | 15, 17, never | 1.5 |",
    ]


def test_every_algorithm_is_a_method_and_its_settings_are_taken(benchmark: Any) -> None:
    from tff_hospitals.experiments.methods import METHODS
    from tff_hospitals.plan import review

    for name, settings in benchmark.OWN.items():
        for setting in settings:
            assert review.problems(METHODS[name].plan(benchmark.base(3, 0), None).replace(**setting)) == []
