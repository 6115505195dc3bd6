"""Whatever a hospital's export may look like: read right, or refused in words; remedies are followed."""

from __future__ import annotations

import datetime
import gzip
import json
import os
import re
import sys
import unicodedata

import numpy as np
import pytest
from own_tables import excel_stand_in, keep_key

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import DataSecret, Feature, HospitalDataset, Schema, Target, load_dataset, read_schema

KEY = DataSecret(bytes(range(32)), False, None)
SCHEMA = """
features:
  - {name: age, bounds: [18, 100]}
  - {name: sex, kind: binary, categories: [f, m]}
target: {name: ill, positive: yes, negative: no}
"""
ROWS = [f"{40 + at},{'fm'[at % 2]},{'yes' if at % 3 else 'no'}" for at in range(12)]
PLAIN = "\n".join(["age,sex,ill", *ROWS, ""])


@pytest.fixture
def folder(tmp_path):
    """One sound hospital beside the one under test."""
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    (tmp_path / "sound.csv").write_text(PLAIN)
    keep_key(tmp_path)
    return tmp_path


def add(folder, text):
    (folder / "schema.yaml").write_text((folder / "schema.yaml").read_text() + text)


def refused(folder, **options):
    with pytest.raises(InvalidInput) as caught:
        load_dataset(folder, **options)
    return str(caught.value)


def table(dataset, hospital_id, column):
    """All values of an encoded column at a hospital, sorted."""
    at = dataset.feature_names.index(column)
    hospital = dataset.hospital(hospital_id)
    return sorted(float(row[at]) for part in (hospital.train, hospital.test) for row in part.features)


AGES = [float(40 + at) for at in range(12)]
QUOTED = PLAIN.replace("age,sex,ill\n", 'note,age,sex,ill\n"two\nlines, ""quoted""",40,f,no\n', 1).replace(
    "40,f,no\n41", "41", 1
)


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode("utf-8-sig"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.rstrip("\n").encode(),
        PLAIN.replace("\n", ",\n").encode(),  # a delimiter ends every line, the header's too
        PLAIN.replace("\n", "\n\n,,\n").encode(),
        PLAIN.replace("age,", "  age ,").encode(),
        "\n".join(",".join([*line.split(","), *["x"] * 200]) for line in PLAIN.split()).encode(),
        "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in PLAIN.split()).encode(),
        "\n".join(f"PAR1,{line}" if at == 0 else f"3,{line}" for at, line in enumerate(PLAIN.split())).encode(),
        PLAIN.replace("40,", "\ufeff40\u200b,").replace("sex", "\ufeffsex\u200b").encode(),
    ],
    ids=[
        "bom",
        "crlf",
        "cr",
        "no_end",
        "trailing",
        "blank_lines",
        "header_spaces",
        "203_columns",
        "quoted",
        "a_name",
        "unseen",
    ],
)
def test_odd_files_that_say_what_they_mean(folder, content):
    (folder / "odd one, St. Mary's ü.csv".replace(",", "")).write_bytes(content)
    dataset = load_dataset(folder, scaling="none")
    assert table(dataset, "odd one St. Mary's ü", "age") == AGES
    assert dataset.records()["sound"] == dataset.records()["odd one St. Mary's ü"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "a.csv='no lines': must have a header"),
        ("a.csv", b"\n\n", "a.csv='no lines'"),
        ("a.csv", b"age,sex,ill\n", "a.csv='header only': must have at least one record"),
        ("a.csv", b"age,age,sex,ill\n40,41,f,no\n", "column 'age'='2 times': must be there once"),
        ("a.csv", PLAIN.replace("f,no\n", "f,no,\n").encode(), "line 2='4 cells': must have 3 cells"),
        ("a.csv", PLAIN.replace("no\n", "no,,\n").replace("yes\n", "yes,,\n").encode(), "'5 cells': must have 3 cells"),
        ("a.csv", PLAIN.replace("43", "4\0003").encode(), "line 5='character 39': holds a NUL byte"),
        ("a.csv", PLAIN.encode("utf-16-le"), "write encoding: utf-16-le in the schema"),
        ("a.csv", PLAIN.replace("43", "1e308").encode(), "line 5, column 'age'='1e308': must be between 18 and 100"),
        ("a.csv", PLAIN.replace("43", "1e999").encode(), "column 'age'='1e999': must be a number"),
        ("a.csv", PLAIN.replace("43", "forty").encode(), "column 'age'='forty': must be a number"),
        ("a.csv", PLAIN.replace("43", '4"3').encode(), None),
        ("a.csv", PLAIN.replace("43", '"43').encode(), "must be a readable CSV file"),
        (
            "a.csv.gz",
            gzip.compress(PLAIN.encode(), mtime=0),
            "'.gz': must be one of .csv, .parquet, .xlsx. Remedy: unpack it",
        ),
        ("a.tsv", PLAIN.encode(), "rename it to a.csv"),
        ("a.csv", b"PK\x03\x04" + bytes(50), "rename it to a.xlsx if it is Excel"),
        ("a.csv", b"PAR1" + bytes(50), "rename it to a.parquet"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\n", "fetch the file itself (git lfs pull)"),
        ("a.csv", b'\n[{"age": 3}]\n', "='JSON': must be a CSV file"),
        ("a.csv", b"%PDF-1.7\n", "export the table as CSV"),
        ("a.parquet", b"", "must be a readable Parquet file"),
        ("pooled.csv", PLAIN.encode(), "must not be pooled or server"),
        (" a.csv", PLAIN.encode(), "outer spaces"),
    ],
)
def test_odd_files_that_cannot_be_used_say_why(folder, name, content, words):
    (folder / name).write_bytes(content)
    assert (words or name) in refused(folder)


