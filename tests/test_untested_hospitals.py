"""Hospitals without test records: every page and text says so, and nothing is a percentage of a dash."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import pytest
import toy

from tff_hospitals import reports
from tff_hospitals.experiments import comparison as comparisons
from tff_hospitals.experiments.comparison import Comparison
from tff_hospitals.experiments.contribution import Contribution
from tff_hospitals.experiments.contribution import run as contribute
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.hospitals import Part
from tff_hospitals.plan import Plan
from tff_hospitals.reports import contribution_page, progress
from tff_hospitals.reports.columns import row_from_json
from tff_hospitals.reports.gains import gain_table
from tff_hospitals.reports.html import run_links
from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow
PLAN = Plan(rounds=2).replace(client={"local_steps": 3})


def without_tests(*ids):
    data = toy.hospitals()
    return dataclasses.replace(
        data,
        hospitals=tuple(
            dataclasses.replace(one, test=Part(one.test.features[:0], one.test.labels[:0]))
            if one.hospital_id in ids
            else one
            for one in data.hospitals
        ),
    )


def pages(folder: pathlib.Path) -> str:
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.html"))]
    return re.sub(r"data:[^\"']*", "", " ".join(texts))


@pytest.mark.parametrize("untested", [("site_1",), ("site_0", "site_1", "site_2")])
def test_a_run_says_where_nothing_could_be_measured(untested, tmp_path):
    run = train(PLAN, without_tests(*untested), run_dir=tmp_path)
    assert row_from_json(run.summary, "run").untested == untested
    said = progress.run_summary(run.summary)
    assert "no test records" in said
    reports.write_report(tmp_path)
    assert "no test records" in pages(tmp_path)
    assert not re.search(r"(?<![\d.])- %", said + pages(tmp_path))


def test_the_list_of_runs_tells_the_headline_of_each_task_or_that_nothing_was_measured(tmp_path):
    """A regression has no accuracy, and figures of a private run lie inside: neither is a dash of a percentage."""
    summaries = {
        "a": {"rmse_mean": 5412.0, "rmse_per_hospital": {"x": 5412.0}, "headline": "rmse"},
        "b": {"accuracy_mean": 0.5},
        "c": {"accuracy_per_hospital": {"x": None}, "loss_per_hospital": {"x": None}},
        "d": {"unit": "record", "epsilon": 3.0},
    }
    for name, fields in summaries.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        comparisons.files.write_json(
            tmp_path / "runs" / name / "summary.json",
            {"method": "m", "unit": "none", "rounds": 2, "stop_reason": "limit", **fields},
        )
    found = {one["name"]: one["words"] for one in run_links(tmp_path)}
    assert found == {
        "a": "5412, 2 rounds, limit",
        "b": "50.0 %, 2 rounds, limit",
        "c": "no test records, 2 rounds, limit",
        "d": "2 rounds, limit",
    }


def test_a_gain_that_nobody_could_measure_is_said_to_have_no_records():
    fields = {"accuracy_per_hospital": {"a": None, "b": 0.5}, "gain_per_hospital": {"a": None, "b": 0.1}}
    row = row_from_json({"method": "mean", "unit": "none", "rounds": 2, "accuracy_mean": 0.5, **fields}, "row")
    (table,) = gain_table([row], ["a", "b"])
    assert [line[1] for line in table["rows"][:2]] == ["no test records", "+10.0"]


@pytest.mark.slow
def test_comparisons_and_contributions_say_it_too(tmp_path):
    data = without_tests("site_1")
    asked = Comparison(("local", "weighted_mean"), (), (1, 2), given={"rounds": 2, "local_steps": 3}, baseline_epochs=2)
    comparisons.run(asked, tmp_path / "compared", dataset=data)
    reports.write_report(tmp_path / "compared")
    found = contribute(Contribution(METHODS["weighted_mean"], PLAN, (1,)), data, tmp_path / "added")
    contribution_page.write(tmp_path / "added", found)
    said = contribution_page.text(found)
    assert "for 3 of 3 hospitals the test records cannot tell" not in said.split("Taking part adds")[2]
    assert said.count("no test records") == 2  # in the table, and in the sentence of what a hospital adds to itself
    for text in (said, pages(tmp_path / "compared"), pages(tmp_path / "added")):
        assert "no test records" in text
        assert not re.search(r"(?<![\d.])- %", text)
