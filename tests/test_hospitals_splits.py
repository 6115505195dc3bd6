"""A record's side follows from that record alone: whoever leaves or comes, nobody else moves."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from own_tables import keep_key
from test_hospitals_datasets import make_fashion

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import assembly, load_dataset
from tff_hospitals.hospitals.division import Division, Pool, divide
from tff_hospitals.hospitals.secret import DataSecret, passing_secret, public_secret
from tff_hospitals.hospitals.splits import by_record, content_ids, draws

KEY = DataSecret(bytes(range(32)), False, None)
ROLES = {
    "cells": "",
    "id_column": "id_column: number\n",
    "patient_column": "patient_column: person\nrecords_per_patient: 9\n",
    "split_column": "split_column: part\n",
}


def write_folder(folder, roles="", rows=40):
    generator = np.random.default_rng(5)
    schema = "features: [{name: age, bounds: [0, 120]}, {name: dose, bounds: [0, 9]}]\n"
    (folder / "schema.yaml").write_text(schema + "target: {name: ill}\n" + roles)
    for name in ("north", "south"):
        lines = ["age,dose,ill,number,person,part"]
        for row in range(rows):
            person = row // 3
            cells = (generator.integers(20, 90), generator.integers(0, 4), generator.integers(0, 2))
            part = "train" if person % 3 else "Test"
            lines.append(",".join(map(str, (*cells, f"{name}{row}", f"{name}-{person}", part))))
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    keep_key(folder)
    return folder


def load(kind, tmp_path, monkeypatch):
    """The pools of a data set before they are divided, and how it divides them."""
    seen = []

    def recording(pools, division, secret, **options):
        seen.append((pools, division, secret, options))
        return divide(pools, division, secret, **options)

    monkeypatch.setattr(assembly, "divide", recording)
    kind, _, partition = kind.partition("/")
    options = {"partition": partition, "sites": 3} if partition else {}
    if kind in ROLES:
        load_dataset(write_folder(tmp_path, ROLES[kind]), **options)
    elif kind == "fashion_mnist":
        make_fashion(tmp_path)
        load_dataset(kind, folder=tmp_path, sites=3)
    else:
        load_dataset(kind, **options)
    return seen[-1]


def sides(pools, division, secret, options):
    """Each record's side by its hospital's name (where it has one) and its own number."""
    marked = [dataclasses.replace(pool, ids=pool.row_ids(), values=number) for pool, number in pools]
    divided = divide(marked, division, secret, **options)
    found = {}
    for site in divided.sites:
        for side, rows in (("test", site.tested), ("train", site.trained)):
            found.update({float(site.values[row, 0]): side for row in rows})
    return found


def without(pool, number, gone):
    kept = np.arange(len(pool.labels)) != gone
    tested = None
    if pool.tested is not None:
        tested = np.array([row - (row > gone) for row in pool.tested if row != gone], int)
    ids = None if pool.ids is None else [one for one, stays in zip(pool.ids, kept) if stays]
    return Pool(pool.hospital_id, pool.values[kept], pool.labels[kept], tested, ids, pool.patients), number[kept]


KINDS = [
    *("heart_disease", "heart_disease/dirichlet", "heart_disease_all_rows", "heart_disease_all_rows/quantity_skew"),
    *("digits", "digits/missing_classes", "fashion_mnist"),
    *(f"{role}{partition}" for role in ROLES for partition in ("", "/iid")),
]


@pytest.mark.parametrize("kind", KINDS)
def test_removing_one_record_changes_no_other_records_side(kind, tmp_path, monkeypatch):
    pools, division, secret, options = load(kind, tmp_path, monkeypatch)
    starts = np.cumsum([0, *(len(pool.labels) for pool in pools)])
    pairs = [(pool, np.arange(start, start + len(pool.labels))[:, None] * 1.0) for pool, start in zip(pools, starts)]
    before = sides(pairs, division, secret, options)
    assert set(before.values()) == {"train", "test"}
    generator = np.random.default_rng(1)
    for _ in range(6):
        at = int(generator.integers(len(pools)))
        gone = int(generator.integers(len(pools[at].labels)))
        fewer = [without(*pair, gone) if place == at else pair for place, pair in enumerate(pairs)]
        after = sides(fewer, division, secret, options)
        left = before.keys() - after.keys()
        assert left == {starts[at] + gone}
        assert {number: before[number] for number in after} == after


def test_another_order_of_the_records_changes_no_side(tmp_path):
    write_folder(tmp_path)
    before = load_dataset(tmp_path, scaling="none")
    for name in ("north", "south"):
        header, *rows = (tmp_path / f"{name}.csv").read_text().splitlines()
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *reversed(rows)]) + "\n")
    after = load_dataset(tmp_path, scaling="none")
    for one, other in zip(before, after):
        np.testing.assert_array_equal(one.test.features, other.test.features[::-1])
        np.testing.assert_array_equal(one.train.features, other.train.features[::-1])


def test_the_share_of_test_records_is_binomial_and_labels_have_their_proportion():
    ids = [b"%d" % number for number in range(20_000)]
    tested = by_record(KEY, ids, test_fraction=0.3, seed=0)
    assert abs(tested.sum() - 6000) < 4 * np.sqrt(20_000 * 0.3 * 0.7)
    rare = np.arange(20_000) % 50 == 0
    assert abs(tested[rare].sum() - 120) < 4 * np.sqrt(400 * 0.3 * 0.7)
    other = by_record(KEY, ids, test_fraction=0.3, seed=1)
    agree = (tested == other).mean()
    assert abs(agree - 0.58) < 4 * np.sqrt(0.58 * 0.42 / 20_000)  # .3^2 + .7^2: independent
    again = by_record(passing_secret(), ids, test_fraction=0.3, seed=0)
    assert abs((tested == again).mean() - 0.58) < 4 * np.sqrt(0.58 * 0.42 / 20_000)
    # A larger fraction takes more records and gives none back.
    assert not (tested & ~by_record(KEY, ids, test_fraction=0.4, seed=0)).any()


def test_without_the_key_nobody_tells_the_side(tmp_path):
    write_folder(tmp_path, rows=120)
    ours = load_dataset(tmp_path, scaling="none").hospital("north")
    (tmp_path / ".tff_hospitals" / "key").write_bytes(bytes(31) + b"x")
    theirs = load_dataset(tmp_path, scaling="none").hospital("north")
    assert ours.test.features.shape != theirs.test.features.shape or (ours.test.features != theirs.test.features).any()


def test_equal_records_have_equal_ids_however_they_are_written():
    values = np.array([[0.0, np.nan, 1.5], [-0.0, np.nan, 1.5], [0.0, 1.0, 1.5]])
    one, same, other = content_ids(values, np.array([1, 1, 1]))
    assert one == same != other
    assert content_ids(values[:1], np.array([0]))[0] != one
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    assert len(set(content_ids(images, np.array([0, 0])))) == 2
    assert len(set(draws(KEY, "split", [b"a", b"b", b"a"], 0))) == 2


def test_all_records_of_a_patient_lie_on_one_side(tmp_path):
    write_folder(tmp_path, ROLES["patient_column"] + "outside_bounds: keep\n", rows=90)
    for name in ("north", "south"):  # the patient as a feature, so that the test can see them
        text = (tmp_path / f"{name}.csv").read_text()
        text = re.sub(r"^\d+(,.*?(?:north|south)-)(\d+)", r"\2\1\2", text, flags=re.M)
        (tmp_path / f"{name}.csv").write_text(text)
    dataset = load_dataset(tmp_path, scaling="none", test_fraction=0.3)
    assert dataset.records_per_patient == 9
    assert dataset.split_rule.startswith("by record: a keyed hash of the patient")
    for hospital in dataset:
        train, test = set(hospital.train.features[:, 0]), set(hospital.test.features[:, 0])
        assert len(train) > 10
        assert len(test) > 3
        assert train & test == set()
        assert len(train | test) == 30


def test_a_simulated_site_has_all_training_records_of_its_patients():
    ids = [b"%d" % (row // 4) for row in range(400)]
    pool = Pool("all", np.arange(400.0)[:, None], np.arange(400) % 2, None, ids, patients=True)
    for kind in ("iid", "dirichlet", "quantity_skew", "missing_classes"):
        options = {"missing_per_site": 0} if kind == "missing_classes" else {}
        divided = divide([pool], Division(kind, 5, options=options), KEY, has_hospitals=False)
        homes = {}
        for site in divided.sites:
            for row in site.trained:
                homes.setdefault(int(site.values[row, 0]) // 4, set()).add(site.hospital_id)
        assert {len(where) for where in homes.values()} == {1}
        everyone = np.sort(np.concatenate([site.values[:, 0] for site in divided.sites]))
        np.testing.assert_array_equal(everyone, np.arange(400))


def test_test_records_of_a_simulated_site_have_the_labels_that_it_trains_on():
    labels = np.arange(4000) % 10
    pool = Pool("all", np.arange(4000.0)[:, None], labels)
    divided = divide([pool], Division("missing_classes", 5, options={"missing_per_site": 6}), KEY, has_hospitals=False)
    for site in divided.sites:
        assert set(site.labels[site.tested]) == set(site.labels[site.trained])
        assert len(site.tested) / len(site.labels) == pytest.approx(0.34, abs=0.08)
    assert divided.simulated
    assert "test records follow those of their label" in divided.partition


def refused(folder, **options):
    with pytest.raises(InvalidInput) as caught:
        load_dataset(folder, **options)
    text = str(caught.value)
    assert len(text.splitlines()) <= 11
    return text


def test_a_split_column_says_who_is_tested(tmp_path):
    write_folder(tmp_path, ROLES["split_column"])
    dataset = load_dataset(tmp_path)
    assert dataset.records(False) == {"north": 15, "south": 15}  # persons 0, 3, 6, 9, 12: 3 records each
    assert dataset.split_rule == "given: the column 'part' says train or test"
    assert "has no meaning here: the column 'part'" in refused(tmp_path, test_fraction=0.2)
    text = (tmp_path / "south.csv").read_text()
    (tmp_path / "south.csv").write_text(text.replace("Test", "validation", 1).replace(",train", ",", 1))
    words = refused(tmp_path)
    assert "south.csv, line 2, column 'part'='validation': must be train or test" in words
    assert "(1 more such cell, the last in line 5)" in words
    schema = tmp_path / "schema.yaml"  # the remedy: leave the column out
    schema.write_text(schema.read_text().replace("split_column: part\n", ""))
    assert load_dataset(tmp_path).split_rule.startswith("by record")


def test_a_patient_on_both_sides_of_a_given_split_is_named(tmp_path):
    write_folder(tmp_path, ROLES["split_column"] + ROLES["patient_column"])
    assert load_dataset(tmp_path).records(False) == {"north": 15, "south": 15}
    text = (tmp_path / "north.csv").read_text()
    (tmp_path / "north.csv").write_text(text.replace("Test", "train", 1))
    words = refused(tmp_path)
    assert "north.csv, line 3, column 'person'='north-0': is for train in north.csv, line 2: a patient must" in words
    (tmp_path / "north.csv").write_text(text.replace("Test", "train", 3))  # the remedy
    assert load_dataset(tmp_path).records(False) == {"north": 12, "south": 15}


def test_a_patient_of_two_hospitals_is_pointed_out_to_those_inside(tmp_path):
    write_folder(tmp_path, ROLES["split_column"] + ROLES["patient_column"])
    assert not any("more than one hospital" in words for words in load_dataset(tmp_path).inside_warnings)
    text = (tmp_path / "south.csv").read_text().replace("south-0", "north-0").replace("south-1,", "north-0,")
    text = text.replace("north-0,train", "north-0,Test")  # persons 0 and 1: one of them was for training
    (tmp_path / "south.csv").write_text(text)
    dataset = load_dataset(tmp_path)
    (words,) = [words for words in dataset.inside_warnings if "more than one hospital" in words]
    assert words.startswith("1 patient ids stand at more than one hospital. If they are the same people")
    assert "Remedy" in words
    assert not any("patient ids" in words for words in dataset.warnings)
    north = (tmp_path / "north.csv").read_text()
    (tmp_path / "north.csv").write_text(north.replace("north-0,Test", "north-0,train"))
    (words,) = [words for words in load_dataset(tmp_path).inside_warnings if "more than one hospital" in words]
    assert "1 of them for training at one and for testing at another" in words


def test_a_patient_with_more_records_than_was_said_is_named(tmp_path):
    roles = ROLES["patient_column"]
    write_folder(tmp_path, roles.replace("9", "2"))
    words = refused(tmp_path)
    assert "column 'person'='north-0': has more records at north than records_per_patient=2 (12 more such" in words
    schema = tmp_path / "schema.yaml"
    schema.write_text(schema.read_text().replace("patient: 2", "patient: 3"))
    assert load_dataset(tmp_path).records_per_patient == 3
    schema.write_text(schema.read_text().replace("records_per_patient: 3\n", ""))
    assert "records_per_patient=None: must be a whole number. Remedy: give a public bound" in refused(tmp_path)
    schema.write_text(schema.read_text().replace("patient_column: person", "records_per_patient: 3"))
    assert "records_per_patient=3: is only used with patient_column" in refused(tmp_path)


def test_an_id_tells_equal_records_apart_and_must_be_one_of_a_kind(tmp_path):
    write_folder(tmp_path, ROLES["id_column"])
    header = "age,dose,ill,number,person,part\n"
    (tmp_path / "north.csv").write_text(header + "".join(f"50,1,{row % 2},n{row},p,train\n" for row in range(100)))
    north = load_dataset(tmp_path).hospital("north")
    assert 15 < north.test.records < 55
    text = (tmp_path / "south.csv").read_text()
    (tmp_path / "south.csv").write_text(text.replace("south7", "south3").replace("south9", "NA"))
    words = refused(tmp_path)
    assert "south.csv, line 9, column 'number'='south3': stands in south.csv, line 5 too" in words
    assert "south.csv, line 11, column 'number'='NA': must not be missing: it says which record this is" in words


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        ("split_column: part\ntest_fraction: 0.2\n", "test_fraction=0.2: excludes split_column"),
        ("split_column: ill\n", "split_column='ill': is the target too"),
        (
            "patient_column: person\nid_column: person\nrecords_per_patient: 3\n",
            "id_column='person': is the patient_column too",
        ),
        ("patient_column: age\nrecords_per_patient: 3\n", "must not be the target or patient_column too"),
        ("patient_column: nobody\nrecords_per_patient: 3\n", "column 'nobody'='missing': must be in the header"),
        ("patient_column: person\nrecords_per_patient: 0\n", "records_per_patient=0: must be >= 1"),
    ],
)
def test_roles_that_clash_are_named(tmp_path, roles, words):
    write_folder(tmp_path, roles)
    assert words in refused(tmp_path)


def test_a_hospital_that_is_left_without_training_or_test_records_is_named(tmp_path):
    write_folder(tmp_path, ROLES["split_column"])
    text = (tmp_path / "north.csv").read_text()
    (tmp_path / "north.csv").write_text(text.replace(",train", ",test"))
    assert "training records of north=0: must be at least 1" in refused(tmp_path)
    (tmp_path / "north.csv").write_text(text.replace(",Test", ",train"))
    dataset = load_dataset(tmp_path)
    assert any("no test record: north" in warning for warning in dataset.inside_warnings)
    (tmp_path / "south.csv").write_text((tmp_path / "south.csv").read_text().replace(",Test", ",train"))
    assert any("no hospital has a test record" in warning for warning in load_dataset(tmp_path).inside_warnings)


def test_every_data_set_says_which_rule_it_used():
    rules = {name: load_dataset(name).describe()["split_rule"] for name in ("heart_disease", "digits", "synthetic")}
    assert rules["heart_disease"] == "given: FLamby's published test rows are kept"
    assert rules["digits"].startswith("by record: a keyed hash of the record's own cells")
    assert rules["digits"].endswith("test fraction 0.2")
    assert rules["synthetic"] == "given: training and test records are drawn apart"
    with pytest.raises(InvalidInput, match=r"test_fraction=0\.2: has no meaning here: FLamby's published test rows"):
        load_dataset("heart_disease", partition="iid", sites=4, test_fraction=0.2)
    assert public_secret("digits").public
