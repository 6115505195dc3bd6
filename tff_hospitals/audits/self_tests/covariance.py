"""Do the noises of rounds, or of the steps of a round, hang together as the mechanism declares: is their covariance so?

What should be independent is left when the declared dependence C^-1 is taken out of the noise. Its sample covariance is
then that of unit normals: in the Cholesky factor of the sum of squares the numbers below the diagonal are independent
unit normals, exactly (Bartlett 1933, "On the theory of statistical regression", Proceedings of the Royal Society of
Edinburgh 53). The sum of their squares is chi-squared, and both of its ends are tested: noises that go together in
another way are too large a sum, noises that were made to look alike too small a one. How loud each round is, is the
diagonal's business, which `loudness` tests.

>>> rows = np.random.default_rng(1).normal(size=(3, 500))
>>> rows[2] += 0.4 * rows[0]  # a coefficient that the mechanism did not declare
>>> [round(of_rows(rows[:2]).p_value, 2), of_rows(rows).p_value < 1e-9]
[0.08, True]
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tff_hospitals.audits.self_tests.findings import Finding
from tff_hospitals.audits.self_tests.looks import spread
from tff_hospitals.audits.self_tests.measures import POWER, Measure
from tff_hospitals.audits.self_tests.noises import Observed

_MOST_ROWS = 128


@dataclasses.dataclass(frozen=True)
class Covariance(Measure):
    """What noises have in common that should be independent.

    Attributes:
      total: sum of the squared numbers below the diagonal of the Cholesky factor.
      pairs: how many numbers.
      draws: of each noise.
    """

    total: float
    pairs: int
    draws: int

    SHARED = 0.25  # correlation of one pair that the power is stated for

    @property
    def figure(self) -> float:
        """Over its mean."""
        return self.total / self.pairs

    @property
    def p_value(self) -> float:
        """Two-sided."""
        from scipy import special

        below, above = special.chdtr(self.pairs, self.total), special.chdtrc(self.pairs, self.total)
        return min(1.0, 2 * float(min(below, above)))

    def limits(self, error: float) -> tuple[float, float]:
        """Of the sum over its mean."""
        from scipy import stats

        low, high = stats.chi2.ppf(error / 2, self.pairs), stats.chi2.isf(error / 2, self.pairs)
        return float(low) / self.pairs, float(high) / self.pairs

    def power(self, error: float) -> float:
        """Chance to find two noises with a correlation of a quarter."""
        from scipy import stats

        return float(stats.ncx2.sf(self.limits(error)[1] * self.pairs, self.pairs, self.draws * self.SHARED**2))

    def notices(self, error: float) -> str:
        """The smallest correlation of one pair."""
        from scipy import optimize, stats

        high = self.limits(error)[1] * self.pairs
        excess = optimize.brentq(lambda one: stats.ncx2.sf(high, self.pairs, one) - POWER, 1e-6, 1e5)
        return f"two noises with a correlation above {min(1.0, float(np.sqrt(excess / self.draws))):.2g}"


def of_rows(rows: np.ndarray) -> Covariance:
    """Of noises [noises, draws] with more draws than noises, over their declared deviations."""
    count, draws = rows.shape
    # A little more on the diagonal: rows that are the same must not stop the audit that looks for them.
    factor = np.linalg.cholesky(rows @ rows.T + 1e-9 * draws * np.eye(count))
    return Covariance(float(np.square(np.tril(factor, -1)).sum()), count * (count - 1) // 2, draws)


def check(seen: Observed) -> list[Finding]:
    """The covariance of rounds (of the server's noise, or all hospitals'), and that of the parts of a round.

    Args:
      seen: noise from which the declared dependence was taken out.
    """
    found: list[Finding] = []
    if not seen.normal:  # whole numbers: not exact
        return found
    for name, rows in (("rounds", _of_rounds(seen)), ("steps", _of_steps(seen))):
        if len(rows) > 1 and rows.shape[1] > len(rows):
            measure = of_rows(rows)
            words = f"{len(rows)} {name}, {rows.shape[1]} draws each: {measure.figure:.3g} of what chance gives"
            found.append(Finding("covariance", f"{seen.name}, {name}", None, measure, words))
    return found


def _of_rounds(seen: Observed) -> np.ndarray:
    """One row for each round, over the hospitals and runs that have all of them."""
    by_place: dict[tuple[str | None, str], dict[int, np.ndarray]] = {}
    for one in seen.noises:
        by_place.setdefault((one.hospital, one.run), {})[one.round] = one.values
    chosen = [seen.rounds[at] for at in spread(len(seen.rounds), min(len(seen.rounds), _MOST_ROWS))]
    whole = [of for of in by_place.values() if all(number in of for number in chosen)]
    alike = [of for of in whole if len({of[number].shape for number in chosen}) == 1]
    if not alike:
        return np.zeros((0, 0))
    return np.concatenate([np.stack([of[number].ravel() for number in chosen]) for of in alike], axis=1)


def _of_steps(seen: Observed) -> np.ndarray:
    """One row for each part of a round, over hospitals, rounds and runs."""
    parts = max(len(one.values) for one in seen.noises)
    if parts < 2:
        return np.zeros((0, 0))
    rows = np.concatenate([one.values for one in seen.noises if len(one.values) == parts], axis=1)
    return rows[list(spread(parts, min(parts, _MOST_ROWS)))]
