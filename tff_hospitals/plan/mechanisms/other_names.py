"""Names by which the field knows a mechanism that is called otherwise here."""

from __future__ import annotations

from collections.abc import Iterable

from tff_hospitals.foundations.validation import Problem, one_of

_FACTORISATIONS = ("mf", "dp_mf", "banded", "dp_banded_mf", "dp_ftrl")


def known_name(name: str, value: object, known: Iterable[str]) -> Problem | None:
    """Checks the name of a mechanism or method; one that is called otherwise here is told so.

    >>> known_name("mechanism", "matrix_factorization", ["tree", "banded_mf", "blt"]).remedy
    'take banded_mf or blt (correlated noise over the rounds), or tree'
    """
    text = str(value).lower().replace("-", "_").replace("factoris", "factoriz")
    problem = one_of(name, value, known)
    if problem is None or (text not in _FACTORISATIONS and "matrix_factoriz" not in text):
        return problem
    return Problem(name, value, problem.bound, "take banded_mf or blt (correlated noise over the rounds), or tree")
