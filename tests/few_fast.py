"""A grid of cases of which a few run in the fast part of the suite, a few in the slow one, and the rest by hand."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def few_fast(cases: Iterable[Any], fast: Collection[Any] = (), slow: Collection[Any] | None = None) -> list[Any]:
    """Parameters: not marked where they are among the fast ones, slow where among the slow ones, rare elsewhere.

    Without `slow` all that is not fast is slow. A tuple is one value for each of several parameters.
    A case that is named and not there would leave nothing in that part, so it is an error.
    """
    every = list(cases)
    missing = [one for one in (*fast, *(slow or ())) if one not in every]
    if missing:
        raise ValueError(f"not among the cases: {missing}")

    def marks(one: Any) -> Any:
        if one in fast:
            return ()
        return pytest.mark.slow if slow is None or one in slow else pytest.mark.rare

    return [pytest.param(*(one if isinstance(one, tuple) else (one,)), marks=marks(one)) for one in every]
