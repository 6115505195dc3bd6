"""Reconstruction, labels, gradient matching and attributes: what leaks from updates, and what stops it."""

from __future__ import annotations

import numpy as np
import pytest

from tff_hospitals.audits import analytic, attribute, gradients, labels, picture
from tff_hospitals.audits.gradient_matching import GradientMatching
from tff_hospitals.audits.per_record import RecordGradients
from tff_hospitals.audits.probe import Probe
from tff_hospitals.audits.reconstruction import rebuild
from tff_hospitals.experiments.presets import preset
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import load_dataset
from tff_hospitals.models import build_model
from tff_hospitals.plan.plan import Plan

pytestmark = pytest.mark.tensorflow
KEY = np.array([1, 2], np.int64)


@pytest.fixture(scope="module")
def heart():
    return load_dataset("heart_disease")


@pytest.fixture(scope="module")
def records(heart):
    """All 740 records."""
    parts = [part for hospital in heart for part in (hospital.train, hospital.test)]
    return np.concatenate([part.features for part in parts]), np.concatenate([part.labels for part in parts])


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", partition="iid", sites=4)


def test_a_dense_layer_gives_every_one_of_740_records_away(heart, records):
    """Phong et al. 2018: kernel gradient over bias gradient is the input; the bias's sign is the label."""
    model = build_model("logistic_regression", heart)
    weights, frozen = model.initial_weights(KEY)
    features, truth = records
    assert len(truth) == 740
    worst, right = 0.0, 0
    rows = RecordGradients(model, frozen).matrix(weights, features, truth)
    first = gradients.gradient(model, weights, frozen, features[:1], truth[:1])
    np.testing.assert_allclose(rows[0], np.concatenate([part.ravel() for part in first]), rtol=1e-5, atol=1e-7)
    for record, label, row in zip(features[:, None], truth[:, None], rows):
        found = (row[:13, None], row[13:])
        worst = max(worst, float(np.abs(analytic.recover_one(model, found) - record[0]).max()))
        right += labels.recover_label(model, found) == label[0]
    assert worst < 2e-6
    assert right == 740


@pytest.mark.parametrize(
    ("batch", "share", "tolerance"), [(1, 1.0, 0.0), (2, 1.0, 0.01), (4, 0.92, 0.03), (8, 0.2, 0.06)]
)
def test_share_of_records_recovered_from_a_dense_relu_layer(heart, records, batch, share, tolerance):
    """Dense + ReLU with 64 units: a record is recovered when some unit responds to it alone (recomputed in numpy)."""
    model = build_model("mlp", heart, hidden_units=(64,))
    features, truth = records
    found = []
    for seed in range(2):
        weights, frozen = model.initial_weights(np.array([7, seed], np.int64))
        order = np.random.default_rng(seed).permutation(len(truth))
        for start in range(0, min(len(order), 60 * batch) - batch + 1, batch):
            at = order[start : start + batch]
            made = gradients.gradient(model, weights, frozen, features[at], truth[at])
            found.append(analytic.share_recovered(analytic.recover(model, made), features[at]))
    assert np.mean(found) == pytest.approx(share, abs=tolerance + 1e-9)


@pytest.mark.parametrize(("sigma", "accuracy"), [(0.1, 0.997), (0.5, 0.699), (1.0, 0.631), (4.0, 0.516)])
def test_label_accuracy_falls_with_noise(heart, records, sigma, accuracy):
    """Clip 1.1 and noise sigma * clip on a one-record gradient of a blank logistic regression (recomputed in numpy)."""
    model = build_model("logistic_regression", heart, init="zeros")
    weights, frozen = model.initial_weights(KEY)
    plan = Plan().replace(privacy={"mechanism": "dp_sgd", "clip_norm": 1.1, "noise_multiplier": sigma})
    probe = Probe(plan, heart, model, weights, frozen)
    features, truth = records
    right = [
        labels.recover_label(model, probe(features[i : i + 1], truth[i : i + 1], number=i).gradient) == truth[i]
        for i in range(0, len(truth), 2)
    ]
    assert np.mean(right) == pytest.approx(accuracy, abs=0.06)  # 370 records: 2.6 points deviation at one half


def test_clipping_alone_stops_nothing_and_noise_does(heart):
    model = build_model("logistic_regression", heart)
    weights, frozen = model.initial_weights(KEY)

    def error(**privacy):
        plan = Plan(weighting="equal").replace(privacy=privacy)
        return rebuild(plan, heart, model, weights, frozen, attack="analytic", records=12).error

    assert error(mechanism="none") < 1e-3
    assert error(mechanism="dp_sgd", noise_multiplier=1e-6) < 1e-2
    assert error(mechanism="fixed_clip", noise_multiplier=1.0) < 1e-2  # the server's noise comes after the server
    assert error(mechanism="dp_sgd", target_epsilon=8.0) > 0.8


def test_a_planted_layer_recovers_records_from_a_large_batch(heart, records):
    """Fowl et al. 2022: 512 bins for 64 records; an honest layer of the same size gives none away."""
    model = build_model("mlp", heart, hidden_units=(512,))
    weights, frozen = model.initial_weights(KEY)
    features, truth = records
    batch, known = slice(0, 64), slice(300, 740)
    honest = gradients.gradient(model, weights, frozen, features[batch], truth[batch])
    planted = analytic.plant(model, weights, features[known])
    found = gradients.gradient(model, planted, frozen, features[batch], truth[batch])
    assert analytic.share_recovered(analytic.recover(model, honest), features[batch]) < 0.05
    assert analytic.share_recovered(analytic.recover_planted(model, found), features[batch]) > 0.6


