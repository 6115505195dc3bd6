"""Lessons: what they leave behind, that each runs, and that the first one teaches what it says."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import re
from typing import Any

import pytest
from few_fast import few_fast

from tff_hospitals.experiments.lessons import LESSONS, Question, Told, write
from tff_hospitals.experiments.lessons.telling import difference

pytestmark = pytest.mark.tensorflow

TOLD = Told(
    {"figure": 0.5},
    ["A first paragraph with <b>markup</b>."],
    [("A table", ["name", "value"], [["one", "50 %"]])],
    [],
    [Question("Why?", "Because.")],
)


def test_a_lesson_leaves_numbers_a_page_and_markdown(tmp_path):
    write(LESSONS["missing_class"], TOLD, [1, 2], tmp_path)
    found = json.loads((tmp_path / "lesson.json").read_text())
    assert (found["lesson"], found["seeds"], found["figure"]) == ("missing_class", [1, 2], 0.5)
    page = (tmp_path / "lesson.html").read_text()
    assert "&lt;b&gt;markup" in page
    assert "<b>markup" not in page
    text = (tmp_path / "page.md").read_text()
    assert "| one | 50 % |" in text
    assert "tff-hospitals lesson missing_class --seeds=1,2" in text


@pytest.mark.slow
def test_a_local_model_is_wrong_with_confidence_and_the_federated_one_is_not():
    told = LESSONS["missing_class"].run([1, 2])
    assert told.numbers["local_missing_accuracy"] < 0.05
    assert told.numbers["local_missing_confidence"] > 0.8
    assert told.numbers["federated_missing_accuracy"] > 0.8
    assert len(told.questions) == 3
    assert len(told.pictures) == 2


SMALL: dict[str, dict[str, Any]] = {
    "local_work": {"PASSES": 2, "ROUNDS": 1, "EPOCHS": (1, 2)},
    "convergence": {"ROUNDS": (1, 2), "PATIENCE": (1,)},
    "tuning": {"ROUNDS": 1, "CLIENT": (0.1, 1e30), "SERVER": (1.0,), "KNOBS": (("server", "momentum", (0.0, 0.9)),)},
    "bytes": {"ROUNDS": 4},
    "attacks": {"RECORDS": 4, "EXAMPLES": 2, "BATCHES": (1, 2), "DATA": ("heart_disease", "digits")},
    "trust": {"SITES": (4, 6), "ROUNDS": 1},
    "clip_and_noise": {"CLIPS": (1.0,)},
    "four_hospitals": {"EPSILONS": (8.0,), "SITES": (4,)},
}
"""What makes a lesson short; its figures then mean nothing."""


@pytest.mark.parametrize("name", few_fast(SMALL, slow=[one for one in SMALL if one != "convergence"]))
def test_every_lesson_runs_and_fills_its_page(name, monkeypatch, tmp_path):
    lesson = LESSONS[name]
    module = importlib.import_module(lesson.module)
    for constant, value in SMALL[name].items():
        monkeypatch.setattr(module, constant, value)
    told = lesson.run([1])
    assert len(told.questions) == 3
    assert told.pictures
    write(lesson, told, [1], tmp_path)
    text = (tmp_path / "page.md").read_text()
    assert "nan" not in re.findall(r"\b\w+\b", text)
    assert all((tmp_path / "plots" / f"{one.name}.png").is_file() for one in told.pictures)
    if name == "attacks":
        assert told.numbers["error"]["heart_disease, no promise"] < 1e-3
        assert told.numbers["error"]["heart_disease, epsilon 1"] > 0.3


@pytest.mark.parametrize("name", LESSONS)
def test_every_lesson_has_its_page_with_its_own_figures(name, checkout: pathlib.Path):
    page = checkout / "docs" / "lessons" / f"{name}.md"
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {LESSONS[name].title}\n\n{LESSONS[name].question}\n")
    assert f"({name}.md)" in (page.parent / "index.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^[123]\. \*\*", text, flags=re.M)) == 3
    module = pathlib.Path(importlib.util.find_spec(LESSONS[name].module).origin).read_text(encoding="utf-8")
    assert all(re.search(rf'"{one}"', module) for one in re.findall(r"\]\((\w+)\.png\)", text))


def test_a_difference_is_told_with_its_interval_or_not_at_all():
    assert difference([0.9], [0.8]) == "10.0 points more (one seed, so no interval)"
    assert difference([0.8, 0.81], [0.9, 0.91]) == "10.0 points less (95 % interval 10.0 to 10.0)"
    assert "indistinguishable" in difference([0.9, 0.7], [0.8, 0.8])
