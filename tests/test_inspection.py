"""A draft knows what can be seen and leaves open what only people know; its page stays inside."""

from __future__ import annotations

import json
import random
import re
import stat
import sys

import odd_hospitals
import pytest
from odd_hospitals import code_of, state_bounds
from own_tables import excel_stand_in, keep_key

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import load_dataset, read_schema
from tff_hospitals.hospitals.file_formats import FileFormat
from tff_hospitals.hospitals.inspection import hints
from tff_hospitals.hospitals.inspection.draft import draft
from tff_hospitals.hospitals.inspection.formats import guess_cells, guess_text
from tff_hospitals.hospitals.inspection.kinds import guess_kind
from tff_hospitals.hospitals.inspection.readiness import readiness
from tff_hospitals.hospitals.inspection.roles import Roles
from tff_hospitals.hospitals.schema_files import schema_from_mapping

FACTS = {
    "features": [
        {"name": "age", "bounds": ["18", "100"], "impute": "50"},
        {"name": "device", "kind": "categorical", "categories": ["A", "B", "C"], "spellings": {"C": ["c"]}},
        {"name": "flag", "kind": "binary"},
    ],
    "target": {"name": "ill", "positive": "yes", "negative": "no"},
}


@pytest.fixture
def stays(tmp_path):
    odd_hospitals.write_stays(tmp_path)
    keep_key(tmp_path)
    return tmp_path


def test_seventeen_hospitals_are_drafted_from_files_alone(stays, capsys):
    assert code_of("inspect", str(stays)) == 0
    shown = capsys.readouterr().out
    text = (stays / "schema.yaml").read_text()
    assert text.count("numeric, bounds: open") == 4
    rules = read_schema(stays / "schema.yaml", whole=False)
    assert [(one.name.casefold(), one.kind) for one in rules.features] == [
        ("age", "numeric"),
        ("sex", "binary"),
        ("crp", "numeric"),
        ("sodium", "numeric"),
        ("sbp", "numeric"),
        ("ward", "categorical"),
        ("smoker", "binary"),
    ]
    assert (rules.target.name.casefold(), rules.target.classes, rules.id_column) == (
        "died",
        ("no", "yes"),
        "Patient-ID",
    )
    assert rules.feature("CRP").censored == "bound"
    assert rules.target.spellings["yes"] == ("1", "True", "Y", "ja")
    assert {rules.format_of(f"St. Anna {n:02d}.csv").encoding for n in (0, 1, 7)} == {"utf-8", "cp1252", "utf-16"}
    assert rules.format_of("St. Müller 03.csv").delimiter == ";"
    assert rules.format_of("St. Anna 01.csv").decimal == ","
    assert "Klinik: one value in each file" in text
    assert "Bemerkung: free text" in text
    with pytest.raises(InvalidInput, match="needs public bounds"):
        load_dataset(stays)
    state_bounds(stays / "schema.yaml", odd_hospitals.STAY_BOUNDS)
    assert code_of("inspect", str(stays)) == 0
    assert "ready: tff-hospitals compare" in capsys.readouterr().out
    dataset = load_dataset(stays)
    assert len(dataset) == 17
    assert sum(dataset.records(True).values()) + sum(dataset.records(False).values()) == sum(
        60 + 15 * (n % 6) for n in range(17)
    )
    assert dataset.preprocessing.private
    # Nothing exact is said where somebody else may read it.
    assert not re.search(r"\b(records|St\. Anna \d+: \d)", shown.replace("the records", "").replace("records'", ""))


def test_what_is_drafted_holds_no_extreme_of_the_records(tmp_path):
    for name, first in (("a", 41.5), ("b", 47.25)):
        rows = "".join(f"{first + at / 8},{'yes' if at % 3 else 'no'}\n" for at in range(40))
        (tmp_path / f"{name}.csv").write_text("weight,died\n" + rows)
    text = draft(tmp_path, Roles()).text
    for extreme in ("41.5", "46.375", "47.25", "52.125"):
        assert extreme not in text
    assert "{name: weight, kind: numeric, bounds: open}" in text


