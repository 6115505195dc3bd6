"""Names that the field knows and this package leaves out: they are refused with the reason."""

from __future__ import annotations

from collections.abc import Iterable

from tff_hospitals.foundations.validation import Problem, one_of

_FACTORISATIONS = ("mf", "dp_mf", "banded", "banded_mf", "dp_banded_mf")
_WHY_NO_FACTORISATION = (
    "banded matrix factorisation is not offered, because no well-kept library that runs beside TensorFlow Federated "
    "computes its strategies (jax-privacy 2 needs JAX 0.7 and Python 3.11, TensorFlow Federated 0.87 JAX 0.4.20), and "
    "its optimisation is not made here a second time"
)


def known_name(name: str, value: object, known: Iterable[str]) -> Problem | None:
    """Checks the name of a mechanism or method; one that the field knows and this package leaves out is told why.

    >>> known_name("mechanism", "banded_mf", ["tree", "fixed_clip"]).remedy.split(":")[0]
    'take tree'
    """
    text = str(value).lower().replace("-", "_").replace("factoris", "factoriz")
    if text not in _FACTORISATIONS and "matrix_factoriz" not in text:
        return one_of(name, value, known)
    remedy = (
        "take tree: the noise of a binary tree over the rounds is the special case of a matrix factorisation that is "
        "offered; or account for your own strategy with accounting.MechanismEvent('matrix', ...)"
    )
    return Problem(name, value, f"must be one of {', '.join(sorted(known))}: {_WHY_NO_FACTORISATION}", remedy)
