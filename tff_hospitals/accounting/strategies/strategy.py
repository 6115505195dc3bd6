"""A strategy matrix: lower triangular and Toeplitz, so that its first column says everything."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Strategy:
    """The lower-triangular Toeplitz matrix C of `steps` rows, as a quotient of two polynomials in the shift.

    C is `numerator(S) / denominator(S)`, where S moves a sequence by one step. A banded strategy has the denominator 1,
    a strategy of buffers has both of degree `buffers`; the plain square root is the numerator of `steps` terms.

    Attributes:
      name: a name in `STRATEGIES`.
      steps: rows and columns of C.
      numerator, denominator: float64 coefficients of the polynomials, that of the lowest power first.
      settings: what it was made from, for records.

    >>> one = Strategy("banded", 4, (1.0, 0.5), (1.0,))
    >>> one.coefficients().tolist(), one.inverse_coefficients().tolist()
    ([1.0, 0.5, 0.0, 0.0], [1.0, -0.5, 0.25, -0.125])
    """

    name: str
    steps: int
    numerator: tuple[float, ...]
    denominator: tuple[float, ...] = (1.0,)
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def bands(self) -> int | None:
        """Non-zero diagonals of C, or None where all of them may be non-zero."""
        if self.denominator != (1.0,):
            return None
        return min(self.steps, len(self.numerator))

    def coefficients(self, steps: int | None = None) -> np.ndarray:
        """First column of C, float64 [steps]."""
        return quotient(self.numerator, self.denominator, self.steps if steps is None else steps)

    def inverse_coefficients(self, steps: int | None = None) -> np.ndarray:
        """First column of C^-1, float64 [steps]: how the noise of a step enters the later ones."""
        return quotient(self.denominator, self.numerator, self.steps if steps is None else steps)

    def inverse_matrix(self, steps: int | None = None) -> np.ndarray:
        """C^-1: what each step adds of every unit normal, float64 [steps, steps].

        >>> Strategy("bsr", 3, (1.0, 0.5)).inverse_matrix().tolist()
        [[1.0, 0.0, 0.0], [-0.5, 1.0, 0.0], [0.25, -0.5, 1.0]]
        """
        column = self.inverse_coefficients(steps)
        age = np.subtract.outer(np.arange(len(column)), np.arange(len(column)))
        return np.where(age >= 0, column[np.abs(age)], 0.0)

    def inverse_buffers(self) -> tuple[np.ndarray, np.ndarray]:
        """C^-1 as buffers, for a strategy that is made of buffers: decays and scales, float64 [buffers] each.

        The inverse has the coefficients 1, then the real part of sum_j scale_j * decay_j^(t-1). Where two buffers turn
        into each other both arrays are complex, with one number for the two, its turn above 0.

        Raises:
          ValueError: when the numerator has double roots, so that no such buffers exist.

        >>> decays, scales = Strategy("blt", 4, (1.0, -0.25), (1.0, -0.5)).inverse_buffers()  # 1 + .25 x / (1 - .5 x)
        >>> decays.tolist(), scales.tolist()
        ([0.25], [-0.25])
        """
        own, roots = np.roots(self.denominator), np.roots(self.numerator)
        gaps = np.abs(roots[:, np.newaxis] - roots) + np.eye(len(roots))
        if len(roots) != len(own) or gaps.min() < 1e-9:
            raise ValueError(f"{self.name}: the inverse of this strategy cannot be written as buffers")
        scales = [np.prod(root - own) / np.prod(root - np.delete(roots, place)) for place, root in enumerate(roots)]
        turns = np.imag(roots)
        kept = turns > -1e-12
        decays, weights = roots[kept], np.where(turns > 1e-12, 2.0, 1.0)[kept] * np.array(scales)[kept]
        return (decays, weights) if np.any(turns > 1e-12) else (np.real(decays), np.real(weights))


def quotient(numerator: Any, denominator: Any, steps: int) -> np.ndarray:
    """The first `steps` coefficients of a quotient of power series, float64 [steps].

    >>> quotient([1.0], [1.0, -1.0], 4).tolist()  # 1 / (1 - x)
    [1.0, 1.0, 1.0, 1.0]
    """
    from scipy import signal

    above, below = (np.asarray(one, np.float64)[:steps] for one in (numerator, denominator))
    padded = np.zeros(steps)
    padded[: len(above)] = above
    if len(below) <= _SHORT:
        return signal.lfilter([1.0], below, padded)
    return signal.fftconvolve(padded, _reciprocal(below, steps))[:steps]


_SHORT = 512  # a recursion of so many terms is faster than Newton's iteration over Fourier transforms


def _reciprocal(series: np.ndarray, steps: int) -> np.ndarray:
    """The reciprocal of a power series by Newton's iteration, which doubles the number of right terms each time."""
    from scipy import signal

    found = np.array([1.0 / series[0]])
    while len(found) < steps:
        size = min(2 * len(found), steps)
        product = signal.fftconvolve(found, np.pad(series[:size], (0, max(0, size - len(series)))))[:size]
        product = -product
        product[0] += 2.0
        found = signal.fftconvolve(found, product)[:size]
    return found
