"""Real tables as people have them: each input once answered wrongly; what an error advises is followed here."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import load_dataset
from tff_hospitals.hospitals.file_formats import FileFormat

CASES = pathlib.Path(__file__).parent / "cases"


def refused(folder):
    with pytest.raises(InvalidInput) as caught:
        load_dataset(folder)
    return str(caught.value)


def amend(folder, *changes, add=""):
    schema = folder / "schema.yaml"
    text = schema.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    schema.write_text(text + add)


def values(folder, column, **options):
    """All values of an encoded column in original units, over all hospitals, sorted."""
    dataset = load_dataset(folder, scaling="none", **options)
    at = dataset.feature_names.index(column)
    return sorted(float(row[at]) for h in dataset for part in (h.train, h.test) for row in part.features)


def test_one_file_in_a_folder_is_divided_by_its_hospital_column(case):
    folder = case("one_file_in_folder")
    dataset = load_dataset(folder)
    assert dataset.ids == ("north", "south")
    rows = len((folder / "all.csv").read_text().split()) - 1
    assert sum(dataset.records(True).values()) + sum(dataset.records(False).values()) == rows
    # The rows of a hospital may lie in several files.
    header, *lines = (folder / "all.csv").read_text().splitlines()
    (folder / "all.csv").write_text("\n".join([header, *lines[:20]]) + "\n")
    (folder / "later.csv").write_text("\n".join([header, *lines[20:]]) + "\n")
    again = load_dataset(folder)
    assert (again.ids, again.records()) == (dataset.ids, dataset.records())
    (folder / "later.csv").write_text((folder / "later.csv").read_text().replace("site,", "ward,", 1))
    assert "later.csv, column 'site'='missing': must be in the header" in refused(folder)


def test_a_listed_category_wins_over_the_usual_words_for_missing(case):
    folder = case("category_NA")
    assert sum(values(folder, "region=NA")) == 4
    assert sum(values(folder, "region_missing")) == 0
    amend(folder, (", impute: EU", ""))
    assert sum(values(folder, "region=NA")) == 4
    amend(folder, add='missing: ["NA"]\n')
    assert "missing=['NA']: is listed as a value of a column too" in refused(folder)
    # The remedy: say it of the column where it means that.
    amend(folder, ('missing: ["NA"]\n', ""), ("[NA, EU, US]", "[EU, US], missing_values: [NA], impute: EU"))
    assert sum(values(folder, "region_missing")) == 4


@pytest.mark.parametrize("wobble", [0.0, 1e-13])
def test_a_column_that_does_not_vary_is_only_centred(case, wobble):
    folder = case("constant_column")
    if wobble:
        text = (folder / "north.csv").read_text()
        (folder / "north.csv").write_text(text.replace("98.6,71", f"{98.6 + wobble!r},71"))
    for seed in range(1, 12):
        dataset = load_dataset(folder, seed=seed)
        for hospital in dataset:
            for part in (hospital.train, hospital.test):
                assert np.abs(part.features).max(initial=0) < 20


def test_an_empty_target_is_missing_whatever_else_means_missing(case):
    folder = case("blank_target")
    assert "a.csv, line 4, column 'ill'='': must not be missing" in refused(folder)
    text = (folder / "a.csv").read_text()
    (folder / "a.csv").write_text("".join(line for line in text.splitlines(True) if not line.endswith(",\n")))
    assert "class 1 only" in refused(folder)
    (folder / "a.csv").write_text(text.replace(",\n", ",no\n"))  # the remedy: fill it in
    assert sum(load_dataset(folder).records(True).values()) > 0
    (folder / "a.csv").write_text(text.replace(",\n", ",no\n").replace("40,", ",", 1))
    assert "column 'age'='': is missing, and the schema has no rule" in refused(folder)


@pytest.mark.parametrize(("setting", "expected"), [("thousands: ','", 1200.0), ("decimal: ','", 1.2)])
def test_a_comma_that_may_mean_two_things_is_named_and_both_remedies_work(case, setting, expected):
    folder = case("thousands_comma")
    text = refused(folder)
    assert "it may mean 1.2 (decimal comma) or 1200 (comma between thousands)" in text
    assert f'"{setting}"' in text
    amend(folder, add=setting + "\n")
    assert values(folder, "age")[0] == pytest.approx(expected)


def test_a_number_that_stands_for_missing_has_its_remedy(case):
    folder = case("sentinel_minus9")
    text = refused(folder)
    assert "a.csv, line 5, column 'age'='-9': must be between 18 and 100" in text
    assert "write missing_values: [-9] for the column if it means missing" in text
    amend(folder, ("bounds: [18, 100]", "bounds: [18, 100], missing_values: [-9]"))
    assert "give the column impute: VALUE" in refused(folder)
    amend(folder, ("missing_values: [-9]", "missing_values: [-9], impute: 50"))
    assert sum(values(folder, "age_missing")) == 1
    assert values(folder, "age").count(50.0) == 2  # one was 50


def test_bytes_of_another_encoding_are_named_by_line_and_the_remedy_reads_them(case):
    folder = case("latin1_place")
    lines = ["age,sex,ill,note", *(f"40,f,{'no' if row % 2 else 'yes'},x" for row in range(3000))]
    lines[2500] = "40,f,no,M\xfcller"  # in a column that is never read
    (folder / "a.csv").write_bytes("\n".join([*lines, ""]).encode("latin-1"))
    text = refused(folder)
    assert "a.csv, line 2501='byte 26266': must be UTF-8 text" in text
    assert "write encoding: cp1252 in the schema (under files: a.csv if it is this file alone)" in text
    amend(folder, add="files: {a.csv: {encoding: cp1252}}\n")
    assert len(values(folder, "age")) >= 2500
    amend(folder, ("cp1252", "cp-none"))
    assert "files[a.csv].encoding='cp-none': must be a known encoding" in refused(folder)


def test_utf_16_is_recognised_and_read(case):
    folder = case("sep_line")
    (folder / "a.csv").write_bytes((folder / "a.csv").read_text().encode("utf-16"))
    assert "write encoding: utf-16" in refused(folder)
    amend(folder, add="encoding: utf-16\n")
    assert values(folder, "age") == [40, 41, 42, 43, 44, 45, 46, 47]


def test_several_spellings_of_a_yes_or_no(case):
    folder = case("binary_remedy")
    text = refused(folder)
    assert "must be the two values for 0 and 1" in text
    assert "other spellings of them under spellings: {VALUE: [SPELLING, ..]}" in text
    amend(folder, ("[False, True, TRUE, FALSE]", "[False, True]"))
    text = refused(folder)
    assert "column 'sex'='TRUE': must be one of False, True" in text
    assert "spellings: {True: ['TRUE']}" in text
    assert "add it to the categories" not in text
    amend(folder, ("[False, True]", "[False, True], spellings: {True: ['TRUE'], False: [FALSE]}"))
    assert values(folder, "sex") == [0.0] * 6 + [1.0] * 6
    amend(folder, ("False: [FALSE]", "False: [FALSE, 'TRUE']"))
    assert "features[sex].spellings='TRUE': spells True and False" in refused(folder)


def test_spellings_of_categories_and_classes(case):
    folder = case("binary_remedy")
    amend(
        folder,
        (
            "kind: binary, categories: [False, True, TRUE, FALSE]",
            "kind: categorical, categories: [m, f], spellings: {m: ['FALSE'], f: ['TRUE', W]}",
        ),
        (
            "positive: yes, negative: no",
            "kind: multiclass, classes: [healthy, ill], spellings: {healthy: [no], ill: [yes]}",
        ),
    )
    dataset = load_dataset(folder)
    assert (
        sorted(np.concatenate([h.train.labels for h in dataset] + [h.test.labels for h in dataset]))
        == [0] * 6 + [1] * 6
    )
    assert values(folder, "sex=f") == [0.0] * 6 + [1.0] * 6


def test_a_note_of_any_length_is_passed_over(case):
    folder = case("sep_line")
    amend(folder, ('delimiter: ";"', ""))
    rows = ["note,age,sex,ill", *(f"n,{40 + row},{'fm'[row % 2]},{'yes' if row < 4 else 'no'}" for row in range(8))]
    rows[4] = "x" * 140_000 + rows[4][1:]
    (folder / "a.csv").write_text("\n".join(rows) + "\n")
    assert values(folder, "age") == [40, 41, 42, 43, 44, 45, 46, 47]


def test_the_first_line_of_a_spreadsheet_is_no_header(case):
    folder = case("sep_line")
    assert values(folder, "age") == [40, 41, 42, 43, 44, 45, 46, 47]
    (folder / "a.csv").write_text((folder / "a.csv").read_text().replace("43;m", "x;m"))
    assert "a.csv, line 6, column 'age'='x'" in refused(folder)
    amend(folder, ('delimiter: ";"', ""))
    text = refused(folder)
    assert "a.csv, line 1='sep=;': names another delimiter than the schema's ','" in text
    amend(folder, add="files: {a.csv: {delimiter: ;}}\n")
    assert "line 6, column 'age'='x'" in refused(folder)


def test_a_number_that_becomes_infinite_is_named_by_file_line_and_column(case):
    folder = case("no_file_named")
    assert "a.csv, line 5, column 'age'='1e39': is too large: must be at most 3.4e38" in refused(folder)
    amend(folder, ("{name: age}", "{name: age, missing_values: [1e39], impute: 50}"))
    assert values(folder, "age")[0] == 40
    amend(
        folder,
        ("target: {name: ill, positive: yes, negative: no}", "target: {name: age, kind: regression}"),
        ("  - {name: age, missing_values: [1e39], impute: 50}\n", ""),
    )
    assert "a.csv, line 5, column 'age'='1e39': is too large" in refused(folder)


def test_a_median_of_nothing_names_hospital_and_column(case):
    folder = case("median_of_nothing")
    text = refused(folder)
    assert "median of 'weight' at c=None: cannot be taken: no training record there has a value" in text
    amend(folder, ("impute: median", "impute: median, bounds: [30, 250]"))
    dataset = load_dataset(folder)
    assert any("c has no value of weight among its training records" in word for word in dataset.inside_warnings)
    amend(folder, ("impute: median", "impute: 75"))
    assert load_dataset(folder).inside_warnings == ()
    amend(folder, ("impute: 75", "impute: median"), (", bounds: [30, 250]", ""))
    (folder / "c.csv").unlink()  # the other remedy: leave the hospital out
    assert load_dataset(folder).ids == ("a",)


@pytest.mark.parametrize(("rule", "expected"), [("bound", [40, 60, 80, 500]), ("half", [20, 60, 80, 500])])
def test_limits_of_detection_follow_the_rule_of_the_column(case, rule, expected):
    folder = case("sentinel_minus9")
    amend(folder, ("bounds: [18, 100]", "bounds: [0, 500]"))
    (folder / "a.csv").write_text("age,sex,ill\n<40,f,yes\n60,m,no\n80,m,yes\n> 500,f,no\n")
    text = refused(folder)
    assert "column 'age'='<40': must be a number: it is a limit of detection" in text
    assert "censored: bound" in text
    amend(folder, ("bounds: [0, 500]", f"bounds: [0, 500], censored: {rule}"))
    assert values(folder, "age") == expected


@pytest.mark.parametrize(
    ("written", "cell", "number"),
    [
        (FileFormat(), "1e3", 1000.0),
        (FileFormat(), "1,5", None),
        (FileFormat(), "nan", None),
        (FileFormat(decimal=","), "1,5", 1.5),
        (FileFormat(decimal=","), "1.5", None),
        (FileFormat(decimal=",", thousands="."), "1.234.567,25", 1234567.25),
        (FileFormat(decimal=",", thousands="."), "1.5", None),
        (FileFormat(thousands=","), "12,34", None),
        (FileFormat(thousands=","), "-1,234.5", -1234.5),
        (FileFormat(thousands="'"), "1'000", 1000.0),
        (FileFormat(thousands=" "), "1 000", 1000.0),
    ],
)
def test_numbers_are_read_as_the_file_writes_them_or_not_at_all(written, cell, number):
    assert written.number(cell) == number


@pytest.mark.parametrize(
    ("add", "words"),
    [
        ("thousands: '.'\n", "thousands='.': must be one of"),
        ("decimal: ;\n", "decimal=';': must be one of ,, ."),
        ("encoding: utf-99\n", "encoding='utf-99': must be a known encoding"),
        ("files: {a.csv: {delimeter: ;}}\n", "did you mean 'delimiter'"),
        ("files: 3\n", "must be entries of the form NAME"),
    ],
)
def test_formats_that_cannot_be_are_refused(case, add, words):
    folder = case("sentinel_minus9")
    amend(folder, add=add)
    assert words in refused(folder)


def test_codes_are_compared_as_they_are_written(case):
    folder = case("sentinel_minus9")
    amend(folder, ("kind: binary, categories: [f, m]", "kind: categorical, categories: ['01', '1', '100']"))
    rows = [f"{40 + at},{code},{'yes' if at % 2 else 'no'}\n" for at, code in enumerate(["01", "1.0", "1", "100"] * 3)]
    (folder / "a.csv").write_text("age,sex,ill\n" + "".join(rows))
    assert (sum(values(folder, "sex=01")), sum(values(folder, "sex=1"))) == (3, 6)
    (folder / "a.csv").write_text("age,sex,ill\n" + "".join(rows).replace(",100,", ",1e2,"))
    assert "column 'sex'='1e2': must be one of 01, 1, 100" in refused(folder)
