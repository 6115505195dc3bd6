"""Modules of a user's own that are imported by name, and that may add to what the package knows.

An extension registers a mechanism, a method, an encoder, a column or a data set when it is imported. Commands import
what `--extension` names before they make a plan; what runs elsewhere for them (a cluster) imports the same.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from typing import Any

from tff_hospitals.foundations.validation import InvalidInput, Problem

_loaded: list[str] = []


def load(names: Iterable[str]) -> None:
    """Imports extensions, each once.

    Args:
      names: modules, such as `package.module`.

    Raises:
      InvalidInput: names every module that cannot be imported, and why.

    >>> load(["json"])
    >>> try:
    ...     load(["json.nothing"])
    ... except InvalidInput as error:
    ...     print(error.problems[0].remedy)
    start from the folder that holds it, install it, or set PYTHONPATH to its folder
    """
    problems: list[Problem] = []
    for name in names:
        try:
            module = import_module(name, "--extension", name)
        except InvalidInput as error:
            problems += error.problems
        else:
            spec = getattr(module, "__spec__", None)
            if spec is not None and spec.origin is None:  # Python takes any folder for a package
                remedy = "name the module in it, such as FOLDER.MODULE, or give the folder an __init__.py"
                problems.append(Problem("--extension", name, "is a folder without code, which adds nothing", remedy))
            elif name not in _loaded:
                _loaded.append(name)
    if problems:
        raise InvalidInput(problems)


def loaded() -> tuple[str, ...]:
    """The extensions of this process, in the order in which they were loaded."""
    return tuple(_loaded)


def import_module(module_name: str, option: str, value: str) -> Any:
    """A module of the user's own, looked for in the working folder too.

    Args:
      module_name: such as `package.module`.
      option, value: what named it, for the message.

    Raises:
      InvalidInput: it is missing, or importing it fails in whatever way; one line says which.
    """
    # Users start scripts from the folder that holds their module; Python puts only the script's own folder on the path.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            bound = f"there is no module {error.name!r} on Python's path ({os.getcwd()} is on it)"
            remedy = "start from the folder that holds it, install it, or set PYTHONPATH to its folder"
        else:
            bound, remedy = f"{module_name} imports {error.name!r}, which is not installed", f"install {error.name}"
        raise InvalidInput([Problem(option, value, bound, remedy)]) from error
    except Exception as error:  # whatever a user's module does while it is imported
        first_line = (str(error).strip().splitlines() or [""])[0][:200]
        bound = f"importing {module_name} fails: {type(error).__name__}: {first_line}"
        remedy = f"run `python -c 'import {module_name}'` to see where"
        raise InvalidInput([Problem(option, value, bound, remedy)]) from error
