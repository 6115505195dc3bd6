"""Every epsilon that a run reports is computed a second time, by dp_accounting, from the same ledger.

The package's own curves are fast enough to be asked after every round and inside a calibration; dp_accounting is the
library that the field trusts. A finished run is certified: both must agree, and the run's summary holds dp_accounting's
figures and version beside our own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tff_hospitals.accounting import epsilon as epsilon_lib
from tff_hospitals.accounting import loss_shapes, privacy_loss
from tff_hospitals.accounting.dp_events import compose_dp_event
from tff_hospitals.accounting.events import REPLACE_ONE, MechanismEvent
from tff_hospitals.accounting.ledger import Ledger
from tff_hospitals.foundations.validation import Failure, InvalidInput

TOLERANCE = {"rdp": 2e-2, "pld": 2e-3, "gaussian_exact": 1e-6}
"""By how much ours may be smaller, relative. dp_accounting bounds fractional Renyi orders loosely where noise is small
(we use the convexity between whole orders); its loss distributions are taken on a coarse grid here, for speed."""
_GRID = 5e-4
_CLOSE_TO_ONE = 2.0  # Renyi orders below it
_FINER = (1.0, 8.0, 64.0)  # grids of dp_accounting's upper bound are made finer where epsilon itself is small
MOST_CELLS_OF_A_STEP, MOST_CELLS = 1 << 20, 1 << 23
"""The largest loss distributions that dp_accounting is asked for: about 1,000 and 100 bytes a cell at its peak."""
_ORDERS = np.arange(1, 21)  # times one over the length of a list: where dp_accounting bounds the tails of a sum
Events = tuple[tuple[MechanismEvent, int], ...]


class CertificateError(Failure):
    """Two accountants disagree about one ledger; the message names hospital, conversion and both figures."""


def certify(ledger: Ledger, unit: str, conversion: str = "rdp") -> dict[str, Any]:
    """dp_accounting's epsilon of every hospital, checked against the ledger's own.

    Args:
      ledger: of a finished run.
      unit: "record" or "hospital".
      conversion: that the run states its epsilon in; RDP and PLD are checked in any case.

    Returns:
      {"library": "dp_accounting 0.6.0", "conversion": "rdp", "rdp": {hospital: epsilon}, "pld": {hospital: epsilon},
      "left_out": {conversion: {hospital: reason}}}, and "gaussian_exact" where epsilon is stated so. A hospital is
      missing where dp_accounting has no analysis of its mechanism, and has None with a reason where its loss
      distribution would not fit into memory. The key "" stands for all hospitals alike.

    Raises:
      CertificateError: when an epsilon of the ledger is smaller than dp_accounting's by more than `TOLERANCE`, or a
        Renyi epsilon is below dp_accounting's tighter loss distributions.

    >>> ledger = Ledger(delta=1e-3)
    >>> ledger.record("record", "va", 1, MechanismEvent("gaussian", noise_multiplier=2.0))
    >>> {name: round(value, 3) for name, value in certify(ledger, "record")["rdp"].items()}
    {'va': 1.546}
    """
    import importlib.metadata

    checked = ("rdp", "pld", "gaussian_exact") if conversion == "gaussian_exact" else ("rdp", "pld")
    found: dict[str, Any] = {
        "library": f"dp_accounting {importlib.metadata.version('dp-accounting')}",
        "conversion": conversion,
        **{name: {} for name in checked},
        "left_out": {},
    }
    for hospital in ledger.hospital_ids(unit) or (None,):
        released = ledger.events(unit, hospital)
        for name in checked:
            reason = _why_not(name, released, ledger.delta, ledger.adjacency)
            if reason is not None:
                found[name][hospital or ""] = None
                found["left_out"].setdefault(name, {})[hospital or ""] = reason
                continue
            if name not in ledger.conversions(unit, hospital):
                continue
            own = ledger.epsilon(unit, hospital, name)
            second = _converged(released, ledger.delta, ledger.adjacency, name, own)
            if second is None:
                continue
            if own < second * (1 - TOLERANCE[name]) - 1e-6 and not _covers_tight_bound(ledger, released, name, own):
                raise CertificateError(
                    f"{hospital or 'all hospitals'}: epsilon by {name} is {own:.6g} by this package and "
                    f"{second:.6g} "
                    "by dp_accounting, from the same ledger. Remedy: do not publish this epsilon; report the "
                    "ledger.json."
                )
            found[name][hospital or ""] = second
            if name == "pld" and ledger.epsilon(unit, hospital, "rdp") < second * (1 - TOLERANCE["pld"]) - 1e-6:
                raise CertificateError(
                    f"{hospital or 'all hospitals'}: the Renyi epsilon {ledger.epsilon(unit, hospital, 'rdp'):.6g} "
                    "is below "
                    f"the tight one, {second:.6g}. Remedy: do not publish this epsilon; report the ledger.json."
                )
    return found


def _covers_tight_bound(ledger: Ledger, released: Events, conversion: str, own: float) -> bool:
    """Whether a Renyi epsilon, although smaller than dp_accounting's, holds by dp_accounting's loss distributions.

    At very large epsilon the best orders are close to one, where dp_accounting's series do not converge and it leaves
    them out. Only there its own tighter bound decides; elsewhere both Renyi figures must agree.
    """
    if conversion != "rdp" or _too_large(released, ledger.delta, ledger.adjacency) is not None:
        return False
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant(neighboring_relation=_relation(ledger.adjacency))
    accountant.compose(compose_dp_event(released, ledger.adjacency))
    if accountant.get_epsilon_and_optimal_order(ledger.delta)[1] >= _CLOSE_TO_ONE:
        return False
    tight = _converged(released, ledger.delta, ledger.adjacency, "pld", own)
    return tight is not None and own >= tight


def _converged(released: Events, delta: float, adjacency: str, conversion: str, own: float) -> float | None:
    """dp_accounting's epsilon, on a finer grid where its upper bound is above ours because the grid is coarse."""
    second = None
    for factor in _FINER:
        interval = _GRID / factor
        if factor > 1.0:
            one, together = cells_of(released, adjacency, interval)
            if one > MOST_CELLS_OF_A_STEP or together > MOST_CELLS:
                break
        second = _second_opinion(released, delta, adjacency, conversion, interval)
        if second is None or conversion != "pld" or own >= second * (1 - TOLERANCE[conversion]):
            break
    return second


