"""Summaries: stable names, round trips, aggregation over seeds, and one-screen errors for what is not a summary."""

from __future__ import annotations

import ast
import csv
import json
import math

import pytest
import report_samples

from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.reports import rows, seeds, summary
from tff_hospitals.reports.columns import row_from_json
from tff_hospitals.reports.differences import paired_difference
from tff_hospitals.reports.spread import sample_sd, t_interval
from tff_hospitals.training.signal_to_noise import SWAMPS, swamped_words

TOP_FIELDS = {
    "splits",
    "test_records_by_class",
    *("schema_version", "title", "command", "created", "versions", "machine", "dataset", "seeds", "rounds"),
    *("target_epsilons", "delta", "adjacency", "conversion", "headline", "headline_reason"),
    *("differences", "joint_epsilon", "rows"),
}
ROW_FIELDS = {
    *(
        "method",
        "label",
        "kind",
        "unit",
        "target_epsilon",
        "epsilon",
        "epsilon_pld",
        "epsilon_per_hospital",
        "worst_hospital",
    ),
    *("delta", "adjacency", "conversion", "noise_multiplier_per_hospital", "accuracy_mean", "accuracy_sd"),
    *("accuracy_pooled_mean", "accuracy_pooled_sd", "accuracy_per_hospital", "accuracy_sd_per_hospital", "auc_mean"),
    *("loss_mean", "accuracy_per_seed", "bytes_up", "bytes_down", "seconds_per_round", "rounds", "stop_reason"),
    *("runtime", "guarantee", "warnings", "curve"),
}


def run(**changes):
    """The summary of one finished run; changes replace its fields."""
    base = {
        "schema_version": 1,
        "status": "finished",
        "method": "dp_sgd",
        "unit": "record",
        "target_epsilon": 5.0,
        "epsilon": 4.9,
        "epsilon_per_hospital": {"a": 4.9, "b": 3.0},
        "worst_hospital": "a",
        "noise_multiplier_per_hospital": {"a": 1.0, "b": 2.0},
        "accuracy_mean": 0.70,
        "accuracy_per_hospital": {"a": 0.6, "b": 0.8},
        "accuracy_per_seed": [0.70],
        "bytes_up": 100,
        "bytes_down": 300,
        "seconds_per_round": 0.5,
        "rounds": 2,
        "stop_reason": "round limit reached",
        "seed": 42,
        "curve": [
            {"round": 1, "epsilon": 3.0, "accuracy_mean": 0.6},
            {"round": 2, "epsilon": 4.9, "accuracy_mean": 0.7},
        ],
    }
    return {**base, **changes}


def measured(method, mean, per_seed=()):
    """A row with accuracies."""
    return rows.Row(method, values={"accuracy_mean": mean, "accuracy_per_seed": per_seed})


def test_field_names_are_pinned(tmp_path):
    summary.write_summary(tmp_path, summary.summary_from_json(report_samples.sample_summary()))
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["schema_version"] == 1
    assert set(written) == TOP_FIELDS
    assert set(written["rows"][0]) == ROW_FIELDS
    assert set(written["rows"][0]["curve"][0]) == {
        *("round", "epsilon", "accuracy_mean", "accuracy_sd", "bytes_up", "bytes_down")
    }
    assert set(written["dataset"]) == {
        *("name", "hospitals", "provenance", "licence", "simulated", "partition", "preprocessing")
    }
    assert set(written["dataset"]["hospitals"][0]) == {"id", "train_records", "test_records"}


def test_attack_columns_join_only_after_an_audit():
    row = row_from_json({"method": "m", "unit": "none", "membership_auc": 0.61})
    assert row.to_json()["membership_auc"] == 0.61
    assert "membership_tpr" not in row.to_json()


def test_json_round_trip_keeps_every_value_and_unknown_field(tmp_path):
    source = report_samples.sample_summary(attacks=True)
    source["later"] = {"a": 1}
    source["rows"][0]["seconds_total"] = 12.5
    source["dataset"]["fingerprint"] = "0123456789abcdef"
    first = summary.summary_from_json(source)
    summary.write_summary(tmp_path, first)
    again = summary.read_summary(tmp_path)
    assert again == first
    assert again.extra == {"later": {"a": 1}}
    assert again.rows[0].extra == {"seconds_total": 12.5}
    assert again.dataset.extra["fingerprint"] == "0123456789abcdef"


