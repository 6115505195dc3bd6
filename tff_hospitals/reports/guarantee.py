"""What one run promises: every number from the ledger that accounted for the run.

`guarantee_page` says it to an ethics board in the order of NIST SP 800-226 (March 2025), `guarantee_json` to machines.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tff_hospitals.accounting import CONVERSIONS, Ledger
from tff_hospitals.accounting import trade_off as curves
from tff_hospitals.accounting.loss_shapes import Composition, compose
from tff_hospitals.accounting.statements import meaning
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.odometer import Total

RATES = (0.01, 0.05, 0.1)
"""Rates of false alarms at which the page says what an attacker can reach."""
_MOST_CURVES = 32  # of hospitals that differ; one takes some tenths of a second


@dataclasses.dataclass(frozen=True)
class UnitGuarantee:
    """What the ledger says of one unit of privacy.

    Attributes:
      unit: "record" or "hospital".
      epsilons: at the ledger's delta, of the worst hospital, by every conversion that can handle all releases.
      stated: the conversion of the epsilon that the run states.
      worst: the hospital with the largest epsilon; None: the same for all.
      curve: the trade-off curve that holds for every hospital; None where no loss distribution is known.
      of_all: False where there are too many different hospitals, so that the curve is that of the worst alone.
      like_gaussian: whether whole-number noise was counted as Gaussian in the curve.
      noise_by: who adds the noise, a key of `TRUST`.
      sampling: what the accounting assumes of the sampling, one entry per kind of release.
      releases: how many noisy releases there were.
    """

    unit: str
    epsilons: Mapping[str, float]
    stated: str
    worst: str | None
    curve: curves.TradeOff | None
    of_all: bool
    like_gaussian: bool
    noise_by: str
    sampling: tuple[str, ...]
    releases: int

    @property
    def epsilon(self) -> float:
        """The epsilon that the run states."""
        return self.epsilons[self.stated]


@dataclasses.dataclass(frozen=True)
class Facts:
    """All that a page about one run is made of.

    Attributes:
      plan, ledger, summary, record: of the run.
      units: what the ledger says, one entry for each protected unit; empty without a mechanism.
      joint: what all runs on the same data released together, by unit; None where nobody can tell.
      without_guarantee: how many runs on the same data, this one left out, no epsilon covers.
      audit: the promise part of its audit; None: not audited.
      research: whether it is published as research on public data.
    """

    plan: Plan
    ledger: Ledger
    summary: Mapping[str, Any]
    record: Mapping[str, Any]
    units: tuple[UnitGuarantee, ...]
    joint: Mapping[str, Total] | None
    without_guarantee: int
    audit: Mapping[str, Any] | None
    research: bool


def facts(
    plan: Plan,
    ledger: Ledger,
    summary: Mapping[str, Any],
    record: Mapping[str, Any],
    *,
    joint: Sequence[Total] | None = None,
    without_guarantee: int = 0,
    audit: Mapping[str, Any] | None = None,
    research: bool = False,
) -> Facts:
    """Collects what a page says; see `Facts`."""
    units = tuple(_of_unit(plan, ledger, unit, summary) for unit in ledger.units())
    known = None if joint is None else {total.unit: total for total in joint}
    promise = (audit or {}).get("promise")
    return Facts(plan, ledger, summary, record, units, known, without_guarantee, promise, research)


def _of_unit(plan: Plan, ledger: Ledger, unit: str, summary: Mapping[str, Any]) -> UnitGuarantee:
    second = unit == summary.get("second_unit")
    stated = str(summary["second_conversion" if second else "conversion"])
    _, worst = ledger.worst_epsilon(unit, stated)
    hospitals: tuple[str | None, ...] = ledger.hospital_ids(unit) or (None,)
    compositions = list(dict.fromkeys(compose(ledger.events(unit, of), ledger.adjacency) for of in hospitals))
    of_all = len(compositions) <= _MOST_CURVES
    if not of_all:
        compositions = [compose(ledger.events(unit, worst), ledger.adjacency)]
    curve, like = _curve(compositions)
    events = ledger.events(unit, worst)
    epsilons = {name: ledger.epsilon(unit, None, name) for name in ledger.conversions(unit)}
    by = (mechanisms.hospital_level if unit == "hospital" else mechanisms.of)(plan.privacy).noise_by
    sampling = tuple(dict.fromkeys(event.sampling for event, _ in events))
    releases = sum(count for _, count in events)
    return UnitGuarantee(unit, epsilons, stated, worst, curve, of_all, like, by, sampling, releases)


def _curve(compositions: Sequence[Composition]) -> tuple[curves.TradeOff | None, bool]:
    """The lowest curve of any composition, and whether whole-number noise was counted as Gaussian for it."""
    import numpy as np

    for like in (False, True):
        try:
            found = [curves.trade_off(curves.like_gaussian(one) if like else one) for one in compositions]
        except InvalidInput:  # no loss distribution, or none of a size that fits
            continue
        if all(one.mu is not None for one in found):
            return max(found, key=lambda one: one.mu or 0.0), like
        fpr = np.unique(np.concatenate([one.fpr for one in found]))
        fnr = np.minimum.reduce([[one.fnr_at(float(rate)) for rate in fpr] for one in found])
        return curves.TradeOff(fpr, fnr, max(one.area for one in found)), like
    return None, False


def conversions_words(one: UnitGuarantee) -> list[tuple[str, str, str]]:
    """Name, epsilon and what the conversion is, for a table; the stated one first."""
    ordered = sorted(one.epsilons, key=lambda name: name != one.stated)
    return [(name, _text(one.epsilons[name]), CONVERSIONS[name]) for name in ordered]


def strength(one: UnitGuarantee, ledger: Ledger) -> list[str]:
    """What an attacker can reach, in sentences."""
    found = [meaning(one.epsilon, ledger.delta, ledger.adjacency)] if math.isfinite(one.epsilon) else []
    if one.curve is not None:
        for rate in RATES:
            hits = 1.0 - one.curve.fnr_at(rate)
            found.append(
                f"An attacker who accuses {100 * rate:g} % of those who were not used finds at most {100 * hits:.1f} % "
                "of those who were."
            )
        if one.curve.mu is not None:
            found.append(f"It is Gaussian differential privacy with mu = {one.curve.mu:.4g}.")
        if not one.of_all:
            found.append(f"The curve is that of {one.worst} alone, the hospital with the largest epsilon.")
        if one.like_gaussian:
            found.append("The curve counts whole-number noise as Gaussian noise of the same size.")
    return found


def _text(epsilon: float) -> str:
    return "none" if math.isinf(epsilon) else f"{epsilon:.4g}"
