"""Data sets that are read from files of others: each in its own layout, and what is said where files are missing."""

from __future__ import annotations

import csv
import sqlite3

import numpy as np
import pytest
from PIL import Image
from test_hospitals_datasets import make_fashion

from tff_hospitals.experiments import presets
from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import list_datasets, load_dataset
from tff_hospitals.hospitals.federated_files import parse_example
from tff_hospitals.hospitals.image_folders import decoded
from tff_hospitals.hospitals.lazy import load_part
from tff_hospitals.hospitals.simulation_sets import CHARACTERS
from tff_hospitals.hospitals.tables import InvalidTable
from tff_hospitals.plan import review

TABLES = (
    "CREATE TABLE examples (split_name TEXT NOT NULL, client_id TEXT NOT NULL, serialized_example_proto BLOB NOT NULL)",
    "CREATE TABLE client_metadata (client_id TEXT NOT NULL, split_name TEXT NOT NULL, num_examples INTEGER NOT NULL)",
)


def varint(value):
    value &= 2**64 - 1
    parts = []
    while True:
        parts.append((value & 127) | (128 if value > 127 else 0))
        value >>= 7
        if not value:
            return bytes(parts)


def field(number, body):
    return varint(number << 3 | 2) + varint(len(body)) + body


def example(**values):
    """A serialized tf.train.Example, by the wire format."""
    entries = b""
    for name, value in values.items():
        if isinstance(value, bytes):
            feature = field(1, field(1, value))
        elif np.asarray(value).dtype.kind == "f":
            feature = field(2, field(1, np.asarray(value, "<f4").tobytes()))
        else:
            feature = field(3, field(1, b"".join(varint(int(one)) for one in np.ravel(value))))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def write_database(path, splits):
    """A database as TFF caches it: by split and client, serialized examples."""
    with sqlite3.connect(path) as connection:
        for table in TABLES:
            connection.execute(table)
        for split, clients in splits.items():
            for client, examples in clients.items():
                rows = [(split, client, one) for one in examples]
                connection.executemany("INSERT INTO examples VALUES (?, ?, ?)", rows)
                connection.execute("INSERT INTO client_metadata VALUES (?, ?, ?)", (client, split, len(examples)))
    connection.close()


def emnist_examples(seed, count):
    generator = np.random.default_rng(seed)
    return [example(pixels=generator.random(784, np.float32), label=np.array([number % 10])) for number in range(count)]


@pytest.fixture
def emnist_folder(tmp_path):
    train = {f"f{number:04}_1": emnist_examples(number, 3 + number) for number in range(4)}
    test = {name: emnist_examples(9, 2) for name in train}
    splits = {"all_train": train, "all_test": test, "digits_only_train": train, "digits_only_test": test}
    write_database(tmp_path / "emnist_all.sqlite", splits)
    return tmp_path


def test_writers_are_hospitals_that_are_read_when_they_are_needed(emnist_folder):
    dataset = load_dataset("emnist", folder=emnist_folder)
    assert dataset.records(train=True) == {"f0000_1": 3, "f0001_1": 4, "f0002_1": 5, "f0003_1": 6}
    assert dataset.records(train=False) == dict.fromkeys(dataset.ids, 2)
    assert (dataset.num_classes, dataset.feature_shape, dataset.simulated) == (62, (28, 28, 1), True)
    part = load_part(dataset.hospital("f0002_1").train)
    wanted = np.random.default_rng(2).random(784, np.float32)
    assert np.array_equal(part.features[0].ravel(), wanted)
    assert part.labels.tolist() == [0, 1, 2, 3, 4]
    digits = load_dataset("emnist", folder=emnist_folder, sites=2, seed=1, only_digits=True)
    assert len(digits) == 2
    assert digits.num_classes == 10
    assert (
        digits.fingerprint()
        == load_dataset("emnist", folder=emnist_folder, sites=2, seed=1, only_digits=True).fingerprint()
    )
    assert (
        digits.fingerprint()
        != load_dataset("emnist", folder=emnist_folder, sites=3, seed=1, only_digits=True).fingerprint()
    )