def test_csv_round_trip(tmp_path):
    one = summary.summary_from_json(report_samples.sample_summary())
    summary.write_summary(tmp_path, one)
    with open(tmp_path / "summary.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    by_key = {(row.method, row.target_epsilon): row for row in one.rows}
    assert len(lines) == len(one.rows) == 13
    for line in lines:
        row = by_key[(line["method"], float(line["target_epsilon"]) if line["target_epsilon"] else None)]
        assert float(line["accuracy_mean"]) == row.score.mean  # repr: not a digit is lost
        assert float(line["accuracy_switzerland"]) == row.score.per_hospital["switzerland"]
        assert line["epsilon"] == ("" if row.epsilon is None else repr(row.epsilon))
        assert line["epsilon_va_long_beach"] == (
            "" if not row.private else repr(row.epsilon_per_hospital["va_long_beach"])
        )
        assert line["seeds"] == "5"
    assert [line["unit"] for line in lines] == ["none"] * 5 + ["record"] * 4 + ["hospital"] * 4


def test_a_hospital_called_mean_does_not_overwrite_a_column():
    source = report_samples.sample_summary(hospitals=(("mean", 10, 5), ("sd", 10, 5), ("sd_mean", 10, 5)))
    columns, lines = summary.summary_table(summary.summary_from_json(source))
    assert len(columns) == len(set(columns))
    assert lines[0]["accuracy_mean"] == source["rows"][0]["accuracy_mean"]
    assert lines[0]["accuracy_mean (hospital)"] == source["rows"][0]["accuracy_per_hospital"]["mean"]


def test_nan_infinity_and_null_read_as_missing():
    text = '"epsilon": Infinity, "accuracy_mean": NaN, "accuracy_per_hospital": {"a": NaN}'
    row = row_from_json(json.loads('{"method": "m", "unit": "record", ' + text + "}"))
    assert row.epsilon is None
    assert not row.private
    assert row.score.mean is None
    assert row.score.per_hospital == {"a": None}


def test_rows_are_ordered_by_promise_then_target_then_as_asked():
    source = report_samples.sample_summary(targets=(5.0, 1.0))
    source["rows"].reverse()
    found = [(row.method, row.target_epsilon) for row in rows.ordered(summary.summary_from_json(source).rows)]
    assert found[:2] == [("local", None), ("pooled", None)]
    assert [target for _, target in found[5:]] == [1.0, 1.0, 5.0, 5.0, 1.0, 1.0, 5.0, 5.0]
    assert [method for method, _ in found[5:9]] == ["dp_sgd_adam", "dp_sgd", "dp_sgd_adam", "dp_sgd"]


def test_interval_by_hand():
    # Student quantile for four degrees of freedom at 95 %: 2.7764; half width 2.7764 * 0.02 / sqrt(5) = 0.024833
    interval = t_interval(0.7, 0.02, 5)
    assert interval.low == pytest.approx(0.7 - 0.024833, abs=1e-6)
    assert interval.high == pytest.approx(0.7 + 0.024833, abs=1e-6)
    assert t_interval(0.7, None, 1) is None
    assert sample_sd([0.7]) is None
    assert sample_sd([0.6, 0.8]) == pytest.approx(math.sqrt(0.02))


def test_aggregation_over_seeds_by_hand():
    second = run(accuracy_mean=0.74, epsilon=5.0, seed=43, bytes_up=200, accuracy_per_hospital={"a": 0.7, "b": 0.78})
    second.update(epsilon_per_hospital={"a": 4.0, "b": 5.0}, noise_multiplier_per_hospital={"a": 1.5, "b": 1.0})
    row = seeds.aggregate_runs([run(), second])
    assert row.score.mean == pytest.approx(0.72)
    assert row.score.sd == pytest.approx(math.sqrt(2 * 0.02**2))  # ddof 1
    assert row.score.per_seed == (0.70, 0.74)
    assert row.score.per_hospital == pytest.approx({"a": 0.65, "b": 0.79})
    assert row.score.sd_per_hospital["a"] == pytest.approx(math.sqrt(2 * 0.05**2))
    assert row.epsilon == 5.0  # the largest: the row promises no more than every run kept
    assert row.epsilon_per_hospital == {"a": 4.9, "b": 5.0}
    assert row.worst_hospital == "b"
    assert row.noise_multiplier_per_hospital == {"a": 1.0, "b": 1.0}
    assert row.bytes_up == 150
    assert row.way[1][1] == pytest.approx(0.70)


def test_one_run_without_guarantee_takes_the_promise_away():
    assert seeds.aggregate_runs([run(), run(epsilon=None, seed=43)]).epsilon is None


def test_one_seed_has_no_spread():
    row = seeds.aggregate_runs([run()])
    assert row.score.sd is None
    assert row.score.interval is None
    assert row.worst_hospital == "a"


def test_an_early_stop_keeps_its_last_point_and_is_said():
    early = run(rounds=1, seed=43, curve=[{"round": 1, "epsilon": 3.5, "accuracy_mean": 0.5}])
    row = seeds.aggregate_runs([run(), early])
    assert [point.round for point in row.curve] == [1, 2]
    assert row.way[1][1] == pytest.approx((0.7 + 0.5) / 2)
    assert row.curve[1].epsilon == 4.9
    assert any("1 to 2" in text for text in row.warnings)


def test_failed_runs_are_named_and_left_out():
    row = seeds.aggregate_runs([run(), run(status="failed", seed=43, accuracy_mean=None, stop_reason="NaN in round 3")])
    assert row.score.per_seed == (0.70,)
    assert any("seed 43" in text and "NaN in round 3" in text for text in row.warnings)
    lost = seeds.aggregate_runs([run(status="failed", accuracy_mean=0.1)])
    assert lost.score.mean is None
    assert lost.score.per_seed == ()


def test_runs_of_different_methods_are_refused():
    with pytest.raises(InvalidInput, match="method"):
        seeds.aggregate_runs([run(), run(method="fixed_clip")])
    with pytest.raises(InvalidInput, match="at least one"):
        seeds.aggregate_runs([])


def test_paired_difference_uses_the_pairs():
    first = measured("a", 0.72, (0.70, 0.72, 0.74))
    second = measured("b", 0.71, (0.69, 0.71, 0.73))
    centre, interval = paired_difference(first, second)
    assert centre == pytest.approx(0.01)
    assert interval.high - interval.low == pytest.approx(0.0, abs=1e-12)  # every pair differs by the same 0.01
    assert paired_difference(first, measured("c", 0.7, (0.7,)))[1] is None
    assert paired_difference(first, rows.Row("d")) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("schema_version"), "not written by tff_hospitals"),
        (lambda s: s.update(schema_version=7), "schema_version 7"),
        (lambda s: s.update(rows=[]), "at least one method"),
        (lambda s: s.update(rows={}), "must be a list"),
        (lambda s: s["rows"][0].update(accuracy_mean="high"), r"rows\[0\]: accuracy_mean is 'high'"),
        (lambda s: s["rows"][0].update(accuracy_mean=73.5), "between 0.0 and 1.0"),
        (lambda s: s["rows"][0].update(unit="patient"), "one of none, record, hospital"),
        (lambda s: s["rows"][0].update(epsilon=1.0), "must name its unit"),
        (lambda s: s["rows"][5].update(epsilon=-1.0), "at least 0.0"),
        (lambda s: s["rows"][0].update(method=""), "method"),
        (lambda s: s["rows"][0].update(epsilon_per_hospital=[1]), "from hospital id to number"),
        (lambda s: s["rows"].append(dict(s["rows"][0])), "two rows for method 'pooled'"),
        (lambda s: s["dataset"].pop("name"), "dataset: name"),
        (lambda s: s.update(dataset="heart"), "must be an object"),
    ],
)
def test_a_bad_summary_is_a_named_error(change, words):
    source = report_samples.sample_summary()
    change(source)
    with pytest.raises(files.RecordError, match=words) as error:
        summary.summary_from_json(source)
    assert "Remedy" in str(error.value)
    assert len(str(error.value).splitlines()) <= 12


