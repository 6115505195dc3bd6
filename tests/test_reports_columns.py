"""A column is declared once: what a test registers is read, joined, written, printed and drawn."""

from __future__ import annotations

import csv
import io
import json

import pytest
import report_samples

from tff_hospitals import reports
from tff_hospitals.foundations import files
from tff_hospitals.reports import columns, html, seeds, summary, table
from tff_hospitals.reports.column import Column, Shown, number
from tff_hospitals.reports.columns import COLUMNS, registered, row_from_json
from tff_hospitals.reports.rows import NAMED, Row
from tff_hospitals.reports.spread import largest, mean
from tff_hospitals.training.metrics import METRICS

CARBON = Column(
    "carbon_kg",
    number(low=0.0),
    mean,
    optional=True,
    csv=True,
    head="kg of|CO2",
    text=lambda row, _: f"{row.get('carbon_kg', 0.0):.2f}",
)


@pytest.fixture
def carbon():
    with registered(CARBON):
        yield CARBON


def with_carbon():
    source = report_samples.sample_summary()
    for number_of, row in enumerate(source["rows"]):
        row["carbon_kg"] = 0.25 * number_of
    return source


def test_a_registered_column_is_everywhere(carbon, tmp_path):
    """One declaration: reader, files, printed table, page."""
    summary.write_summary(tmp_path, summary.summary_from_json(with_carbon()))
    again = summary.read_summary(tmp_path)
    assert [row.get("carbon_kg") for row in again.rows] == [0.25 * k for k in range(13)]
    assert json.loads((tmp_path / "summary.json").read_text())["rows"][3]["carbon_kg"] == 0.75
    with open(tmp_path / "summary.csv", newline="") as file:
        cells = {(line["method"], line["target_epsilon"]): line["carbon_kg"] for line in csv.DictReader(file)}
    assert cells[("dp_sgd", "1.0")] == "1.25"

    lines = table.terminal_table(again).splitlines()
    place = next(k for k, line in enumerate(lines) if line.endswith("kg of"))
    assert lines[place + 1].endswith("CO2")
    assert next(line for line in lines if line.startswith("FedAdam")).endswith("1.00")

    page = html.comparison_page(again, [])
    assert "kg of CO2" in page
    assert 'data-value="1.25">1.25</td>' in page


def test_a_registered_column_is_joined_over_seeds_as_it_says(carbon):
    runs = [{"method": "m", "unit": "none", "accuracy_mean": 0.5, "carbon_kg": value} for value in (1.0, 2.0, 6.0)]
    assert seeds.aggregate_runs(runs).get("carbon_kg") == 3.0


def test_a_registered_column_is_checked_when_read(carbon):
    with pytest.raises(files.RecordError, match="carbon_kg is -1, must be at least 0"):
        row_from_json({"method": "m", "unit": "none", "carbon_kg": -1})


def test_a_column_without_values_is_not_shown(carbon, tmp_path):
    one = summary.summary_from_json(report_samples.sample_summary())
    summary.write_summary(tmp_path, one)
    assert "CO2" not in table.terminal_table(one)
    assert "carbon_kg" not in (tmp_path / "summary.json").read_text() + (tmp_path / "summary.csv").read_text()


def test_a_field_that_is_taken_is_refused():
    with pytest.raises(ValueError, match="epsilon"):
        columns.register(Column("epsilon"))
    assert "carbon_kg" not in COLUMNS  # the fixtures above put nothing down for good


def test_without_the_declaration_the_value_is_carried_along(tmp_path):
    """A file of a version with more columns loses nothing when this one rewrites it."""
    summary.write_summary(tmp_path, summary.summary_from_json(with_carbon()))
    assert json.loads((tmp_path / "summary.json").read_text())["rows"][3]["carbon_kg"] == 0.75


def test_every_column_reads_what_it_wrote():
    """Each declared field, filled, survives a round trip through JSON; none is forgotten by `Row`."""
    values = {}
    for field, column in COLUMNS.items():
        if column.read is None:
            continue
        for value in (0.5, 1, True, "text", ["text"], [0.5, None], {"a": 0.5}, {"a": "text"}):
            problems: list[str] = []
            row_from_json({"method": "m", "unit": "record", field: value}, "row", problems)
            if not problems:
                values[field] = value
    values.update(method="m", unit="record", kind="federated", curve=[{"round": 1, "auc_mean": 0.5, "auc_sd": 0.1}])
    assert set(values) == {field for field, column in COLUMNS.items() if column.read is not None}
    row = row_from_json(values)
    written = json.loads(json.dumps(files.plain(row.to_json())))
    assert row_from_json(written) == row
    assert {field for field in values if field not in written} == set()
    assert set(NAMED) <= set(COLUMNS)


def test_every_stored_column_says_how_it_is_joined():
    alone = {"warnings"}  # of several runs they are counted and compared
    assert {field for field, one in COLUMNS.items() if one.read and one.over_seeds is None} == alone
    assert all(not one.of or one.of in COLUMNS for one in COLUMNS.values())


def test_every_metric_has_its_family():
    for name in METRICS:
        assert {f"{name}_mean", f"{name}_pooled_mean", f"{name}_worst", f"{name}_per_hospital"} <= set(COLUMNS)


def test_the_worst_hospital_of_a_metric_is_the_lowest_or_the_largest_loss():
    runs = [
        {"method": "m", "unit": "none", "auc_per_hospital": {"a": 0.7, "b": 0.9}, "brier_per_hospital": {"a": 0.1}},
        {"method": "m", "unit": "none", "auc_per_hospital": {"a": 0.9, "b": 0.8}, "brier_per_hospital": {"b": 0.3}},
    ]
    row = seeds.aggregate_runs(runs)
    assert (row.figures("auc").worst, row.figures("auc").worst_hospital) == (pytest.approx(0.8), "a")
    assert (row.figures("brier").worst, row.figures("brier").worst_hospital) == (0.3, "b")


def test_a_headline_other_than_accuracy_is_what_all_reports_show():
    source = report_samples.sample_summary()
    source.update(headline="auc", headline_reason="99.0 % of the test records are of one class")
    for row in source["rows"]:
        mean_of = row["auc_mean"]
        row.update(auc_sd=0.01, auc_low=mean_of - 0.05, auc_high=mean_of + 0.04, sensitivity_mean=0.4)
        row["auc_per_hospital"] = dict.fromkeys(row["accuracy_per_hospital"], mean_of)
        row["auc_per_seed"] = [mean_of] * 5
    one = summary.summary_from_json(source)
    text = table.terminal_table(one)
    first = one.rows[0].figures("auc").mean
    line = next(line for line in text.splitlines() if line.startswith("Pooled training"))
    assert f"{first:.3f} ({first - 0.05:.2f}–{first + 0.04:.2f})" in line
    assert "40.0" in line.split()  # recall is shown beside it
    assert "AUC" in text
    assert "accuracy" not in text.split("Ranked by")[0]
    assert "Ranked by AUC: 99.0 % of the test records are of one class." in text
    assert max(map(len, text.splitlines())) <= 120
    page = html.comparison_page(one, [])
    assert "AUC at each hospital" in page
    assert "recall %" in page
    stream = io.StringIO()
    reports.print_table(one, stream)
    assert "AUC" in stream.getvalue()


def test_a_table_of_no_measured_row_can_be_shown():
    shown = Shown([Row("m", unit="record", target_epsilon=1.0)])
    assert [one.text_of(shown.rows[0], shown) for one in COLUMNS.values() if one.in_table(shown)][:3] == [
        *("record", "(1)", "not run")
    ]
    assert largest([]) is None
