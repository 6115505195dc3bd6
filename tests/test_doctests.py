"""Every example in a docstring is run; the ones that need TensorFlow apart from the others."""

from __future__ import annotations

import doctest
import importlib
import pathlib

import pytest
from test_layers import MODULES, is_free_of_tensorflow

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
WITH_EXAMPLES = [module for module, path in MODULES.items() if ">>> " in path.read_text()]
TRAINS = ("tff_hospitals",)  # free of TensorFlow, which its example loads
LIGHT = [name for name in WITH_EXAMPLES if is_free_of_tensorflow(name) and name not in TRAINS]


def run_examples(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert results.attempted > 0, f"{name}: no example is found where one is written"
    assert results.failed == 0, f"{name}: see the output above"


@pytest.mark.parametrize("module", LIGHT)
def test_examples(module: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_examples(module)


@pytest.mark.tensorflow
@pytest.mark.parametrize("module", [name for name in WITH_EXAMPLES if name not in LIGHT])
def test_examples_with_tensorflow(module: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_examples(module)
