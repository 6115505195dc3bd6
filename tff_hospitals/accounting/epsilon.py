"""From releases to (epsilon, delta), by a conversion that has a name.

Figures of different conversions differ by 10 to 25 % for the same run; no function here returns one without being
told, or having told in its default, which one it is.

>>> from tff_hospitals.accounting.events import MechanismEvent
>>> step = MechanismEvent("poisson_gaussian", noise_multiplier=1.3, sampling_probability=150 / 60000)
>>> round(epsilon_of([(step, 6000)], delta=1e-5), 6)
0.724223
>>> round(epsilon_of([(step, 6000)], delta=1e-5, conversion="rdp_classical"), 4)
0.9419
>>> round(epsilon_of([(step, 6000)], delta=1e-5, conversion="pld"), 3)
0.64
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Union

from tff_hospitals.accounting import loss_shapes as parts_lib
from tff_hospitals.accounting.events import REPLACE_SPECIAL, MechanismEvent
from tff_hospitals.accounting.loss_shapes import Composition
from tff_hospitals.foundations import validation
from tff_hospitals.foundations.validation import Problem

if TYPE_CHECKING:
    from tff_hospitals.accounting.loss_shapes import Part

CONVERSIONS: Mapping[str, str] = {
    "rdp": "Renyi DP, improved conversion (Canonne, Kamath and Steinke 2020), as in dp_accounting",
    "rdp_classical": "Renyi DP, classical conversion (Mironov 2017), as in early publications",
    "pld": "privacy loss distribution (connect the dots, Doroshenko et al. 2022)",
    "zcdp": "zero-concentrated DP (Bun and Steinke 2016)",
    "gaussian_exact": "exact Gaussian mechanism (Balle and Wang 2018)",
}

SMALLEST_PLD_DELTA = 1e-10
"""Below this the rounding errors of a Fourier transform would matter."""

Events = Union[MechanismEvent, Iterable[tuple[MechanismEvent, int]]]

# Renyi curves cover every part; the arrays behind all of this are only imported when an epsilon is computed
_SUPPORTED: Mapping[str, tuple[type[Part], ...]] = {
    "pld": (
        parts_lib.GaussianPart,
        parts_lib.PoissonPart,
        parts_lib.FixedSizePart,
        parts_lib.MixturePart,
        parts_lib.LaplacePart,
        parts_lib.DiscreteGaussianPart,
        parts_lib.SkellamPart,
    ),
    "zcdp": (parts_lib.GaussianPart, parts_lib.LaplacePart, parts_lib.DiscreteGaussianPart),
    "gaussian_exact": (parts_lib.GaussianPart,),
}


def epsilon_of(
    events: Events, delta: float, *, adjacency: str = REPLACE_SPECIAL, conversion: str = "rdp", count: int = 1
) -> float:
    """The epsilon of a composition of releases.

    Args:
      events: one event, or pairs (event, how often).
      delta: in (0, 1).
      adjacency: one of `ADJACENCIES`.
      conversion: one of `CONVERSIONS`.
      count: how often all of it happened.

    Returns:
      Epsilon; infinite when a release had no noise, 0.0 when there was no release.

    Raises:
      InvalidInput: for an unknown name, delta outside (0, 1), an event without a guarantee under the adjacency, or an
        event that the conversion cannot handle (the message names those that can).
    """
    pairs = [(events, count)] if isinstance(events, MechanismEvent) else [(event, n * count) for event, n in events]
    validation.raise_if([delta_problem(delta), validation.one_of("conversion", conversion, CONVERSIONS)])
    return composed_epsilon(parts_lib.compose(pairs, adjacency), delta, conversion)


def composed_epsilon(composition: Composition, delta: float, conversion: str) -> float:
    """`epsilon_of` for what `parts.compose` made, its arguments already checked."""
    if not composition:
        return 0.0
    if not parts_lib.is_private(composition):
        return math.inf
    if conversion in _SUPPORTED:
        validation.raise_if([conversion_problem(composition, conversion, delta)])
        return _cached_epsilon(composition, delta, conversion)
    from tff_hospitals.accounting import renyi

    convert = renyi.improved_epsilon if conversion == "rdp" else renyi.classical_epsilon
    return convert(renyi.composed_curve(composition), delta)


@functools.lru_cache(maxsize=16384)
def _cached_epsilon(composition: Composition, delta: float, conversion: str) -> float:
    from tff_hospitals.accounting import gaussian

    if conversion == "zcdp":
        return gaussian.zcdp_epsilon(composition, delta)
    if conversion == "gaussian_exact":
        return gaussian.exact_epsilon(gaussian.total_mu(composition), delta)
    from tff_hospitals.accounting import privacy_loss, selection

    winner = _only_selection(composition)
    return selection.selected_epsilon(winner, delta) if winner else privacy_loss.epsilon(composition, delta)


def delta_of(
    events: Events, epsilon: float, *, adjacency: str = REPLACE_SPECIAL, conversion: str = "pld", count: int = 1
) -> float:
    """The smallest delta at a given epsilon, by "rdp", "pld" or "gaussian_exact"; other arguments as in `epsilon_of`.

    >>> thrice = (MechanismEvent("gaussian", noise_multiplier=3**0.5), 3)
    >>> round(delta_of([thrice], epsilon=1.0, conversion="gaussian_exact"), 6)
    0.126937
    """
    pairs = [(events, count)] if isinstance(events, MechanismEvent) else [(event, n * count) for event, n in events]
    remedy = "give an epsilon of 0 or more"
    problems = [validation.in_range("epsilon", epsilon, low=0.0, remedy=remedy)]
    validation.raise_if([*problems, validation.one_of("conversion", conversion, ("rdp", "pld", "gaussian_exact"))])
    composition = parts_lib.compose(pairs, adjacency)
    if not composition:
        return 0.0
    if not parts_lib.is_private(composition):
        return 1.0
    from tff_hospitals.accounting import privacy_loss, renyi, selection

    if conversion == "rdp":
        return renyi.improved_delta(renyi.composed_curve(composition), epsilon)
    validation.raise_if([conversion_problem(composition, conversion)])
    winner = _only_selection(composition)
    return selection.selected_delta(winner, epsilon) if winner else privacy_loss.delta(composition, epsilon)


def delta_problem(delta: float) -> Problem | None:
    """What is wrong with a delta: it must lie strictly between 0 and 1."""
    remedy = "take a delta well below 1 / records, for example 1e-5"
    return validation.in_range("delta", delta, low=0.0, low_open=True, high=1.0, high_open=True, remedy=remedy)


def conversion_problem(composition: Composition, conversion: str, delta: float = 0.5) -> Problem | None:
    """Why a conversion cannot handle a composition; None when it can."""
    supported = _SUPPORTED.get(conversion)
    if supported is None:
        return None
    winner = _only_selection(composition) if conversion == "pld" else None
    if winner is not None:
        return conversion_problem(winner.base, conversion, delta / winner.mean_runs)
    for part, _ in composition:
        if not isinstance(part, supported):
            able = [name for name in CONVERSIONS if isinstance(part, _SUPPORTED.get(name, object))]
            what = type(part).__name__.removesuffix("Part")
            bound = f"has no analysis of {what} releases; {', '.join(able)} do"
            return Problem("conversion", conversion, bound, f"use conversion={able[0]!r}")
    if conversion == "pld" and delta < SMALLEST_PLD_DELTA and not all(_is_gaussian(part) for part, _ in composition):
        bound = f"is exact to a delta of about {SMALLEST_PLD_DELTA:g}, and delta={delta:g}"
        return Problem("conversion", conversion, bound, "use conversion='rdp' for so small a delta")
    return size_problem(composition) if conversion == "pld" else None


def size_problem(composition: Composition) -> Problem | None:
    """Noise too small for a loss distribution that fits into memory, or for one at all; asked before it is computed."""
    from tff_hospitals.accounting import privacy_loss, whole_numbers

    if not all(isinstance(part, _SUPPORTED["pld"]) for part, _ in composition):
        return None
    lacking = next(filter(None, (whole_numbers.lacks(part) for part, _ in composition)), None)
    if lacking is not None:
        return Problem("conversion", "pld", lacking, "use conversion='rdp', or more noise")
    cells = privacy_loss.grid_cells(composition)
    if cells <= privacy_loss.LARGEST_GRID:
        return None
    bound = (
        f"would need a loss distribution of {cells:.1e} cells, more than {privacy_loss.LARGEST_GRID:,}: the noise is "
        "too small for so many steps"
    )
    return Problem("conversion", "pld", bound, "use conversion='rdp', or more noise")


def conversions_for(composition: Composition, delta: float = 0.5) -> tuple[str, ...]:
    """The conversions that can handle a composition."""
    return tuple(name for name in CONVERSIONS if conversion_problem(composition, name, delta) is None)


def conversions_of(events: Events, delta: float = 0.5, adjacency: str = REPLACE_SPECIAL) -> tuple[str, ...]:
    """The conversions that can handle these releases at this delta."""
    pairs = [(events, 1)] if isinstance(events, MechanismEvent) else events
    return conversions_for(parts_lib.compose(pairs, adjacency), delta)


def _only_selection(composition: Composition) -> parts_lib.SelectionPart | None:
    """The selection that is all of a composition; its profile is known, but not as a distribution to compose."""
    if len(composition) != 1 or composition[0][1] != 1:
        return None
    part = composition[0][0]
    return part if isinstance(part, parts_lib.SelectionPart) else None


def _is_gaussian(part: object) -> bool:
    return isinstance(part, parts_lib.GaussianPart)
