"""Lessons: what they leave behind, and that the first one teaches what it says."""

from __future__ import annotations

import json

import pytest

from tff_hospitals.experiments.lessons import LESSONS, Question, Told, write

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
@pytest.mark.tensorflow
def test_a_local_model_is_wrong_with_confidence_and_the_federated_one_is_not():
    told = LESSONS["missing_class"].run([1, 2])
    assert told.numbers["local_missing_accuracy"] < 0.05
    assert told.numbers["local_missing_confidence"] > 0.8
    assert told.numbers["federated_missing_accuracy"] > 0.8
    assert len(told.questions) == 3
    assert len(told.pictures) == 2
