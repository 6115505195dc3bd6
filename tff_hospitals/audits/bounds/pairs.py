"""What pairs of runs prove: an attacker is shown one run with the unit and one without, and says which is which.

Whatever the attacker looks at, the chance to be right is at most the area above the trade-off curve of the mechanism.
Pairs are independent, so that the number of right answers is binomial, and an exact lower limit of the chance that
rules out a curve rules out the ledger that promises it. No count of rare events is needed, so that some thousands of
pairs have power at small epsilon.

To state the outcome as an epsilon, the same releases with less noise are looked for that would just allow such a chance
(as Nasr et al. 2023, arXiv:2302.07956, do with the trade-off curve of the mechanism); ruling out the ledger needs no
such family.

>>> from tff_hospitals.accounting.loss_shapes import GaussianPart
>>> promised = ((GaussianPart(mu_squared=1.0), 1),)  # area .760
>>> honest = judge(right=7500, pairs=10_000, promised=promised, delta=1e-3, confidence=0.999)
>>> round(honest.lower_bound, 2), round(honest.promised_epsilon, 2), honest.passed, round(honest.notices_below, 3)
(2.73, 3.14, True, 0.915)
>>> judge(right=8200, pairs=10_000, promised=promised, delta=1e-3, confidence=0.999).passed
False
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from tff_hospitals.accounting import epsilon as epsilon_lib
from tff_hospitals.accounting.loss_shapes import Composition
from tff_hospitals.accounting.trade_off import trade_off, with_noise
from tff_hospitals.audits.self_tests.measures import POWER
from tff_hospitals.foundations.validation import in_range, raise_if, whole_number

_LEAST, _MOST = 0.2, 100.0  # noise over the promised one that is looked at
_PRECISION = 1e-3  # relative, of that noise: bounds are rounded down


@dataclasses.dataclass(frozen=True)
class Judged:
    """What some pairs prove.

    Attributes:
      right, pairs: answers.
      area: share of right answers.
      area_low: what the true chance is at least, with `confidence`.
      promised_area: chance at most by the ledger.
      lower_bound: epsilon that is proved.
      promised_epsilon: the tight epsilon of the ledger's releases.
      passed: the ledger is not ruled out.
      notices_below: noise over the declared one below which so many pairs would have ruled the ledger out, with
        probability .95; 0 where they never would.
    """

    right: int
    pairs: int
    area: float
    area_low: float
    promised_area: float
    lower_bound: float
    promised_epsilon: float
    confidence: float
    passed: bool
    notices_below: float


def right_answers(present: np.ndarray, absent: np.ndarray) -> int:
    """How often the run with the unit scores higher; ties are wrong answers.

    Args:
      present, absent: scores [pairs] of independent runs with and without the unit.
    """
    return int((np.asarray(present) > np.asarray(absent)).sum())


def judge(*, right: int, pairs: int, promised: Composition, delta: float, confidence: float) -> Judged:
    """Holds the right answers against a promise.

    Args:
      right: answers out of `pairs`.
      promised: the releases of the ledger, with a trade-off curve.
      delta: of the ledger.
      confidence: of the lower limit.
    """
    raise_if(
        [
            whole_number("pairs", pairs, low=1, remedy="run one pair or more"),
            whole_number("right", right, low=0, high=pairs, remedy="count right answers out of the pairs"),
            in_range("confidence", confidence, low=0.5, high=1.0, high_open=True, remedy="give 0.999"),
        ]
    )
    area_low = lower_limit(right, pairs, confidence)
    promised_area = trade_off(promised).area
    return Judged(
        right=right,
        pairs=pairs,
        area=right / pairs,
        area_low=area_low,
        promised_area=promised_area,
        lower_bound=epsilon_of_area(area_low, promised, delta),
        promised_epsilon=epsilon_lib.composed_epsilon(promised, delta, "pld"),
        confidence=confidence,
        passed=area_low <= promised_area,
        notices_below=noticed(pairs, promised, confidence),
    )


def lower_limit(right: int, pairs: int, confidence: float) -> float:
    """What a chance is at least, given right answers (Clopper and Pearson 1934, one-sided)."""
    from scipy import special

    return 0.0 if right == 0 else float(special.betaincinv(right, pairs - right + 1, 1.0 - confidence))


def epsilon_of_area(area: float, promised: Composition, delta: float) -> float:
    """Epsilon of the promised releases with as much noise as would just allow this chance; 0 for one half or less."""
    if area <= 0.5:
        return 0.0
    return least_epsilon(promised, delta, lambda ratio: _area(promised, ratio) <= area)


def least_epsilon(promised: Composition, delta: float, ruled_out: Callable[[float], bool]) -> float:
    """The epsilon of the promised releases at the least noise that is ruled out; 0 where not even much noise is.

    Args:
      promised: of the ledger.
      delta: of the epsilon.
      ruled_out: whether releases with so much noise, over the promised one, are ruled out; more noise then is, too.
    """
    if not ruled_out(_MOST):
        return 0.0
    return epsilon_lib.composed_epsilon(with_noise(promised, _where(ruled_out)), delta, "pld")


def noticed(pairs: int, promised: Composition, confidence: float) -> float:
    """Noise over the promised one below which so many pairs rule the promise out, with probability `POWER`."""
    needed = _chance_to_be_noticed(pairs, trade_off(promised).area, confidence)
    if needed >= _area(promised, _LEAST):
        return 0.0
    return _where(lambda ratio: _area(promised, ratio) <= needed)


def pairs_to_notice(ratio: float, promised: Composition, confidence: float) -> int:
    """How many pairs notice noise of `ratio` times the promised one with probability `POWER`."""
    most, broken = trade_off(promised).area, _area(promised, ratio)
    low, high = 16, 1 << 24
    while high - low > 1:
        middle = (low + high) // 2
        enough = _chance_to_be_noticed(middle, most, confidence) <= broken
        low, high = (low, middle) if enough else (middle, high)
    return high


def _chance_to_be_noticed(pairs: int, most: float, confidence: float) -> float:
    """The chance from which on a promise of `most` is ruled out with probability `POWER`; 1: it never is."""
    from scipy import special, stats

    least = int(stats.binom.isf(1.0 - confidence, pairs, most)) + 1  # right answers that rule it out
    return float(special.betaincinv(least, pairs - least + 1, POWER)) if least <= pairs else 1.0


def _area(promised: Composition, ratio: float) -> float:
    return trade_off(with_noise(promised, ratio)).area


def _where(little: Callable[[float], bool]) -> float:
    """The ratio of noise from which on the chance is as small as `little` asks."""
    low, high = _LEAST, _MOST
    while high / low > 1 + _PRECISION:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if little(middle) else (middle, high)
    return high
