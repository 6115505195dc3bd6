"""Strategies whose coefficients are known in closed form.

The square root of the prefix-sum matrix A is a Toeplitz matrix with the coefficients of (1 - x)^(-1/2), and so is its
inverse with those of (1 - x)^(1/2) (Fichtenberger, Henzinger and Upadhyay 2023, arXiv:2202.11205). Cut after some bands
it suits units that take part more than once (Kalinin and Lampert 2024, arXiv:2405.13763); cutting the inverse instead
needs to remember little noise (Kalinin, McMahan, Upadhyay and Lampert 2025, arXiv:2505.12128).
"""

from __future__ import annotations

import numpy as np

from tff_hospitals.accounting.strategies.strategy import Strategy
from tff_hospitals.foundations.validation import raise_if, whole_number


def identity(steps: int) -> Strategy:
    """Independent noise in every step: the plain Gaussian mechanism."""
    raise_if([whole_number("steps", steps, low=1, remedy="give the number of steps")])
    return Strategy("identity", steps, (1.0,))


def square_root(steps: int, bands: int | None = None) -> Strategy:
    """The square root of the prefix sums, cut after `bands` diagonals (None: not cut).

    Raises:
      InvalidInput: when steps or bands are below 1, or there are more bands than steps.

    >>> square_root(4).coefficients().tolist()
    [1.0, 0.5, 0.375, 0.3125]
    """
    _check(steps, bands)
    values = _half_power(bands or steps, -0.5)
    name = "sqrt" if bands is None else "bsr"
    return Strategy(name, steps, tuple(values.tolist()), settings=_settings(bands))


def inverse_square_root(steps: int, bands: int) -> Strategy:
    """The strategy whose *inverse* is that of the square root, cut after `bands` diagonals.

    Raises:
      InvalidInput: when steps or bands are below 1, or there are more bands than steps.

    >>> inverse_square_root(4, 2).inverse_coefficients().tolist()
    [1.0, -0.5, 0.0, 0.0]
    """
    _check(steps, bands)
    return Strategy("bisr", steps, (1.0,), tuple(_half_power(bands, 0.5).tolist()), settings=_settings(bands))


def _half_power(count: int, power: float) -> np.ndarray:
    """Coefficients of (1 - x) ** power: every one follows from the one before by a quotient."""
    index = np.arange(1, count)
    return np.concatenate([[1.0], np.cumprod((index - 1 - power) / index)])


def _settings(bands: int | None) -> tuple[tuple[str, int], ...]:
    return () if bands is None else (("bands", bands),)


def _check(steps: int, bands: int | None) -> None:
    problems = [whole_number("steps", steps, low=1, remedy="give the number of steps")]
    if bands is not None:
        problems.append(whole_number("bands", bands, low=1, high=steps, remedy="give 1 to as many bands as steps"))
    raise_if(problems)
