"""What an attacker can achieve against a guarantee: the whole trade-off between false alarms and missed units.

An attacker who knows all but one unit guesses whether it was used. A rule that raises a false alarm with chance `fpr`
misses the unit with chance `fnr`; whatever the rule, `fnr` is at least the trade-off curve at `fpr`. One pair (epsilon,
delta) is one line below this curve; the curve is all that the ledger promises.

>>> curve = trade_off(((GaussianPart(mu_squared=1.0), 1),))  # one release, as noisy as it is sensitive
>>> curve.mu, round(curve.fnr_at(0.05), 3), round(curve.area, 3)  # the table of the normal distribution: 1 - .260
(1.0, 0.74, 0.76)

Sources: Dong, Roth and Su 2019, "Gaussian differential privacy", arXiv:1905.02383; from loss distributions: Zhu, Dong
and Wang 2022, "Optimal accounting of differential privacy via characteristic function", arXiv:2106.08567.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from tff_hospitals.accounting import gaussian, privacy_loss, whole_numbers
from tff_hospitals.accounting.epsilon import conversion_problem
from tff_hospitals.accounting.loss_shapes import (
    Composition,
    DiscreteGaussianPart,
    FixedSizePart,
    GaussianPart,
    MixturePart,
    Part,
    PoissonPart,
    SelectionPart,
    SkellamPart,
)
from tff_hospitals.foundations import validation

_POINTS = 257  # of a Gaussian curve


@dataclasses.dataclass(frozen=True, eq=False)
class TradeOff:
    """The trade-off curve of a composition.

    Attributes:
      fpr: float64 [points], chance of a false alarm, ascending from 0 to 1.
      fnr: float64 [points], the smallest chance to miss the unit at that rate of false alarms, descending.
      area: above the curve: chance at most to tell which of two runs had the unit, one with and one without it.
      mu: of the Gaussian mechanism that it all amounts to; None where noise on samples is part of it.
    """

    fpr: np.ndarray
    fnr: np.ndarray
    area: float
    mu: float | None = None

    def fnr_at(self, fpr: float) -> float:
        """The curve at one rate of false alarms."""
        if self.mu is not None:
            return float(_gaussian_fnr(np.array([fpr]), self.mu)[0])
        return float(np.interp(fpr, self.fpr, self.fnr))


def trade_off(composition: Composition) -> TradeOff:
    """The trade-off curve of a composition, from its loss distribution (a lower bound of the true curve).

    Args:
      composition: of `loss_shapes.compose`, with noise in every part.

    Raises:
      InvalidInput: a part without a loss distribution; `like_gaussian` stands in for whole-number noise.
    """
    validation.raise_if([_bounds_alone(composition) or conversion_problem(composition, "pld")])
    if all(isinstance(part, GaussianPart) for part, _ in composition):
        mu = gaussian.total_mu(composition)
        # Dense in both tails: equal steps on the scale of deviations.
        rates = np.concatenate([[0.0], _cdf(np.linspace(-8.0, 8.0, _POINTS)), [1.0]])
        return TradeOff(rates, _gaussian_fnr(rates, mu), float(_cdf(np.array([mu / math.sqrt(2)]))[0]), mu)
    fpr, fnr = _points(composition)
    return TradeOff(fpr, fnr, 1.0 - float(np.sum(np.diff(fpr) * (fnr[1:] + fnr[:-1]) / 2)))


def _bounds_alone(composition: Composition) -> validation.Problem | None:
    """Why there is no curve, although `pld` has an epsilon: of these it bounds epsilon and delta alone."""
    bound = "has a bound on epsilon and delta, but no loss distribution"
    if any(isinstance(part, SelectionPart) for part, _ in composition):
        return validation.Problem("event.kind", "selection", bound, "take the trade-off curve of one run")
    if whole_numbers.is_whole(composition):
        return validation.Problem("event.kind", "whole-number noise", bound, "take the curve of `like_gaussian`")
    return None


def _points(composition: Composition) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds on the loss, from the highest down; each half from the direction in which it has full precision."""
    present, absent = privacy_loss.composed(composition)
    alarms, hits = _tails(present)
    misses, quiet = (
        tail[: np.count_nonzero(absent.values)] for tail in _tails(absent)
    )  # a loss of 0: in the other half
    fpr = np.concatenate([[0.0], alarms, (1.0 - quiet)[::-1], [1.0]])
    fnr = np.concatenate([[1.0 - present.infinite], 1.0 - hits, misses[::-1], [0.0]])
    fpr, fnr = np.clip(fpr, 0.0, 1.0), np.clip(fnr, 0.0, 1.0)
    return np.maximum.accumulate(fpr), np.minimum.accumulate(fnr)


def _tails(composed: privacy_loss.ComposedLoss) -> tuple[np.ndarray, np.ndarray]:
    """Chances of a loss of at least each value, from the largest down: under the second hypothesis and the first."""
    mass = composed.mass[::-1]
    return np.cumsum(mass * np.exp(-composed.values[::-1])), composed.infinite + np.cumsum(mass)


def _cdf(values: np.ndarray) -> np.ndarray:
    from scipy import special

    return np.asarray(special.ndtr(values))


def _gaussian_fnr(fpr: np.ndarray, mu: float) -> np.ndarray:
    from scipy import special

    return _cdf(-special.ndtri(fpr) - mu)


def like_gaussian(composition: Composition) -> Composition:
    """Whole-number noise counted as Gaussian noise of the same deviation: what its attacker sees, not a proof.

    On a fine grid nobody can tell them apart; the accountant's own bounds for them are slightly larger.

    >>> like_gaussian(((SkellamPart(l2_squared=4.0, l1=9.0, variance=16.0), 3),))
    ((GaussianPart(mu_squared=0.75), 1.0),)
    """
    others: dict[Part, float] = {}
    mu_squared = 0.0
    for part, count in composition:
        if isinstance(part, GaussianPart):
            mu_squared += count * part.mu_squared
        elif isinstance(part, DiscreteGaussianPart):
            mu_squared += count * part.l2_scale**2
        elif isinstance(part, SkellamPart):
            mu_squared += count * part.l2_squared / part.variance
        else:
            others[part] = others.get(part, 0.0) + count
    return (*others.items(), *([(GaussianPart(mu_squared), 1.0)] if mu_squared else []))


def with_noise(composition: Composition, ratio: float) -> Composition:
    """The same releases with `ratio` times the noise; parts that are Gaussian, sampled or not.

    >>> with_noise(((GaussianPart(mu_squared=1.0), 1), (PoissonPart(sampling_probability=0.1, sigma=1.0), 5)), 2.0)
    ((GaussianPart(mu_squared=0.25), 1), (PoissonPart(sampling_probability=0.1, sigma=2.0), 5))
    """
    return tuple((_with_noise(part, ratio), count) for part, count in composition)


@functools.singledispatch
def _with_noise(part: Part, ratio: float) -> Part:
    raise TypeError(f"{part} has no noise that could be scaled")


@_with_noise.register
def _(part: GaussianPart, ratio: float) -> Part:
    return GaussianPart(part.mu_squared / ratio**2)


@_with_noise.register
def _(part: PoissonPart, ratio: float) -> Part:
    return dataclasses.replace(part, sigma=part.sigma * ratio)


@_with_noise.register
def _(part: MixturePart, ratio: float) -> Part:
    return dataclasses.replace(part, sigma=part.sigma * ratio)


@_with_noise.register
def _(part: FixedSizePart, ratio: float) -> Part:
    return dataclasses.replace(part, sigma=part.sigma * ratio)
