"""Grids of settings: every combination of values of some fields of the plan is a row of its own.

>>> grid = parse_grid(["local_epochs:1|5", "client_learning_rate:0.01|0.1"])
>>> grid
(('local_epochs', (1, 5)), ('client_learning_rate', (0.01, 0.1)))
>>> from tff_hospitals.experiments.methods import METHODS
>>> [method.name for method, _ in points(grid[:1], METHODS["mean"], Plan())]
['mean@local_epochs=1', 'mean@local_epochs=5']
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tff_hospitals.experiments.method_plans import for_cohort, own_cohort
from tff_hospitals.experiments.methods import Method, find_methods
from tff_hospitals.experiments.search_space import parse_axes
from tff_hospitals.foundations.validation import Problem, raise_if
from tff_hospitals.plan import options
from tff_hospitals.plan.checks import options as option_checks
from tff_hospitals.plan.plan import Plan

Grid = tuple[tuple[str, tuple[Any, ...]], ...]
"""Flags with their values."""
MOST_POINTS = 500
_AT = "@"


def parse_grid(texts: Sequence[str]) -> Grid:
    """A grid from texts such as `local_epochs:1|5`.

    Raises:
      InvalidInput: no axis, axes that nobody can read or that are ranges, values that come twice, too many points.
    """
    remedy = "write --grid=FLAG:one|other, such as --grid=local_epochs:1|5"
    if not texts:
        raise_if([Problem("--grid", None, "must name at least one flag with its values", remedy)])
    axes = parse_axes(texts, Plan())
    found, number = [], 1
    for axis, text in zip(axes, texts):
        if len(set(axis.values)) < max(1, len(axis.values)):
            found.append(Problem("--grid", text, "must give one or more different values", remedy))
        number *= max(1, len(axis.values))
    if number > MOST_POINTS:
        found.append(Problem("--grid", number, f"must have at most {MOST_POINTS} points", "take fewer values"))
    raise_if(found)
    return tuple((axis.option.flag, axis.values) for axis in axes)


def points(grid: Grid, method: Method, plan: Plan, given: Mapping[str, Any] | None = None) -> list[tuple[Method, Plan]]:
    """A method at every point of a grid; axes that its plan does not use are left out, baselines stay as they are.

    Args:
      grid: may be empty.
      method, plan: where the grid starts.
      given: options of all rows; a cohort among them, or in the grid, is not that of a method with its own.
    """
    if method.kind != "federated":
        return [(method, plan)]
    own_kind = own_cohort(method)
    others = {flag: next((one for one in values if one != own_kind), values[0]) for flag, values in grid}
    taken = for_cohort(method, {**(given or {}), **others})
    used = [
        axis
        for axis in grid
        if axis[0] in taken and not option_checks.unused([options.apply(plan, {axis[0]: axis[1][0]})], {axis[0]: None})
    ]
    found = []
    for values in itertools.product(*(values for _, values in used)):
        point = {flag: value for (flag, _), value in zip(used, values)}
        own = method
        if point:
            name = _AT.join((method.name, ",".join(f"{flag}={value}" for flag, value in point.items())))
            words = ", ".join(str(point.get(flag, "-")) for flag, _ in grid)  # short: names of flags fit no table
            own = dataclasses.replace(method, name=re.sub(r"[^\w.,@=+-]", ".", name), label=f"{method.label} ({words})")
        found.append((own, options.apply(plan, point).replace(method=own.name)))
    return found


def title_of(grid: Grid) -> str:
    """What the values in the names of rows are; empty without a grid.

    >>> title_of((("local_steps", (1, 5)), ("batch_size", (4,))))
    '; in brackets: local_steps, batch_size'
    """
    return f"; in brackets: {', '.join(flag for flag, _ in grid)}" if grid else ""


def method_at(name: str, label: str) -> Method:
    """The method of a point again, from its name and label."""
    (method,) = find_methods((name.partition(_AT)[0],))
    return dataclasses.replace(method, name=name, label=label)
