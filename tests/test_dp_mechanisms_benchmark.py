"""The benchmark of private mechanisms, in a tiny setting: one file that grows by panels, tables, a picture."""

from __future__ import annotations

import importlib
import json
import math
import pathlib
import types
from typing import Any

import pytest

from tff_hospitals.foundations.validation import InvalidInput


@pytest.fixture
def benchmark(checkout: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    module = importlib.import_module("dp_mechanisms")
    for name, value in (("CLIP_NORMS", (1.0,)), ("RATE_FACTORS", (1.0,)), ("TUNING_SEEDS", (1,))):
        monkeypatch.setattr(module, name, value)
    return module


@pytest.mark.tensorflow
@pytest.mark.slow
def test_a_tiny_setting_gives_figures_tables_and_a_picture(
    benchmark: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seeds = tmp_path / "figures.json", range(42, 44)
    made_with = {"seeds": list(seeds), "epsilons": [8.0]}

    def save(panels: list[dict[str, Any]]) -> None:
        path.write_text(json.dumps({**made_with, "panels": panels}))

    known = [{"name": "cyclic_1000", "title": "kept", "cells": []}]
    panels = benchmark.measure(["cyclic_20"], ["blt"], (8.0,), seeds, (2, 2), known, save)
    assert [panel["name"] for panel in panels] == ["cyclic_20", "cyclic_1000"]
    (found,) = panels[0]["cells"]
    assert found["method"] == "blt"
    assert 7.5 < found["epsilon"] <= 8.0
    assert len(found["accuracies"]) == 2
    assert 0.0 <= found["accuracy"] <= 1.0
    text = benchmark.table(panels[:1])
    assert "a tenth of them in turn** (2 rounds; without privacy" in text
    assert "| blt | " in text
    assert text.endswith(" (1, 0.5) |")
    assert found["tuning"]["best"] == found["tuning"]["tried"][0]
    benchmark.draw(panels[:1], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000
    assert [panel["name"] for panel in benchmark.earlier(str(path), made_with)] == ["cyclic_20", "cyclic_1000"]
    with pytest.raises(InvalidInput, match="same seeds and targets"):
        benchmark.earlier(str(path), {**made_with, "epsilons": [1.0]})
    monkeypatch.setattr(benchmark, "cell", None)  # started again: every cell is there, nothing is trained
    assert benchmark.measure(["cyclic_20"], ["blt"], (8.0,), seeds, (2, 2), panels, save) == panels


def test_every_row_is_tuned_by_the_same_search_until_no_neighbour_is_better(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best of the whole grid is found when accuracy falls from it in all directions, and it may lie at no edge."""
    from tff_hospitals.experiments.methods import METHODS
    from tff_hospitals.training import loop

    monkeypatch.undo()
    seen = []

    def train_seeds(plans: Any, dataset: Any, **_: Any) -> Any:
        setting = plans[0].privacy.clip_norm, plans[0].client.learning_rate
        seen.append((setting, plans[0].cohort.hospitals_per_round, len(dataset.hospitals)))
        far = abs(math.log(setting[0] / 0.03)) + abs(math.log(setting[1] / 8.0))
        return [types.SimpleNamespace(summary={"accuracy_pooled_mean": 1 / (1 + far)}) for _ in plans]

    monkeypatch.setattr(loop, "train_seeds", train_seeds)
    base, dataset = benchmark.settings(benchmark.PANELS["cyclic_100"], 2, 2)
    found = benchmark.tuned(METHODS["fixed_clip"], base, dataset, None, 1.0, 8.0)
    assert found["best"] == {"clip_norm": 0.03, "learning_rate": 8.0, "validation_accuracy": 1.0}
    assert {cohort for _, cohort, _ in seen} == {8}
    assert {hospitals for _, _, hospitals in seen} == {80}
    assert len({setting for setting, _, _ in seen}) == len(seen) == len(found["tried"]) < 20


def test_every_panel_names_mechanisms_that_exist(benchmark: Any) -> None:
    from tff_hospitals.experiments.methods import METHODS

    for panel in benchmark.PANELS.values():
        assert set(panel.mechanisms) <= set(METHODS)
    assert {"tree", "blt", "banded_mf"} <= set(benchmark.PANELS["cyclic_1000"].mechanisms)
    assert {"dp_sgd", "dp_mf_local"} <= set(benchmark.PANELS["record"].mechanisms)