@pytest.mark.tensorflow
def test_tensorflow_reads_the_same_records_from_the_same_file(emnist_folder):
    import tensorflow as tf

    with sqlite3.connect(emnist_folder / "emnist_all.sqlite") as connection:
        words = "SELECT serialized_example_proto FROM examples WHERE client_id = 'f0001_1' AND split_name = 'all_train'"
        messages = [row[0] for row in connection.execute(words)]
    spec = {"pixels": tf.io.FixedLenFeature((28, 28), tf.float32), "label": tf.io.FixedLenFeature((), tf.int64)}
    theirs = [tf.io.parse_single_example(message, spec) for message in messages]  # as TFF parses it
    ours = load_part(load_dataset("emnist", folder=emnist_folder).hospital("f0001_1").train)
    assert np.array_equal(ours.features[..., 0], np.stack([one["pixels"].numpy() for one in theirs]))
    assert ours.labels.tolist() == [int(one["label"]) for one in theirs]
    made = tf.train.Example()
    made.features.feature["n"].int64_list.value.extend([-3, 0, 300, 2**40])
    made.features.feature["s"].bytes_list.value.extend([b"one", b""])
    made.features.feature["x"].float_list.value.extend([0.5, -2.0])
    found = parse_example(made.SerializeToString())
    assert found["n"].tolist() == [-3, 0, 300, 2**40]
    assert found["s"] == [b"one", b""]
    assert found["x"].tolist() == [0.5, -2.0]


def test_earlier_files_in_hdf5_give_the_same_records(tmp_path):
    h5py = pytest.importorskip("h5py")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (5, 32, 32, 3), np.uint8)
    for name, clients in (("train", ("0", "1", "2")), ("test", ("0",))):
        with h5py.File(tmp_path / f"fed_cifar100_{name}.h5", "w") as file:
            for client in clients:
                group = file.create_group(f"examples/{client}")
                group["image"], group["label"] = images, np.arange(5) * 20
                group["coarse_label"] = np.arange(5)
    dataset = load_dataset("cifar100", folder=tmp_path)
    assert dataset.records(train=False) == {"0": 5, "1": 0, "2": 0}
    assert any("no test record" in text for text in dataset.inside_warnings)
    part = load_part(dataset.hospital("1").train)
    assert np.array_equal(part.features, images / np.float32(255))
    assert part.labels.tolist() == [0, 20, 40, 60, 80]
    assert load_part(dataset.hospital("1").test).records == 0
    (tmp_path / "fed_cifar100_test.h5").unlink()
    with pytest.raises(RecordError, match=r"fed_cifar100_test\.h5 does not exist"):
        load_dataset("cifar100", folder=tmp_path)


def test_a_role_s_text_becomes_characters_and_the_next_one(tmp_path):
    text = b"To be, or not to be: that is the question"
    splits = {"train": {"HAMLET: 1/a": [example(snippets=text)], "MUTE": [example(snippets=b"?")]}}
    write_database(tmp_path / "shakespeare.sqlite", {**splits, "test": {"HAMLET: 1/a": [example(snippets=text[:9])]}})
    dataset = load_dataset("shakespeare", folder=tmp_path, window=8, stride=4)
    assert dataset.ids == ("HAMLET_ 1_a",)  # who says too little for one record is no hospital
    assert dataset.records(train=True) == {"HAMLET_ 1_a": 9}
    assert dataset.records(train=False) == {"HAMLET_ 1_a": 1}
    part = load_part(dataset.hospitals[0].train)
    for number in range(9):
        spelled = "".join(CHARACTERS[at] for at in part.features[number].argmax(axis=1))
        assert spelled == text[4 * number : 4 * number + 8].decode()
        assert CHARACTERS[part.labels[number]] == chr(text[4 * number + 8])


