"""One file of records to a folder for each way of dividing them: nothing lost, nothing changed, no site empty."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from tff_hospitals.experiments import front_door
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals.partition_files import divide, read_source, write_folder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "patients.csv"
    generator = np.random.default_rng(0)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "ward", "note", "died"])
        for number in range(120):
            age = f"{generator.uniform(20, 90):.1f}" if number else ""
            writer.writerow([age, "abc"[number % 3], f'said "{number}", well', number % 4 == 0])
    return path


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


WAYS = [
    ("iid", {}),
    ("dirichlet", {"label": "died", "alpha": 0.3}),
    ("quantity_skew", {"alpha": 0.5}),
    ("missing_classes", {"label": "ward"}),
    ("feature_skew", {"column": "age", "alpha": 0.5}),
    ("by_column", {"column": "ward"}),
]


@pytest.mark.parametrize(("kind", "options"), WAYS)
def test_every_record_is_at_one_site_as_it_was(kind, options, table, tmp_path):
    source = read_source(table)
    made = divide(source, kind, sites=4, **options)
    written = write_folder(tmp_path / "out", source, made)
    assert [path.stem for path in written] == list(made.ids)
    (header, *before), found = rows_of(table), [rows_of(path) for path in written]
    assert all(part[0] == header for part in found)
    assert all(len(part) > 1 for part in found)
    assert sorted(row for part in found for row in part[1:]) == sorted(before)
    again = divide(source, kind, sites=4, **options)
    assert [rows.tolist() for rows in again.rows] == [rows.tolist() for rows in made.rows]
    if kind != "by_column":
        other = divide(source, kind, sites=4, seed=1, **options)
        assert [rows.tolist() for rows in other.rows] != [rows.tolist() for rows in made.rows]


def test_each_kind_of_skew_is_the_one_that_was_asked_for(table):
    source = read_source(table)
    ages = np.array([float(cell or 55) for cell in source.cells("--column", "age")])

    def spread(kind, **options):
        return np.std([ages[rows].mean() for rows in divide(source, kind, sites=4, **options).rows])

    assert spread("feature_skew", column="age", alpha=0.2) > 3 * spread("iid")
    wards = np.array(source.cells("--column", "ward"))
    assert all(len(set(wards[rows])) == 2 for rows in divide(source, "missing_classes", sites=3, label="ward").rows)
    assert [set(wards[rows]) for rows in divide(source, "by_column", column="ward").rows] == [{"a"}, {"b"}, {"c"}]


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("tirichlet", {}, "dirichlet"),
        ("dirichlet", {}, "must name a column"),
        ("dirichlet", {"label": "dead"}, "died"),
        ("dirichlet", {"label": "note"}, "takes at most 100 classes"),
        ("dirichlet", {"label": "died", "alpha": -1.0}, "alpha"),
        ("iid", {"sites": 121}, "take fewer sites"),
        ("quantity_skew", {"sites": 30, "alpha": 0.01, "min_records": 4}, "take fewer sites, a larger alpha"),
        ("feature_skew", {"column": "ward"}, "holds no numbers"),
        ("by_column", {"column": "ward", "min_records": 41}, "must leave every site 41"),
        ("by_column", {"column": "note"}, "must be printable text"),
        ("by_column", {"column": "ward", "alpha": 1.0}, "drop it"),
    ],
)
def test_what_cannot_be_divided_so_is_refused_with_remedy(kind, options, words, table):
    with pytest.raises(InvalidInput, match=words):
        divide(read_source(table), kind, **{"sites": 4, **options})


def test_arrays_become_columns_and_bad_files_are_named(tmp_path):
    good, features = tmp_path / "good.npz", np.arange(24.0).reshape(6, 2, 2)
    np.savez(good, features=features, labels=np.array([0, 1] * 3))
    source = read_source(good)
    assert source.header == ["x1", "x2", "x3", "x4", "label"]
    assert [float(column[5]) for column in source.columns] == [20.0, 21.0, 22.0, 23.0, 1.0]
    for name, arrays in {"other": {"x": features}, "short": {"features": features, "labels": np.zeros(5)}}.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(InvalidInput, match="must hold"):
            read_source(tmp_path / f"{name}.npz")
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    (tmp_path / "empty.csv").write_text("a,b\n")
    for name, words in {"bad.npz": "cannot be read", "empty.csv": "no record", "gone.csv": "must be a file"}.items():
        with pytest.raises(InvalidInput, match=words):
            read_source(tmp_path / name)


def test_the_command_writes_a_folder_with_a_picture_and_nothing_into_a_full_one(table, tmp_path, capsys):
    out = tmp_path / "out"
    given = ["partition", str(table), "--label=died", "--sites=17", "--option=alpha=2.0", f"--out={out}"]
    with pytest.raises(SystemExit) as ended:
        front_door.main("partition", given)
    assert ended.value.code == 0
    assert len(list(out.glob("*.csv"))) == 17
    assert (out / "plots" / "partition.png").stat().st_size > 1000
    assert "17 sites of 7 to 8 records" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        front_door.main("partition", given)
    assert ended.value.code == 2
    assert "new or empty folder" in capsys.readouterr().err
