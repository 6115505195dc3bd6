"""What the documentation shows and a command makes anew: the notebook with its page, and the picture of README."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import pytest


@pytest.fixture(scope="module")
def notebook(checkout: pathlib.Path) -> dict[str, Any]:
    return json.loads((checkout / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))


def kinds(cell: dict[str, Any]) -> list[Any]:
    """Of each output what it is, and the words of its first line: numbers and widths may differ."""
    found = []
    for output in cell.get("outputs", ()):
        text = output.get("text") or output["data"]["text/plain"]
        words = re.findall(r"[a-zA-Z_]{3,}", re.sub(r"0x[0-9a-f]+", "", text[0]))
        found.append((output["output_type"], sorted(output.get("data", ())), words))
    return found


@pytest.mark.slow
@pytest.mark.tensorflow
def test_its_cells_run_and_show_what_is_stored(notebook, tmp_path, monkeypatch):
    from docs.notebook import executed

    monkeypatch.chdir(tmp_path)
    again = executed(notebook)
    assert [kinds(cell) for cell in again["cells"]] == [kinds(cell) for cell in notebook["cells"]]
    assert (tmp_path / "runs" / "compared" / "report.html").is_file()


def test_it_is_whole_small_and_names_no_machine(notebook, checkout):
    text = json.dumps(notebook)
    assert len(text) < 300_000
    assert not re.findall(r"/(?:home|root|tmp|work|Users)/", re.sub(r'"image/png": "[^"]*"', "", text))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    shown = [kind for cell in code for output in cell["outputs"] for kind in output.get("data", ())]
    assert {"image/png", "text/html"} <= set(shown)
    source = "".join(line for cell in code for line in cell["source"])
    for name in ("th.Plan", "th.train", "th.compare", "th.audit", "to_frame", "from_frames", "th.figures"):
        assert name in source, name


def test_its_page_loads_nothing_from_elsewhere(notebook):
    from docs.notebook import page

    text = page(notebook)
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert "<script" not in text
    assert "<style" not in text
    assert text.count("```") % 2 == 0
    assert text.startswith("# From Python")


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_picture_of_the_readme_is_drawn_anew(checkout, tmp_path):
    from docs import redraw

    before = redraw.PICTURE.read_bytes()
    fewer = ["--aggregators=weighted_mean,dp_sgd", "--target_epsilon=1", "--seeds=1", "--rounds=1", "--local_steps=5"]
    redraw.main(fewer, tmp_path / "result.png")
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")
    assert redraw.PICTURE.read_bytes() == before
    assert "docs/result.png" in (checkout / "README.md").read_text(encoding="utf-8")