def test_posts_become_shares_of_frequent_words(tmp_path):
    posts = [
        example(
            tokens=b"how do i do this", type=b"question", title=b"", tags=b"a", score=np.array([1]), creation_date=b""
        ),
        example(tokens=b"you do", type=b"answer", title=b"", tags=b"a", score=np.array([1]), creation_date=b""),
    ]
    write_database(tmp_path / "stackoverflow.sqlite", {"train": {"7": posts}, "test": {"7": posts[:1]}})
    with pytest.raises(RecordError, match=r"load_word_counts.*CC BY-SA"):
        load_dataset("stack_overflow", folder=tmp_path, sites=1)
    (tmp_path / "stackoverflow.word_count").write_text("do 90\ni 50\nyou 40\nrare 1\n")
    dataset = load_dataset("stack_overflow", folder=tmp_path, sites=1, words=3)
    part = load_part(dataset.hospitals[0].train)
    assert part.features.tolist() == [[pytest.approx(0.4), pytest.approx(0.2), 0.0], [0.5, 0.0, 0.5]]
    assert part.labels.tolist() == [1, 0]
    assert dataset.task == "binary"
    (tmp_path / "stackoverflow.word_count").write_text("do many\n")
    with pytest.raises(RecordError, match="line 1"):
        load_dataset("stack_overflow", folder=tmp_path, sites=1)


@pytest.mark.parametrize(
    "name", ["emnist", "cifar100", "shakespeare", "mnist", "isic2019", "tcga_brca", "fashion_mnist"]
)
def test_a_missing_file_is_told_with_the_place_the_way_to_it_and_its_terms(name, tmp_path):
    with pytest.raises(RecordError) as error:
        load_dataset(name, folder=tmp_path / "empty")
    text = str(error.value)
    for words in (str(tmp_path / "empty"), "Remedy: ", "Terms: "):
        assert words in text


def test_damaged_files_are_named(emnist_folder):
    path = emnist_folder / "emnist_all.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE examples SET serialized_example_proto = x'0a05ff' WHERE client_id = 'f0000_1'")
    connection.close()
    dataset = load_dataset("emnist", folder=emnist_folder)
    with pytest.raises(RecordError, match=r"no tf\.train\.Example"):
        load_part(dataset.hospital("f0000_1").train)
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(RecordError, match=r"emnist_all\.sqlite cannot be read"):
        load_part(load_dataset("emnist", folder=emnist_folder).hospital("f0001_1").train)
    path.write_bytes(b"<html>")
    with pytest.raises(RecordError, match="neither a SQLite nor an HDF5 file"):
        load_dataset("emnist", folder=emnist_folder)
    with pytest.raises(InvalidInput, match="is not offered for emnist"):
        load_dataset("emnist", folder=emnist_folder, partition="iid")


def test_more_writers_than_there_are_is_refused(emnist_folder):
    with pytest.raises(InvalidInput, match="sites=5"):
        load_dataset("emnist", folder=emnist_folder, sites=5)


def test_mnist_in_keras_form_and_as_idx_files(tmp_path):
    generator = np.random.default_rng(0)
    arrays = {
        f"{kind}_{side}": generator.integers(0, 256, (count, 28, 28), np.uint8)
        if kind == "x"
        else np.arange(count) % 10
        for side, count in (("train", 60), ("test", 20))
        for kind in "xy"
    }
    np.savez(tmp_path / "mnist.npz", **arrays)
    dataset = load_dataset("mnist", folder=tmp_path, sites=3)
    assert sum(dataset.records(True).values()) == 60
    assert sum(dataset.records(False).values()) == 20
    brightness = sum(one.restore(one.test.features).sum() for one in dataset.hospitals)
    assert brightness == pytest.approx(float(arrays["x_test"].sum()))
    (tmp_path / "idx").mkdir()
    make_fashion(tmp_path / "idx")
    assert sum(load_dataset("mnist", folder=tmp_path / "idx", sites=3, records=40).records(True).values()) < 40
    np.savez(tmp_path / "mnist.npz", **{**arrays, "x_train": arrays["x_train"][:, :14]})
    with pytest.raises(RecordError, match="no MNIST"):
        load_dataset("mnist", folder=tmp_path)
    (tmp_path / "mnist.npz").write_bytes(b"PK")
    with pytest.raises(RecordError, match=r"mnist\.npz cannot be read"):
        load_dataset("mnist", folder=tmp_path)