def test_dialysis_centres_in_one_file(tmp_path):
    odd_hospitals.write_dialysis(tmp_path)
    keep_key(tmp_path)
    assert code_of("inspect", str(tmp_path)) == 0
    rules = read_schema(tmp_path / "schema.yaml", whole=False)
    assert (rules.hospital_column, rules.patient_column, rules.records_per_patient) == ("centre", "pid", None)
    assert rules.feature("ktv").missing_values == ("-9",)
    with pytest.raises(InvalidInput, match="records_per_patient=None"):
        load_dataset(tmp_path)
    state_bounds(tmp_path / "schema.yaml", odd_hospitals.DIALYSIS_BOUNDS, records_per_patient=12)
    dataset = load_dataset(tmp_path)
    assert (len(dataset), dataset.records_per_patient) == (67, 12)
    facts = readiness(tmp_path, rules)
    assert max(one.largest_patient for one in facts.hospitals) <= 11


def test_the_page_is_for_people_inside_and_nobody_else(stays, capsys):
    assert code_of("inspect", str(stays)) == 0
    inside = stays / "inside"
    assert stat.S_IMODE(inside.stat().st_mode) == 0o700
    for name in ("readiness.html", "readiness.txt"):
        assert stat.S_IMODE((inside / name).stat().st_mode) == 0o600
        text = (inside / name).read_text()
        assert "For people at the hospitals" in text
        assert "never published" in text
        for words in ("To settle before training", "Class balance of died", "Missing cells by column", "St. Müller 03"):
            assert words in text
    assert stat.S_IMODE((stays / "schema.yaml").stat().st_mode) == 0o600
    assert "they stay inside" in capsys.readouterr().out
    assert "http" not in (inside / "readiness.html").read_text().replace("http-equiv", "")


def test_a_schema_that_is_there_is_kept(stays, capsys):
    assert code_of("inspect", str(stays)) == 0
    state_bounds(stays / "schema.yaml", odd_hospitals.STAY_BOUNDS)
    before = (stays / "schema.yaml").read_bytes()
    assert code_of("inspect", str(stays), "--target=died") == 2
    assert "is for a draft, and a schema is there. Remedy: add --redraft" in capsys.readouterr().err
    assert code_of("inspect", str(stays), "--target=smoker", "--drop=ward", "--redraft") == 0
    assert (stays / "schema.yaml").read_bytes() == before
    text = (stays / "schema.draft.yaml").read_text()
    assert "target: {name: smoker" in text
    assert "ward: you said so" in text


def write(folder, **tables):
    for name, rows in tables.items():
        (folder / f"{name}.csv").write_text("\n".join(["age,device,flag,ill", *rows, ""]))
    return {one.hospital_id: one for one in readiness(folder, schema_from_mapping(FACTS)).hospitals}


def test_the_facts_of_each_hospital(tmp_path):
    north = [f"{20 + at},{'AB'[at % 2]},{int(at == 3)},{'yes' if at < 5 else 'no'}" for at in range(100)]
    south = [f"{30 + at % 20},c,1,{'yes' if at % 2 else ''}" for at in range(30)]
    west = [f"{30 + at if at % 3 else ''},{'AB'[at % 2]},{at % 2},no" for at in range(30)]
    facts = write(tmp_path, north=[*north[:80], *north[10:12]], south=south, west=west)
    assert facts["north"].rows == 82
    assert facts["north"].duplicates == 2
    assert facts["north"].classes == {"no": 77, "yes": 5}
    assert facts["north"].nearly_constant == ()
    assert facts["south"].constant == ("device", "flag")
    assert facts["south"].own_levels == {"device": ("C",)}
    assert facts["south"].gives_away == {"device": 1.0}
    assert facts["south"].missing == {"ill": 15}
    assert facts["west"].missing == {"age": 10}
    assert facts["west"].classes == {"no": 30, "yes": 0}
    (tmp_path / "south.csv").unlink()
    facts = write(tmp_path, north=[line.replace(",1,", ",0,") for line in north[:99]] + [north[3]], west=west)
    assert facts["north"].nearly_constant == ("flag",)
    assert facts["west"].gives_away == {}


def test_another_unit_gives_a_hospital_away(tmp_path):
    tables = {n: [f"{30 + (at * 7 + len(n)) % 60},A,{at % 2},no" for at in range(60)] for n in ("a", "bb", "ccc")}
    tables["months"] = [f"{12 * (30 + at)},A,{at % 2},yes" for at in range(60)]
    facts = write(tmp_path, **tables)
    assert facts["months"].gives_away == {"age": 1.0}
    assert facts["a"].gives_away == {}


