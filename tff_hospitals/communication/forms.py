"""How stages are written: `name[:argument][:variant]`; every stage registers its own form.

>>> from tff_hospitals.communication import parse_chain
>>> from tff_hospitals.communication.forms import FORMS
>>> FORMS["topk"].usage
'topk:fraction'
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tff_hospitals.communication import stage
from tff_hospitals.foundations import validation

Argument = Callable[[str], tuple[float, list[validation.Problem | None]]]


def whole(name: str, low: int, high: int) -> Argument:
    """Reads a whole number of bits."""

    def read(text: str) -> tuple[int, list[validation.Problem | None]]:
        remedy = f"write for example {name}:{min(4, high)}"
        try:
            value = int(text)
        except ValueError:
            bound = f"must be a whole number from {low} to {high}"
            return low, [validation.Problem(f"{name} bits", text, bound, remedy)]
        return value, [validation.whole_number(f"{name} bits", value, low=low, high=high, remedy=remedy)]

    return read


def real(name: str, what: str, **bounds: Any) -> Argument:
    """Reads a number; `bounds` as for `validation.in_range`."""

    def read(text: str) -> tuple[float, list[validation.Problem | None]]:
        remedy = f"write for example {name}:0.01"
        try:
            value = float(text)
        except ValueError:
            return 1.0, [validation.Problem(f"{name} {what}", text, "must be a number", remedy)]
        return value, [validation.in_range(f"{name} {what}", value, remedy=remedy, **bounds)]

    return read


def fraction(name: str) -> Argument:
    """Reads a fraction above 0, at most 1."""
    return real(name, "fraction", low=0, high=1, low_open=True)


@dataclasses.dataclass(frozen=True)
class Form:
    """How a stage is written.

    Attributes:
      usage: for messages, such as `randk:fraction[:unscaled]`.
      make: the stage from its argument, if any, and whether the variant is absent.
      argument: reads the text after the first colon; None where there is no argument.
      variant: the word that may come last.
    """

    usage: str
    make: Callable[..., stage.Stage]
    argument: Argument | None = None
    variant: str | None = None


FORMS: dict[str, Form] = {}


def register(form: Form) -> None:
    """Makes a stage known by the first word of its usage.

    Raises:
      TypeError: when another stage is written so.
    """
    name = form.usage.partition(":")[0].partition("[")[0]
    if FORMS.get(name, form).usage != form.usage:
        raise TypeError(f"a stage is written {FORMS[name].usage} already; {form.usage} cannot be told from it")
    FORMS[name] = form