def write_picture(path, shade, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, shade).save(path)


def test_pictures_in_folders_are_decoded_when_they_are_needed(tmp_path):
    for hospital in ("north", "south"):
        for place, name in enumerate(("benign", "malign")):
            for number in range(12):
                kind = ".png" if number % 2 else ".JPG"
                write_picture(tmp_path / hospital / name / f"{number}{kind}", (10 * number, 200 * place, 50))
    (tmp_path / "north" / "benign" / "notes.txt").write_text("not a picture")
    dataset = load_dataset("image_folder", folder=tmp_path, height=8, width=6, test_fraction=0.3)
    assert dataset.ids == ("north", "south")
    assert (dataset.feature_shape, dataset.task, dataset.simulated) == ((8, 6, 3), "binary", False)
    for one in dataset.hospitals:
        train, test = load_part(one.train), load_part(one.test)
        assert train.records + test.records == 24
        assert test.records > 0
        for part in (train, test):
            assert part.features[..., 1].mean(axis=(1, 2)) == pytest.approx(200 / 255 * part.labels, abs=0.02)
    again = load_dataset("image_folder", folder=tmp_path, height=8, width=6, test_fraction=0.3)
    assert again.fingerprint() == dataset.fingerprint()
    grey = load_dataset("image_folder", folder=tmp_path, height=8, width=8, channels=1)
    assert load_part(grey.hospitals[0].train).features.shape[1:] == (8, 8, 1)
    before = load_part(dataset.hospitals[1].train).features.copy()
    (tmp_path / "south" / "benign" / "12.png").write_bytes(b"\x89PNG broken")
    cut = tmp_path / "north" / "malign" / "2.JPG"
    cut.write_bytes(cut.read_bytes()[:300])
    with pytest.raises(InvalidInput) as refused:  # all of them at once, before any record is read
        load_dataset("image_folder", folder=tmp_path, height=8, width=6, test_fraction=0.3)
    assert [problem.value for problem in refused.value.problems] == [
        str(cut),
        str(tmp_path / "south" / "benign" / "12.png"),
    ]
    assert all("is no whole picture" in problem.bound for problem in refused.value.problems)
    assert np.array_equal(load_part(dataset.hospitals[1].train).features, before)
    with pytest.raises(RecordError, match=r"2\.JPG is no whole picture"):  # where it breaks later
        decoded(cut, 8, 6, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"folder": None}, r"FOLDER/HOSPITAL/CLASS/\*.png .* --data_option=folder=FOLDER"),
        ({"channels": 2}, "grey"),
        ({"height": 0}, "height"),
        ({"sites": 3}, "taken as they are"),
        ({"test_fraction": 0.9}, "test_fraction"),
        ({"partition": "iid"}, "is not offered for image_folder"),
    ],
)
def test_pictures_that_nobody_can_train_on_are_refused(options, words, tmp_path):
    for hospital in ("north", "south"):
        for name in ("a", "b"):
            for number in range(4):
                write_picture(tmp_path / hospital / name / f"{number}.png", (0, 0, 0), (4, 4))
    with pytest.raises(InvalidInput, match=words):
        load_dataset("image_folder", **{"folder": tmp_path, **options})
    with pytest.raises(RecordError, match="no pictures"):
        load_dataset("image_folder", folder=tmp_path / "north")