def test_files_of_the_system_are_no_tables(folder):
    for name in ("Thumbs.db", "desktop.ini", "~$sound.xlsx"):
        (folder / name).write_bytes(b"\0")
    assert load_dataset(folder).ids == ("sound",)


def test_two_ways_to_write_one_letter_are_one_level_and_one_file(folder):
    two = {form: unicodedata.normalize(form, "männlich, weiblich") for form in ("NFC", "NFD")}
    assert two["NFC"] != two["NFD"]
    (folder / "schema.yaml").write_text(
        (folder / "schema.yaml").read_text().replace("[f, m]", f"[{two['NFD']}]")
        + f"files: {{{unicodedata.normalize('NFC', 'süd')}.csv: {{delimiter: ;}}}}\n"
    )
    (folder / "sound.csv").unlink()
    for hospital_id, form, delimiter in (("nord", "NFC", ","), ("süd", "NFD", ";")):
        content = PLAIN.replace("m,", two[form].split(", ")[0] + ",").replace(",f,", f",{two[form].split(', ')[1]},")
        name = unicodedata.normalize(form, hospital_id)
        (folder / f"{name}.csv").write_text(content.replace(",", delimiter))
    dataset = load_dataset(folder, scaling="none")
    assert dataset.ids == ("nord", unicodedata.normalize("NFC", "süd"))
    assert table(dataset, "nord", "sex") == table(dataset, dataset.ids[1], "sex") == [0.0] * 6 + [1.0] * 6


