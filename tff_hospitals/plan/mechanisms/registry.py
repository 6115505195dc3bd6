"""The mechanisms by name: found in this folder, or in a module of one's own.

A mechanism of one's own is named `package.module:name` in a plan, like a model. Importing the module must register it,
together with its half that computes (`processes.aggregators.building.register` or
`processes.record_level.building.register`); whoever reads the plan later imports it from there.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from tff_hospitals.foundations import extensions
from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.plan.mechanisms.base import Mechanism, missing_parts
from tff_hospitals.plan.mechanisms.other_names import known_name

_MECHANISMS: dict[str, Mechanism] = {}
MECHANISMS: Mapping[str, Mechanism] = MappingProxyType(_MECHANISMS)
"""Every mechanism that is registered, by name."""

MechanismClass = TypeVar("MechanismClass", bound=type[Mechanism])
Made = TypeVar("Made", bound=Mechanism)
_RESOLVERS: list[Callable[[str, Any], Mechanism | None]] = []


def register(mechanism: MechanismClass) -> MechanismClass:
    """Makes a mechanism known; a decorator of its class, which needs no arguments to be made.

    Raises:
      TypeError: when it lacks a part, names one that nobody knows, or bears the name of another.
    """
    made = mechanism()
    missing = missing_parts(made)
    if missing:
        raise TypeError(f"mechanism {mechanism.__qualname__} is not whole: {'; '.join(missing)}")
    there = _MECHANISMS.get(made.name)
    if there is not None and (type(there).__module__, type(there).__qualname__) != (
        mechanism.__module__,
        mechanism.__qualname__,
    ):
        raise TypeError(f"mechanism {mechanism.__qualname__}: {type(there).__qualname__} is called {made.name} already")
    _MECHANISMS[made.name] = made
    return mechanism


def set_mechanism(mechanism: Made) -> Made:
    """Makes a mechanism known that is made of something of the user's own; one of the same name is replaced."""
    missing = missing_parts(mechanism)
    if missing:
        raise TypeError(f"mechanism {mechanism.name} is not whole: {'; '.join(missing)}")
    _MECHANISMS[mechanism.name] = mechanism
    return mechanism


def resolve_by(resolver: Callable[[str, Any], Mechanism | None]) -> None:
    """Has `resolver` asked what a `package.module:name` is that registers no mechanism: it makes one, or None."""
    _RESOLVERS.append(resolver)


def discover(package: str, path: Iterable[str]) -> None:
    """Imports every module of a package in the order of their names, so that each can register what it holds."""
    for name in sorted(module.name for module in pkgutil.iter_modules(path)):
        importlib.import_module(f"{package}.{name}")


def named(name: str) -> Mechanism:
    """The mechanism that a plan names.

    Raises:
      InvalidInput: an unknown name (with the nearest ones), or a module that cannot be imported or registers none.

    >>> named("dp_sgd").unit, named("fixed_clip").noise_by
    ('record', 'server')
    """
    problem = name_problem("mechanism", name)
    if problem is not None:
        raise InvalidInput([problem])
    return _MECHANISMS.get(name) or _MECHANISMS[name.rpartition(":")[2]]


def name_problem(field: str, name: str, level: str | None = None) -> Problem | None:
    """What is wrong with the name of a mechanism; `level` asks for one of that level."""
    module, _, short = str(name).rpartition(":")
    there = _MECHANISMS.get(name)
    if module and there is None:
        try:
            own = extensions.import_module(module, field, name)
        except InvalidInput as error:
            (found,) = error.problems
            remedy = f"write package.module:name, with a module that this environment imports: {found.remedy}"
            return Problem(field, name, f"names a module that cannot be imported: {found.bound}", remedy)
        try:
            there = _resolved(name, getattr(own, short, None))
        except InvalidInput as error:
            return error.problems[0]
    if there is not None and level in (None, there.level):
        return None
    known = {name for name, one in _MECHANISMS.items() if level is None or one.level == level}
    problem = known_name(field, short, known)
    if problem is None or not module:
        return problem
    remedy = f"register it where {module} is imported: see plan.mechanisms.register"
    return Problem(field, name, f"names {short!r}, which {module} does not register", remedy)


def _resolved(name: str, value: Any) -> Mechanism | None:
    """The mechanism that something of the user's own is, unless its module registered one of that name."""
    module, _, short = name.rpartition(":")
    registered = _MECHANISMS.get(short)
    if value is None or (registered is not None and type(registered).__module__ == module):
        return None
    return next((made for resolver in _RESOLVERS if (made := resolver(name, value)) is not None), None)
