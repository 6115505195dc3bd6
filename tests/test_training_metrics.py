"""Metrics: by hand, against scikit-learn, undefined where records do not define them, and the same when resampled."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tff_hospitals.training import metrics
from tff_hospitals.training.metrics import METRICS, Predictions, default_headline, evaluate, evaluate_parts
from tff_hospitals.training.record_counts import Draws

sklearn = pytest.importorskip("sklearn.metrics")


def sample(task, records=200, seed=0):
    """Predictions of a middling model, with ties among the scores."""
    generator = np.random.default_rng(seed)
    if task == "regression":
        labels = generator.normal(5000, 300, records)
        return Predictions(task, labels, generator.random(records), [math.nan] * records, labels + 50)
    if task == "binary":
        labels = (generator.random(records) < 0.3).astype(int)
        scores = np.round(np.clip(0.25 + 0.3 * labels + generator.normal(0, 0.25, records), 0, 1), 2)
        guess = scores > 0.5
    else:
        labels = generator.integers(0, 4, records)
        scores = generator.dirichlet(np.ones(4), records) + 0.5 * np.eye(4)[labels]
        scores /= scores.sum(axis=1, keepdims=True)
        guess = scores.argmax(axis=1)
    return Predictions(task, labels, generator.random(records), guess == labels, scores)


def test_binary_metrics_are_scikit_learns():
    one = sample("binary")
    said, found = one.guesses, evaluate(one)
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(one.labels, said))
    assert found["balanced_accuracy"] == pytest.approx(sklearn.balanced_accuracy_score(one.labels, said))
    assert found["auc"] == pytest.approx(sklearn.roc_auc_score(one.labels, one.scores))
    assert found["sensitivity"] == pytest.approx(sklearn.recall_score(one.labels, said))
    assert found["specificity"] == pytest.approx(sklearn.recall_score(1 - one.labels, 1 - said))
    assert found["f1"] == pytest.approx(sklearn.f1_score(one.labels, said))
    assert found["brier"] == pytest.approx(sklearn.brier_score_loss(one.labels, one.scores))


def test_multiclass_metrics_are_scikit_learns():
    one = sample("multiclass")
    said, found = one.guesses, evaluate(one)
    assert found["balanced_accuracy"] == pytest.approx(sklearn.balanced_accuracy_score(one.labels, said))
    assert found["auc"] == pytest.approx(sklearn.roc_auc_score(one.labels, one.scores, multi_class="ovr"))
    assert found["f1"] == pytest.approx(sklearn.f1_score(one.labels, said, average="macro"))
    assert found["brier"] == pytest.approx(((one.scores - np.eye(4)[one.labels.astype(int)]) ** 2).sum(axis=1).mean())
    assert "sensitivity" not in found  # recall of one class among several is nobody's headline


def test_regression_metrics_are_scikit_learns():
    one, found = sample("regression"), evaluate(sample("regression"))
    assert set(found) == {"loss", "rmse", "mae", "r2"}
    assert found["rmse"] == pytest.approx(50.0)
    assert found["mae"] == pytest.approx(sklearn.mean_absolute_error(one.labels, one.scores))
    assert found["r2"] == pytest.approx(sklearn.r2_score(one.labels, one.scores))


def test_calibration_error_by_hand():
    """Two bins: .25 stated where .5 happened (2 records), .75 stated where .75 happened (4 records)."""
    one = Predictions("binary", [0, 1, 1, 1, 1, 0], [1] * 6, [1] * 6, [0.25, 0.25, 0.75, 0.75, 0.75, 0.75])
    assert evaluate(one)["calibration_error"] == pytest.approx(2 / 6 * 0.25)
    sure = Predictions("binary", [1, 1], [0, 0], [1, 1], [1.0, 1.0])  # the last bin holds its upper end
    assert evaluate(sure)["calibration_error"] == 0.0


@pytest.mark.parametrize("labels", [[1, 0, 0, 0], [0, 1, 1, 1]])
def test_one_record_of_a_class_defines_no_recall_and_no_auc(labels):
    """One patient alone would make them 0 or 1."""
    for right in (0.0, 1.0):
        found = evaluate(Predictions("binary", labels, [0.1] * 4, [right] * 4, [0.9, 0.2, 0.3, 0.4]))
        alone = "sensitivity" if labels[0] else "specificity"
        assert all(math.isnan(found[name]) for name in ("auc", "balanced_accuracy", "f1", alone))
        assert found["accuracy"] == right
    many = evaluate(Predictions("multiclass", [0, 0, 1, 1, 2], [0.1] * 5, [1, 1, 1, 1, 0], np.full([5, 3], 1 / 3)))
    assert many["balanced_accuracy"] == 1.0  # of the classes that have a recall


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_parts_in_one_pass_are_parts_one_by_one(task):
    one = sample(task)
    parts = {
        "a": slice(0, 60),
        "few": slice(60, 64),
        "nobody": slice(64, 64),
        "b": slice(64, 200),
        "all": slice(0, 200),
    }
    found = metrics.evaluate_parts(one, parts)
    assert list(found) == list(parts)
    for name, rows in parts.items():
        assert found[name] == pytest.approx(evaluate(one[rows]), nan_ok=True, rel=1e-12), name


def test_what_one_hospital_leaves_undefined_stays_there():
    labels = [1, 1, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0]
    losses = [0.1] * 11 + [math.inf]
    one = Predictions("binary", labels, losses, [1.0] * 12, np.linspace(0.9, 0.1, 12))
    found = metrics.evaluate_parts(one, {"whole": slice(0, 4), "one positive": slice(4, 8), "lost": slice(8, 12)})
    assert (found["whole"]["auc"], found["one positive"]["specificity"]) == (1.0, 1.0)
    assert found["whole"]["loss"] == pytest.approx(0.1)
    assert math.isinf(found["lost"]["loss"])
    assert all(math.isnan(found[name]["auc"]) for name in ("one positive", "lost"))


def test_auc_is_the_share_of_ordered_pairs():
    one = sample("binary", 60)
    positive, negative = one.scores[one.labels == 1], one.scores[one.labels == 0]
    pairs = [(a > b) + 0.5 * (a == b) for a in positive for b in negative]
    assert evaluate(one)["auc"] == pytest.approx(np.mean(pairs), abs=1e-12)


def test_one_class_or_no_record_defines_neither_zero_nor_one():
    ones = evaluate(Predictions("binary", [1, 1, 1], [0.1] * 3, [1, 1, 0], [0.9, 0.8, 0.2]))
    undefined = {name for name, value in ones.items() if math.isnan(value)}
    assert undefined == {"auc", "balanced_accuracy", "specificity", "f1"}
    assert ones["sensitivity"] == pytest.approx(2 / 3)
    for task in ("binary", "multiclass", "regression"):
        nothing = evaluate(sample(task)[:0])
        assert nothing, task
        assert all(math.isnan(value) for value in nothing.values()), task
    assert math.isnan(evaluate(sample("regression")[:1])["r2"])  # one record has no variance
    equal = Predictions("regression", [1e9 + 0.1] * 5, [0] * 5, [math.nan] * 5, [1e9] * 5)
    assert math.isnan(evaluate(equal)["r2"])


def test_a_class_without_records_is_left_out_of_means_over_classes():
    one = sample("multiclass")
    three = evaluate(one[one.labels != 2])
    recalls = [one.correct[one.labels == c].mean() for c in (0, 1, 3)]
    assert three["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert math.isnan(three["auc"])


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_model_that_diverged_has_no_accuracy(bad):
    """A logit that is no number compares as class 0: most hospitals would see a fine accuracy."""
    labels = [0] * 9 + [1]
    one = Predictions("binary", labels, [bad] * 10, [1] * 9 + [0], [0.0] * 10)
    found = evaluate(one)
    assert not math.isfinite(found.pop("loss"))
    assert all(math.isnan(value) for value in found.values()), found


@given(task=st.sampled_from(["binary", "multiclass", "regression"]), seed=st.integers(0, 20))
def test_counts_are_repeated_records(task, seed):
    """A resample by counts is the metric of the records written down as often as they were drawn."""
    one = sample(task, 25, seed)
    counts = np.random.default_rng(seed).multinomial(25, np.full(25, 1 / 25), size=4)
    for metric in metrics.metrics_of(task):
        values = metric.compute(one, Draws(counts))
        for value, drawn in zip(values, counts):
            written_down = one[np.repeat(np.arange(25), drawn)]
            if task != "regression" and 1 in np.unique(written_down.labels, return_counts=True)[1]:
                continue  # a data set with a class of one record; a resample may come to one
            assert value == pytest.approx(evaluate(written_down)[metric.name], nan_ok=True), metric.name


@given(task=st.sampled_from(["binary", "multiclass", "regression"]), seed=st.integers(0, 20), bad=st.booleans())
def test_parts_in_one_pass_are_as_each_by_itself(task, seed, bad):
    """Of none, one and many records, overlapping, with a class of one, and beside a part that the model failed on."""
    one = sample(task, 60, seed)
    if bad:
        one.losses[5] = math.inf
        one = one[:]
    parts = {"none": slice(0, 0), "one": slice(0, 1), "few": slice(1, 9), "rest": slice(9, 60), "all": slice(0, 60)}
    for name, values in evaluate_parts(one, parts).items():
        own = one[parts[name]]
        for metric in metrics.metrics_of(task):
            alone = metric.compute(own, Draws(np.ones([1, len(own)])))[0]
            assert values[metric.name] == pytest.approx(alone, nan_ok=True), (name, metric.name)


def test_every_metric_declares_bounds_that_hold():
    for task in ("binary", "multiclass", "regression"):
        for name, value in evaluate(sample(task)).items():
            metric = METRICS[name]
            assert metric.low is None or value >= metric.low, name
            assert metric.high is None or value <= metric.high, name


def test_parts_joined_are_the_whole():
    one = sample("multiclass")
    assert evaluate(Predictions.joined([one[:30], one[30:31], one[31:]])) == evaluate(one)


def test_the_headline_is_accuracy_only_where_classes_are_alike():
    assert default_headline("binary", {0: 40, 1: 60})[0] == "accuracy"
    assert default_headline("binary", {0: 1, 1: 99})[0] == "auc"
    assert default_headline("multiclass", {0: 70, 1: 15, 2: 15})[0] == "balanced_accuracy"
    assert default_headline("regression", {})[0] == "rmse"
    assert default_headline("binary", {})[0] == "accuracy"


def test_a_summary_leaves_out_hospitals_that_do_not_define_a_metric():
    by_hospital = {"a": {"auc": 0.8, "accuracy": 0.9}, "b": {"auc": math.nan, "accuracy": 0.7}}
    fields = metrics.summary_fields(by_hospital, {"auc": 0.75, "accuracy": 0.8})
    assert fields["auc_mean"] == 0.8
    assert fields["accuracy_mean"] == pytest.approx(0.8)
    assert fields["auc_pooled_mean"] == 0.75
    assert math.isnan(fields["auc_per_hospital"]["b"])
    assert metrics.summary_fields({}, {})["accuracy_mean"] is None
