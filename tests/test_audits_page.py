"""The page on audits shows the catalogue of planted faults as it is."""

from __future__ import annotations

import importlib.util
import sys


def test_the_table_of_planted_faults_is_the_catalogue(checkout, monkeypatch):
    folder = checkout / "tests" / "plants"
    spec = importlib.util.spec_from_file_location("plants_catalogue", folder / "catalogue.py")
    catalogue = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "plants_catalogue", catalogue)
    spec.loader.exec_module(catalogue)
    page = (checkout / "docs" / "audits.md").read_text(encoding="utf-8")
    rows = [
        line.split(" | ") for line in page.partition("| planted fault |")[2].splitlines()[2:] if line.startswith("|")
    ]
    assert len(rows) == len(catalogue.PLANTS) >= 30
    for row, plant in zip(rows, catalogue.PLANTS.values()):
        words, method, test, figure, sound = (cell.strip("| `") for cell in row)
        assert (words, method) == (plant.words, plant.method)
        assert test.startswith(plant.test), f"{plant.name}: the page says {test}"
        assert figure, f"{plant.name}: no figure. Remedy: run the commands above the table."
        assert sound