@pytest.mark.parametrize(
    ("cells", "kind", "levels"),
    [
        (["1", "0", "1", "0"], "binary", ["0", "1"]),
        (["1.0", "0.0", "1", "0"], "binary", ["0", "1"]),
        (["TRUE", "false", "True", "n/a"], "binary", ["false", "True"]),
        (["m", "w", "M", "F"], "binary", ["w", "m"]),
        (["none", "some"] * 5, "binary", ["none", "some"]),
        (["a", "b", "c"] * 10, "categorical", ["a", "b", "c"]),
        (["1", "2", "3", "4"] * 10, "categorical", ["1", "2", "3", "4"]),
        ([str(at) for at in range(40)], "numeric", []),
        ([f"<{at}.5" for at in range(10)] + [f"{at}.25" for at in range(20)], "numeric", []),
        ([f"text {at}" for at in range(40)], "text", []),
        (["2024-01-01", "2024-02-03"], "date", []),
        (["x"] * 5, "constant", []),
        (["7"] * 5, "constant", []),
        (["", "NA"], "empty", []),
    ],
)
def test_kinds(cells, kind, levels):
    guess = guess_kind({"a": cells}, {"a": FileFormat()})
    assert (guess.kind, [one.casefold() for one in guess.levels]) == (kind, [one.casefold() for one in levels])


@pytest.mark.parametrize(
    ("cells", "kind", "levels", "words"),
    [
        (["01", "1", "02"] * 10, "categorical", ["01", "02", "1"], ""),
        (["1234567", "1234568", "1234569.0"] * 9, "categorical", ["1234567", "1234568", "1234569"], "drafted as codes"),
        (["0", "1"] * 20 + ["18"], "categorical", ["0", "1", "18"], "'18' occurs in fewer than 5 records"),
        ([f"0{at}" for at in range(1000, 1040)], "numeric", [], "begin with 0"),
        ([f"{at}E{at % 5}" for at in range(1, 20)], "numeric", [], "powers of ten"),
        ([f"{at % 9 + 1}.{100 + at}" for at in range(20)], "numeric", [], "three digits after the mark"),
        ([f"202301{at}" for at in range(10, 30)], "numeric", [], "if they are dates"),
        ([f"{at} kg" for at in range(40)], "text", [], "numbers with 'kg' beside them"),
        ([f"€{at}" for at in range(40)], "text", [], "numbers with '€' beside them"),
        ([f"(1{at})" if at % 2 else f"{at}.5" for at in range(40)], "text", [], "'()' beside"),
        ([f"0{at}/03/2024" for at in range(1, 10)] + ["10/03/2024"] * 20, "text", [], "state date in the schema"),
        ([f"{at},5" for at in range(40)], "text", [], "a decimal comma, unlike others"),
        ([f"2.1{at},5" for at in range(10, 40)], "text", [], "points between thousands, unlike others"),
        ([f"A{at}" for at in range(40)], "text", [], ""),
        (["w" * 500 + str(at) for at in range(3)] * 9, "text", [], ""),
        ([*map(str, range(50, 80)), "w" * 500], "numeric", [], ""),
        ([*map(str, range(50, 80)), "90+", "≤ 45"], "numeric", [], ""),
        (["NA", "EU", "AS"] * 9, "binary", ["AS", "EU"], "list it among the categories"),
        (["Sí", "NO", "нет", "tak", "ja"], "binary", ["нет", "tak"], "fewer than 5"),
    ],
)
def test_what_cells_may_mean_besides_is_said(cells, kind, levels, words):
    guess = guess_kind({"a": cells}, {"a": FileFormat()})
    assert (guess.kind, guess.levels) == (kind, levels)
    said = [*guess.notes, guess.why]
    assert any(words in one for one in said) if words else not any(said)
    assert all(len(one) < 200 for one in (*said, *guess.missing_values))


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        ([*range(18, 80), -9], ["-9"]),
        ([*range(-20, 20), -9], []),  # a base excess
        ([*range(18, 80), 999], ["999"]),
        ([*range(700, 1100, 3), 999], []),
        ([*range(18, 80), "hemolysed"], ["hemolysed"]),
    ],
)
def test_numbers_and_words_that_stand_for_missing(values, missing):
    guess = guess_kind({"a": [str(value) for value in values]}, {"a": FileFormat()})
    assert (guess.kind, guess.missing_values) == ("numeric", missing)
    assert bool(guess.notes) is bool(missing)