def _why_not(conversion: str, released: Events, delta: float, adjacency: str) -> str | None:
    """Why dp_accounting is not asked, although it has an analysis; None when it is."""
    if conversion == "pld":
        return _too_large(released, delta, adjacency)
    if conversion == "gaussian_exact" and exact_gaussian() is None:
        return "this version of dp_accounting has no exact Gaussian; its loss distributions are compared instead"
    return None


def exact_gaussian() -> Callable[[float, float], float] | None:
    """dp_accounting's exact epsilon of Gaussian noise, by (noise, delta); None in versions before it had one."""
    import dp_accounting

    found: Callable[[float, float], float] | None = getattr(dp_accounting, "get_epsilon_gaussian", None)
    return found


_ONLY_RENYI = (loss_shapes.SelectionPart, loss_shapes.DiscreteGaussianPart, loss_shapes.SkellamPart)
"""Of these dp_accounting has Renyi curves at most."""


@functools.lru_cache(maxsize=512)
def _too_large(released: Events, delta: float, adjacency: str) -> str | None:
    """Why nobody is asked for a loss distribution: it would not fit into memory. None when it would."""
    if adjacency == REPLACE_ONE or not released:
        return None
    composition = loss_shapes.compose(released, adjacency)
    if any(isinstance(part, _ONLY_RENYI) for part, _ in composition):
        return None
    problem = epsilon_lib.conversion_problem(composition, "pld", delta)
    if problem is not None:
        return problem.bound if epsilon_lib.size_problem(composition) is not None else None
    one, all_together = cells_of(released, adjacency)
    for cells, most, what in ((one, MOST_CELLS_OF_A_STEP, "of one step"), (all_together, MOST_CELLS, "of all steps")):
        if cells > most:
            return f"dp_accounting would need {cells:.1e} cells for the loss distribution {what}, more than {most:,}"
    return None


