"""A user's own tables: loaded right, or refused with file, line and column of everything that is wrong."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
from own_tables import keep_key

from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import Feature, InvalidTable, Schema, Target, decode, load_dataset, own_data, read_schema
from tff_hospitals.hospitals.locations import data_folder

SCHEMA = """
features:
  - {name: age, bounds: [18, 100], unit: years}
  - {name: sex, kind: binary, categories: [f, m]}
  - {name: pain, kind: categorical, categories: [none, some]}
  - {name: chol, bounds: [50, 500], missing_values: [0], impute: 200}
target: {name: ill, positive: yes, negative: no}
test_fraction: 0.25
"""
HEADER = "age,sex,pain,chol,ill,name\n"
ROWS = "40,f,none,210,no,Ann\n50,m,some,,yes,Bo\n60,f,some,0,yes,Cy\n70,m,none,180,no,Di\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    (tmp_path / "north.csv").write_text(HEADER + ROWS)
    (tmp_path / "south.csv").write_text(HEADER + ROWS * 2)
    keep_key(tmp_path)
    return tmp_path


def message(path, **options):
    with pytest.raises(InvalidInput) as caught:
        load_dataset(path, **options)
    return str(caught.value)


def test_a_folder_with_one_file_per_hospital(folder):
    dataset = load_dataset(folder, scaling="none")
    assert dataset.ids == ("north", "south")
    # Equal records share a side, so south, which has each of north's records twice, has twice north's numbers.
    assert (dataset.records(True), dataset.records(False)) == ({"north": 3, "south": 6}, {"north": 1, "south": 2})
    assert dataset.split_rule.startswith("by record: a keyed hash of the record's own cells")
    assert dataset.feature_names == ("age", "sex", "pain=none", "pain=some", "chol", "chol_missing")
    north = dataset.hospital("north")
    rows = np.concatenate([north.train.features, north.test.features])
    by_age = rows[np.argsort(rows[:, 0])]
    np.testing.assert_array_equal(by_age[:, 4], [210, 200, 200, 180])  # empty and 0 become 200
    np.testing.assert_array_equal(by_age[:, 5], [0, 1, 1, 0])
    np.testing.assert_array_equal(by_age[:, 2], [1, 0, 0, 1])
    assert dataset.simulated is False
    assert dataset.preprocessing.private is True
    assert load_dataset(str(folder) + "/", scaling="none").fingerprint() == dataset.fingerprint()


def test_one_file_with_a_hospital_column_gives_the_same(folder, tmp_path_factory):
    separate = load_dataset(folder)
    one = tmp_path_factory.mktemp("one")
    rows = [f"{line},south" for line in (ROWS * 2).splitlines()] + [f"{line},north" for line in ROWS.splitlines()]
    (one / "all.csv").write_text(HEADER.strip() + ",clinic\n" + "\n".join(rows) + "\n")
    (one / "schema.yaml").write_text(SCHEMA + "hospital_column: clinic\n")
    shutil.copytree(folder / ".tff_hospitals", one / ".tff_hospitals")  # the key goes with the data
    assert load_dataset(one / "all.csv").fingerprint() == separate.fingerprint()


def test_a_parquet_file_is_as_good_as_csv(folder):
    pyarrow = pytest.importorskip("pyarrow", exc_type=ImportError)
    from pyarrow import parquet

    before = load_dataset(folder)
    table = {"age": [40, 50, 60, 70], "sex": ["f", "m", "f", "m"], "pain": ["none", "some", "some", "none"]}
    table |= {"chol": [210.0, None, 0.0, 180.0], "ill": ["no", "yes", "yes", "no"], "name": [b"x"] * 4}
    parquet.write_table(pyarrow.table(table), folder / "north.parquet")
    (folder / "north.csv").unlink()
    assert load_dataset(folder).fingerprint() == before.fingerprint()
    table["age"] = [40, 50, 600, 70]
    parquet.write_table(pyarrow.table(table), folder / "north.parquet")
    assert "north.parquet, row 3, column 'age'='600': must be between 18 and 100 years" in message(folder)
    (folder / "north.parquet").write_bytes(b"PAR1 but not really")
    assert "north.parquet" in message(folder)
    assert "readable Parquet file" in message(folder)


def test_parquet_without_pyarrow_says_so(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (folder / "west.parquet").write_bytes(b"PAR1")
    assert "west.parquet" in message(folder)
    assert "save the table as CSV" in message(folder)


def test_schema_in_toml_is_the_same_as_in_yaml(folder):
    if sys.version_info < (3, 11):
        pytest.importorskip("tomli")
    toml = folder / "schema.toml"
    toml.write_text(
        'test_fraction = 0.25\nfeatures = [\n{name = "age", bounds = [18, 100], unit = "years"},\n'
        '{name = "sex", kind = "binary", categories = ["f", "m"]},\n'
        '{name = "pain", kind = "categorical", categories = ["none", "some"]},\n'
        '{name = "chol", bounds = [50, 500], missing_values = [0], impute = 200}]\n'
        'target = {name = "ill", positive = "yes", negative = "no"}\n'
    )
    assert read_schema(toml) == read_schema(folder / "schema.yaml")


def test_every_problem_of_every_file_is_shown_at_once(folder):
    (folder / "north.csv").write_text(
        HEADER
        + "40,f,none,210,no,Ann\nforty,m,some,1,yes,Bo\n60,x,some,0,yes,Cy\n,m,none,180,,Di\n1,f\n33,f,some,1e3,no,E\n"
    )
    (folder / "south.csv").write_text("age,gender,pain,chol,ill\n")
    (folder / "east.ods").write_text("")
    text = message(folder)
    for words in (
        "north.csv, line 3, column 'age'='forty': must be a number. Remedy:",
        "north.csv, line 5, column 'age'='': is missing, and the schema has no rule for that. Remedy:",
        "north.csv, line 4, column 'sex'='x': must be one of f, m.",
        "north.csv, line 3, column 'chol'='1': must be between 50 and 500 (1 more such cell, the last in line 7)",
        "north.csv, line 5, column 'ill'='': must not be missing",
        "north.csv, line 6='2 cells': must have 6 cells",
        "south.csv, column 'sex'='missing': must be in the header. Remedy: the file has: age, gender, pain, chol, ill",
        "east.ods='.ods': must be one of .csv, .parquet, .xlsx",
    ):
        assert words in text
    assert len(text.splitlines()) == 8


def test_the_message_fits_on_one_screen(folder):
    for number in range(30):
        (folder / f"h{number}.csv").write_text(HEADER + "40,f,none,abc,no,Ann\n" * 500)
    text = message(folder)
    assert len(text.splitlines()) == 11
    assert text.endswith("and 20 more")
    assert "(499 more such cells, the last in line 501)" in text
    with pytest.raises(InvalidTable) as caught:
        load_dataset(folder)
    assert len(caught.value.problems) == 30


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "south.csv='no lines': must have a header and at least one record"),
        (HEADER.encode(), "south.csv='header only': must have at least one record"),
        (
            b"\xff\xfe\x00",
            "south.csv, line 1='byte 0': must be UTF-8 text. Remedy: save the file in that encoding, or write encoding",
        ),
        ((HEADER + '40,"f,none\n').encode(), "must be a readable CSV file"),
        ((HEADER + ROWS).replace("age,", "agee,").encode(), "Remedy: did you mean 'agee'"),
        ((HEADER + ROWS).replace("name\n", "age\n").encode(), "column 'age'='2 times': must be there once"),
        ((HEADER + ROWS).replace(",", ";").encode(), "write delimiter: ';' in the schema"),
        (
            (HEADER + '"40,5",f,none,210,no,A\n').encode(),
            "Remedy: replace the decimal comma",
        ),
        ((HEADER + "nan,f,none,210,no,A\n").encode(), "column 'age'='nan': is missing"),
        ((HEADER + "inf,f,none,210,no,A\n").encode(), "column 'age'='inf': must be a number"),
        ((HEADER + "1_8,f,none,210,no,A\n").encode(), "column 'age'='1_8': must be a number"),
        ((HEADER + "40,f,none,210,maybe,A\n").encode(), "column 'ill'='maybe': must be one of no, yes"),
    ],
)
def test_broken_files_are_named(folder, content, words):
    (folder / "south.csv").write_bytes(content)
    text = message(folder)
    assert words in text
    assert "south.csv" in text


def test_lines_are_counted_as_an_editor_counts_them(folder):
    (folder / "south.csv").write_text(HEADER + '\n40,f,none,210,no,"two\nlines"\n\n40,f,none,7,no,A\n')
    assert "south.csv, line 6, column 'chol'='7'" in message(folder)


def test_a_byte_order_mark_and_other_separators_are_read(folder):
    before = load_dataset(folder).fingerprint()
    for name in ("north.csv", "south.csv"):
        text = (folder / name).read_text().replace(",", " ; ").replace("\n", "\r\n")
        (folder / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    (folder / "schema.yaml").write_text(SCHEMA + "delimiter: ;\n")
    assert load_dataset(folder).fingerprint() == before


def test_doubled_reserved_and_missing_hospitals(folder, tmp_path):
    (folder / "NORTH.parquet").write_bytes(b"")
    (folder / "pooled.csv").write_text(HEADER + ROWS)
    text = message(folder)
    assert "north.csv='north': is the hospital id of NORTH.parquet too" in text
    assert "pooled.csv='pooled': must not be pooled or server" in text
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "schema.yaml").write_text(SCHEMA)
    assert "empty='no tables': must hold one file per hospital (.csv, .parquet, .xlsx)" in message(empty)
    (empty / "all.csv").write_text(HEADER + ROWS)
    assert "hospital_column=None: must be given when one file holds all" in message(empty / "all.csv")
    (empty / "schema.yaml").write_text(SCHEMA + "hospital_column: name\n")
    (empty / "all.csv").write_text(HEADER + ROWS.replace("Di", "bo").replace("Cy", ""))
    text = message(empty / "all.csv")
    assert "all.csv, line 5, column 'name'='bo': is also spelled 'Bo'" in text
    assert "all.csv, line 4, column 'name'='': must not be missing" in text


def test_one_class_at_a_hospital_is_a_warning_and_over_all_an_error(folder):
    (folder / "south.csv").write_text(HEADER + ROWS.replace("yes", "no"))
    dataset = load_dataset(folder)
    assert any("south (class 0)" in warning for warning in dataset.inside_warnings)
    assert dataset.warnings == ()
    assert "class 0" not in str(dataset.describe())
    (folder / "north.csv").write_text(HEADER + ROWS.replace("yes", "no"))
    assert "all files, column 'ill'='class 0 only': must hold at least two classes" in message(folder)


def test_with_positive_alone_one_other_value_is_class_0_and_two_are_an_error(folder):
    schema = SCHEMA.replace(", negative: no", "")
    (folder / "schema.yaml").write_text(schema)
    assert load_dataset(folder).hospital("north").train.labels.max() == 1
    (folder / "south.csv").write_text(HEADER + ROWS.replace(",no,", ",No,"))
    text = message(folder)
    assert "south.csv, line 2, column 'ill'='No': must be one of no, yes" in text
    assert "list all values of the target in the schema" in text


def test_classes_and_regression(folder):
    (folder / "schema.yaml").write_text(
        SCHEMA.replace("positive: yes, negative: no", "kind: multiclass, classes: [no, yes, x]")
    )
    dataset = load_dataset(folder)
    assert (dataset.task, dataset.num_classes) == ("multiclass", 3)
    (folder / "schema.yaml").write_text(
        "features: [{name: sex, kind: binary, categories: [f, m]}]\ntarget: {name: age, kind: regression}\n"
    )
    dataset = load_dataset(folder)
    labels = np.concatenate([dataset.hospital("north").train.labels, dataset.hospital("north").test.labels])
    assert labels.dtype == np.float32
    assert sorted(labels.tolist()) == [40, 50, 60, 70]


def test_outside_bounds_may_be_clipped(folder):
    (folder / "south.csv").write_text(HEADER + ROWS.replace("40,", "140,"))
    (folder / "schema.yaml").write_text(SCHEMA + "outside_bounds: clip\n")
    south = load_dataset(folder, scaling="none").hospital("south")
    assert max(south.train.features[:, 0].max(), south.test.features[:, 0].max()) == 100


def test_options_and_partitions_apply_to_own_data(folder):
    dataset = load_dataset(folder, partition="iid", sites=3, seed=5, test_fraction=0.5, scaling="fixed_bounds")
    assert dataset.simulated is True
    assert sum(dataset.records(True).values()) + sum(dataset.records(False).values()) == 12
    assert dataset.split_rule.endswith("compared with the test fraction 0.5")
    assert dataset.preprocessing.kind == "fixed_bounds"
    assert load_dataset(folder, seed=7).fingerprint() != load_dataset(folder, seed=10).fingerprint()
    with pytest.raises(InvalidInput, match=r"option of .* must be one of"):
        load_dataset(folder, impute="median")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("features: []\ntarget: {name: ill}", "features=0: must be at least one"),
        ("features: [age]", "target=None: must be entries"),
        ("features: [{kind: numeric}]\ntarget: {name: ill}", r"features\[1\].name=None: must be given"),
        ("features: [{name: age, knd: x}]\ntarget: {name: ill}", r"features\[age\].knd='knd': .*did you mean 'kind'"),
        ("features: [{name: age, kind: number}]\ntarget: {name: ill}", "did you mean 'numeric'"),
        ("features: [{name: age, bounds: [9, 1]}]\ntarget: {name: ill}", "must be two finite numbers, low < high"),
        ("features: [{name: age, bounds: [a, 1]}]\ntarget: {name: ill}", "low='a': must be a number"),
        ("features: [{name: age, bounds: 3}]\ntarget: {name: ill}", r"must be \[low, high\]"),
        ("features: [age, age]\ntarget: {name: ill}", "is listed twice"),
        ("features: [ill]\ntarget: {name: ill}", "must not be the target"),
        ("features: [{name: sex, kind: categorical}]\ntarget: {name: ill}", "must list two or more values"),
        ("features: [{name: s, kind: binary, impute: x}]\ntarget: {name: ill}", "impute='x': must be one of 0, 1"),
        ("features: [age]\ntarget: {name: ill, kind: multiclass}", "target.classes"),
        ("features: [age]\ntarget: {name: ill}\nscaling: fixed_bounds", "must be given for scaling=fixed_bounds"),
        ("features: [age]\ntarget: {name: ill}\ntest_fraction: 0.9", "test_fraction=0.9"),
        ("features: [age]\ntarget: {name: ill}\nsed: 1", "did you mean 'seed'"),
        ("features: [age]\ntarget: {name: ill}\nseed: 1.5", "must be a whole number"),
        ("features: [{name: age, missing_indicator: maybe}]\ntarget: {name: ill}", "must be true or false"),
        (
            "features: [{name: age, bounds: [1, 9], impute: 12}]\ntarget: {name: ill}",
            "impute=12.0: must be >= 1.0 and <= 9",
        ),
    ],
)
def test_schema_problems_are_named(folder, schema, words):
    (folder / "schema.yaml").write_text(schema)
    with pytest.raises(InvalidInput, match=words):
        load_dataset(folder)


def test_unreadable_schemas_and_paths_are_named(folder, tmp_path):
    (folder / "schema.yaml").write_text("features: [")
    with pytest.raises(RecordError, match=r"schema\.yaml is not valid YAML.*Remedy"):
        load_dataset(folder)
    (folder / "schema.yaml").write_text("")
    with pytest.raises(RecordError, match="holds no entries"):
        load_dataset(folder)
    (folder / "schema.yaml").unlink()
    with pytest.raises(RecordError, match=r"holds no schema \(schema\.yaml, schema\.yml, schema\.toml\)"):
        load_dataset(folder)
    with pytest.raises(RecordError, match="does not exist"):
        load_dataset(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match=r"must be one of \.toml, \.yaml, \.yml"):
        read_schema(folder / "north.csv")


def test_a_schema_may_be_made_in_python(folder):
    schema = Schema((Feature("age", low=18, high=100),), Target("ill", positive=("yes",), negative=("no",)))
    dataset = own_data(folder, schema=schema)
    assert dataset.feature_names == ("age",)
    assert load_dataset(folder, schema=schema).fingerprint() == dataset.fingerprint()


def test_the_example_folder_loads_and_is_what_its_readme_says(tmp_path):
    shutil.copytree(data_folder() / "example_own_data", tmp_path / "mine")
    dataset = load_dataset(tmp_path / "mine")
    assert dataset.ids == ("lakeside", "north", "south")
    assert dataset.simulated is True
    assert dataset.preprocessing.private is True
    assert dataset.warnings == ()
    assert "ward" not in dataset.feature_names
    north = dataset.hospital("north")
    rows = decode(dataset.schema, north.restore(north.train.features))
    assert set(rows["smoker"]) == {"no", "yes"}
    assert min(rows["age"]) > 20
