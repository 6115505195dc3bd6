"""The embedded hospitals are the published ones, prepared as FLamby prepares them."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pytest

from tff_hospitals.foundations.files import RecordError
from tff_hospitals.hospitals import decode, load_dataset
from tff_hospitals.hospitals.heart_disease import heart_disease
from tff_hospitals.hospitals.locations import data_folder

# Recomputed for this project with numpy and scikit-learn from the split rule in FLamby's dataset.py (arXiv:2210.04620):
# records, train, test, and the first 16 digits of the SHA-256 of the comma-joined sorted test rows.
FLAMBY = {
    "cleveland": (303, 199, 104, "08c0b33f49ba9ad4"),
    "hungary": (261, 172, 89, "d81ef5d37e718e4a"),
    "switzerland": (46, 30, 16, "1505b4ca360a04d9"),
    "va_long_beach": (130, 85, 45, "702a8cd163223373"),
}


def _lines(name: str) -> list[list[str]]:
    return [line.split(",") for line in (data_folder() / "heart_disease" / name).read_text().splitlines()]


def _complete(hospital_id: str) -> list[list[str]]:
    return [row for row in _lines(f"{hospital_id}.csv")[1:] if "?" not in row[:10]]


def _test_rows(hospital_id: str) -> list[int]:
    return [int(row) for hospital, row in _lines("flamby_test_rows.csv")[1:] if hospital == hospital_id]


def test_all_920_patients_stand_in_the_order_of_the_original_files():
    counts = {name: len(_lines(f"{name}.csv")) - 1 for name in FLAMBY}
    assert counts == {"cleveland": 303, "hungary": 294, "switzerland": 123, "va_long_beach": 200}
    # First lines of processed.cleveland.data and processed.hungarian.data; the second the row of the corrected site.
    assert ",".join(_lines("cleveland.csv")[1]) == "63,1,1,145,233,1,2,150,0,2.3,3,0,6,0"
    assert ",".join(_lines("hungary.csv")[1]) == "28,1,2,130,132,0,2,185,0,0,?,?,?,0"
    zero_pressure = [name for name in FLAMBY for row in _lines(f"{name}.csv")[1:] if row[3] == "0"]
    assert zero_pressure == ["va_long_beach"]
    assert {row[4] for row in _lines("switzerland.csv")[1:]} == {"0"}


@pytest.mark.parametrize("hospital_id", FLAMBY)
def test_flamby_rows_are_bit_exact(hospital_id):
    records, train, test, expected = FLAMBY[hospital_id]
    rows = _test_rows(hospital_id)
    assert hashlib.sha256(",".join(map(str, rows)).encode()).hexdigest()[:16] == expected
    assert len(_complete(hospital_id)) == records
    hospital = load_dataset("heart_disease").hospital(hospital_id)
    assert (hospital.train.records, hospital.test.records) == (train, test)
    # The test part holds just those rows, in order: age is the first column, the label is num > 0.
    ages = hospital.restore(hospital.test.features)[:, 0]
    complete = _complete(hospital_id)
    np.testing.assert_allclose(ages, [float(complete[row][0]) for row in rows], rtol=1e-6)
    assert hospital.test.labels.tolist() == [int(complete[row][13] != "0") for row in rows]


@pytest.mark.parametrize("hospital_id", FLAMBY)
def test_the_stored_split_is_what_scikit_learn_draws(hospital_id):
    from sklearn.model_selection import train_test_split

    labels = np.array([row[13] != "0" for row in _complete(hospital_id)])
    enough = 2 < labels.sum() < len(labels) - 2
    assert enough == (hospital_id != "switzerland")
    train, test = train_test_split(
        np.arange(len(labels)),
        train_size=0.66,
        test_size=0.34,
        random_state=43,
        shuffle=True,
        stratify=labels if enough else None,
    )
    assert sorted(test.tolist()) == _test_rows(hospital_id)
    assert len(train) + len(test) == len(labels)


def test_thirteen_columns_standardised_by_the_hospitals_own_training_rows():
    dataset = load_dataset("heart_disease")
    assert dataset.feature_names == (
        ("age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak")
        + ("cp=2", "cp=3", "cp=4", "restecg=1", "restecg=2")
    )
    cleveland = dataset.hospital("cleveland")
    np.testing.assert_allclose(cleveland.train.features.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(cleveland.train.features.std(axis=0, ddof=1), 1, atol=1e-5)
    train = [row for at, row in enumerate(_complete("cleveland")) if at not in set(_test_rows("cleveland"))]
    raw = np.array([[float(cell) for cell in row[:10]] for row in train])
    by_hand = (raw[:, 3] - raw[:, 3].mean()) / (raw[:, 3].std(ddof=1) + 1e-9)
    np.testing.assert_allclose(cleveland.train.features[:, 2], by_hand, rtol=1e-6)
    # All of Switzerland has cholesterol 0: a column without variation is centred, not blown up.
    assert not dataset.hospital("switzerland").test.features[:, 3].any()
    assert dataset.hospital("switzerland").train.labels.all()
    assert any("switzerland (class 1)" in warning for warning in dataset.inside_warnings)
    assert dataset.warnings == ()
    assert dataset.preprocessing.private is False
    assert dataset.simulated is False


def test_original_units_come_back():
    dataset = load_dataset("heart_disease")
    hospital = dataset.hospital("hungary")
    rows = decode(dataset.schema, hospital.restore(hospital.train.features))
    train = [row for at, row in enumerate(_complete("hungary")) if at not in set(_test_rows("hungary"))]
    np.testing.assert_allclose(rows["chol"], [float(row[4]) for row in train], rtol=1e-5)
    assert rows["cp"] == [row[2] for row in train]
    assert rows["restecg"] == [row[6] for row in train]
    assert rows["sex"] == [row[1] for row in train]


def test_seedless_anchor_of_logistic_regression():
    """scikit-learn, C=1e6, pooled training records (recomputed; FLamby's pooled row is .7953).

    The published per-hospital figures of pooled training come from test rows scaled by their *own* hospital, which is
    not how that model was trained; with the scaling that it was trained with they are others; their mean weighted by
    records is .7913.
    """
    from sklearn.linear_model import LogisticRegression

    pooled, own = load_dataset("heart_disease", scaling="pooled"), load_dataset("heart_disease")
    train, test = pooled.pooled_train(), pooled.pooled_test()
    model = LogisticRegression(C=1e6, max_iter=10_000).fit(train.features, train.labels)
    assert round(model.score(test.features, test.labels), 4) == 0.7913
    as_published = [model.score(h.test.features, h.test.labels) for h in own]
    np.testing.assert_allclose(as_published, [0.7885, 0.7640, 0.7500, 0.6444], atol=5e-5)
    matched = [model.score(h.test.features, h.test.labels) for h in pooled]
    np.testing.assert_allclose(matched, [80 / 104, 71 / 89, 13 / 16, 37 / 45])


def test_all_rows_marks_what_was_empty():
    dataset = load_dataset("heart_disease_all_rows")
    totals = {h.hospital_id: h.train.records + h.test.records for h in dataset}
    assert totals == {"cleveland": 303, "hungary": 294, "switzerland": 123, "va_long_beach": 200}
    at = dataset.feature_names.index
    share = {h.hospital_id: np.concatenate([h.train.features, h.test.features])[:, at("chol_missing")] for h in dataset}
    assert share["switzerland"].mean() == 1  # zeros mean missing
    assert share["va_long_beach"].sum() == 49 + 7  # 49 zeros and 7 empty cells
    assert share["cleveland"].sum() == 0
    swiss = dataset.hospital("switzerland")
    np.testing.assert_allclose(swiss.restore(swiss.train.features)[:, at("chol")], 200)
    assert dataset.preprocessing.private is True
    assert dataset.preprocessing.events == ()


def test_all_rows_by_median_is_not_private_and_says_so():
    dataset = load_dataset("heart_disease_all_rows", impute="median")
    assert dataset.preprocessing.private is False
    assert "median" in dataset.preprocessing.words
    hospital = dataset.hospital("hungary")
    at = dataset.feature_names.index
    values = hospital.restore(hospital.train.features)
    empty = hospital.train.features[:, at("chol_missing")] == 1
    assert empty.any()
    known = np.median(values[~empty, at("chol")])
    np.testing.assert_allclose(values[empty, at("chol")], known, rtol=1e-5)


def test_a_damaged_table_is_refused_by_name(tmp_path):
    folder = tmp_path / "heart_disease"
    shutil.copytree(data_folder() / "heart_disease", folder)
    assert heart_disease(folder=folder).fingerprint() == load_dataset("heart_disease").fingerprint()
    table = folder / "hungary.csv"
    table.write_text(table.read_text().replace("132", "133", 1))
    with pytest.raises(RecordError, match=r"hungary\.csv is not the file that was published.*Remedy"):
        heart_disease(folder=folder)
    table.unlink()
    with pytest.raises(RecordError, match=r"hungary\.csv cannot be read.*Remedy"):
        heart_disease(folder=folder)
    (folder / "SHA256SUMS").write_text("")
    with pytest.raises(RecordError, match="does not list flamby_test_rows"):
        heart_disease(folder=folder)


def test_a_partition_spreads_all_740_records_and_keeps_the_published_test_rows():
    natural = load_dataset("heart_disease", scaling="none")
    dataset = load_dataset("heart_disease", scaling="none", partition="iid", sites=20, seed=3)
    assert dataset.simulated is True
    assert dataset.partition.startswith("simulated: 486 records")
    assert "254 test records follow" in dataset.partition
    assert len(dataset.ids) == 20
    for train in (True, False):
        assert sum(dataset.records(train).values()) == sum(natural.records(train).values())
    for pooled in (lambda d: d.pooled_train(), lambda d: d.pooled_test()):
        spread, kept = (np.column_stack([pooled(d).features, pooled(d).labels]) for d in (dataset, natural))
        np.testing.assert_array_equal(spread[np.lexsort(spread.T)], kept[np.lexsort(kept.T)])
    assert dataset.split_rule == natural.split_rule == "given: FLamby's published test rows are kept"