def test_all_problems_come_at_once():
    source = report_samples.sample_summary()
    source["rows"][0]["accuracy_mean"] = "high"
    source["rows"][1]["loss_mean"] = "low"
    source["delta"] = 2
    with pytest.raises(files.RecordError) as error:
        summary.summary_from_json(source)
    assert all(word in str(error.value) for word in ("accuracy_mean", "loss_mean", "delta"))


def test_missing_and_corrupt_files_are_named(tmp_path):
    with pytest.raises(files.RecordError, match="does not exist"):
        summary.read_summary(tmp_path)
    (tmp_path / "summary.json").write_text('{"schema_version": 1, "rows": [')
    with pytest.raises(files.RecordError, match="cannot be read"):
        summary.read_summary(tmp_path)
    (tmp_path / "summary.json").write_text("[1, 2]")
    with pytest.raises(files.RecordError, match="must be an object"):
        summary.read_summary(tmp_path)


def test_a_bad_summary_is_not_written(tmp_path):
    bad = summary.Summary(summary.DatasetFacts("d"), (rows.Row("m", values={"accuracy_mean": 7.0}),))
    with pytest.raises(files.RecordError, match="accuracy_mean"):
        summary.write_summary(tmp_path, bad)
    assert not list(tmp_path.iterdir())


