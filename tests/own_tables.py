"""Own data for tests: tables that are written, and a key that gives the same split in every run."""

from __future__ import annotations

import json
import pathlib
import types


def keep_key(folder: pathlib.Path, key: bytes = bytes(32)) -> None:
    """Gives a folder of own data this key instead of a random one."""
    (folder / ".tff_hospitals").mkdir(mode=0o700)
    file = folder / ".tff_hospitals" / "key"
    file.touch(mode=0o600)
    file.write_bytes(key)


def excel_stand_in():
    """As much of openpyxl as is used: sheets of rows, formulas without a value."""

    def load_workbook(path, read_only, data_only):
        def rows(cells):
            hidden = [[None if data_only and str(cell).startswith("=") else cell for cell in row] for row in cells]
            return lambda values_only: iter(hidden)

        sheets = json.loads(path.read_text())
        return types.SimpleNamespace(
            worksheets=[types.SimpleNamespace(title=title, iter_rows=rows(cells)) for title, cells in sheets.items()]
        )

    return types.SimpleNamespace(load_workbook=load_workbook)