def test_links_are_followed_and_a_link_to_nothing_is_named(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x.csv"
    elsewhere.write_text(PLAIN)
    os.symlink(elsewhere, folder / "linked.csv")
    assert load_dataset(folder).ids == ("linked", "sound")
    elsewhere.unlink()
    assert "linked.csv='nothing to read': must be a file" in refused(folder)


def test_many_rows_are_read_in_time(folder):
    (folder / "large.csv").write_text("age,sex,ill\n" + "\n".join(ROWS * 5000) + "\n")
    dataset = load_dataset(folder)
    assert dataset.records(True)["large"] + dataset.records(False)["large"] == 60_000


def test_headers_of_single_files_are_named_where_they_differ(folder):
    (folder / "a.csv").write_text(PLAIN.replace("age,", "Age,"))
    text = refused(folder)
    assert "write headers: {a.csv: {age: Age}} in the schema" in text
    add(folder, "headers: {a.csv: {age: Age}}\n")
    assert table(load_dataset(folder, scaling="none"), "a", "age") == AGES
    add(folder, "files: {b.csv: {decimal: ','}}\nunits: {c: {age: months}}\n")
    text = refused(folder)
    assert "units[c].age='months': must be the column's unit or among its conversions" in text
    assert "conversions: {months: FACTOR}" in text
    (folder / "schema.yaml").write_text(
        (folder / "schema.yaml").read_text().replace("[18, 100]", "[18, 100], conversions: {months: 0.0833333}")
    )
    text = refused(folder)
    assert "schema, files='b.csv': must be one of a.csv, sound.csv" in text
    assert "schema, units='c': must be one of" in text


def test_units_are_converted_where_a_hospital_states_others(folder):
    (folder / "schema.yaml").write_text(
        SCHEMA.replace(
            "bounds: [18, 100]", "bounds: [18, 100], unit: years, conversions: {months: 0.08333333333}, censored: bound"
        )
    )
    months = "\n".join(["age,sex,ill", *(f"{12 * (40 + at)},f,{'yes' if at % 3 else 'no'}" for at in range(12))])
    (folder / "a.csv").write_text(months.replace("480,", "<480,") + "\n")
    assert "a.csv, line 2, column 'age'='<480': must be between 18 and 100 years, and is 480" in refused(folder)
    add(folder, "units: {a: {age: months}}\n")
    assert table(load_dataset(folder, scaling="none"), "a", "age") == pytest.approx(AGES)
    (folder / "schema.yaml").write_text((folder / "schema.yaml").read_text().replace("units: {a:", "units: {a.csv:"))
    assert table(load_dataset(folder, scaling="none"), "a", "age") == pytest.approx(AGES)


def test_a_regression_target_has_units_too(folder):
    rule = "target: {name: age, kind: regression, low: 0, high: 200, unit: C, conversions: {F: [0.555556, -17.7778]}}"
    (folder / "schema.yaml").write_text("features: [{name: sex, kind: binary, categories: [f, m]}]\n" + rule + "\n")
    add(folder, "units: {sound: {age: F}}\n")
    (hospital,) = load_dataset(folder)
    labels = sorted([*hospital.train.labels, *hospital.test.labels])
    assert labels == pytest.approx([(age - 32) / 1.8 for age in AGES], abs=1e-3)


def test_moments_with_time_zones_are_as_far_apart_as_they_are(folder):
    feature = "{name: out, kind: date, since: in, bounds: [-9, 9]}"
    (folder / "schema.yaml").write_text(f"features:\n  - {feature}\ntarget: {{name: ill, classes: [no, yes]}}\n")
    rows = []
    for hour in range(10):
        rows.append(f"2024-03-01T0{hour}:00:00+02:00,2024-03-01T20:00:00Z,no")
        rows.append(f"2024-03-01,2024-03-02 0{hour}:00:00-05:00,yes")
    (folder / "sound.csv").write_text("\n".join(["in,out,ill", *rows]) + "\n")
    found = table(load_dataset(folder, scaling="none"), "sound", "out")
    expected = [(22 - hour) / 24 for hour in range(10)] + [1 + hour / 24 for hour in range(10)]
    np.testing.assert_allclose(found, sorted(expected), rtol=1e-6)


def test_dates_count_from_a_day_or_from_another_column(folder):
    (folder / "schema.yaml").write_text(
        "features:\n  - {name: birth, kind: date, bounds: [1900-01-01, 2020-01-01]}\n"
        "  - {name: admitted, kind: date, since: birth, unit: years, bounds: [0, 120], impute: middle}\n"
        "target: {name: ill, positive: yes, negative: no}\ndate: '%d.%m.%Y'\n"
    )
    rows = ["01.02.1950,1980-02-01,yes", "28.02.2000,28.02.2024,no", "1.1.1990,,yes"]
    (folder / "sound.csv").write_text("\n".join(["birth,admitted,ill", *rows, ""]))
    dataset = load_dataset(folder, scaling="none")
    day = (datetime.date(1990, 1, 1) - datetime.date(1970, 1, 1)).days
    assert day in table(dataset, "sound", "birth")
    assert table(dataset, "sound", "admitted") == pytest.approx([24.0, 30.0, 60.0], abs=0.01)
    assert table(dataset, "sound", "admitted_missing") == [0, 0, 1]
    (folder / "sound.csv").write_text("\n".join(["birth,admitted,ill", *rows, "12/31/1960,,no", ""]))
    text = refused(folder)
    assert "line 5, column 'birth'='12/31/1960': must be a date as %d.%m.%Y" in text
    assert 'write date: "%m/%d/%Y" in the schema' in text
    (folder / "sound.csv").write_text("birth,admitted,ill\n12/31/1960,,no\n01/31/1970,,yes\n11/30/1980,,yes\n")
    add(folder, 'files: {sound.csv: {date: "%m/%d/%Y"}}\n')
    assert min(table(load_dataset(folder, scaling="none"), "sound", "birth")) == -3288
    add(folder, "scaling: fixed_bounds\n")
    load_dataset(folder)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{name: d, kind: date, unit: weeks}", "features[d].unit='weeks': must be one of days, years"),
        ("{name: d, since: 2020-01-01}", "is for kind: date"),
        ("{name: d, impute: middle}", "needs public bounds"),
        ("{name: d, bounds: open, impute: middle}", "needs public bounds"),
        ("{name: d, conversions: {g: 0}}", "must be a factor, or factor and summand"),
        ("{name: d, conversions: {g: [1, 2, 3]}}", "must be a factor"),
        ("{name: d, conversions: {g: x}}", "must be a number"),
        ("{name: d, kind: binary, conversions: {g: 2}}", "are for numbers"),
    ],
)
def test_schemas_that_cannot_be(folder, entry, words):
    (folder / "schema.yaml").write_text(f"features: [{entry}]\ntarget: {{name: ill}}\n")
    assert words in refused(folder)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("encoding: hex", "encoding='hex': must be a known encoding"),
        ("delimiter: '\"'", "must be one character"),
        ("date: '%d.%m'", "must say day, month and year"),
        ("headers: {a.csv: {agee: x}}", "did you mean 'age'?"),
    ],
)
def test_settings_that_cannot_be(folder, setting, words):
    add(folder, setting + "\n")
    assert words in refused(folder)


