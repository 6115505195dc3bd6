"""The main job end to end, small."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest
import toy

from tff_hospitals import reports
from tff_hospitals.accounting import Ledger, joint_ledger
from tff_hospitals.experiments import comparison as comparisons
from tff_hospitals.experiments import method_plans
from tff_hospitals.experiments.comparison import Comparison
from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals.secret import DataSecret

pytestmark = pytest.mark.tensorflow

HOSPITALS = ["cleveland", "hungary", "switzerland", "va_long_beach"]
# Other programs read these names; a change here breaks them.
FIELDS = {
    "method",
    "label",
    "unit",
    "target_epsilon",
    "epsilon",
    "epsilon_pld",
    "epsilon_per_hospital",
    "worst_hospital",
    "delta",
    "adjacency",
    "conversion",
    "noise_multiplier_per_hospital",
    "accuracy_mean",
    "accuracy_sd",
    "accuracy_pooled_mean",
    "accuracy_pooled_sd",
    "accuracy_per_hospital",
    "accuracy_sd_per_hospital",
    "auc_mean",
    "loss_mean",
    "accuracy_per_seed",
    "bytes_up",
    "bytes_down",
    "seconds_per_round",
    "rounds",
    "stop_reason",
    "runtime",
    "guarantee",
    "warnings",
    "curve",
}
ASKED = Comparison(
    ("pooled", "local", "weighted_mean", "dp_sgd", "adaptive_clip"),
    (1.0, 5.0),
    (42, 43),
    given={"rounds": 3, "local_steps": 20},
    baseline_epochs=3,
    command="./run scripts/compare_aggregators.py",
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison") / "run"
    names = []
    comparisons.run(ASKED, folder, on_run=lambda name, number, total: names.append((name, number, total)))
    reports.write_report(folder)
    return folder, json.loads((folder / "summary.json").read_text()), names


def rows(summary, method):
    return [row for row in summary["rows"] if row["method"] == method]


def test_field_names_are_stable(done):
    _, summary, _ = done
    for row in summary["rows"]:
        assert set(row) >= FIELDS
    assert {"schema_version", "dataset", "seeds", "rounds", "target_epsilons", "delta", "rows"} <= set(summary)


def test_one_row_per_method_and_target(done):
    _, summary, names = done
    found = [(row["method"], row["target_epsilon"]) for row in summary["rows"]]
    assert found == [
        ("pooled", None),
        ("local", None),
        ("weighted_mean", None),
        ("dp_sgd", 1.0),
        ("dp_sgd", 5.0),
        ("adaptive_clip", 1.0),
        ("adaptive_clip", 5.0),
    ]
    assert [number for _, number, _ in names] == list(range(1, 11))  # the refused rows are not run
    assert names[0][2] == 10


def test_epsilon_of_the_table_is_that_of_the_ledgers(done):
    folder, summary, _ = done
    for row in rows(summary, "dp_sgd"):
        spent = [
            json.loads(
                (folder / "runs" / f"dp_sgd-eps{row['target_epsilon']:g}-seed{seed}" / "summary.json").read_text()
            )
            for seed in ASKED.seeds
        ]
        assert row["epsilon"] == max(one["epsilon"] for one in spent) <= row["target_epsilon"]
        assert row["epsilon"] == pytest.approx(row["target_epsilon"], rel=1e-3)
        assert row["epsilon_pld"] < row["epsilon"]
        assert row["unit"] == "record"
        assert "one patient record" in row["guarantee"]


def test_methods_without_noise_promise_nothing(done):
    _, summary, _ = done
    for method in ("pooled", "local", "weighted_mean"):
        (row,) = rows(summary, method)
        assert (row["unit"], row["epsilon"]) == ("none", None)
        assert row["guarantee"].startswith("There is no guarantee")


def test_a_vacuous_method_says_why_instead_of_a_number(done):
    _, summary, _ = done
    for row in rows(summary, "adaptive_clip"):
        assert row["accuracy_mean"] is None
        assert "must stay below 0.4" in row["warnings"][0]


def test_accuracy_is_the_mean_over_hospitals_and_seeds(done):
    folder, summary, _ = done
    (row,) = rows(summary, "weighted_mean")
    single = [
        json.loads((folder / "runs" / f"weighted_mean-seed{seed}" / "summary.json").read_text()) for seed in ASKED.seeds
    ]
    assert list(row["accuracy_per_hospital"]) == HOSPITALS
    by_hand = [sum(one["accuracy_per_hospital"].values()) / 4 for one in single]
    assert row["accuracy_mean"] == pytest.approx(sum(by_hand) / 2)
    assert row["accuracy_sd"] == pytest.approx(abs(by_hand[0] - by_hand[1]) / 2**0.5)


def test_baselines_send_nothing_and_local_uses_each_hospitals_own_model(done):
    folder, summary, _ = done
    (local,), (pooled,) = rows(summary, "local"), rows(summary, "pooled")
    assert local["bytes_up"] == pooled["bytes_up"] == 0
    own = json.loads((folder / "runs" / "local-hungary-seed42" / "summary.json").read_text())
    other = json.loads((folder / "runs" / "local-hungary-seed43" / "summary.json").read_text())
    mean = (own["accuracy_per_hospital"]["hungary"] + other["accuracy_per_hospital"]["hungary"]) / 2
    assert local["accuracy_per_hospital"]["hungary"] == pytest.approx(mean)


def test_files_are_there_and_the_report_stands_alone(done):
    folder, summary, _ = done
    with open(folder / "summary.csv") as file:
        assert len(list(csv.DictReader(file))) == len(summary["rows"])
    page = (folder / "report.html").read_text()
    assert "cleveland" in page
    assert 'src="http' not in page
    assert len(list((folder / "plots").glob("*.png"))) >= 2


def test_the_same_command_reads_what_is_there(done):
    folder, summary, _ = done
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    again = comparisons.run(ASKED, folder)
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")} == before
    assert files.plain(again["rows"]) == summary["rows"]


def test_another_comparison_does_not_overwrite_this_one(done):
    folder, _, _ = done
    before = (folder / "summary.json").read_bytes()
    with pytest.raises(files.RecordError, match="differs in seeds"):
        comparisons.run(Comparison(ASKED.methods, ASKED.target_epsilons, (44,), given=ASKED.given), folder)
    assert (folder / "summary.json").read_bytes() == before


def test_a_mistake_is_refused_before_anything_is_written(tmp_path):
    for given in ({"client_learning_rate": -1.0}, {"clip_norm": 1.0}):
        with pytest.raises(InvalidInput):
            comparisons.run(Comparison(("weighted_mean",), (), (1,), given=given), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_the_joint_epsilon_is_that_of_all_ledgers_together(done):
    """Every private run of both seeds and targets; no row alone may be taken for it."""
    folder, summary, _ = done
    names = [f"dp_sgd-eps{target}-seed{seed}" for target in (1, 5) for seed in ASKED.seeds]
    ledgers = [Ledger.from_json(files.read_json(folder / "runs" / name / "ledger.json")) for name in names]
    joint, stated = joint_ledger(ledgers), summary["joint_epsilon"]
    assert stated["record"]["epsilon"] == pytest.approx(joint.epsilon("record"))
    assert stated["record"]["epsilon"] > max(row["epsilon"] or 0 for row in summary["rows"])
    assert (stated["runs"], stated["runs_without_guarantee"]) == (4, 6)
    assert "hospital" not in stated  # the methods that protect hospitals could not run
    assert "joint epsilon" in " ".join((folder / "report.html").read_text().lower().split())


def test_rows_have_intervals_and_every_difference_has_one(done):
    _, summary, _ = done
    measured = [k for k, row in enumerate(summary["rows"]) if row["accuracy_mean"] is not None]
    for k in measured:
        row = summary["rows"][k]
        assert row["accuracy_low"] < row["accuracy_mean"] < row["accuracy_high"]
        assert row["kind"] == {"pooled": "pooled", "local": "local"}.get(row["method"], "federated")
        assert set(row["balanced_accuracy_per_hospital"]) == set(HOSPITALS)
    found = summary["differences"]
    assert found["metric"] == summary["headline"] == "accuracy"
    for first in measured:
        for second in measured:
            assert found["low"][first][second] == pytest.approx(-found["high"][second][first])
    assert found["low"][0][len(summary["rows"]) - 1] is None  # a row that was not run


def test_a_cohort_for_all_leaves_a_method_its_own_and_is_refused_where_it_would_make_another_of_it():
    given = {"cohort": "fixed_size", "hospitals_per_round": 3}
    found = {
        method.name: plan for method, plan in Comparison(("mean", "fedbuff"), (), (1,), given=given).method_plans()
    }
    assert {name: plan.cohort.kind for name, plan in found.items()} == {"mean": "fixed_size", "fedbuff": "buffered"}
    assert {name: plan.cohort.hospitals_per_round for name, plan in found.items()} == {"mean": 3, "fedbuff": 2}
    asked = Comparison(("mean", "fedbuff"), (), (1,), given={"hospitals_per_round": 4})
    assert [plan.cohort.hospitals_per_round for _, plan in asked.method_plans()] == [
        None,
        4,
    ]  # its buffer, and nobody's
    for grid in ((("hospitals_per_round", (1, 3)),), (("cohort", ("all", "fixed_size")),)):
        asked = Comparison(("mean", "fedbuff"), (), (1,), given=given, grid=grid)
        buffers = {method.name: plan.cohort for method, plan in asked.method_plans() if "fedbuff" in method.name}
        assert {name: (one.kind, one.hospitals_per_round) for name, one in buffers.items()} == {
            "fedbuff": ("buffered", 2)
        }
    assert [one.name for one in Comparison(("fedbuff",), (), (1,), given=given).problems()] == ["--cohort"]
    with pytest.raises(InvalidInput, match="what fedbuff is about"):
        method_plans.federated_plan("fedbuff", given, {}, {})


def test_a_limit_on_all_runs_of_data_in_memory_is_refused_before_anything_is_trained(tmp_path):
    asked = Comparison(("dp_sgd",), (2.0,), (1,), max_total_epsilon=3.0)
    dataset = dataclasses.replace(toy.hospitals(), secret=DataSecret(bytes(32), False, None))
    with pytest.raises(InvalidInput, match="needs an odometer, which data in memory have not"):
        comparisons.run(asked, tmp_path / "run", dataset=dataset)
    assert not (tmp_path / "run").exists()
