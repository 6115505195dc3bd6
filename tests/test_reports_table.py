"""The printed table and the sentences above a report."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import report_samples
import toy

from tff_hospitals.hospitals import Part
from tff_hospitals.hospitals.checks import one_class_warnings
from tff_hospitals.reports import findings, progress, table, wording
from tff_hospitals.reports.rows import Row
from tff_hospitals.reports.summary import summary_from_json
from tff_hospitals.training.results import Progress

RAN = {"accuracy_mean": 0.7}


def sample(**changes):
    return summary_from_json(report_samples.sample_summary(**changes))


def lines_of(text, name):
    return [line for line in text.splitlines() if line.startswith(name)]


def test_golden_pieces():
    source = report_samples.sample_summary()
    row = source["rows"][5]  # dp_sgd at target 1
    row.update(accuracy_mean=0.7264, accuracy_sd=0.0112, epsilon=0.998, bytes_up=3360.0, bytes_down=6720.0)
    row.update(seconds_per_round=0.0904)
    row["accuracy_per_hospital"] = {"cleveland": 0.75, "hungary": 0.7, "switzerland": None, "va_long_beach": 0.6}
    text = table.terminal_table(summary_from_json(source))
    (first, _) = lines_of(text, "DP-SGD in the hospital")
    assert first.split() == [
        *("DP-SGD", "in", "the", "hospital", "record", "0.998", "72.6", "±", "1.1"),
        *("75.0", "70.0", "-", "60.0", "3.36", "6.72", "0.090"),
    ]
    heads = text.splitlines()[3]
    for word in ("method", "unit", "(1e-3)", "mean ± sd", "cleveland", "hungary", "switzerland", "up", "down", "round"):
        assert word in heads
    assert "kB" in text.splitlines()[2]
    titles = [line for line in text.splitlines() if line in wording_titles()]
    assert titles == list(wording_titles())


def wording_titles():
    from tff_hospitals.reports.rows import GROUP_TITLES

    return tuple(GROUP_TITLES.values())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seeds": (1,), "targets": (5.0,)},
        {"hospitals": report_samples.many_hospitals(25)},
        {"hospitals": report_samples.many_hospitals(7)},
        {"methods": report_samples.many_methods(16)},
        {
            "methods": tuple(
                (m, label + " and a very long description of it", *r) for m, label, *r in report_samples.METHODS
            )
        },
        {"hospitals": tuple((f"the_university_hospital_of_somewhere_{k}", 9, 4) for k in range(4))},
    ],
    ids=["plain", "one seed", "25 hospitals", "7 hospitals", "16 methods", "long methods", "long hospitals"],
)
def test_it_fits_120_columns(changes):
    one = sample(**changes)
    text = table.terminal_table(one)
    assert max(map(len, text.splitlines())) <= 120
    names = {row.name for row in one.rows}
    body = text.split("─\n")[1].splitlines()
    assert len(body) == len(one.rows) + 4 + 1  # four group titles and the closing rule
    assert len({line[:20] for line in body if not line.startswith(wording_titles())}) >= min(len(names), 6)


def test_warnings_become_numbered_footnotes():
    text = table.terminal_table(sample())
    assert "Fixed clipping [1]" in text
    assert text.splitlines()[-1].startswith("[1] a guarantee for a whole hospital among four")


def test_no_guarantee_reads_none_and_a_missing_value_a_dash():
    source = report_samples.sample_summary()
    source["rows"][2].update(bytes_up=None, seconds_per_round=None)
    text = table.terminal_table(summary_from_json(source))
    cells = lines_of(text, "FedAvg, weighted mean")[0].split()
    assert cells[4] == "none"
    assert cells[-3] == "-"
    assert cells[-1] == "-"


def test_a_method_that_could_not_run_says_so():
    source = report_samples.sample_summary()
    refused = {"method": "tree", "label": "Tree noise", "unit": "hospital", "target_epsilon": 1.0, "rounds": 0}
    source["rows"].append({**refused, "epsilon": None, "warnings": ["epsilon=1: out of reach"], "curve": []})
    text = table.terminal_table(summary_from_json(source))
    body = text.splitlines()
    line = next(line for line in body if line.startswith("Tree noise"))
    assert "not run" in line
    assert "none" not in line
    assert "(1)" in line
    assert body.index(line) > body.index("Private for each hospital as a whole")
    assert any(line.startswith("[2] epsilon=1: out of reach") for line in body)


def test_several_deltas_stand_in_the_cells():
    source = report_samples.sample_summary()
    source["rows"][5]["delta"] = 1e-5
    text = table.terminal_table(summary_from_json(source))
    assert "(1e-5)" in lines_of(text, "DP-SGD in the hospital")[0]
    assert "(1e-3)" in lines_of(text, "DP-SGD in the hospital")[1]


def test_simulated_hospitals_are_called_simulated():
    source = report_samples.sample_summary()
    source["dataset"].update(simulated=True, partition="Dirichlet label skew, alpha 0.5, over 4 sites")
    assert "Simulated hospitals: Dirichlet label skew" in table.terminal_table(summary_from_json(source))


def test_colours_only_on_a_terminal(monkeypatch):
    plain = io.StringIO()
    table.print_table(sample(), plain)
    assert "\x1b[" not in plain.getvalue()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    table.print_table(sample(), terminal)
    assert "\x1b[" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    quiet = io.StringIO()
    quiet.isatty = lambda: True
    table.print_table(sample(), quiet)
    assert "\x1b[" not in quiet.getvalue()


def test_an_ascii_terminal_gets_ascii():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    source = report_samples.sample_summary()
    source["rows"][0]["label"] = "Gemeinsam, größer"
    table.print_table(summary_from_json(source), stream)
    stream.flush()
    assert "+-" in raw.getvalue().decode("ascii")


def test_findings_name_the_cost_and_its_uncertainty():
    source = report_samples.sample_summary(seeds=(1, 2, 3))
    flat = {"accuracy_sd": 0.01, "accuracy_per_seed": [0.69, 0.70, 0.71], "accuracy_mean": 0.70}
    for row in source["rows"]:
        row.update(flat)
        row["warnings"] = []
    worse = {"accuracy_per_seed": [0.59, 0.60, 0.61], "accuracy_mean": 0.60}
    for row in source["rows"]:
        if row["unit"] == "record":
            row.update(worse)
    sentences = findings.findings(summary_from_json(source))
    assert sentences[0] == (
        "Without any privacy guarantee, of 3 methods the first is FedAvg, weighted mean: 70.0 % accuracy (mean of the "
        "hospitals), which these tests cannot tell from FedAvg, equal weights; FedAdam."
    )
    assert "10.0 points below FedAvg, weighted mean" in sentences[1]
    assert "cannot tell them apart" not in sentences[1]
    assert "so these tests cannot tell them apart" in sentences[3]
    assert len(sentences) == 5


def test_findings_without_accuracy_are_empty():
    source = report_samples.sample_summary()
    for row in source["rows"]:
        row.update(accuracy_mean=None, accuracy_per_seed=[])
    assert findings.findings(summary_from_json(source)) == []


def test_numbers_in_words():
    assert wording.significant(0.000012345) == "1.23e-05"
    assert wording.significant(9.996) == "10.0"
    assert wording.bytes_text(None) == "-"
    assert wording.bytes_text(999.0) == "999 bytes"
    assert wording.bytes_text(2.5e9) == "2.50 GB"
    assert wording.delta_text(1e-5) == "1e-5"
    assert wording.epsilon_text(float("inf")) == "none"


def test_shortened_names_stay_different():
    names = ["a_very_long_name_one_for_all", "a_very_long_name_two_for_all", "short"]
    short = wording.shorten_all(names, 12)
    assert len(set(short)) == 3
    assert all(len(name) <= 12 for name in short)
    assert wording.shorten_all(["same name"] * 2, 6) == ["sam…me"] * 2


def test_privacy_statements_say_who_is_protected():
    record = Row("m", unit="record", epsilon=1.0, delta=1e-3, adjacency="add_or_remove_one", values=RAN)
    assert "one record (patient)" in wording.privacy_statement(record)
    assert "at most 2.72 times as likely" in wording.promise_figures(record)
    hospital = Row("m", unit="hospital", epsilon=1.0, adjacency="zero_out", values=RAN)
    assert "one whole hospital" in wording.privacy_statement(hospital)
    assert "No formal guarantee" in wording.privacy_statement(Row("fedavg", values=RAN))
    assert "leave the hospitals" in wording.privacy_statement(Row("pooled", kind="pooled", values=RAN))
    assert wording.privacy_statement(Row("m", guarantee="own words")) == "own words"
    assert wording.promise_figures(Row("m", values=RAN)) == ""


class Clock:
    """Seconds that pass only when told."""

    now = 0.0

    def __call__(self):
        return self.now


def test_progress_lines_come_every_few_seconds_and_the_last_one_always():
    stream, clock = io.StringIO(), Clock()
    with progress.run_progress(10, stream=stream, every_seconds=5.0, clock=clock) as display:
        for number in range(1, 11):
            clock.now += 1.0
            display.update(Progress(number, 10, 0.5, 0.7, 0.1 * number, "record", 1000 * number))
    lines = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == ["round 5/10", "round 10/10"]
    assert "loss 0.500, accuracy 70.0 %, epsilon so far 0.500 (record), 5.00 kB sent, 1 rounds/s" in lines[0]


def test_progress_that_stops_early_still_says_where():
    stream, clock = io.StringIO(), Clock()
    with progress.run_progress(10, stream=stream, clock=clock) as display:
        display.update(Progress(3, 10))
    assert stream.getvalue().startswith("round 3/10, 0 bytes sent")


def test_progress_is_silent_when_asked():
    stream = io.StringIO()
    with progress.run_progress(2, shown=False, stream=stream) as display:
        display.update(Progress(2, 2))
    with progress.job_progress(shown=False, stream=stream) as jobs:
        jobs.update("dp_sgd-seed42", 1, 1)
    assert stream.getvalue() == ""


def test_progress_on_a_terminal_is_a_bar():
    stream = io.StringIO()
    stream.isatty = lambda: True
    with progress.run_progress(4, stream=stream) as display:
        display.update(Progress(2, 4, epsilon=1.5, unit="hospital"))
        display.update(Progress(4, 4, epsilon=2.5, unit="hospital"))
    assert "4/4" in stream.getvalue()
    assert "epsilon so far 2.50 (hospital)" in stream.getvalue()


def test_jobs_name_the_run_and_the_time_left():
    stream, clock = io.StringIO(), Clock()
    with progress.job_progress(stream=stream, every_seconds=0.0, clock=clock) as jobs:
        for number in (1, 2, 3):
            jobs.update(f"dp_sgd-eps1-seed{number}", number, 4)
            clock.now += 3.0
    assert stream.getvalue().splitlines() == [
        "run 1 of 4: dp_sgd-eps1-seed1",
        "run 2 of 4: dp_sgd-eps1-seed2",
        "run 3 of 4: dp_sgd-eps1-seed3 (about 6.0 s to go)",
    ]


def test_a_conversion_that_only_some_methods_have_is_named_with_them():
    source = report_samples.sample_summary()
    text = table.terminal_table(summary_from_json(source))
    assert "; RDP. none = no guarantee." in text
    (row,) = [row for row in source["rows"] if row["unit"] == "hospital" and row["target_epsilon"] == 1.0][:1]
    row.update(conversion="gaussian_exact", label="local DP", epsilon_rdp=1.2)
    summary = summary_from_json(source)
    joined = " ".join(table.terminal_table(summary).split())
    assert "; RDP; of local DP: GAUSSIAN EXACT. none = no guarantee." in joined
    words = wording.accounting_words(summary.conversion, summary.rows)
    assert words.endswith(
        "; that of local DP by the exact analysis of the Gaussian mechanism over the steps that the run took."
    )
    (local,) = [one for one in summary.rows if one.label == "local DP"]
    assert "(GAUSSIAN EXACT)" in wording.promise_figures(local)
    assert "By RDP: 1.20." in wording.promise_figures(local)
    block = " ".join(progress.run_summary(local).split())
    assert "at delta 1e-3 by GAUSSIAN EXACT, hospital level" in block
    assert "1.20 by RDP, the same ledger" in block


def test_run_summary_without_guarantee_and_many_hospitals():
    accuracies = {f"h{k}": 0.5 + 0.01 * k for k in range(12)}
    values = {"accuracy_mean": 0.6, "accuracy_per_hospital": accuracies}
    text = progress.run_summary(Row("fedavg", values=values, warnings=("w",)))
    assert "lowest 50.0 at h0, highest 61.0 at h11" in text
    assert "no formal guarantee" in text
    assert text.splitlines()[-1] == "  warning      w"


def test_a_regression_is_compared_by_loss():
    source = report_samples.sample_summary()
    for row in source["rows"]:
        row.update(accuracy_mean=None, accuracy_sd=None, accuracy_per_seed=[], accuracy_per_hospital={}, loss_mean=0.25)
    text = table.terminal_table(summary_from_json(source))
    assert "accuracy" not in text.split("Loss: mean over")[0]
    assert lines_of(text, "FedAdam")[0].split()[3] == "0.2500"


def test_a_warning_of_every_row_is_said_once_without_marks():
    source = report_samples.sample_summary()
    for row in source["rows"]:
        row["warnings"] = [*row["warnings"], "one hospital holds one class only"]
    text = table.terminal_table(summary_from_json(source))
    assert "All rows: one hospital holds one class only" in text
    assert "Fixed clipping [1]" in text
    assert "FedAdam [" not in text


def test_long_hospital_names_break_before_they_are_cut():
    text = table.terminal_table(sample(hospitals=(("va_medical_center_of_long_beach", 9, 4), ("b", 9, 4), ("c", 9, 4))))
    upper, lower = text.splitlines()[3:5]
    assert "va_medical_center_" in upper
    assert "of_long_beach" in lower


def test_the_worst_hospital_is_only_named_where_they_differ():
    same = Row("m", unit="hospital", epsilon=1.0, epsilon_per_hospital={"a": 1.0, "b": 1.0}, worst_hospital="a")
    assert wording.worst_hospital(same) is None
    differ = Row("m", unit="record", epsilon=1.0, epsilon_per_hospital={"a": 1.0, "b": 0.5}, worst_hospital="a")
    assert wording.worst_hospital(differ) == "a"


@pytest.mark.parametrize("unit", ["record", "hospital", "none"])
def test_the_kind_of_a_row_is_that_of_its_method_whatever_its_name(unit):
    """A method of local DP is trained together, with and without a finite epsilon; a baseline is one under any name."""
    trained = Row("local_dp", unit=unit, rounds=3, values=RAN)
    assert trained.group == "no_guarantee"
    assert "nothing" not in wording.privacy_statement(trained)
    assert Row("each_by_itself", kind="local", values=RAN).group == "baseline"
    refused = Row("local_dp", unit=unit, rounds=0)
    assert refused.group == ("no_guarantee" if unit == "none" else unit)
    source = report_samples.sample_summary()
    source["rows"].append({**source["rows"][2], "method": "local_dp", "label": "local DP", "unit": unit})
    lines = table.terminal_table(summary_from_json(source)).splitlines()
    place = lines.index(next(line for line in lines if line.startswith("local DP")))
    assert place > lines.index("Trained together, no privacy guarantee")


def test_best_is_said_only_where_the_interval_of_each_difference_excludes_zero():
    source = report_samples.sample_summary()
    count = len(source["rows"])
    ends = {name: [[-0.01 if name == "low" else 0.01] * count for _ in range(count)] for name in ("low", "high")}
    plain = [
        k for k, row in enumerate(source["rows"]) if row["method"] in ("weighted_mean", "unweighted_mean", "fedadam")
    ]
    first = max(plain, key=lambda k: source["rows"][k]["accuracy_mean"])
    for other in plain:
        ends["low"][first][other], ends["high"][first][other] = 0.01, 0.05
    source.update(headline="accuracy", differences={"metric": "accuracy", **ends})
    assert "the best of 3 methods is" in findings.findings(summary_from_json(source))[0]
    ends["low"][first][next(k for k in plain if k != first)] = -0.01
    assert "of 3 methods the first is" in findings.findings(summary_from_json(source))[0]
    assert "cannot tell from" in findings.findings(summary_from_json(source))[0]


def test_a_row_that_has_not_converged_is_not_ranked():
    source = report_samples.sample_summary()
    best = max(source["rows"][2:5], key=lambda row: row["accuracy_mean"])
    best["converged"] = False
    one = summary_from_json(source)
    sentence = findings.findings(one)[0]
    assert best["label"] not in sentence
    assert "of 2 ranked methods" in sentence
    (words,) = findings.cautions(one)
    assert words.startswith("Not ranked, since training had not come to its end")
    assert best["label"] in words
    assert "Not ranked" in table.terminal_table(one)


def test_an_answer_says_what_it_is_measured_against_and_what_is_not_answered():
    """Headlines spoke of the cost of privacy where untrained rows were left out, and were silent of whole units."""
    source = report_samples.sample_summary()
    assert all(" against FedA" in text for text in findings.headline(summary_from_json(source)))
    for row in source["rows"]:
        row["converged"] = row["unit"] == "hospital" or row["method"] in ("pooled", "local")
    record, hospital, doubt = findings.headline(summary_from_json(source))
    assert record == "Hiding each patient's record: no answer yet, since no such method was trained to its end."
    assert hospital.endswith(" against Pooled training.")
    assert doubt.startswith("Part of this may be training that had not come to its end")
    for row in source["rows"]:
        row["converged"] = row["method"] in ("fedadam", "pooled")
    assert "the only ranked method is FedAdam" in findings.findings(summary_from_json(source))[0]


def test_hospitals_that_are_hardly_tested_are_named():
    few = [("a", 50, 20), ("tiny", 1, 2), ("b", 50, 10)]
    (words,) = findings.cautions(sample(hospitals=few))
    assert "Fewer than 10 test records at tiny (2):" in words
    assert findings.cautions(sample(hospitals=[("a", 50, 20), ("b", 50, 10)])) == []


def test_a_deviation_has_as_many_decimals_as_its_mean():
    source = report_samples.sample_summary()
    for row in source["rows"]:
        row.update(rmse_mean=1.4532, rmse_sd=1.8e-6, rmse_per_seed=[1.4532])
    source["headline"] = "rmse"
    text = table.terminal_table(summary_from_json(source))
    assert "1.453 ± 0.000" in text


def test_fewest_bytes_are_not_those_of_a_row_that_is_not_ranked():
    source = report_samples.sample_summary()
    private = [row for row in source["rows"] if row["target_epsilon"]]
    for number, row in enumerate(private):
        row.update(bytes_up=1e3 * (number + 1), bytes_down=0.0)
    said = [text for text in findings.findings(summary_from_json(source)) if text.startswith("Fewest bytes")]
    assert private[0]["label"] in said[0]
    private[0]["converged"] = False
    said = [text for text in findings.findings(summary_from_json(source)) if text.startswith("Fewest bytes")]
    assert private[1]["target_epsilon"] != private[0]["target_epsilon"]
    assert f"ε = {private[1]['target_epsilon']:g}" in said[0]


def test_hospitals_of_nearly_one_class_are_named_where_accuracy_ranks():
    source = report_samples.sample_summary()
    source["test_records_by_class"] = {"cleveland": {"0": 56, "1": 48}, "switzerland": {"0": 1, "1": 15}}
    (words,) = findings.cautions(summary_from_json(source))
    assert "of one class at switzerland (94 %):" in words
    assert "cleveland" not in words
    source["headline"] = "auc"
    assert findings.cautions(summary_from_json(source)) == []


def test_nothing_is_called_best_that_is_not(monkeypatch):
    """Neither in text nor on the page nor in the figures, whatever unit or epsilon: no interval, no best."""
    from tff_hospitals.reports.html import comparison_page
    from tff_hospitals.reports.plots import draw_all

    one = sample(seeds=(1,))  # one seed and no interval over patients: nothing can be told apart
    pictures, missing = draw_all(one)
    page = comparison_page(one, [], missing)
    said = [table.terminal_table(one), *findings.findings(one), *(f"{p.caption} {p.alt}" for p in pictures)]
    assert "best" not in " ".join(said).lower()
    assert page.lower().count("best") == page.count("The best of several methods is chosen on the same test records")


def test_one_of_anything_is_told_in_the_singular():
    first, other, *_ = toy.hospitals().hospitals
    one = dataclasses.replace(first, train=Part(np.zeros([3, 5], np.float32), np.ones(3, int)))
    (words,) = one_class_warnings([one, other], "binary")
    assert words.startswith("1 of 2 hospitals has one class only among its training records: site_0 (class 1). It ")
    joint = {"runs": 1, "runs_without_guarantee": 1, "record": {"epsilon": 2.0, "delta": 1e-3}}
    first, second = wording.joint_sentences(joint)
    assert first.startswith("Joint epsilon of 1 private run (")
    assert second.startswith("1 run without a mechanism is in no epsilon: never publish its model")


def test_the_joint_epsilon_stands_under_the_table():
    source = report_samples.sample_summary()
    total = {"epsilon": 9.87, "worst_hospital": "switzerland", "delta": 1e-3, "conversion": "rdp"}
    source["joint_epsilon"] = {"runs": 40, "runs_without_guarantee": 25, "record": total, "hospital": {"epsilon": None}}
    text = " ".join(table.terminal_table(summary_from_json(source)).split())
    assert (
        "Joint epsilon of all 40 private runs (every method, target and seed): 9.87 per record at switzerland" in text
    )
    assert "infinite per hospital" in text
    assert "25 runs without a mechanism are in no epsilon" in text


def test_a_narrow_terminal_leaves_out_columns_and_says_which():
    one = sample()
    text = table.terminal_table(one, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "Columns that do not fit the width are in summary.csv:" in text
    assert "s per round" in " ".join(text.split())
    assert "do not fit the width are in" not in table.terminal_table(one, width=140)