def test_open_bounds_must_be_stated_before_they_are_used(folder):
    (folder / "schema.yaml").write_text(SCHEMA.replace("[18, 100]", "open"))
    load_dataset(folder)
    add(folder, "scaling: fixed_bounds\n")
    text = refused(folder)
    assert "features[age].bounds=None: must be given for scaling=fixed_bounds" in text
    assert "write bounds: [low, high] from public knowledge" in text


def real_book(path, sheets):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)


def stand_in_book(path, sheets):
    """What the stand-in below reads; for machines without the library."""
    path.write_text(json.dumps(sheets))


@pytest.mark.parametrize("library", ["openpyxl", "a stand-in"])
def test_an_excel_file_is_as_good_as_csv(folder, library, monkeypatch):
    book = real_book if library == "openpyxl" else stand_in_book
    if library != "openpyxl":
        monkeypatch.setitem(sys.modules, "openpyxl", excel_stand_in())
    rows = [["age", "sex", "ill"], [], *([40 + at, "fm"[at % 2], "yes" if at % 3 else "no"] for at in range(12))]
    book(folder / "a.xlsx", {"Sheet": rows})
    dataset = load_dataset(folder, scaling="none")
    assert table(dataset, "a", "age") == AGES
    book(folder / "a.xlsx", {"Sheet": rows, "codes": [["1", "one"]], "empty": []})
    text = refused(folder)
    assert "a.xlsx='2 sheets': must name one of its sheets: Sheet, codes" in text
    assert "keep one sheet, or write files: {a.xlsx: {sheet: Sheet}} in the schema" in text
    add(folder, "files: {a.xlsx: {sheet: Sheet}}\n")
    assert load_dataset(folder, scaling="none").fingerprint() == dataset.fingerprint()
    rows[5][0] = "=20+20"  # no spreadsheet has computed it
    book(folder / "a.xlsx", {"Sheet": rows})
    assert "a.xlsx, row 6='=20+20': is a formula without a value" in refused(folder)
    rows[5][0] = "x"
    book(folder / "a.xlsx", {"Sheet": rows})
    assert "a.xlsx, row 6, column 'age'='x': must be a number" in refused(folder)
    book(folder / "a.xlsx", {"Sheet": [["Export of ward 3"], [], *rows]})
    assert "a.xlsx, row 1='1 cell': must name the columns: most lines have 3 cells" in (refused(folder))
    assert "which seems to be row 3" in refused(folder)
    book(folder / "a.xlsx", {"Sheet": rows[:1]})
    assert "a.xlsx='header only': must have at least one record" in refused(folder)
    book(folder / "a.xlsx", {"Sheet": []})
    assert "a.xlsx='no cells'" in refused(folder)
    (folder / "a.xlsx").write_bytes(b"PK but not really")
    assert "must be a readable Excel file" in refused(folder)


