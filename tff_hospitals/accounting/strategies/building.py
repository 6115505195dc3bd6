"""Strategies by name, and what each of them needs to know in advance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from tff_hospitals.accounting.matrix import tree_squared_sensitivity
from tff_hospitals.accounting.strategies.banded import optimised_banded
from tff_hospitals.accounting.strategies.buffered import MOST_BUFFERS, optimised_buffers
from tff_hospitals.accounting.strategies.closed_forms import identity, inverse_square_root, square_root
from tff_hospitals.accounting.strategies.errors import ExpectedError, expected_error
from tff_hospitals.accounting.strategies.sensitivity import Sensitivity, participation_problems
from tff_hospitals.accounting.strategies.strategy import Strategy
from tff_hospitals.accounting.strategies.workload import Workload
from tff_hospitals.accounting.tree_noise import prefix_variance
from tff_hospitals.foundations.validation import InvalidInput, Problem, one_of, raise_if, whole_number


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a strategy is asked for: see `build_strategy`."""

    steps: int
    participations: int = 1
    min_separation: int | None = None
    bands: int | None = None
    buffers: int | None = None
    workload: Workload | None = None

    @property
    def default_bands(self) -> int:
        """As many bands as keep a unit's columns apart."""
        return self.bands or min(self.steps, self.min_separation or self.steps)

    @property
    def default_buffers(self) -> int:
        """More of them gain little."""
        return self.buffers or 3


@dataclasses.dataclass(frozen=True)
class Named:
    """One family of strategies.

    Attributes:
      words: one line for tables and help.
      make: the strategy; None for the tree, which is no Toeplitz matrix.
      banded: whether `bands` is used.
      buffered: whether `buffers` is used.
      apart: whether it needs bands of at most the separation (its optimisation assumes so).
    """

    words: str
    make: Callable[[Wanted], Strategy] | None
    banded: bool = False
    buffered: bool = False
    apart: bool = False


STRATEGIES: Mapping[str, Named] = {
    "identity": Named("independent noise in every step", lambda wanted: identity(wanted.steps)),
    "tree": Named("noise on the nodes of a binary tree, estimated from below", None),
    "sqrt": Named("the square root of the prefix sums", lambda wanted: square_root(wanted.steps)),
    "bsr": Named(
        "the square root, cut after some bands",
        lambda wanted: square_root(wanted.steps, wanted.default_bands),
        banded=True,
    ),
    "bisr": Named(
        "the strategy whose inverse is that of the square root, cut after some bands",
        lambda wanted: inverse_square_root(wanted.steps, wanted.default_bands),
        banded=True,
    ),
    "banded": Named(
        "the banded strategy of least expected error",
        lambda wanted: optimised_banded(wanted.steps, wanted.default_bands, wanted.workload),
        banded=True,
        apart=True,
    ),
    "blt": Named(
        "a few buffers of the model's size, the best ones (BLT)",
        lambda wanted: optimised_buffers(
            wanted.steps,
            wanted.default_buffers,
            participations=wanted.participations,
            min_separation=wanted.min_separation,
            workload=wanted.workload,
        ),
        buffered=True,
    ),
}


_SETTINGS = {"bands": ("banded", None), "buffers": ("buffered", MOST_BUFFERS)}


def build_strategy(name: str, wanted: Wanted) -> Strategy:
    """The strategy of that name; `tree` is none (see `tree_error`).

    Raises:
      InvalidInput: an unknown name, a setting that it does not use or that is out of range, participations that do
        not fit, bands beyond the separation.

    >>> build_strategy("bsr", Wanted(steps=100, participations=10, min_separation=10)).bands
    10
    """
    make = _checked(name, wanted).make
    if make is None:
        raise InvalidInput([Problem("strategy", name, "is no Toeplitz matrix", "ask for its error alone")])
    return make(wanted)


def _checked(name: str, wanted: Wanted) -> Named:
    """The family of that name, where it can be made for what is wanted."""
    steps = whole_number("steps", wanted.steps, low=1, remedy="give 1 or more")
    raise_if([one_of("strategy", name, STRATEGIES), steps])
    named, apart = STRATEGIES[name], wanted.min_separation
    found = participation_problems(wanted.steps, wanted.participations, apart)
    for setting, (flag, most) in _SETTINGS.items():
        value = getattr(wanted, setting)
        if value is not None and not getattr(named, flag):
            fitting = ", ".join(key for key, one in STRATEGIES.items() if getattr(one, flag))
            found.append(Problem(setting, value, f"is only used with {fitting}", f"drop it or choose {fitting}"))
        elif value is not None:
            found.append(
                whole_number(setting, value, low=1, high=most, remedy=f"give a number of {setting} in this range")
            )
    if named.apart and wanted.participations > 1 and wanted.bands is not None and apart and wanted.bands > apart:
        bound = (
            f"must be at most the separation {apart}: beyond it a unit's columns overlap, which {name} was not made for"
        )
        found.append(Problem("bands", wanted.bands, bound, f"give --bands={apart} or fewer"))
    if named.make is None and wanted.workload is not None:
        found.append(Problem("workload", wanted.workload, f"{name} is known for prefix sums alone", "drop it"))
    raise_if(found)
    return named


def error_of(name: str, wanted: Wanted) -> ExpectedError:
    """Sensitivity and errors of a named strategy, the tree included.

    >>> round(error_of("tree", Wanted(steps=1024)).sensitivity.value ** 2)
    11
    """
    make = _checked(name, wanted).make
    if make is not None:
        return expected_error(
            make(wanted),
            participations=wanted.participations,
            min_separation=wanted.min_separation,
            workload=wanted.workload,
        )
    return tree_error(wanted.steps, wanted.participations, wanted.min_separation)


def tree_error(steps: int, participations: int = 1, min_separation: int | None = None) -> ExpectedError:
    """The same for the binary tree, with the estimate from below (Honaker 2015).

    Participation is taken as periodic, for as long as the run lasts: the worst case over the offsets of a period.

    >>> round(tree_error(100, 10, 10).rmse, 3)
    16.757
    """
    period = None if participations == 1 else min_separation
    value = math.sqrt(tree_squared_sensitivity(steps, period))
    variances = np.array([prefix_variance(step) for step in range(1, steps + 1)])
    exact = participations in (1, -(-steps // int(min_separation or steps)))
    condition = "one participation: a node of every level" if participations == 1 else "periodic participation"
    sensitivity = Sensitivity(value, exact, condition if exact else f"upper bound: {condition}, as often as fits")
    root = np.sqrt(variances)
    return ExpectedError(
        sensitivity,
        value * math.sqrt(float(variances.mean())),
        value * float(root.max()),
        value * float(root[-1]),
    )