@pytest.mark.parametrize(
    ("columns", "decimal", "thousands", "undecided"),
    [
        ([["1.5", "2"]], ".", "", False),
        ([["1,5", "2"]], ",", "", False),
        ([["1.234,5", "2,5"]], ",", ".", False),
        ([["1,234.5", "2.5"]], ".", ",", False),
        ([["1,234", "2,345"]], ".", "", True),
        ([["1'234", "2"]], ".", "'", False),
        ([["1 234,5", "2,25"]], ",", " ", False),
        ([["1\u00a0234", "2\u00a0345"], ["1.5", "2"]], ".", " ", False),
        ([["1 234", "2 345"]], ".", " ", False),
        ([["03.02.24", "28.02.24"]], ".", "", True),  # 68 is 2068
    ],
)
def test_marks_in_numbers(columns, decimal, thousands, undecided):
    written, notes = guess_cells(columns, FileFormat(delimiter=";"))
    assert (written.decimal, written.thousands, bool(notes)) == (decimal, thousands, undecided)


@pytest.mark.parametrize(
    ("content", "delimiter", "encoding"),
    [
        (b"a,b\n1,2\n", ",", "utf-8"),
        ("a;b\nä;1,5\n".encode("cp1252"), ";", "cp1252"),
        ("a\tb\n1\t2\n".encode("utf-16"), "\t", "utf-16"),
        ("a|b\n1|2\n".encode("utf-16-le"), "|", "utf-16-le"),
        (b"sep=;\na;b\n", ";", "utf-8"),
        (b"a\n1\n", ",", "utf-8"),
        (b"Export\n\na;b\n1;2,5\n3;4\n5;6\n7;8\n9;1\n", ";", "utf-8"),
        ("a,b\n".encode("utf-32"), ",", "utf-32"),
        (b"", ",", "utf-8"),
    ],
)
def test_encoding_and_delimiter(tmp_path, content, delimiter, encoding):
    (tmp_path / "a.csv").write_bytes(content)
    found = guess_text(tmp_path / "a.csv")
    assert (found.delimiter, found.encoding) == (delimiter, encoding)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--folder=None: must name your tables"),
        (("nowhere",), "does not exist"),
        (("{folder}", "--target=agee"), "did you mean 'age'?"),
        (("{folder}", "--drop=agee"), "did you mean 'age'?"),
        (("{folder}",), "--target=None: cannot be guessed"),
        (("{folder}", "--target=extra"), "must be in every file, and is not in a.csv"),
    ],
)
def test_what_cannot_be_drafted_says_why(tmp_path, flags, words, capsys):
    (tmp_path / "a.csv").write_text("age,x\n1,2\n")
    (tmp_path / "b.csv").write_text("age,x,extra\n1,2,3\n")
    assert code_of("inspect", *(flag.format(folder=tmp_path) for flag in flags)) in (1, 2)
    error = capsys.readouterr().err
    assert words in error
    assert "Remedy:" in error


def test_a_draft_reads_the_sheet_that_is_named(tmp_path, monkeypatch, capsys):
    """Of such files no schema could be drafted: the remedy was an entry of the schema that was wanted."""
    monkeypatch.setitem(sys.modules, "openpyxl", excel_stand_in())
    rows = [["age", "ill"], *([40 + at, "yes" if at % 3 else "no"] for at in range(30))]
    for name, sheet in (("a", "export"), ("b", "export"), ("c d", "2024")):
        (tmp_path / f"{name}.xlsx").write_text(json.dumps({sheet: rows, "notes": [["made by hand"]]}))
    assert code_of("inspect", str(tmp_path)) == 2
    assert "tff-hospitals inspect --sheet='export'" in capsys.readouterr().err
    assert code_of("inspect", str(tmp_path), "--sheet=export", "--sheet=c d.xlsx=2024") == 0
    state_bounds(tmp_path / "schema.yaml", {"age": "[18, 110]"})
    keep_key(tmp_path)
    assert load_dataset(tmp_path).ids == ("a", "b", "c d")
    capsys.readouterr()
    assert code_of("inspect", str(tmp_path), "--sheet=notes") == 2
    assert "is for a draft, and a schema is there" in capsys.readouterr().err