def cells_of(released: Events, adjacency: str, interval: float = _GRID) -> tuple[float, float]:
    """Upper bounds on the cells of dp_accounting's loss distributions: of the widest step, and of all together.

    Args:
      released: (event, count) pairs, of kinds that have a loss distribution.
      adjacency: of the ledger.
      interval: width of a cell.

    One step takes the range of its loss, a list of length l (Gaussian steps are merged into one before). n steps take
    at most n times that, and at most what is left when tails of 1e-15 are cut off by Chernoff bounds at orders k / l: a
    loss that is never farther than l from its mean has there a moment of at most 1 + variance / l^2 (exp(k) - 1 - k).

    Source: Bennett 1962 (moments of bounded variables).

    >>> step = MechanismEvent("gaussian", noise_multiplier=1e-3)
    >>> one, together = cells_of(((step, 1),), "add_or_remove_one")
    >>> f"{one:.1e}"
    '2.0e+09'
    """
    widest = total = 0.0
    for event, count in loss_shapes.settled(released):
        for part in loss_shapes.parts_of(event, adjacency):
            if isinstance(part, loss_shapes.GaussianPart):
                part, count = loss_shapes.GaussianPart(count * part.mu_squared), 1
            variance, width = privacy_loss.spread(part)
            length = width / interval + 2
            share = variance / (interval * length) ** 2
            tails = (count * np.log1p(share * (np.exp(_ORDERS) - 1 - _ORDERS)) + math.log(2e15)) / _ORDERS
            widest = max(widest, length)
            total += length * min(float(count), 2 * float(np.min(tails)) + 1)
    return widest, total


def _relation(adjacency: str) -> Any:
    from dp_accounting import NeighboringRelation

    relations: Mapping[str, Any] = {
        "add_or_remove_one": NeighboringRelation.ADD_OR_REMOVE_ONE,
        "replace_one": NeighboringRelation.REPLACE_ONE,
        "replace_special": NeighboringRelation.REPLACE_SPECIAL,
    }
    return relations[adjacency]


@functools.lru_cache(maxsize=512)
def _second_opinion(
    released: Events, delta: float, adjacency: str, conversion: str, interval: float = _GRID
) -> float | None:
    """dp_accounting's epsilon, None where it has no analysis."""
    import dp_accounting
    from dp_accounting import pld, rdp

    if not released:
        return None
    if conversion == "pld" and adjacency == REPLACE_ONE:
        return None  # its events would have to be scaled differently for the two accountants
    try:
        event = compose_dp_event(released, adjacency)
        if conversion == "gaussian_exact":
            return _exactly(event, delta)
        if conversion == "rdp":
            accountant: Any = rdp.RdpAccountant(neighboring_relation=_relation(adjacency))
        else:
            accountant = pld.PLDAccountant(_relation(adjacency), value_discretization_interval=interval)
        if not accountant.supports(event):
            return None
        epsilon = float(accountant.compose(event).get_epsilon(delta))
    except (InvalidInput, dp_accounting.privacy_accountant.UnsupportedEventError):
        return None
    return epsilon if math.isfinite(epsilon) else None


def _exactly(event: Any, delta: float) -> float | None:
    """dp_accounting's exact epsilon of a composition of Gaussian releases; None when there is anything else in it."""
    precision = 0.0
    for one in event.events:
        if type(one.event).__name__ != "GaussianDpEvent":
            return None
        precision += one.count / one.event.noise_multiplier**2
    exact = exact_gaussian()
    return None if exact is None else float(exact(precision**-0.5, delta))
