"""The Python interface: what the commands show as objects, and refusals before anything is trained."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import tff_hospitals as th
from tff_hospitals import reports
from tff_hospitals.experiments import api
from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import Feature, Schema, Target

FEW = {"rounds": 2, "local_steps": 5}
SCHEMA = Schema(
    (Feature("age", low=18, high=100), Feature("sex", "binary", categories=("f", "m"))),
    Target("ill", positive=("yes",), negative=("no",)),
    scaling="fixed_bounds",
)


def frames() -> dict[str, pd.DataFrame]:
    draw = np.random.default_rng(1)
    age = draw.integers(20, 95, 60)
    frame = pd.DataFrame({"age": age, "sex": draw.choice(["f", "m"], 60), "ill": np.where(age > 60, "yes", "no")})
    return {"north": frame, "south": frame.iloc[:40]}


def make_model():
    import tensorflow as tf

    return tf.keras.Sequential([tf.keras.Input((2,)), tf.keras.layers.Dense(1, activation="sigmoid")])


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    methods = ["local", "weighted_mean", "dp_sgd"]
    folder = tmp_path_factory.mktemp("api") / "run"
    asked = {"target_epsilon": 1, "seeds": 1, "baseline_epochs": 1, "run_dir": folder, **FEW}
    return th.compare(methods, "heart_disease", **asked), asked, methods


@pytest.mark.tensorflow
def test_a_comparison_is_the_table_that_the_command_prints(compared, capsys):
    found, _, methods = compared
    reports.print_table(reports.read_summary(found.directory))
    assert capsys.readouterr().out == f"{found}\n"
    frame = found.to_frame()
    assert list(frame["method"]) == methods
    assert frame.set_index("method").loc["dp_sgd", "epsilon"] <= 1.0
    page = found._repr_html_()
    assert "DP-SGD in hospitals" in page
    assert "<script" not in page
    assert found.failures == ()


@pytest.mark.tensorflow
def test_a_report_is_written_where_it_is_asked_for(compared, tmp_path):
    found, _, _ = compared
    page = found.report(tmp_path / "page")
    assert page.name == "report.html"
    there = pd.read_csv(page.parent / "summary.csv")
    shown = found.to_frame()
    assert list(there.columns) == list(shown.columns)
    for name in ("method", "label", "unit", "epsilon", "accuracy_mean", "accuracy_low", "bytes_up"):
        pd.testing.assert_series_equal(there[name], shown[name], check_dtype=False)
    assert "accuracy" in th.Compared.read(page.parent).to_frame().columns.str.cat()
    for taken in (tmp_path, page):
        with pytest.raises(RecordError, match="holds something already"):
            found.report(taken)


@pytest.mark.tensorflow
def test_what_is_finished_is_read_and_not_trained_again(compared):
    found, asked, methods = compared
    started = []
    again = th.compare(methods, "heart_disease", on_run=lambda *one: started.append(one), **asked)
    pd.testing.assert_frame_equal(again.to_frame(), found.to_frame())
    assert json.loads((found.directory / "comparison.json").read_text())["seeds"] == [1]


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name", ["accuracy_against_epsilon", "accuracy_per_hospital", "gain_per_hospital", "accuracy_by_round"]
)
def test_figures_are_functions_that_return_matplotlib_figures(compared, name):
    from matplotlib.figure import Figure

    found, _, _ = compared
    figure = getattr(th.figures, name)(found)
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert isinstance(getattr(th.figures, name)(found.directory), Figure)


@pytest.mark.tensorflow
def test_a_figure_that_cannot_be_drawn_says_what_it_needs(compared):
    with pytest.raises(InvalidInput, match="needs a method whose clip norm adapts"):
        th.figures.clip_norm_by_round(compared[0])


@pytest.mark.tensorflow
def test_data_frames_and_a_function_go_in_and_a_data_frame_comes_out():
    asked = {"target_epsilon": 3.0, "schema": SCHEMA, "model": make_model, "batch_size": 8, **FEW}
    run = th.train("dp_sgd", frames(), seed=np.int64(4), **asked)
    assert len(repr(run)) < 400  # in a notebook a run is a few lines, not pages of numbers
    assert f"epsilon {run.summary['epsilon']:.3g} per record at delta" in repr(run)
    assert run.plan.model.name.endswith("test_api:make_model")
    assert (run.plan.data.name, run.plan.seed) == ("frames", 4)
    rows = run.to_frame()
    assert list(rows.index) == [(k, one) for k in (1, 2) for one in ("north", "south", "pooled")]
    last = run.to_frame("hospital")
    assert dict(last["epsilon"])["north"] == pytest.approx(run.summary["epsilon_per_hospital"]["north"])
    assert (last["epsilon"] <= 3.0).all()
    assert last.loc["north", "accuracy"] == run.evaluation["north"]["accuracy"]
    assert th.figures.run_by_round(run).axes


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_run_is_audited_by_what_train_returned(tmp_path):
    dataset = th.HospitalDataset.from_frames(frames(), SCHEMA)
    run = th.train("dp_sgd", dataset, target_epsilon=3, run_dir=tmp_path / "run", batch_size=8, **FEW)
    found = th.audit(run, dataset=dataset, parts=("promise",), audit_runs=400)
    assert found.passed is True
    assert found.verdict in str(found)
    frame = found.to_frame()
    assert set(frame["part"]) == {"promise"}
    assert (frame[frame["measure"] == "share of self-tests passed"]["value"] == 1.0).all()
    assert json.loads((tmp_path / "run" / "audit.json").read_text())["promise"]["words"] == found.verdict


DATA = "heart_disease"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: api.compare(["dp_sdg"], DATA, target_epsilon=1), "did you mean 'dp_sgd'"),
        (lambda: api.compare([], DATA, target_epsilon=1), "must be one or more names"),
        (lambda: api.compare(["local", "local"], DATA), "name each method once"),
        (lambda: api.compare(None, DATA), "methods=None: must be a method's name"),
        (lambda: api.compare(["local", 3], DATA), "methods=3: must be a method's name"),
        (lambda: api.compare(["dp_sgd"], DATA, target_epsilon=[1, 1.0]), "name each target once"),
        (lambda: api.compare(["local"], None), "dataset=None: must be hospitals"),
        (lambda: api.compare(["local"], {}), "must be hospitals"),
        (lambda: api.compare(["local"], 7), "must be hospitals"),
        (lambda: api.compare(["local"], "heart_diseas"), "heart_disease"),
        (lambda: api.compare(["local"], frames()), "schema=None: must say what the columns"),
        (lambda: api.compare(["dp_sgd"], DATA), "is needed by the private methods"),
        (lambda: api.compare(["dp_sgd"], DATA, target_epsilon=1, noise_multiplier=1), "two ways to say"),
        (lambda: api.compare(["dp_sgd"], DATA, target_epsilon=-1), "target_epsilon=-1: must be > 0"),
        (lambda: api.compare(["dp_sgd"], DATA, target_epsilon="1"), "must be a number or several"),
        (lambda: api.compare(["local"], DATA, seeds=[]), "must be one or more different numbers"),
        (lambda: api.compare(["local"], DATA, seeds=1.5), "must be a whole number"),
        (lambda: api.compare(["local"], DATA, seed=1), "option='seed': must be one of"),
        (lambda: api.compare(["local"], DATA, lerning_rate=1), "or 'client_learning_rate'?"),
        (lambda: api.compare(["local"], DATA, data_options="alpha=1"), "must be a dictionary"),
        (lambda: api.compare(["weighted_mean"], DATA, rounds=0), "rounds"),
        (lambda: api.compare(["weighted_mean"], DATA, model=lambda: None), "a function at the top of a module"),
        (lambda: api.compare(["local"], th.load_dataset(DATA), sites=3), "these hospitals are in memory"),
        (lambda: api.compare(["local"], th.load_dataset(DATA), splits=3), "can be divided again"),
        (lambda: api.compare(["pooled"], th.load_dataset(DATA)), 'scaling="pooled"'),
        (lambda: api.train("local", DATA), "is a baseline of comparisons"),
        (lambda: api.train("dp_sgd", DATA), "noise"),
        (lambda: api.train("dp_sgd"), "dataset=None: must be hospitals"),
        (lambda: api.train(7, DATA), "must be a plan or the name of a method"),
        (lambda: api.train(th.Plan(), DATA, clip_normm=1), "did you mean 'clip_norm'"),
        (lambda: api.audit("here", parts=("promise",), shadow_model=3), "did you mean 'shadow_models'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(call, words, monkeypatch):
    from tff_hospitals.training import loop

    monkeypatch.setattr(loop, "_drive", lambda *_: pytest.fail("training started"))
    with pytest.raises(InvalidInput) as refused:
        call()
    assert words in str(refused.value)
    assert "Remedy: " in str(refused.value)


def test_all_problems_are_said_at_once():
    with pytest.raises(InvalidInput) as refused:
        api.compare(["local"], None, lerning_rate=1, target_epsilon="a", model=3)
    assert len(refused.value.problems) == 4


@pytest.mark.tensorflow
def test_a_run_in_memory_cannot_be_audited():
    run = th.train(th.Plan(rounds=1), DATA, local_steps=1)
    private = th.Plan(rounds=1).replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.0})
    assert th.train(private, DATA, local_steps=1).summary["label"] == "dp_sgd"  # a private run was called fedavg
    assert repr(run).splitlines()[0] == f"{run.summary['method']} on {DATA}: 1 round, seed 42"
    assert repr(run).splitlines()[2:] == ["  no formal guarantee", "  files: none were written (run_dir=)"]
    with pytest.raises(InvalidInput, match="train it with run_dir="):
        th.audit(run)


def test_importing_the_package_and_its_names_loads_nothing_heavy():
    code = (
        "import sys, tff_hospitals as th; th.compare, th.train, th.audit, th.Plan, th.figures; "
        "heavy = {'tensorflow', 'tensorflow_federated', 'pandas', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy; assert 'compare' in dir(th)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