def test_patients_of_two_hospitals_and_a_target_without_bounds_are_pointed_out(tmp_path, capsys):
    keep_key(tmp_path)
    rows = "".join(f"p{at},{40 + at},{at % 7 + 100.5}\n" for at in range(30))
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("pid,age,stay\n" + rows.replace("p", "" if name == "a" else "b"))
    schema = "features: [{name: age, bounds: [18, 110]}]\ntarget: {name: stay, kind: regression, bounds: open}\n"
    (tmp_path / "schema.yaml").write_text(
        f"{schema}patient_column: pid\nrecords_per_patient: 1\nscaling: fixed_bounds\n"
    )
    assert code_of("inspect", str(tmp_path)) == 0
    shown = capsys.readouterr().out
    assert "patient id" not in shown
    assert "stay is predicted in its own unit, since its bounds are not stated" in shown
    (tmp_path / "b.csv").write_text((tmp_path / "b.csv").read_text().replace("b7,", "7,").replace("b8,", "8,"))
    (tmp_path / "schema.yaml").write_text((tmp_path / "schema.yaml").read_text().replace("open", "[0, 200]"))
    assert code_of("inspect", str(tmp_path)) == 0
    shown = capsys.readouterr().out
    assert "2 patient ids stand at more than one hospital" in shown
    assert "own unit" not in shown


def test_headers_that_say_different_units_are_different_columns(tmp_path):
    rows = "".join(f"{36 + at / 10},{'yes' if at % 2 else 'no'}\n" for at in range(30))
    (tmp_path / "a.csv").write_text("temp (C),died\n" + rows)
    (tmp_path / "b.csv").write_text("Temp [F],died\n" + rows)
    (tmp_path / "c.csv").write_text("age,died\n" + rows)
    text = draft(tmp_path, Roles()).text
    assert "features:\ntarget" in text
    for words in ("temp (C): not in b.csv, c.csv", "Temp [F]: not in a.csv, c.csv", "age: not in a.csv, b.csv"):
        assert words in text


@pytest.mark.parametrize(
    "add", ["files: {a.csv: {encoding: nothing}}", "files: {a.csv: {colour: blue}}", "decimal: x", "missing: [yes]"]
)
def test_a_schema_that_is_wrong_is_said_before_files_are_read(tmp_path, add, capsys):
    (tmp_path / "a.csv").write_text("age,ill\n40,yes\n50,no\n")
    schema = "features: [{name: age, bounds: open}]\ntarget: {name: ill, classes: [no, yes]}\n"
    (tmp_path / "schema.yaml").write_text(f"{schema}scaling: fixed_bounds\n{add}\n")
    assert code_of("inspect", str(tmp_path)) == 0
    assert "2 points to settle before training" in capsys.readouterr().out


def test_a_file_alone_is_inspected_and_must_say_whose_its_rows_are(tmp_path, capsys):
    (tmp_path / "mine.csv").write_text("age,ill\n" + "".join(f"{40 + at},{'ny'[at % 2]}\n" for at in range(20)))
    assert code_of("inspect", str(tmp_path / "mine.csv")) == 0
    assert "hospital_column=None: must be given when one file holds all hospitals" in capsys.readouterr().out
    state_bounds(tmp_path / "schema.yaml", {"age": "[18, 110]"})
    assert code_of("inspect", str(tmp_path)) == 0  # the remedy: the folder
    assert "ready: " in capsys.readouterr().out
    assert load_dataset(tmp_path).ids == ("mine",)


