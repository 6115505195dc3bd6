"""Named data sets, what they say of themselves, and the checks that all of them pass."""

from __future__ import annotations

import dataclasses
import gzip
import json
import subprocess
import sys

import numpy as np
import pytest

from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import NO_PREPROCESSING, Hospital, HospitalDataset, Part, list_datasets, load_dataset
from tff_hospitals.hospitals.secret import public_secret


def part(count, width=2, label=None):
    labels = np.arange(count) % 2 if label is None else np.full(count, label)
    return Part(np.ones((count, width), np.float32), labels.astype(np.int64))


def toy(*hospitals, **changes):
    settings = {
        "name": "toy",
        "hospitals": hospitals or (Hospital("a", part(3), part(1)), Hospital("b", part(4), part(0))),
        "task": "binary",
        "num_classes": 2,
        "feature_shape": (2,),
        "feature_names": ("x", "y"),
        "provenance": "made up",
        "licence": "none",
        "simulated": True,
        "partition": "by hand",
        "preprocessing": NO_PREPROCESSING,
        "secret": public_secret("toy"),
    }
    return HospitalDataset(**{**settings, **changes})


def test_unknown_names_offer_the_nearest():
    with pytest.raises(InvalidInput, match="did you mean 'heart_disease'"):
        load_dataset("hart_disease")
    with pytest.raises(InvalidInput, match="did you mean 'digits'"):
        load_dataset("digit")
    with pytest.raises(InvalidInput, match="'dirichlet'"):
        load_dataset("heart_disease", partition="dirichlett")
    with pytest.raises(InvalidInput, match="did you mean 'cleveland'"):
        load_dataset("heart_disease").hospital("clevland")
    assert {"heart_disease", "heart_disease_all_rows", "digits"} <= set(list_datasets())


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("heart_disease", {"alpha": 0.5}, "choose partition dirichlet or quantity_skew"),
        ("heart_disease", {"sites": 7}, "sites=7: has no meaning for the natural partition"),
        ("heart_disease", {"sites": 0, "partition": "iid"}, "sites=0"),
        ("heart_disease", {"test_fraction": 0.2}, "published test rows are kept"),
        ("heart_disease", {"min_records": 47}, r"min_records=47: .*switzerland: 46"),
        ("heart_disease_all_rows", {"test_fraction": 0.9}, "test_fraction=0.9"),
        ("heart_disease_all_rows", {"impute": "mean"}, "did you mean 'median'"),
        ("digits", {"scaling": "pooled"}, "option of digits"),
        ("digits", {"schema": "x.yaml"}, "is not used by digits"),
        ("synthetic", {"partition": "iid"}, "is not offered for synthetic"),
        ("synthetic", {"records_per_site": (1, 2)}, "must be one number or 10"),
        ("synthetic", {"records_per_site": 0}, "records_per_site=0"),
    ],
)
def test_options_that_nothing_can_honour_are_refused(name, options, words):
    with pytest.raises(InvalidInput, match=words):
        load_dataset(name, **options)


def test_a_data_set_describes_itself_in_plain_types(tmp_path):
    described = load_dataset("heart_disease").describe()
    files.write_json(tmp_path / "dataset.json", described)
    assert json.loads((tmp_path / "dataset.json").read_text()) == described
    assert described["hospitals"][2] == {"id": "switzerland", "train_records": 30, "test_records": 16}
    assert described["licence"] == "CC BY 4.0"
    assert described["preprocessing"]["kind"] == "per_hospital"
    assert described["simulated"] is False


def test_the_fingerprint_follows_every_content():
    base = toy()
    other_label = Part(base.hospitals[1].train.features, 1 - base.hospitals[1].train.labels)
    feature = base.hospitals[0].test.features.copy()
    feature[0, 0] = np.nextafter(feature[0, 0], np.float32(2))
    changed = [
        toy(Hospital("a", part(3), part(1)), Hospital("c", part(4), part(0))),
        toy(*reversed(base.hospitals)),
        toy(base.hospitals[0], Hospital("b", other_label, part(0))),
        toy(Hospital("a", part(3), Part(feature, base.hospitals[0].test.labels)), base.hospitals[1]),
        toy(Hospital("a", part(3), part(0)), Hospital("b", part(4), part(1))),
    ]
    prints = [base.fingerprint(), *(dataset.fingerprint() for dataset in changed)]
    assert len(set(prints)) == len(prints)
    assert toy().fingerprint() == base.fingerprint() == dataclasses.replace(base, name="other").fingerprint()


def test_unfit_data_sets_are_refused_with_all_problems_at_once():
    with pytest.raises(InvalidInput) as caught:
        toy(
            Hospital("a", part(0), part(1)),
            Hospital("A", part(2, width=3), part(1)),
            Hospital("pooled", part(2, label=5), part(1)),
            Hospital("x/y", Part(np.full((1, 2), np.nan, np.float32), np.zeros(1, np.int64)), part(1)),
        )
    message = str(caught.value)
    for words in (
        "training records of a=0: must be at least 1",
        "hospital_id='A': already taken by 'a'",
        "features in train part of A=(2, 3): must have shape (2, 2)",
        "must not be pooled or server",
        "labels in train part of pooled=(5, 5): must lie in 0 to 1",
        "hospital_id='x/y'",
        "values in train part of x/y='NaN or infinity': must be finite",
    ):
        assert words in message
    with pytest.raises(InvalidInput, match="hospitals=0"):
        HospitalDataset(**{**{f.name: getattr(toy(), f.name) for f in dataclasses.fields(toy())}, "hospitals": ()})