def test_excel_without_its_library_says_so(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (folder / "a.xlsx").write_bytes(b"PK")
    text = refused(folder)
    assert "needs openpyxl, which cannot be imported. Remedy: install it (pip install openpyxl), or save" in text


def frame(rows=12, **changed):
    pandas = pytest.importorskip("pandas")
    columns = {
        "age": [40.0 + at for at in range(rows)],
        "sex": ["fm"[at % 2] for at in range(rows)],
        "ill": [at % 3 > 0 for at in range(rows)],
        "note": ["x"] * rows,
    }
    return pandas.DataFrame({**columns, **changed})


def schema(**more):
    features = (Feature("age", low=18, high=100), Feature("sex", "binary", categories=("f", "m")))
    return Schema(features, Target("ill", positive=("true",), negative=("false",)), **more)


@pytest.mark.parametrize("decimal", [".", ","])
def test_data_frames_are_hospitals(decimal):
    rules = schema(decimal=decimal)
    dataset = HospitalDataset.from_frames({"north": frame(), "south": frame(30)}, rules, secret=KEY)
    assert dataset.ids == ("north", "south")
    assert sum(dataset.records(True).values()) + sum(dataset.records(False).values()) == 42
    again = HospitalDataset.from_frames({"north": frame(), "south": frame(30)}, rules, secret=KEY)
    assert again.fingerprint() == dataset.fingerprint()
    assert dataset.schema is rules
    assert dataset.preprocessing.kind == "per_hospital"
    assert dataset.provenance == "data frames in memory"


@pytest.mark.parametrize(
    ("given", "rules", "words"),
    [
        (lambda: frame(age=["x"] * 12), schema(), "north, row 1, column 'age'='x': must be a number"),
        (lambda: frame(age=[None, *range(40, 51)]), schema(), "north, row 1, column 'age'='': is missing"),
        (lambda: frame().rename(columns={"age": "Age"}), schema(), "column 'age'='missing': must be in the header"),
        (lambda: frame(0), schema(), "north='no rows': must have at least one record"),
        (lambda: [1, 2], schema(), "north='list': must be a data frame"),
        (frame, schema(hospital_column="site"), "hospital_column='site': is for files"),
        (frame, schema(files={"nort": {"decimal": ","}}), "did you mean 'north'?"),
    ],
)
def test_frames_that_do_not_fit_are_named(given, rules, words):
    with pytest.raises(InvalidInput) as caught:
        HospitalDataset.from_frames({"north": given()}, rules, secret=KEY)
    assert words in str(caught.value)


def test_a_frame_among_arrays_has_its_remedy():
    with pytest.raises(InvalidInput, match="with a schema, or give"):
        HospitalDataset.from_arrays({"north": frame()}, task="binary")


@pytest.mark.tensorflow
def test_data_sets_of_tensorflow_are_hospitals():
    tf = pytest.importorskip("tensorflow")
    features, labels = np.arange(60.0).reshape(20, 3), np.arange(20) % 2
    single = tf.data.Dataset.from_tensor_slices((features, labels))
    expected = HospitalDataset.from_arrays({"a": (features, labels)}, task="binary", secret=KEY).fingerprint()
    for given in (single, single.batch(7), single.map(lambda x, y: (x, y[None])).batch(7)):
        assert HospitalDataset.from_arrays({"a": given}, task="binary", secret=KEY).fingerprint() == expected
    for given, words in (
        (single.repeat(), "records of a='endless': must come to an end"),
        (single.map(lambda x, y: {"x": x, "y": y}), "must hold pairs"),
    ):
        with pytest.raises(InvalidInput, match=words):
            HospitalDataset.from_arrays({"a": given}, task="binary", secret=KEY)


def test_the_schema_on_the_page_is_one(checkout, tmp_path):
    page = (checkout / "docs" / "data.md").read_text()
    (tmp_path / "schema.yaml").write_text(re.search(r"^```yaml\n(.*?)^```", page, re.M | re.S)[1])
    rules = read_schema(tmp_path / "schema.yaml")
    assert rules.feature("temp").converted(100, "F") == pytest.approx(37.8, abs=0.05)
    assert rules.feature("symptoms").low == 0
    assert rules.format_of("north.csv").encoding == "cp1252"