def test_columns_that_are_left_out_are_named_with_their_reason(tmp_path, capsys):
    for name in ("north", "south"):
        lines = ["turn,,weight,flag,birth,age,died"]
        lines += [
            f"{at},x,{at} kg,{'x' if at % 3 else ''},{at % 28 + 1:02d}.05.1950,{30 + at % 50},{at % 2}"
            for at in range(1, 41)
        ]
        lines += ["Total,,,,,1980,20"] if name == "south" else []
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    assert code_of("inspect", str(tmp_path)) == 0
    shown = capsys.readouterr().out
    for words in (
        "south.csv: line 42 seems to sum up the others ('Total')",
        "north.csv: column 2 has no name and is not read",
        "left out: weight: numbers with 'kg' beside them",
        "left out: flag: one value everywhere; if empty means no: {kind: binary, categories: [no, VALUE], impute: no, ",
        "left out: birth: a date; to use it",
    ):
        assert words in shown
    (tmp_path / "south.csv").unlink()
    (tmp_path / "schema.yaml").unlink()
    assert code_of("inspect", str(tmp_path)) == 0
    assert "left out: turn: counts the rows of each file: an id" in capsys.readouterr().out
    drafted = (tmp_path / "schema.yaml").read_text()
    told = "  - {name: flag, kind: binary, categories: [no, x], impute: no, missing_indicator: false}\n"
    (tmp_path / "schema.yaml").write_text(
        drafted.replace("features:\n", f"features:\n{told}").replace("bounds: open", "bounds: [18, 110]")
    )
    keep_key(tmp_path)
    dataset = load_dataset(tmp_path, scaling="none")
    at = dataset.feature_names.index("flag")
    (north,) = (dataset.hospital(one) for one in dataset.ids)
    assert sum(part.features[:, at].sum() for part in (north.train, north.test)) == sum(
        at % 3 > 0 for at in range(1, 41)
    )


def records(seed, rows=80, swapped=False):
    draw = random.Random(seed)
    lines = []
    for _ in range(rows):
        ill = draw.random() < 0.4
        written = int(ill != swapped)
        score = 10.5 + draw.random() if written else draw.random()
        lines.append(
            f"{draw.gauss(230 if ill else 180, 30):.1f},{draw.randint(30, 90)},{'ny'[written]},{score},{written}"
        )
    return lines


def looked_at(folder, capsys, **files):
    for name, lines in files.items():
        (folder / f"{name}.csv").write_text("\n".join(["chol,age,autopsy,score,died", *lines]) + "\n")
    assert code_of("inspect", str(folder)) == 0
    shown = capsys.readouterr().out
    assert shown.split("to look at:")[1].splitlines()[1].strip() in (folder / "inside/readiness.txt").read_text()
    return shown


def test_columns_that_tell_the_outcome_and_swapped_classes_are_pointed_out(tmp_path, capsys):
    shown = looked_at(tmp_path, capsys, a=records(1), b=records(2, swapped=True), c=records(3))
    for column in ("autopsy", "score"):
        assert f"{column} alone tells the outcome of 100 % of the records" in shown
    assert not any(f"{column} alone" in shown for column in ("chol", "age"))
    assert "b: chol goes with the outcome the other way than elsewhere" not in shown  # score goes the same way
    for path in tmp_path.glob("*.csv"):
        lines = [",".join(line.split(",")[:2] + line.split(",")[-1:]) for line in path.read_text().split()]
        path.write_text("\n".join(lines) + "\n")
    (tmp_path / "schema.yaml").unlink()
    assert code_of("inspect", str(tmp_path)) == 0
    shown = capsys.readouterr().out
    assert "b: chol goes with the outcome the other way than elsewhere" in shown
    assert not any(f"{one}: chol goes" in shown or f"{one}: age goes" in shown for one in "ac")


def test_copied_records_are_pointed_out_and_records_that_are_equal_by_chance_are_not(tmp_path, capsys):
    first = records(1)
    shown = looked_at(tmp_path, capsys, a=first, b=records(2)[:60] + first[:20], c=records(3))
    assert "a: of its 80 records others have some too, cell by cell: 20 at b." in shown
    assert "c: of its" not in shown
    few = {n: [f"{(at * 7 + n) % 5},{at % 2}" for at in range(60)] for n in range(2)}
    assert hints.copies({f"h{n}": [tuple(line.split(",")) for line in lines] for n, lines in few.items()}) == {}


def test_a_file_without_a_header_says_so_where_no_target_is_found(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("1,63,f,1\n2,41,m,0\n")
    assert code_of("inspect", str(tmp_path)) == 2
    assert "a.csv='a first line of numbers': seems to be a record" in capsys.readouterr().err
    (tmp_path / "a.csv").write_text("age,died\n63,1\n41,1\n")
    assert code_of("inspect", str(tmp_path)) == 2
    assert "'died' has such a name, but has one value everywhere" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["age,died\n1,2,3\n4,5,6\n", "age,died\n\n", "died\n1,0\n"])
def test_a_file_of_which_no_line_is_a_record_is_refused(tmp_path, text, capsys):
    (tmp_path / "a.csv").write_text(text)
    assert code_of("inspect", str(tmp_path)) == 2
    assert "Remedy: " in capsys.readouterr().err
