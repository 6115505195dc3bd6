"""Runs docs/notebook.ipynb and keeps what its cells show; makes a page of it for the site.

    ./run -m docs.notebook

A cell shows what it prints and the value of its last line, as in Jupyter, which can run the same file.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import pathlib
import re
import sys
import tempfile
import types
from collections.abc import Mapping
from typing import Any

NOTEBOOK = pathlib.Path(__file__).resolve().parent / "notebook.ipynb"
_MODULE = "notebook_cells"  # what its functions say that they belong to; __main__ in Jupyter
_SHOWN = (("text/html", "_repr_html_"), ("image/png", "_repr_png_"))


def executed(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """A notebook whose cells were run in their order, in the present folder, with what they show.

    Args:
      notebook: the content of an `.ipynb` file.

    Raises:
      Exception: what a cell raises.
    """
    module = types.ModuleType(_MODULE)
    sys.modules[_MODULE] = module
    cells, count = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            cell = {**cell, "execution_count": count, "outputs": _outputs("".join(cell["source"]), module, count)}
        cells.append(cell)
    return {**notebook, "cells": cells}


def _outputs(source: str, module: types.ModuleType, count: int) -> list[dict[str, Any]]:
    """What one cell prints, and the value of its last line."""
    tree, value, printed = ast.parse(source), None, io.StringIO()
    last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"cell {count}", "exec"), module.__dict__)
        if last is not None:
            value = eval(compile(last, f"cell {count}", "eval"), module.__dict__)
    found: list[dict[str, Any]] = []
    if printed.getvalue():
        found.append({"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())})
    if value is not None:
        data: dict[str, Any] = {"text/plain": _lines(repr(value))}
        for kind, name in _SHOWN:
            shown = getattr(value, name, None)
            if shown is not None and (made := shown()) is not None:
                data[kind] = base64.b64encode(made).decode() if isinstance(made, bytes) else _lines(made)
        found.append({"output_type": "execute_result", "execution_count": count, "data": data, "metadata": {}})
    return found


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def page(notebook: Mapping[str, Any]) -> str:
    """A notebook as Markdown: pictures inside of it, so that nothing is loaded from elsewhere."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [_shown(one) for one in cell.get("outputs", ())]
    return "\n\n".join(parts) + "\n"


def _shown(output: Mapping[str, Any]) -> str:
    """One output: its picture, else its table, else its text."""
    data = output.get("data", {"text/plain": output.get("text", [])})
    if "image/png" in data:
        return f'<img alt="The figure of the cell above" src="data:image/png;base64,{data["image/png"]}">'
    if "text/html" in data:
        table = re.sub(r"<style.*?</style>", "", "".join(data["text/html"]), flags=re.S)
        return f'<div class="shown">{" ".join(table.split())}</div>'
    return "```text\n" + "".join(data["text/plain"]).rstrip() + "\n```"


def main() -> None:
    """Runs the notebook in an empty folder and writes it again."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            notebook = executed(notebook)
        finally:
            os.chdir(here)
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"notebook: {NOTEBOOK} ({NOTEBOOK.stat().st_size // 1024} kB)", file=sys.stderr)


if __name__ == "__main__":
    main()