def test_the_reports_import_nothing_heavy(checkout):
    heavy = {"tensorflow", "tensorflow_federated", "keras", "matplotlib", "jinja2", "pandas", "scipy", "numpy", "tqdm"}
    paths = sorted((checkout / "tff_hospitals" / "reports").glob("*.py"))
    assert len(paths) > 10
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        anywhere = {name.split(".")[0] for node in ast.walk(tree) for name in _imported(node)}
        assert not anywhere & {"tensorflow", "tensorflow_federated", "keras", "pandas"}, path.name
        assert not {name.split(".")[0] for node in tree.body for name in _imported(node)} & heavy, path.name


def _imported(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def _swamped_run(seed, **medians):
    words = [*swamped_words(medians), "two hospitals are small"]
    return {
        "method": "dp_sgd",
        "unit": "record",
        "target_epsilon": 1.0,
        "epsilon": 1.0,
        "delta": 1e-3,
        "accuracy_mean": 0.7 + seed / 100,
        "warnings": words,
        "signal_to_noise": medians,
    }


def test_the_noise_of_several_seeds_is_one_warning_from_their_medians():
    """Each seed measures something else; five footnotes that differ in a bound are one statement."""
    measured = [(0.05, 0.3, 0.8), (0.3, 0.4, 0.2), (0.0, 0.2, 0.9), (0.09, 0.6, 0.7), (0.2, 0.45, 0.45)]
    runs = [_swamped_run(seed, va=a, hungary=b, cleveland=c) for seed, (a, b, c) in enumerate(measured)]
    assert len({text for run in runs for text in run["warnings"]}) == 6
    row = seeds.aggregate_runs(runs)
    (noise,) = [text for text in row.warnings if text.startswith(SWAMPS)]
    assert "(median over rounds and seeds) of va below 0.1; hungary below 0.5." in noise
    assert "cleveland" not in noise
    assert "two hospitals are small" in row.warnings
    assert row.get("signal_to_noise") == {"va": 0.09, "hungary": 0.4, "cleveland": 0.7}
    again = row_from_json(row.to_json(), "row")
    assert again.get("signal_to_noise") == row.get("signal_to_noise")


def test_one_seed_keeps_its_words_and_loud_updates_have_none():
    (alone,) = [text for text in seeds.aggregate_runs([_swamped_run(0, va=0.2)]).warnings if text.startswith(SWAMPS)]
    assert alone == swamped_words({"va": 0.2})[0]
    loud = seeds.aggregate_runs([_swamped_run(seed, va=value) for seed, value in enumerate((0.4, 3.0, 2.0))])
    assert loud.warnings == ("two hospitals are small",)


def test_runs_without_the_measured_figures_keep_their_own_warnings():
    runs = [_swamped_run(0, va=0.2), _swamped_run(1, va=0.05)]
    del runs[1]["signal_to_noise"]
    row = seeds.aggregate_runs(runs)
    assert len([text for text in row.warnings if text.startswith(SWAMPS)]) == 2
    assert row.get("signal_to_noise") is None
