"""The few shapes of privacy loss that all mechanisms reduce to.

`parts_of(event, adjacency)` gives the loss of one event in a normal form in which the factor 2 of "replace_one" is
already applied, so that the formulas behind it (`renyi.py`, `privacy_loss.py`, `gaussian.py`) never meet an adjacency
or a kind. Everything Gaussian without sampling (fixed and adaptive clipping, trees, matrices) becomes one number, the
squared sensitivity over noise variance, which adds up under composition even when releases are chosen adaptively
(Dong, Roth and Su 2019, arXiv:1905.02383).

>>> from tff_hospitals.accounting.events import MechanismEvent
>>> parts_of(MechanismEvent("gaussian", noise_multiplier=2.0), "add_or_remove_one")
(GaussianPart(mu_squared=0.25),)
>>> parts_of(MechanismEvent("gaussian", noise_multiplier=2.0), "replace_one")
(GaussianPart(mu_squared=1.0),)
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Union

from tff_hospitals.accounting import events as events_lib
from tff_hospitals.accounting import matrix
from tff_hospitals.accounting.events import MechanismEvent
from tff_hospitals.foundations import validation
from tff_hospitals.foundations.validation import Problem


@dataclasses.dataclass(frozen=True)
class GaussianPart:
    """Gaussian noise; `mu_squared` is (sensitivity / standard deviation) squared."""

    mu_squared: float


@dataclasses.dataclass(frozen=True)
class PoissonPart:
    """Gaussian noise on a Poisson sample; `sigma` is standard deviation over sensitivity."""

    sampling_probability: float
    sigma: float


@dataclasses.dataclass(frozen=True)
class MixturePart:
    """Gaussian noise on a sum that moves by k with chance `weights[k]`: a group of records, Poisson sampled."""

    weights: tuple[float, ...]
    sigma: float


@dataclasses.dataclass(frozen=True)
class FixedSizePart:
    """Gaussian noise on a batch of fixed size, drawn without replacement; `sigma` as in `PoissonPart`."""

    batch_fraction: float
    sigma: float


@dataclasses.dataclass(frozen=True)
class AllocationPart:
    """Gaussian noise on the batches of one pass, to one of which a unit is allocated at random; `sigma` as above."""

    batches: int
    sigma: float


@dataclasses.dataclass(frozen=True)
class LaplacePart:
    """Laplace noise; `scale` is the noise scale over the L1 sensitivity."""

    scale: float


@dataclasses.dataclass(frozen=True)
class DiscreteGaussianPart:
    """A sum of discrete Gaussians; sensitivities over the standard deviation of the sum, `tau` as in `discrete_tau`;
    the variance of the sum in rounded units.
    """

    l2_scale: float
    l1_scale: float
    tau: float
    dimension: int
    variance: float


@dataclasses.dataclass(frozen=True)
class SkellamPart:
    """Skellam noise; squared L2 and L1 sensitivity and the variance of the sum, in rounded units."""

    l2_squared: float
    l1: float
    variance: float
    dimension: int | None = None


@dataclasses.dataclass(frozen=True)
class SelectionPart:
    """The best of a random number of runs; `base` is the composition of one run."""

    mean_runs: float
    shape: float
    base: tuple[tuple[Part, float], ...]


@dataclasses.dataclass(frozen=True)
class NonPrivatePart:
    """No guarantee: epsilon is infinite."""


Part = Union[
    GaussianPart,
    PoissonPart,
    MixturePart,
    FixedSizePart,
    AllocationPart,
    LaplacePart,
    DiscreteGaussianPart,
    SkellamPart,
    SelectionPart,
    NonPrivatePart,
]
Composition = tuple[tuple[Part, float], ...]


@functools.lru_cache(maxsize=8192)
def parts_of(event: MechanismEvent, adjacency: str) -> tuple[Part, ...]:
    """The parts of one event under an adjacency.

    Raises:
      InvalidInput: when the event has no guarantee under this adjacency.
    """
    validation.raise_if([adjacency_problem(event, adjacency)])
    reach = 2.0 if adjacency == events_lib.REPLACE_ONE else 1.0  # replacing a unit moves a sum by twice the clip norm
    if event.kind == "non_private" or event.noise_multiplier == 0 or event.local_stddev == 0:
        return (NonPrivatePart(),)
    if event.kind == "selection":
        base = compose(((inner, count) for inner, count in event.base or ()), adjacency)
        return (SelectionPart(event.mean_runs or 1.0, math.inf if event.shape is None else event.shape, base),)
    if event.kind in ("discrete_gaussian", "skellam"):
        return (_discrete_part(event, reach),)
    noise = event.noise_multiplier or 0.0
    if event.kind == "laplace":
        return (LaplacePart(noise / reach),)
    mu_squared = (reach / noise) ** 2
    if event.kind == "adaptive_clip":
        mu_squared += (reach / (2 * (event.bit_noise_stddev or math.inf))) ** 2  # the bit is counted as -1/2 or +1/2
    if event.kind == "fixed_size_gaussian":
        fraction = (event.batch or 1) / (event.records or 1)
        return (FixedSizePart(fraction, mu_squared**-0.5) if fraction < 1 else GaussianPart(mu_squared),)
    if event.kind == "random_allocation" and (event.steps or 1) > 1:
        return (AllocationPart(event.steps or 1, mu_squared**-0.5),)
    if event.sampling_probability is not None and event.sampling_probability < 1:
        return (PoissonPart(event.sampling_probability, mu_squared**-0.5),)
    if event.kind == "tree":
        mu_squared *= matrix.tree_squared_sensitivity(event.steps or 1, event.period)
    elif event.kind == "matrix":
        mu_squared *= (event.sensitivity or math.inf) ** 2
    return (GaussianPart(mu_squared),)


def adjacency_problem(event: MechanismEvent, adjacency: str) -> Problem | None:
    """What is wrong when `event` meets `adjacency`: unknown name, or an assumption that does not fit."""
    unknown = validation.one_of("adjacency", adjacency, events_lib.ADJACENCIES)
    if unknown is not None or adjacency in event.adjacencies:
        return unknown
    fit = " or ".join(repr(name) for name in event.adjacencies) or "no adjacency at all"
    return Problem(
        "event.kind",
        event.kind,
        f"has a guarantee under {fit}, not under {adjacency!r} ({event.sampling})",
        "account for all releases under one of these adjacencies, or count them as kind 'no_amplification', which "
        "holds under each",
    )


def settled(events: Iterable[tuple[MechanismEvent, int]]) -> tuple[tuple[MechanismEvent, int], ...]:
    """Events with their counts added up; of the records of one growing mechanism only the longest is kept, once."""
    counts: dict[MechanismEvent, int] = {}
    grown: dict[MechanismEvent, MechanismEvent] = {}
    for event, count in events:
        if not count:
            continue
        if event.growth_key is None:
            counts[event] = counts.get(event, 0) + count
        elif event.steps_each >= grown.get(event.growth_key, event).steps_each:
            grown[event.growth_key] = event
    return (*counts.items(), *((event, 1) for event in grown.values()))


def compose(events: Iterable[tuple[MechanismEvent, int]], adjacency: str) -> Composition:
    """The parts of many events with their counts; equal parts are merged, Gaussian parts into one."""
    counts: dict[Part, float] = {}
    mu_squared = 0.0
    for event, count in settled(events):
        for part in parts_of(event, adjacency):
            if isinstance(part, GaussianPart):
                mu_squared += part.mu_squared * count
            else:
                counts[part] = counts.get(part, 0) + count
    if mu_squared:
        counts[GaussianPart(mu_squared)] = 1
    return tuple(counts.items())


def is_private(composition: Composition) -> bool:
    """False when any part is a release without noise."""
    return all(
        is_private(part.base) if isinstance(part, SelectionPart) else not isinstance(part, NonPrivatePart)
        for part, _ in composition
    )


def _discrete_part(event: MechanismEvent, reach: float) -> Part:
    shares, local = event.shares or 1, event.local_stddev or 0.0
    l2, l1 = reach * (event.l2_sensitivity or math.inf), reach * (event.l1_sensitivity or math.inf)
    if event.kind == "skellam":
        return SkellamPart(l2**2, l1, shares * local**2, event.dimension)
    total = math.sqrt(shares) * local
    return DiscreteGaussianPart(
        l2 / total, l1 / total, discrete_tau(local, shares), event.dimension or 1, shares * local**2
    )


@functools.lru_cache(maxsize=1024)
def discrete_tau(local_stddev: float, shares: int) -> float:
    """How far a sum of discrete Gaussians is from one discrete Gaussian (0 for a single share).

    Source: Kairouz, Liu and Steinke 2021, arXiv:2102.06387, Theorem 1.
    """
    exponent = -2 * math.pi**2 * local_stddev**2
    return 10.0 * math.fsum(math.exp(exponent * k / (k + 1)) for k in range(1, shares))