def test_skin_lesions_in_the_layout_of_flamby(tmp_path):
    lines = []
    for number in range(24):
        center, side = number % 6, "test" if number >= 18 else "train"
        write_picture(tmp_path / "ISIC_2019_Training_Input_preprocessed" / f"ISIC_{number}.jpg", (5 * number, 0, 0))
        lines.append([f"ISIC_{number}", number % 8, center, side, f"{side}_{center}"])
    table = tmp_path / "train_test_folds.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["image", "target", "center", "fold", "fold2"], *lines])
    dataset = load_dataset("isic2019", folder=tmp_path, size=16)
    assert dataset.ids[0] == "BCN"
    assert dataset.records(True) == dict.fromkeys(dataset.ids, 3)
    assert load_part(dataset.hospital("MSK").train).labels.tolist() == [4, 2, 0]
    (tmp_path / "ISIC_2019_Training_Input_preprocessed" / "ISIC_3.jpg").unlink()
    with pytest.raises(InvalidInput, match=r"ISIC_3\.jpg': cannot be read"):
        load_dataset("isic2019", folder=tmp_path)
    table.write_text(table.read_text().replace("train_1", "train_9"))
    with pytest.raises(RecordError, match=r"line 3: fold2 'train_9'"):
        load_dataset("isic2019", folder=tmp_path)


def write_brca(folder, patients=60, **changed):
    columns = ["age_at_index", "race_white", "primary_diagnosis_Infiltrating duct carcinoma, NOS"]
    rows, split = [], []
    for number in range(patients):
        pid = f"TCGA-{('AA', 'BB', 'CC')[number % 3]}-{number:04}"
        values = {
            "age_at_index": 30 + number,
            "race_white": number % 2,
            columns[2]: 1,
            "E": f"{number % 2}.0",
            "T": "5.0",
        }
        rows.append([pid, *(changed.get(name, values[name]) for name in (*columns, "E", "T"))])
        side = "test" if number % 5 == 0 else "train"
        split.append([pid, side, f"{side}_{number % 6}"])
    for name, head, lines in (
        ("brca.csv", ["pid", *columns, "E", "T"], rows),
        ("train_test_split.csv", ["pid", "fold", "fold2"], split),
    ):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([head, *lines])


def test_breast_cancer_by_region_and_by_hospital(tmp_path):
    write_brca(tmp_path)
    dataset = load_dataset("tcga_brca", folder=tmp_path)
    assert dataset.ids == ("northeast", "south", "west", "midwest", "europe", "canada")
    assert sum(dataset.records(False).values()) == 12
    assert dataset.feature_names[0] == "age_at_index"
    assert not dataset.simulated
    by_hospital = load_dataset("tcga_brca", folder=tmp_path, hospitals="site")
    assert by_hospital.ids == ("AA", "BB", "CC")
    first = by_hospital.hospital("BB")
    assert first.restore(first.train.features)[0] == pytest.approx([31, 1, 1])
    with pytest.raises(InvalidInput, match="hospitals='town'"):
        load_dataset("tcga_brca", folder=tmp_path, hospitals="town")
    write_brca(tmp_path, E="2.0")
    with pytest.raises(InvalidTable, match="line 2"):
        load_dataset("tcga_brca", folder=tmp_path)
    (tmp_path / "train_test_split.csv").write_text("pid,fold,fold2\nTCGA-AA-0000,train,train_0\n")
    with pytest.raises(InvalidTable, match=r"must be in the split.*take both files"):
        load_dataset("tcga_brca", folder=tmp_path)
    write_brca(tmp_path)  # both files, as the remedy says
    assert load_dataset("tcga_brca", folder=tmp_path).fingerprint() == dataset.fingerprint()


@pytest.mark.parametrize("name", list_datasets())
def test_every_data_set_has_a_plan_to_start_from(name):
    assert review.problems(presets.preset(name)) == []
    assert presets.preset(name).data.name == name
