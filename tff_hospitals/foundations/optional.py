"""Packages that only some of this one needs: what is asked for without them is refused in words.

TensorFlow Federated is one of them. Plans, accounting, codecs, data, the compiled runtime and all that trains in it do
without; the native runtime, `tff_hospitals.tff` and the rows of TFF's own aggregators do not.
"""

from __future__ import annotations

import importlib

from tff_hospitals.foundations.validation import Problem, raise_if

TFF = "tensorflow_federated"
_DISTRIBUTIONS = {TFF: "tensorflow-federated==0.87.0 --no-deps, as docs/installation.md says"}


def missing(module: str, asked_for: str) -> list[Problem]:
    """The problem of a package that cannot be imported; empty when it can (it is imported then).

    Args:
      module: its name.
      asked_for: what needs it, such as `--runtime=native`.

    >>> missing("json", "--runtime=native")
    []
    >>> missing("no_such_package", "--runtime=native")[0].bound
    "is needed by --runtime=native and cannot be imported (No module named 'no_such_package')"
    """
    try:
        importlib.import_module(module)
    except ImportError as error:
        bound = f"is needed by {asked_for} and cannot be imported ({error})"
        remedy = f"install {_DISTRIBUTIONS.get(module, module)}; all else trains without it (--runtime=compiled)"
        return [Problem("package", module, bound, remedy)]
    return []


def need(module: str, asked_for: str) -> None:
    """Refuses what cannot be done without a package.

    Raises:
      InvalidInput: it cannot be imported.
    """
    raise_if(missing(module, asked_for))
