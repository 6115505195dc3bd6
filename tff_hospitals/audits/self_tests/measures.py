"""What a self-test measures, how surprising it is if all is well, and what it would have noticed.

Every measure gives a probability of what was seen under the promise, the limits outside of which it is a finding at a
given error probability, and its power. Nothing here knows where the numbers come from.

>>> honest = Loudness(total=2480.0, draws=2500)  # 2,500 squared draws of noise over its declared variance
>>> round(honest.figure, 3), [round(one, 3) for one in honest.limits(1e-6)], round(honest.power(1e-6), 3)
(0.996, [0.932, 1.07], 0.974)
>>> honest.notices(1e-6)
'noise below 0.91 or above 1.1 of what is declared'
>>> draws_for_loudness(1e-6)
2280
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math

import numpy as np

POWER = 0.95
"""How surely a test finds what it says that it would have noticed."""
QUIET, LOUD = 0.9, 1.1
"""Deviations of noise, over what is declared, that every loudness test should find."""


class Measure(abc.ABC):
    """The contract of a measure. `error` is the error probability that a test may spend."""

    exact = False  # whether it is a fact that chance plays no part in

    @property
    @abc.abstractmethod
    def figure(self) -> float:
        """The number that was seen."""

    @property
    @abc.abstractmethod
    def p_value(self) -> float:
        """Chance of such a figure, or a more surprising one, if all is as declared; 0 or 1 for an exact measure."""

    @abc.abstractmethod
    def limits(self, error: float) -> tuple[float | None, float | None]:
        """The smallest and largest figure that is no finding; None where there is no such side."""

    @abc.abstractmethod
    def power(self, error: float) -> float:
        """Chance to find the fault that the measure is named for: noise of .9 or 1.1, a quarter in common, ..."""

    @abc.abstractmethod
    def notices(self, error: float) -> str:
        """What would have been found with probability `POWER`."""


@dataclasses.dataclass(frozen=True)
class Loudness(Measure):
    """The size of noise: the sum of squared draws, each over its declared variance, of normal noise.

    Attributes:
      total: the sum.
      draws: how many independent draws.
    """

    total: float
    draws: int

    @property
    def figure(self) -> float:
        """Deviation over the declared one."""
        return math.sqrt(self.total / self.draws)

    @property
    def p_value(self) -> float:
        """Two-sided: too loud is wrong too."""
        below, above = _chi2_tails(self.total, self.draws)
        return min(1.0, 2 * min(below, above))

    def limits(self, error: float) -> tuple[float, float]:
        """Of the deviation over the declared one."""
        low, high = _loudness_limits(self.draws, error)
        return math.sqrt(low / self.draws), math.sqrt(high / self.draws)

    def power(self, error: float) -> float:
        """Chance to find noise of .9 and of 1.1 (the smaller one)."""
        low, high = _loudness_limits(self.draws, error)
        return min(_chi2_tails(low / QUIET**2, self.draws)[0], _chi2_tails(high / LOUD**2, self.draws)[1])

    def notices(self, error: float) -> str:
        """Both ratios."""
        quiet, loud = self.range(error)
        return f"noise below {quiet:.3g} or above {loud:.3g} of what is declared"

    def range(self, error: float) -> tuple[float, float]:
        """Deviations outside of which noise is found with probability `POWER`."""
        low, high = _loudness_limits(self.draws, error)
        loud, quiet = _loudness_limits(self.draws, 2 * (1 - POWER))
        return math.sqrt(low / quiet), math.sqrt(high / loud)


@functools.lru_cache(maxsize=4096)
def _loudness_limits(draws: int, error: float) -> tuple[float, float]:
    from scipy import stats

    return float(stats.chi2.ppf(error / 2, draws)), float(stats.chi2.isf(error / 2, draws))


def _chi2_tails(total: float, draws: int) -> tuple[float, float]:
    from scipy import special

    return float(special.chdtr(draws, total)), float(special.chdtrc(draws, total))


@functools.lru_cache(maxsize=64)
def draws_for_loudness(error: float) -> int:
    """How many draws find noise of .9 and of 1.1 with probability `POWER`."""
    low, high = 16, 1 << 20
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if Loudness(middle, middle).power(error) >= POWER else (middle, high)
    return high


@dataclasses.dataclass(frozen=True)
class Correlation(Measure):
    """The largest correlation of many pairs of noises that should have nothing in common.

    Attributes:
      largest: the correlation of the closest pair, with its sign.
      draws: numbers in each of them.
      pairs: that were compared.
    """

    largest: float
    draws: int
    pairs: int

    @property
    def figure(self) -> float:
        """The largest correlation, without its sign."""
        return abs(self.largest)

    @property
    def p_value(self) -> float:
        """Of the closest pair, times the number of pairs."""
        from scipy import stats

        freedom = max(1, self.draws - 2)
        r = min(self.figure, 1.0 - 1e-15)
        return min(1.0, 2 * self.pairs * float(stats.t.sf(r * math.sqrt(freedom / (1 - r * r)), freedom)))

    def limits(self, error: float) -> tuple[None, float]:
        """The largest correlation of so many pairs that chance explains."""
        from scipy import stats

        freedom = max(1, self.draws - 2)
        t = float(stats.t.isf(error / (2 * self.pairs), freedom))
        return None, t / math.sqrt(freedom + t * t)

    def power(self, error: float) -> float:
        """Chance to find two noises that have a quarter of their variance in common."""
        return float(_normal_cdf((math.atanh(0.25) - math.atanh(self.limits(error)[1])) * self._precision))

    def notices(self, error: float) -> str:
        """The smallest correlation."""
        r = math.tanh(math.atanh(self.limits(error)[1]) + _normal_quantile(POWER) / self._precision)
        return f"noises with a correlation above {r:.2g}"

    @property
    def _precision(self) -> float:  # of Fisher's transform
        return math.sqrt(max(1, self.draws - 3))


@dataclasses.dataclass(frozen=True)
class Shape(Measure):
    """Whether draws are normal at all: the largest distance between two distribution functions (Kolmogorov, Smirnov).

    Attributes:
      distance: between the draws' and the normal one.
      draws: how many.
    """

    distance: float
    draws: int

    UNIFORM = 0.0572  # distance of uniform noise of the same deviation from normal noise

    @classmethod
    def of(cls, values: np.ndarray) -> Shape:
        """Of draws that should be unit normals."""
        from scipy import stats

        return cls(float(stats.kstest(values, "norm").statistic), len(values))

    @property
    def figure(self) -> float:
        """The distance."""
        return self.distance

    @property
    def p_value(self) -> float:
        """By the exact distribution."""
        from scipy import stats

        return float(stats.kstwo.sf(self.distance, self.draws))

    def limits(self, error: float) -> tuple[None, float]:
        """The largest distance that chance explains."""
        from scipy import stats

        return None, float(stats.kstwo.isf(error, self.draws))

    def power(self, error: float) -> float:
        """Chance at least to find uniform noise: at its farthest point a binomial count alone gives it away."""
        return float(_normal_cdf(2 * math.sqrt(self.draws) * (self.UNIFORM - self.limits(error)[1])))

    def notices(self, error: float) -> str:
        """The distance."""
        far = self.limits(error)[1] + _normal_quantile(POWER) / (2 * math.sqrt(self.draws))
        return f"a distribution function that is off by {far:.2g} somewhere"


@dataclasses.dataclass(frozen=True)
class Share(Measure):
    """A count of independent events of a declared probability, such as records that were sampled.

    Attributes:
      count: of events.
      trials: in which they could have happened.
      declared: probability of each.
    """

    count: int
    trials: int
    declared: float

    @property
    def figure(self) -> float:
        """The share over the declared one."""
        return self.count / (self.trials * self.declared)

    @property
    def p_value(self) -> float:
        """Two-sided, exact."""
        from scipy import stats

        low = float(stats.binom.cdf(self.count, self.trials, self.declared))
        high = float(stats.binom.sf(self.count - 1, self.trials, self.declared))
        return min(1.0, 2 * min(low, high))

    def limits(self, error: float) -> tuple[float, float]:
        """Of the share over the declared one."""
        low, high = self._counts(error)
        return low / (self.trials * self.declared), high / (self.trials * self.declared)

    def _counts(self, error: float) -> tuple[int, int]:
        from scipy import stats

        low, high = stats.binom.ppf([error / 2, 1 - error / 2], self.trials, self.declared)
        return int(low), int(high)

    def power(self, error: float) -> float:
        """Chance to find a share of .9 and of 1.1 (the smaller one)."""
        from scipy import stats

        low, high = self._counts(error)
        few = float(stats.binom.cdf(low - 1, self.trials, QUIET * self.declared))
        many = float(stats.binom.sf(high, self.trials, min(1.0, LOUD * self.declared)))
        return min(few, many) if LOUD * self.declared < 1 else few

    def notices(self, error: float) -> str:
        """Both ratios, to two digits."""
        low, high = self.limits(error)
        spread = _normal_quantile(POWER) * math.sqrt((1 - self.declared) / (self.trials * self.declared))
        return f"a share below {low - spread:.2g} or above {high + spread:.2g} of the declared one"


@dataclasses.dataclass(frozen=True)
class Spread(Measure):
    """How much counts vary that should be binomial: the sum of their squared deviations over the variance.

    Attributes:
      total: the sum.
      counts: how many.
      excess: excess kurtosis of one count.
    """

    total: float
    counts: int
    excess: float

    @classmethod
    def of(cls, counts: np.ndarray, trials: int | np.ndarray, probability: float) -> Spread:
        """Of counts out of so many trials each (of all, or of each count), 0 < probability < 1."""
        trials = np.broadcast_to(trials, counts.shape)
        counts, trials = counts[trials > 0], trials[trials > 0]
        variance = trials * probability * (1 - probability)
        total = float(((counts - trials * probability) ** 2 / variance).sum())
        excess = float(np.mean((1 - 6 * probability * (1 - probability)) / variance))
        return cls(total, len(counts), excess)

    @property
    def _factor(self) -> float:
        # A scaled chi-squared number with the first two moments of the sum has the right skew, which a normal lacks.
        return (2 + self.excess) / 2

    @property
    def _freedom(self) -> float:
        return self.counts / self._factor

    @property
    def figure(self) -> float:
        """Variance over the declared one."""
        return self.total / self.counts

    @property
    def p_value(self) -> float:
        """Two-sided, by the first two moments."""
        from scipy import stats

        below = float(stats.chi2.cdf(self.total / self._factor, self._freedom))
        above = float(stats.chi2.sf(self.total / self._factor, self._freedom))
        return min(1.0, 2 * min(below, above))

    def limits(self, error: float) -> tuple[float, float]:
        """Of the variance over the declared one."""
        from scipy import stats

        low, high = stats.chi2.ppf([error / 2, 1 - error / 2], self._freedom)
        return float(low) / self._freedom, float(high) / self._freedom

    def power(self, error: float) -> float:
        """Chance to find counts that do not vary at all, or twice as much."""
        from scipy import stats

        low, high = self.limits(error)
        return float(low > 0) * float(stats.chi2.sf(high * self._freedom / 2, self._freedom))

    def notices(self, error: float) -> str:
        """Both variances."""
        from scipy import stats

        low, high = self.limits(error)
        quiet, loud = stats.chi2.ppf([POWER, 1 - POWER], self._freedom) / self._freedom
        return f"a variance below {low / float(quiet):.2g} or above {high / float(loud):.2g} of the declared one"


@dataclasses.dataclass(frozen=True)
class AtMost(Measure):
    """A figure that may not exceed a limit, chance playing no part.

    Attributes:
      value: what was seen, the worst of all that was tried.
      limit: what is allowed.
      words: what would have been noticed.
    """

    value: float
    limit: float
    words: str = ""

    exact = True

    @property
    def figure(self) -> float:
        """The worst value."""
        return self.value

    @property
    def p_value(self) -> float:
        """0 beyond the limit; a value that is not a number is beyond it."""
        return 1.0 if self.value <= self.limit else 0.0

    def limits(self, error: float) -> tuple[None, float]:
        """The limit."""
        return None, self.limit

    def power(self, error: float) -> float:
        """Whatever is beyond the limit is found."""
        return 1.0

    def notices(self, error: float) -> str:
        """In words."""
        return self.words or f"anything above {self.limit:.6g}"


def differences(count: int, words: str) -> AtMost:
    """A comparison of two lists that should be equal: how many entries differ."""
    return AtMost(float(count), 0.0, words)


def _normal_cdf(value: float) -> float:
    return 0.5 * math.erfc(-value / math.sqrt(2))


def _normal_quantile(probability: float) -> float:
    from scipy import special

    return float(special.ndtri(probability))
