"""An aggregation factory of the user's own as a mechanism: `package.module:factory`, or an object under a name.

A plan names it like every mechanism. It is a `tff.aggregators.WeightedAggregationFactory` or
`UnweightedAggregationFactory`, or a function that returns one and takes what it names of `ARGUMENTS`. One that takes
`noise_multiplier` is private: its noise is calibrated, one Gaussian release is charged before every round, and after
the round TFF's own event must say the same. All others promise nothing.

Nothing here needs TFF.
"""

from __future__ import annotations

import inspect
from typing import Any

from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.plan.mechanisms.base import PRIVATE_OPTIONS, HospitalLevel
from tff_hospitals.plan.mechanisms.fixed_clip import FixedClip
from tff_hospitals.plan.mechanisms.from_tff import Foreign, OfMeans
from tff_hospitals.plan.mechanisms.registry import resolve_by, set_mechanism

ARGUMENTS = ("noise_multiplier", "clients_per_round", "clip_norm", "record_specs", "seed")
"""What a function that returns a factory may ask for, by name."""
COMPUTED_BY = "own_factory"


class OwnFactory(OfMeans):
    """A factory for which no noise is accounted."""

    computed_by = COMPUTED_BY

    def __init__(self, name: str, factory: Any):
        self.name, self.factory = name, factory
        self.words = f"the aggregation factory {name}, for which no event is stated: nothing is promised"


class OwnNoisyFactory(Foreign, FixedClip):
    """A factory that takes a noise multiplier: one Gaussian release a round, to which TFF's event is held."""

    computed_by = COMPUTED_BY
    zeroing = False

    def __init__(self, name: str, factory: Any):
        self.name, self.factory = name, factory
        self.words = (
            f"the aggregation factory {name}; epsilon is that of TFF's own event, and what the factory computes beside "
            "it, such as a quantile without noise, is outside of it"
        )
        taken = arguments_of(factory)
        self.options = tuple(
            one for one in PRIVATE_OPTIONS if one != "secure_noise" and (one != "clip_norm" or one in taken)
        )


def is_factory(value: Any) -> bool:
    """Whether something may be an aggregation factory, or return one; TFF itself is asked when it is used."""
    return callable(getattr(value, "create", None)) or inspect.isroutine(value)


def arguments_of(factory: Any) -> tuple[str, ...]:
    """The names of `ARGUMENTS` that a function takes; none of a factory that was made already.

    Raises:
      InvalidInput: it needs others.

    >>> arguments_of(lambda clients_per_round, noise_multiplier=1.0: None)
    ('clients_per_round', 'noise_multiplier')
    """
    if not inspect.isroutine(factory):
        return ()
    parameters = inspect.signature(factory).parameters.values()
    named = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    unknown = [one.name for one in named if one.name not in ARGUMENTS and one.default is one.empty]
    if unknown:
        bound = f"needs {', '.join(unknown)}, and is given {', '.join(ARGUMENTS)}"
        remedy = "give the others defaults"
        raise InvalidInput([Problem("aggregator", getattr(factory, "__name__", "a function"), bound, remedy)])
    return tuple(one.name for one in named if one.name in ARGUMENTS)


def enter(name: str, factory: Any) -> HospitalLevel:
    """Makes a factory known under a name that plans can use.

    Raises:
      InvalidInput: it is no factory, or asks for arguments that nobody gives.
    """
    if not is_factory(factory):
        bound = "is no aggregation factory and no function that returns one"
        remedy = "give a tff.aggregators.WeightedAggregationFactory or UnweightedAggregationFactory"
        raise InvalidInput([Problem("aggregator", f"{name} ({type(factory).__name__})", bound, remedy)])
    kind = OwnNoisyFactory if "noise_multiplier" in arguments_of(factory) else OwnFactory
    return set_mechanism(kind(name, factory))


resolve_by(lambda name, value: enter(name, value) if is_factory(value) else None)