def test_pooled_test_follows_the_order_of_hospitals():
    dataset = load_dataset("heart_disease")
    pooled = dataset.pooled_test()
    assert pooled.records == 104 + 89 + 16 + 45
    assert np.array_equal(pooled.features[:104], dataset.hospital("cleveland").test.features)
    assert np.array_equal(pooled.labels[-45:], dataset.hospital("va_long_beach").test.labels)


def test_digits_are_spread_over_simulated_sites():
    dataset = load_dataset("digits", sites=20)
    assert dataset.simulated is True
    assert dataset.feature_shape == (8, 8, 1)
    assert dataset.num_classes == 10
    total = sum(dataset.records(True).values()) + sum(dataset.records(False).values())
    assert total == 1797
    assert sum(dataset.records(False).values()) == pytest.approx(1797 / 5, abs=20)
    one = dataset.hospital("site-0007").train
    assert 0 <= one.features.min() <= one.features.max() <= 1
    assert set(np.unique(dataset.hospital("site-0007").restore(one.features) % 1)) == {0.0}  # whole grey levels 0..16
    assert load_dataset("digits", sites=20).fingerprint() == dataset.fingerprint()
    assert load_dataset("digits", sites=20, seed=1).fingerprint() != dataset.fingerprint()


def test_some_digits_only_keep_their_ten_classes():
    dataset = load_dataset("digits", sites=3, labels=[5, 9])
    assert set(dataset.pooled_train().labels) == {5, 9}
    assert dataset.num_classes == 10
    assert "digits 5, 9 only" in dataset.provenance
    with pytest.raises(InvalidInput, match="labels=12"):
        load_dataset("digits", labels=[3, 12])


def test_digits_over_a_thousand_sites_leave_each_a_training_record():
    dataset = load_dataset("digits", sites=1000)
    assert min(dataset.records(True).values()) >= 1
    assert sum(dataset.records(False).values()) > 200
    skewed = load_dataset("digits", partition="missing_classes", sites=10, missing_per_site=8)
    assert all(len(np.unique(np.concatenate([h.train.labels, h.test.labels]))) == 2 for h in skewed)


def test_synthetic_sites_do_not_depend_on_each_other():
    few, more = load_dataset("synthetic", sites=3), load_dataset("synthetic", sites=5)
    for hospital in few:
        assert np.array_equal(hospital.train.features, more.hospital(hospital.hospital_id).train.features)
        assert np.array_equal(hospital.train.labels, more.hospital(hospital.hospital_id).train.labels)
    images = load_dataset("synthetic", sites=2, features=(28, 28, 1), num_classes=10, records_per_site=(30, 7))
    assert images.hospital("site-0002").train.features.shape == (7, 28, 28, 1)
    assert images.task == "multiclass"


def test_synthetic_labels_are_linear_without_noise():
    dataset = load_dataset("synthetic", sites=1, records_per_site=2000, features=5, label_noise=0.0)
    train = dataset.pooled_train()
    signs = 2.0 * train.labels - 1
    direction = np.linalg.lstsq(train.features, signs, rcond=None)[0]
    assert np.mean((train.features @ direction > 0) == (train.labels == 1)) > 0.97
    assert 0.4 < train.labels.mean() < 0.6


def write_idx(path, values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def make_fashion(folder):
    generator = np.random.default_rng(0)
    for name, count in (("train", 60), ("t10k", 20)):
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", generator.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{name}-labels-idx1-ubyte", np.arange(count) % 10)


def test_fashion_mnist_from_a_folder(tmp_path):
    make_fashion(tmp_path)
    dataset = load_dataset("fashion_mnist", sites=4, folder=tmp_path)
    assert dataset.feature_shape == (28, 28, 1)
    assert sum(dataset.records(True).values()) + sum(dataset.records(False).values()) == 80
    fewer = load_dataset("fashion_mnist", sites=4, folder=tmp_path, records=40)
    assert sum(fewer.records(True).values()) + sum(fewer.records(False).values()) == 40


def test_fashion_mnist_names_what_is_wrong_with_its_files(tmp_path):
    with pytest.raises(files.RecordError, match=r"no Fashion-MNIST.*Remedy: install the Debian package"):
        load_dataset("fashion_mnist", folder=tmp_path)
    make_fashion(tmp_path)
    images = tmp_path / "train-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    images.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(files.RecordError, match=r"train-images-idx3-ubyte\.gz cannot be read"):
        load_dataset("fashion_mnist", folder=tmp_path)
    images.write_bytes(whole)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1])
    with pytest.raises(files.RecordError, match="no whole idx file"):
        load_dataset("fashion_mnist", folder=tmp_path)
    labels.unlink()
    with pytest.raises(files.RecordError, match="does not exist"):
        load_dataset("fashion_mnist", folder=tmp_path)


def test_importing_hospitals_stays_light():
    heavy = ("tensorflow", "scipy", "sklearn", "pandas", "pyarrow", "matplotlib", "yaml", "jax")
    code = (
        "import sys; from tff_hospitals.hospitals import load_dataset; load_dataset('heart_disease');"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
