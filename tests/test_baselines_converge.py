"""Baselines are trained to their end: against scikit-learn and least squares, and stopped where going on does harm."""

from __future__ import annotations

import json

import numpy as np
import pytest
from own_tables import keep_key

from tff_hospitals.experiments import comparison as comparisons
from tff_hospitals.experiments.comparison import Comparison
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.hospitals import Part
from tff_hospitals.models import ModelSignature, build_model
from tff_hospitals.training import convergence

pytestmark = pytest.mark.tensorflow
STREAMS = Streams.from_seed(7)


def table(records, columns=4, seed=0, noise=1.0):
    """Features of very different scale, and what they add up to."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(records, columns)) * 10.0 ** np.linspace(-1, 1, columns)
    return features.astype(np.float32), features @ (1.0 / np.std(features, axis=0)) + noise * generator.normal(
        size=records
    )


def fitted(task, features, labels):
    signature = ModelSignature((features.shape[1],), 2 if task == "binary" else 1, task)
    model = build_model("logistic_regression", signature)  # one dense layer; of a regression the linear one
    weights, frozen = model.initial_weights(np.array([1, 2]))
    return convergence.fit(model, weights, frozen, Part(features, labels), STREAMS), model, frozen


def test_logistic_regression_is_scikit_learns():
    from sklearn.linear_model import LogisticRegression

    features, total = table(800)
    labels = (total > 0).astype(np.int64)
    found, _, _ = fitted("binary", features, labels)
    reference = LogisticRegression(C=1e9, max_iter=20_000, tol=1e-9).fit(features.astype(np.float64), labels)
    chances = reference.predict_proba(features.astype(np.float64))[np.arange(800), labels]
    assert found.converged
    assert found.loss == pytest.approx(-np.log(chances).mean(), abs=1e-4)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_regression_is_least_squares_whatever_the_scale_of_the_target(scale):
    features, total = table(300)
    target = (5500.0 + scale * total).astype(np.float32)
    found, _, _ = fitted("regression", features, target)
    design = np.column_stack([features.astype(np.float64), np.ones(300)])
    rest = target - design @ np.linalg.lstsq(design, target.astype(np.float64), rcond=None)[0]
    assert found.converged
    assert found.loss == pytest.approx(np.mean(rest**2), rel=0.01)


def test_records_held_out_stop_what_only_learns_by_heart():
    """Labels without any signal and more columns than records: the training loss would fall to nothing."""
    generator = np.random.default_rng(3)
    features = generator.normal(size=(40, 60)).astype(np.float32)
    found, _, _ = fitted("binary", features, generator.integers(0, 2, 40))
    assert "records held out" in found.words
    assert found.loss > 0.05
    assert found.converged


def test_one_class_alone_ends():
    found, _, _ = fitted("binary", np.ones([30, 3], np.float32), np.ones(30, np.int64))
    assert found.converged
    assert found.loss < 0.1


def test_a_cap_that_is_hit_says_so(monkeypatch):
    monkeypatch.setattr(convergence, "MOST_ITERATIONS", 20)
    features, total = table(300, columns=30)
    found, _, _ = fitted("binary", features, (total > 0).astype(np.int64))
    assert not found.converged
    assert convergence.NOT_CONVERGED in found.words


def own_data(folder, rows_of, target):
    folder.mkdir()
    keep_key(folder)
    for one, rows in rows_of.items():
        (folder / f"{one}.csv").write_text("x,z,y\n" + "\n".join(",".join(map(str, row)) for row in rows) + "\n")
    (folder / "schema.yaml").write_text(
        "features:\n  - {name: x, kind: numeric, bounds: [0, 100]}\n  - {name: z, kind: numeric, bounds: [0, 100]}\n"
        f"target: {target}\nscaling: fixed_bounds\ntest_fraction: 0.3\n"
    )
    return folder


def test_the_local_baseline_is_not_beaten_for_want_of_training(tmp_path):
    """A narrow part of a wide public range: 50 epochs of a fixed rate end before the slope is found."""
    generator = np.random.default_rng(5)
    rows = {}
    for one in ("a", "b"):
        x, z = generator.uniform(40, 50, 90), generator.uniform(40, 50, 90)
        rows[one] = [(f"{p:.3f}", f"{q:.3f}", int(p + 0.2 * q > 54)) for p, q in zip(x, z)]
    folder = own_data(tmp_path / "data", rows, "{name: y, positive: 1, negative: 0}")
    asked = Comparison(("local", "pooled"), (), (1,), dataset=str(folder))
    ended = comparisons.run(asked, tmp_path / "ended")["rows"]
    assert all(row["accuracy_mean"] > 0.93 for row in ended)
    assert all("L-BFGS" in row["stop_reason"] for row in ended)
    published = comparisons.run(
        Comparison(("local",), (), (1,), str(folder), baseline_epochs=50), tmp_path / "published"
    )
    assert published["rows"][0]["accuracy_mean"] < ended[0]["accuracy_mean"] - 0.05
    again = json.loads((tmp_path / "ended" / "runs" / "local-a-seed1" / "summary.json").read_text())
    assert again["accuracy_per_hospital"]["a"] == ended[0]["accuracy_per_hospital"]["a"]
    repeated = comparisons.run(asked, tmp_path / "ended")["rows"]  # read, not trained again
    assert [row["accuracy_per_hospital"] for row in repeated] == [row["accuracy_per_hospital"] for row in ended]


def test_a_model_too_large_for_full_passes_is_looked_at_on_its_way(tmp_path, monkeypatch):
    """50 epochs at a fixed rate end on a slope; nothing says so but the last looks."""
    monkeypatch.setattr("tff_hospitals.experiments.runner.can_fit", lambda model, records: False)
    generator = np.random.default_rng(5)
    x = generator.uniform(40, 50, 90)
    rows = {"a": [(f"{one:.3f}", "45", int(one > 45)) for one in x]}
    folder = own_data(tmp_path / "data", rows, "{name: y, positive: 1, negative: 0}")
    (row,) = comparisons.run(Comparison(("local",), (), (1,), str(folder)), tmp_path / "run")["rows"]
    assert row["rounds"] == 10
    assert row["converged"] is False
    assert any("loss still falls by" in text and "--baseline_epochs" in text for text in row["warnings"])