def test_gradient_matching_rebuilds_digits_and_record_level_privacy_stops_it(digits):
    """One record, one local step: PSNR of 30 dB or more for most of 20 records; at epsilon 8 for none."""
    plan = preset("digits").replace(data={"partition": "iid", "sites": 4, "options": {}})
    model = build_model("mlp", digits)
    weights, frozen = model.initial_weights(KEY)
    part = digits.hospitals[0].train
    search = GradientMatching(model, weights, frozen, low=0.0, high=1.0)
    quality = {}
    for name, chosen in (
        ("none", plan),
        ("epsilon 8", plan.replace(privacy={"mechanism": "dp_sgd", "target_epsilon": 8.0})),
    ):
        probe = Probe(chosen, digits, model, weights, frozen)
        found = []
        for i in range(20 if name == "none" else 6):
            seen = probe(part.features[i : i + 1], part.labels[i : i + 1], number=i)
            label = labels.recover_label(model, seen.gradient)
            found.append(picture.psnr(part.features[i], search(seen, np.array([label]), iterations=200).features[0]))
        quality[name] = np.array(found)
    assert (quality["none"] >= 30).sum() > 10
    assert quality["epsilon 8"].max() < 15


def test_gradient_matching_inverts_several_local_steps_and_tables(heart):
    model = build_model("mlp", heart, hidden_units=(64,), activation="tanh")
    weights, frozen = model.initial_weights(KEY)
    part = heart.hospital("cleveland").train
    probe = Probe(Plan(), heart, model, weights, frozen, steps=3)
    seen = probe(part.features[:1], part.labels[:1])
    search = GradientMatching(model, weights, frozen, steps=3, low=-6.0, high=6.0)
    match = search(seen, part.labels[:1], restarts=4)
    assert match.distance < 1e-4
    np.testing.assert_allclose(match.features[0], part.features[0], atol=0.05)
    hospital = heart.hospital("cleveland")
    row = picture.rebuilt_row(heart, hospital, part.features[0], match.features[0])
    assert set(row.errors) == {"age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak", "cp", "restecg"}
    assert 20 < row.original["age"] < 80  # years, not standard deviations
    assert row.errors["age"] < 0.5
    assert row.errors["cp"] == 0.0


def test_cosine_with_total_variation_finds_an_image(digits):
    model = build_model("mlp", digits)
    weights, frozen = model.initial_weights(KEY)
    part = digits.hospitals[0].train
    seen = Probe(preset("digits"), digits, model, weights, frozen)(part.features[:1], part.labels[:1])
    search = GradientMatching(model, weights, frozen, objective="cosine", total_variation=1e-4, low=0.0, high=1.0)
    match = search(seen, part.labels[:1])
    assert match.distance < 1e-2
    assert picture.psnr(part.features[0], match.features[0]) > 20


def test_attribute_inference_counts_only_the_gain_over_imputation(heart):
    """A model of the whole table adds little; the update of one record alone gives its column away."""
    model = build_model("logistic_regression", heart)
    weights, frozen = model.initial_weights(KEY)
    hospital = heart.hospital("cleveland")
    gain = attribute.infer_from_model(heart, hospital, model, weights, frozen, "sex")
    assert gain.baseline > 0.6
    assert gain.interval.low <= 0.0 <= max(gain.interval.high, 0.1)
    assert gain.attack - gain.baseline == pytest.approx(gain.gain)
    assert gain.values == ("0", "1")
    probe = Probe(Plan(), heart, model, weights, frozen)
    right = []
    for i in range(12):
        from tff_hospitals.hospitals import Hospital, Part

        one = Part(hospital.train.features[i : i + 1], hospital.train.labels[i : i + 1])
        alone = Hospital("one", one, hospital.test, hospital.scaler)
        update = probe(one.features, one.labels, number=i).update
        found = attribute.infer_from_update(heart, alone, model, weights, frozen, update, "sex")
        right.append(found.attack)
    assert np.mean(right) == 1.0
    bands = attribute.infer_from_model(heart, hospital, model, weights, frozen, "age").values
    assert len(bands) == attribute.BANDS
    assert bands[0].startswith("below ")


def test_attributes_that_cannot_be_attacked_are_named(heart, digits):
    with pytest.raises(InvalidInput, match=r"attribute='num': is the target.*take an input column: age, sex"):
        attribute.check_attribute(heart, "num")
    with pytest.raises(InvalidInput, match=r"attribute='sexx'.*did you mean 'sex'"):
        attribute.check_attribute(heart, "sexx")
    with pytest.raises(InvalidInput, match="needs a table with a schema, and digits has none"):
        attribute.check_attribute(digits, "pixel")


def test_models_without_the_layer_that_an_attack_needs_are_named(digits, heart):
    cnn = build_model("cnn", digits, filters=(4,), dense_units=8, groups=2)
    with pytest.raises(InvalidInput, match=r"no trained dense first layer.*use gradient matching"):
        analytic.recover(cnn, tuple(np.zeros(spec.shape) for spec in cnn.trainable_specs))
    model = build_model("logistic_regression", heart)
    with pytest.raises(InvalidInput, match=r"no hidden dense layer to plant.*such as mlp"):
        analytic.plant(model, model.initial_weights(KEY)[0], heart.pooled_test().features)
