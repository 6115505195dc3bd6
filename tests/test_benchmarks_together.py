"""All benchmarks by one command: figures of every one, failures named, another commit beside it."""

from __future__ import annotations

import json

import pytest

from tff_hospitals.experiments import command


@pytest.fixture
def together(benchmark, monkeypatch, tmp_path):
    """The program over a folder of two small benchmarks, one of which fails."""
    program = benchmark("benchmarks.__main__")
    here = tmp_path / "benchmarks"
    here.mkdir()
    text = "import json, sys\njson.dump({'ratio': RATIO, 'words': 'x'}, open(sys.argv[1][7:], 'w'))\nprint('said')\n"
    (here / "sweep.py").write_text(text.replace("RATIO", "1.5"))
    (here / "limit.py").write_text("import sys\nprint('no network')\nsys.exit(1)\n")
    monkeypatch.setattr(program, "HERE", here)
    return program


def test_one_json_and_one_page(together, tmp_path, capsys):
    out = tmp_path / "out"
    assert command.run(together, ["benchmarks", f"--folder={out}", "--only=sweep,limit"]) == 1
    found = json.loads((out / "benchmarks.json").read_text())
    assert found["benchmarks"]["sweep"]["figures"]["ratio"] == 1.5
    assert found["benchmarks"]["limit"]["exit_code"] == 1
    assert found["machine"]["processor"]
    assert (out / "limit.log").read_text() == "no network\n"
    page = capsys.readouterr().out
    assert page == (out / "benchmarks.md").read_text()
    assert "| sweep.ratio | 1.5 |" in page
    assert "limit (see NAME.log)" in page
    found["benchmarks"]["sweep"]["figures"]["ratio"] = 3.0
    (tmp_path / "then.json").write_text(json.dumps(found))
    arguments = ["benchmarks", f"--folder={out}", "--only=sweep", f"--before={tmp_path / 'then.json'}"]
    assert command.run(together, arguments) == 0
    assert "| sweep.ratio | 1.5 | 3 | 0.5 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [([], "--folder"), (["--only=speed"], "--only='speed'"), (["--folder=x", "--before=nowhere.json"], "nowhere.json")],
)
def test_bad_input(together, tmp_path, monkeypatch, capsys, arguments, word):
    monkeypatch.chdir(tmp_path)
    assert command.run(together, ["benchmarks", *arguments]) in (1, 2)
    assert word in capsys.readouterr().err
