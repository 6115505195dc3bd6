"""Every error about a hospital's file names a remedy, and the remedy works: each one is followed here."""

from __future__ import annotations

import ast
import gzip
import pathlib
import sys

import pytest
from own_tables import keep_key

from tff_hospitals import hospitals
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import load_dataset
from tff_hospitals.hospitals.tables import Problems

SCHEMA = """features:
  - {name: age, bounds: [18, 100]}
  - {name: sex, kind: binary, categories: [f, m]}
target: {name: ill, positive: yes, negative: no}
"""
ROWS = [f"p{at},{40 + at},{'fm'[at % 2]},{'yes' if at % 3 else 'no'}" for at in range(12)]
PLAIN = "\n".join(["id,age,sex,ill", *ROWS, ""])
DAYS = SCHEMA.replace("bounds: [18, 100]", "kind: date")
REGRESSION = "features: [{name: sex, kind: binary, categories: [f, m]}]\ntarget: {name: age, kind: regression}\n"
BOUNDED = REGRESSION.replace("regression}", "regression, low: 0, high: 200}")


def put(**files):
    """Writes files: a_csv="..." is a.csv; bytes as they are."""

    def change(folder):
        for name, content in files.items():
            path = folder / name.replace("_", ".")
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def swap(name, old, new):
    def change(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def add(text):
    return lambda folder: (folder / "schema.yaml").write_text((folder / "schema.yaml").read_text() + text)


def remove(name):
    return lambda folder: (folder / name).unlink()


def both(*changes):
    def change(folder):
        for one in changes:
            one(folder)

    return change


def cell(old, new):
    """Another cell in a.csv."""
    return swap("a.csv", old, new)


def link(folder):
    (folder / "b.csv").symlink_to(folder / "nowhere")


MEND = put(a_csv=PLAIN)
SITES = "".join(line + (",site\n" if at == 0 else f",{'ns'[at % 2]}\n") for at, line in enumerate(PLAIN.split()))
ONE_FILE = both(remove("sound.csv"), put(a_csv=SITES), add("hospital_column: site\n"))
VISITS = PLAIN.replace("p1,", "p0,")

# What is wrong, the words that say so, and each remedy that they name.
CASES = {
    "delimiter": (
        put(a_csv="sep=;\n" + PLAIN.replace(",", ";")),
        "write delimiter: ';' in the schema (under files: a.csv if it is this file alone)",
        [add("files: {a.csv: {delimiter: ;}}\n"), both(remove("sound.csv"), add('delimiter: ";"\n'))],
    ),
    "quotes": (put(a_csv=PLAIN + '"p,1,f,no\n'), "check its quotes", [cell('"p,1,f,no\n', "")]),
    "empty": (put(a_csv=""), "remove the file or fill it", [remove("a.csv"), MEND]),
    "header_only": (put(a_csv="id,age,sex,ill\n"), "remove the file or fill it", [remove("a.csv"), MEND]),
    "cells": (cell("p3,43", "p3,1,5,43"), "need quotes", [cell("p3,1,5,43", '"p3,1,5",43')]),
    "encoding": (
        put(a_csv=PLAIN.replace("p3", "ä").encode("latin-1")),
        "save the file in that encoding, or write encoding: cp1252 in the schema (under files: a.csv",
        [
            put(a_csv=PLAIN.replace("p3", "ä")),
            add("files: {a.csv: {encoding: cp1252}}\n"),
            add("encoding: cp1252\n"),
        ],
    ),
    "no_mark": (
        both(put(a_csv=PLAIN), add("files: {a.csv: {encoding: utf-16}}\n")),
        "save the file in that encoding, or write encoding: utf-8 in the schema (under files: a.csv",
        [put(a_csv=PLAIN.encode("utf-16")), swap("schema.yaml", "utf-16", "utf-8")],
    ),
    "nul": (cell("43", "4\0003"), "save the table again as CSV", [MEND]),
    "wide": (
        put(a_csv=PLAIN.encode("utf-16-le")),
        "write encoding: utf-16-le in the schema",
        [add("files: {a.csv: {encoding: utf-16-le}}\n")],
    ),
    "kind_of_file": (
        put(b_txt=PLAIN.replace(",", "\t")),
        "rename it to b.csv: the schema may state any delimiter",
        [
            both(
                lambda folder: (folder / "b.txt").rename(folder / "b.csv"),
                add('files: {b.csv: {delimiter: "\\t"}}\n'),
            )
        ],
    ),
    "unfinished": (put(b_part=PLAIN), "wait until it is written", [remove("b.part"), both(remove("b.part"), MEND)]),
    "no_table": (put(b_jpg=b"\xff\xd8"), "put the file elsewhere if it is none", [remove("b.jpg")]),
    "web_page": (
        put(a_csv="<!DOCTYPE html>\n<html><title>403</title>\n<p>log in, please</html>\n"),
        "a.csv='a web page': must be a CSV file. Remedy: download or export the table again",
        [MEND],
    ),
    "packed": (
        put(a_csv=gzip.compress(PLAIN.encode())),
        "unpack it first",
        [lambda folder: (folder / "a.csv").write_bytes(gzip.decompress((folder / "a.csv").read_bytes()))],
    ),
    "above": (
        put(a_csv="Export of ward 3\n2024\n\n" + PLAIN),
        "line 1='1 cells': must name the columns: most lines have 4 cells. Remedy: remove the lines above the header, "
        "which seems to be line 4",
        [cell("Export of ward 3\n2024\n\n", "")],
    ),
    "below": (
        put(a_csv=PLAIN + "12 records"),
        "remove the line if it is no record; if the file was cut off, write it again",
        [cell("12 records", ""), MEND],
    ),
    "header_again": (
        put(a_csv=PLAIN + PLAIN.replace("p", "q")),
        "line 14='id': is the header again, and no record. Remedy: remove the line",
        [cell("yes\nid,age,sex,ill\n", "yes\n")],
    ),
    "utf_32": (
        put(a_csv=PLAIN.encode("utf-32")),
        "write encoding: utf-32 in the schema",
        [add("files: {a.csv: {encoding: utf-32}}\n")],
    ),
    "parquet": (
        put(b_parquet=b"x"),
        "write it again, or save the table as CSV",
        [both(remove("b.parquet"), put(b_csv=PLAIN))],
    ),
    "doubled_header": (
        cell("id,age,sex,ill", "age,age,sex,ill"),
        "rename or remove the others",
        [cell("age,age", "other,age")],
    ),
    "header": (
        cell("age", "Age"),
        "did you mean 'Age'? Then write headers: {a.csv: {age: Age}} in the schema",
        [add("headers: {a.csv: {age: Age}}\n")],
    ),
    "place": (add("files: {b.csv: {decimal: .}}\n"), "must be one of", [swap("schema.yaml", "b.csv", "a.csv")]),
    "link": (link, "mend or remove it", [both(remove("b.csv"), put(b_csv=PLAIN)), remove("b.csv")]),
    "same_id": (
        put(A_csv=PLAIN),
        "keep one of the two files, or rename one",
        [remove("A.csv"), lambda folder: (folder / "A.csv").rename(folder / "west.csv")],
    ),
    "reserved": (put(server_csv=PLAIN), "rename it", [lambda folder: (folder / "server.csv").rename(folder / "s.csv")]),
    "no_tables": (both(remove("a.csv"), remove("sound.csv")), "put them there", [MEND]),
    "inner_folders": (
        both(remove("a.csv"), remove("sound.csv"), lambda f: (f / "x").mkdir(), lambda f: put(a_csv=PLAIN)(f / "x")),
        "folders in it are not looked at: move x/a.csv to x.csv, and the others likewise",
        [lambda folder: (folder / "x" / "a.csv").rename(folder / "x.csv")],
    ),
    "no_hospital": (both(ONE_FILE, cell(",no,s\n", ",no,\n")), "fill it in", [cell(",no,\n", ",no,s\n")]),
    "spelled": (both(ONE_FILE, cell(",no,s\n", ",no,S\n")), "spell the id one way", [cell(",no,S\n", ",no,s\n")]),
    "bad_id": (both(ONE_FILE, cell(",s\n", ",a/b\n")), "rename it, for example", [cell(",a/b\n", ",st_mary\n")]),
    "missing": (
        cell("p3,43", "p3,"),
        "fill it in, or give the column impute: VALUE",
        [MEND, swap("schema.yaml", "100]", "100], impute: 50"), swap("schema.yaml", "100]", "100], impute: middle")],
    ),
    "word": (
        cell("p3,43", "p3,lost"),
        "mend the cell, or list the word under missing in the schema",
        [MEND, both(add("missing: [lost]\n"), swap("schema.yaml", "100]", "100], impute: median"))],
    ),
    "comma": (
        cell("p3,43", 'p3,"43,5"'),
        "replace the decimal comma, or write \"decimal: ','\" in the schema",
        [cell('"43,5"', "43.5"), add("decimal: ','\n")],
    ),
    "limit": (
        both(cell("p3,43", "p3,<43"), cell("p9,49", "p9,90+"), cell("p5,45", "p5,\u2264 45")),
        "give the column censored: bound (the limit) or half of it",
        [swap("schema.yaml", "100]", f"100], censored: {rule}") for rule in ("bound", "half")],
    ),
    "date": (
        both(put(schema_yaml=DAYS), put(a_csv="age,sex,ill\n31.12.2020,f,no\n01.02.2021,m,yes\n"), remove("sound.csv")),
        'write date: "%d.%m.%Y" in the schema, or under files',
        [add('date: "%d.%m.%Y"\n'), add('files: {a.csv: {date: "%d.%m.%Y"}}\n')],
    ),
    "level": (
        cell("p3,43,m", "p3,43,male"),
        "mend the cell, or list it for the value that it means: spellings: {m: ['male']}",
        [MEND, swap("schema.yaml", "[f, m]", "[f, m], spellings: {m: ['male']}")],
    ),
    "category": (
        both(swap("schema.yaml", "binary", "categorical"), cell("p3,43,m", "p3,43,x")),
        "or add it to the categories",
        [swap("schema.yaml", "[f, m]", "[f, m, x]"), MEND],
    ),
    "outside": (
        cell("p3,43", "p3,430"),
        "mend the cell, write missing_values: [430] for the column if it means missing, widen the bounds, or write "
        "outside_bounds: clip",
        [
            MEND,
            swap("schema.yaml", "100]", "100], missing_values: [430], impute: 50"),
            swap("schema.yaml", "100]", "500]"),
            add("outside_bounds: clip\n"),
        ],
    ),
    "large_outside": (
        both(cell("p3,43", "p3,1e39"), add("outside_bounds: clip\n")),
        "list it as missing_values",
        [MEND, swap("schema.yaml", "100]", "100], missing_values: [1e39], impute: 50")],
    ),
    "large": (
        both(cell("p3,43", "p3,1e39"), swap("schema.yaml", ", bounds: [18, 100]", "")),
        "list it as missing_values",
        [MEND, swap("schema.yaml", "name: age", "name: age, missing_values: [1e39], impute: 50")],
    ),
    "target_missing": (
        cell("p3,43,m,no", "p3,43,m,"),
        "fill it in or remove the record",
        [MEND, cell("p3,43,m,\n", "")],
    ),
    "target_word": (
        cell("p3,43,m,no", "p3,43,m,maybe"),
        "mend the cell, or list all values of the target in the schema",
        [MEND, swap("schema.yaml", "negative: no", "negative: [no, maybe]")],
    ),
    "target_number": (
        both(put(schema_yaml=REGRESSION), cell("p3,43", "p3,x")),
        "mend the cell or remove the record",
        [MEND, cell("p3,x,m,no\n", "")],
    ),
    "target_comma": (
        both(put(schema_yaml=REGRESSION), cell("p3,43", 'p3,"43,5"')),
        "\"decimal: ','\" in the schema",
        [add("decimal: ','\n")],
    ),
    "target_limit": (
        both(put(schema_yaml=REGRESSION), cell("p3,43", "p3,<43")),
        "mend it or remove the record",
        [MEND, cell("p3,<43,m,no\n", "")],
    ),
    "target_outside": (
        both(put(schema_yaml=BOUNDED), cell("p3,43", "p3,430")),
        "mend the cell, remove the record, or widen the target's bounds",
        [MEND, cell("p3,430,m,no\n", ""), swap("schema.yaml", "200", "500")],
    ),
    "target_large": (
        both(put(schema_yaml=REGRESSION), cell("p3,43", "p3,1e39")),
        "mend the cell or remove the record",
        [MEND, cell("p3,1e39,m,no\n", "")],
    ),
    "one_class": (
        both(cell(",no\n", ",yes\n"), remove("sound.csv")),
        "check the target's values in the schema",
        [MEND],
    ),
    "split": (
        both(cell("p3,43", "valid,43"), add("split_column: id\n"), remove("sound.csv"), cell("p", "train")),
        "write train or test, or drop split_column from the schema",
        [
            swap("schema.yaml", "split_column: id\n", ""),
            lambda folder: (folder / "a.csv").write_text(
                "id,age,sex,ill\n"
                + "".join(
                    f"{'train' if at % 4 else 'test'},{row[row.index(',') + 1 :]}\n" for at, row in enumerate(ROWS)
                )
            ),
        ],
    ),
    "no_patient": (
        both(cell("p3,43", ",43"), add("patient_column: id\nrecords_per_patient: 2\n")),
        "fill it in",
        [MEND],
    ),
    "id_twice": (
        both(put(a_csv=VISITS), add("id_column: id\n")),
        "give each record an id of its own, or name the column as patient_column",
        [MEND, swap("schema.yaml", "id_column: id", "patient_column: id\nrecords_per_patient: 2")],
    ),
    "both_sides": (
        both(
            put(a_csv="id,age,sex,ill,part\np0,40,f,no,train\np0,41,f,no,test\np1,50,m,yes,train\np2,60,f,no,train\n"),
            remove("sound.csv"),
            add("patient_column: id\nrecords_per_patient: 2\nsplit_column: part\n"),
        ),
        "put all records of a patient of a on one side",
        [cell("41,f,no,test", "41,f,no,train")],
    ),
    "many_records": (
        both(put(a_csv=VISITS), add("patient_column: id\nrecords_per_patient: 1\n")),
        "state a larger public bound, or keep fewer records of each patient",
        [swap("schema.yaml", "patient: 1", "patient: 2"), MEND],
    ),
    "one_file": (
        both(remove("sound.csv"), put(a_csv=SITES)),
        "name the column, or put the file of one hospital into a folder",
        [add("hospital_column: site\n")],
    ),
    "open_bounds": (
        both(swap("schema.yaml", "[18, 100]", "open"), add("scaling: fixed_bounds\n")),
        "write bounds: [low, high] from public knowledge",
        [swap("schema.yaml", "open", "[18, 100]")],
    ),
}
ALONE = {"one_file"}  # loads the file instead of the folder
# These need packages or objects of their own, and are followed in tests of their own.
ELSEWHERE = {"typed_files.py", "in_memory.py", "tcga_brca.py"}


def base(folder):
    folder.mkdir()
    (folder / "schema.yaml").write_text(SCHEMA)
    (folder / "sound.csv").write_text(PLAIN)
    (folder / "a.csv").write_text(PLAIN)
    keep_key(folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_what_the_error_advises_works(name, tmp_path):
    broken, words, remedies = CASES[name]
    for number, follow in enumerate(remedies):
        folder = base(tmp_path / f"data{number}")
        broken(folder)
        place = folder / "a.csv" if name in ALONE else folder
        with pytest.raises(InvalidInput) as caught:
            load_dataset(place)
        assert words in str(caught.value)
        follow(folder)
        assert len(load_dataset(place)) >= 1


def test_every_error_about_files_is_among_the_cases(tmp_path, monkeypatch):
    """Each place in the code that notes a problem of a file is reached by a case above."""
    folder = pathlib.Path(hospitals.__file__).parent
    places = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            noted = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add"
            if noted and isinstance(node.func.value, ast.Name) and node.func.value.id == "problems":
                places |= {(path.name, node.lineno, node.end_lineno)} if path.name not in ELSEWHERE else set()
    assert len(places) > 25
    reached = set()
    original = Problems.add

    def add_and_note(self, *arguments, **named):
        caller = sys._getframe(1)
        reached.add((pathlib.Path(caller.f_code.co_filename).name, caller.f_lineno))
        original(self, *arguments, **named)

    monkeypatch.setattr(Problems, "add", add_and_note)
    for name, (broken, _, _) in CASES.items():
        data = base(tmp_path / name)
        broken(data)
        with pytest.raises(InvalidInput):
            load_dataset(data / "a.csv" if name in ALONE else data)
    unreached = {one for one in places if not any(f == one[0] and one[1] <= at <= one[2] for f, at in reached)}
    # A file that cannot be opened: nobody but root runs into none of these.
    unreached = {one for one in unreached if "strerror" not in _source(folder / one[0], one[1])}
    assert unreached == set()


def _source(path, line):
    return path.read_text().splitlines()[line - 1]
