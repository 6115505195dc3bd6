"""Translation to and from dp_accounting's `DpEvent`s, so that anybody can account for a run again with another library.

>>> from tff_hospitals.accounting.events import MechanismEvent
>>> step = MechanismEvent("poisson_gaussian", noise_multiplier=1.1, sampling_probability=0.02)
>>> to_dp_event(step)
PoissonSampledDpEvent(sampling_probability=0.02, event=GaussianDpEvent(noise_multiplier=1.1))
>>> from_dp_event(to_dp_event(step))
((MechanismEvent(kind='poisson_gaussian', noise_multiplier=1.1, sampling_probability=0.02), 1),)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tff_hospitals.accounting import gaussian, loss_shapes
from tff_hospitals.accounting.events import REPLACE_ONE, REPLACE_SPECIAL, MechanismEvent
from tff_hospitals.foundations.validation import InvalidInput, Problem


def to_dp_event(event: MechanismEvent, adjacency: str = REPLACE_SPECIAL) -> Any:
    """The `DpEvent` of one release.

    Noise multipliers in it are relative to the *sensitivity*: for "replace_one" half of ours. dp_accounting's Renyi
    accountant wants them so; its loss-distribution accountant doubles the sensitivity of "replace_one" by itself.

    Raises:
      InvalidInput: for mechanisms that dp_accounting has no event for (Skellam), or an adjacency that does not fit.
    """
    import dp_accounting

    (part,) = loss_shapes.parts_of(event, adjacency)
    if isinstance(part, loss_shapes.NonPrivatePart):
        return dp_accounting.NonPrivateDpEvent()
    if isinstance(part, loss_shapes.SelectionPart):
        inner = compose_dp_event(event.base or (), adjacency)
        return dp_accounting.dp_event.RepeatAndSelectDpEvent(inner, part.mean_runs, part.shape)
    if isinstance(part, loss_shapes.LaplacePart):
        return dp_accounting.LaplaceDpEvent(part.scale)
    if isinstance(part, loss_shapes.DiscreteGaussianPart):
        return dp_accounting.ZCDpEvent(gaussian.zcdp_rho(part))
    if isinstance(part, loss_shapes.PoissonPart):
        return dp_accounting.PoissonSampledDpEvent(part.sampling_probability, dp_accounting.GaussianDpEvent(part.sigma))
    if isinstance(part, loss_shapes.FixedSizePart):
        noise = dp_accounting.GaussianDpEvent(part.sigma)
        return dp_accounting.SampledWithoutReplacementDpEvent(event.records, event.batch, noise)
    if isinstance(part, loss_shapes.GaussianPart):
        return dp_accounting.GaussianDpEvent(part.mu_squared**-0.5)
    bound = "has no event in dp_accounting"
    raise InvalidInput([Problem("event.kind", event.kind, bound, "use this package's Renyi curve")])


def compose_dp_event(events: Iterable[tuple[MechanismEvent, int]], adjacency: str = REPLACE_SPECIAL) -> Any:
    """The `DpEvent` of many releases; of a whole ledger with `ledger.events(unit, hospital_id)`."""
    import dp_accounting

    settled = loss_shapes.settled(events)
    composed = [dp_accounting.SelfComposedDpEvent(to_dp_event(event, adjacency), count) for event, count in settled]
    return dp_accounting.ComposedDpEvent(composed)


def from_dp_event(event: Any, adjacency: str = REPLACE_SPECIAL) -> tuple[tuple[MechanismEvent, int], ...]:
    """The releases that a `DpEvent` stands for, as (event, count) pairs: what TFF extracts from an aggregator's state.

    Args:
      event: Gaussian, Laplace, tree and non-private events; Poisson and fixed-size samples of Gaussians; compositions.
      adjacency: under which the event's noise multipliers were meant; for "replace_one" ours are twice as large.

    Raises:
      InvalidInput: for an event that says it is unsupported, or that is not known here.
    """
    reach = 2.0 if adjacency == REPLACE_ONE else 1.0
    name = type(event).__name__
    if name == "NoOpDpEvent":
        return ()
    if name == "NonPrivateDpEvent":
        return ((MechanismEvent("non_private"), 1),)
    if name == "ComposedDpEvent":
        return tuple(pair for inner in event.events for pair in from_dp_event(inner, adjacency))
    if name == "SelfComposedDpEvent":
        return tuple((inner, count * int(event.count)) for inner, count in from_dp_event(event.event, adjacency))
    if name in ("GaussianDpEvent", "LaplaceDpEvent"):
        kind = "gaussian" if name == "GaussianDpEvent" else "laplace"
        return ((MechanismEvent(kind, noise_multiplier=reach * event.noise_multiplier), 1),)
    if name == "SingleEpochTreeAggregationDpEvent" and not hasattr(event.step_counts, "__len__"):
        noise = reach * event.noise_multiplier
        return ((MechanismEvent("tree", noise_multiplier=noise, steps=int(event.step_counts)), 1),)
    if name in ("PoissonSampledDpEvent", "SampledWithoutReplacementDpEvent"):
        inside = from_dp_event(event.event, adjacency)
        if all(inner.kind == "gaussian" for inner, _ in inside):  # Gaussians on one sample are one Gaussian
            noise = sum(count * (inner.noise_multiplier or 0.0) ** -2 for inner, count in inside) ** -0.5
            if name == "PoissonSampledDpEvent":
                chance = event.sampling_probability
                return ((MechanismEvent("poisson_gaussian", noise_multiplier=noise, sampling_probability=chance), 1),)
            sizes = {"records": event.source_dataset_size, "batch": event.sample_size}
            return ((MechanismEvent("fixed_size_gaussian", noise_multiplier=noise, **sizes), 1),)
    bound = "has no analysis in this package"
    raise InvalidInput([Problem("DpEvent", name, bound, "record what was released as a MechanismEvent")])
