"""A stranger's path: a fresh clone, the quick start's tables, model and comparison, in less than ten minutes."""

from __future__ import annotations

import os
import pathlib
import shlex
import subprocess
import time

import pytest
from test_docs import SECTIONS

TEN_MINUTES = 600.0


def fresh_clone(checkout: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """A clone of the checkout with its environment, which ./run would take minutes to make."""
    if not (checkout / ".git").exists() or not (checkout / ".venv" / "installed.lock").is_file():
        pytest.skip("needs a clone with the environment that ./run made")
    clone = folder / "tff_hospitals"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{checkout}", str(clone)], check=True)
    (clone / ".venv").symlink_to(checkout / ".venv")
    return clone


@pytest.mark.slow
@pytest.mark.tensorflow
def test_from_a_clone_to_a_comparison_of_ones_own_in_ten_minutes(checkout, tmp_path):
    clone = fresh_clone(checkout, tmp_path)
    (section,) = (one for one in SECTIONS if one.page.name == "quick_start.md" and one.files)
    # As on a stranger's machine: nothing of ours on the path, and no network.
    named = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TFF_HOSPITALS_STATE")}
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {**named, **nowhere, "HOME": str(tmp_path), "COLUMNS": "140", "PIP_NO_INDEX": "1"}
    started, printed = time.monotonic(), ""

    def run(*arguments: str) -> str:
        done = subprocess.run(
            ["./run", *arguments], cwd=clone, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    where = run("-c", "import tff_hospitals; print(tff_hospitals.__file__)")
    assert pathlib.Path(where.strip()).is_relative_to(clone)
    for name, code in section.files.items():
        (clone / name).parent.mkdir(exist_ok=True)
        (clone / name).write_text(code, encoding="utf-8")
        if "print(" in code:
            printed += run(name)
    for command in section.commands:
        printed += run("-m", "tff_hospitals", *shlex.split(command)[1:])
    seconds = time.monotonic() - started
    for words in section.printed:
        assert words in printed
    for left in ("runs/one/report.html", "runs/one/model.keras", "runs/mine/report.html", "runs/mine/summary.csv"):
        assert (clone / left).is_file(), left
    print(f"{seconds:.0f} s from the clone to the report")
    assert seconds < TEN_MINUTES
