"""Buffers of which two turn into each other: the coefficients of the strategy fall to zero faster, and swing around it.

Buffers that only decay (`buffered.py`) need long memories to follow the square root, and long memories overlap when a
unit comes back after b steps. A pair of buffers with the decay r and the turn w adds r^t (a cos(w t) + s sin(w t)):
with w of about 5 / b, columns b or more steps apart are nearly orthogonal although no coefficient is cut off. Theory
allows such complex decays (Dvijotham, McMahan, Pillutla, Steinke and Thakurta 2024, arXiv:2404.16706, rational
generating functions); the buffers in use before had positive scales only (McMahan, Xu and Zhang 2024,
arXiv:2408.08868). The sensitivity is then an upper bound, by overlaps (`sensitivity.py`), and the search counts it.
"""

from __future__ import annotations

import numpy as np

from tff_hospitals.accounting.strategies.banded import correlated, log_error
from tff_hospitals.accounting.strategies.strategy import Strategy

LEAST_FOR_A_PAIR = 3
"""Buffers: one that decays, and two that turn."""
_SHARPNESS = (24.0, 96.0)  # of the norm that stands for a maximum over lags, so that the search has a slope
_STEEP = 1e3  # the logarithm of an error that no search keeps
# Rates of a decaying buffer, of the pair and its turn, times the separation; scales times its root. The best shapes of
# other separations and numbers of participations are near this one.
_RATE, _SCALE = 3.0, 6.0
_PAIR_RATE, _TURN, _COSINE, _SINE = 1.9, 5.3, -2.0, -1.1


def with_pair(steps: int, decays: np.ndarray, scales: np.ndarray, pair: tuple[float, float, float, float]) -> Strategy:
    """The strategy of decaying buffers and one pair.

    Args:
      steps: rows of the matrix.
      decays, scales: of the decaying buffers, [buffers].
      pair: decay and turn of the pair, and how much of its cosine and of its sine a coefficient has.

    >>> with_pair(4, np.empty(0), np.empty(0), (0.5, np.pi / 2, 0.5, 0.25)).coefficients().round(4).tolist()
    [1.0, 0.5, 0.125, -0.125]
    """
    decay, turn, cosine, sine = pair
    below = np.array([1.0, -2 * decay * np.cos(turn), decay**2])
    above = below + np.array([0.0, cosine, decay * (sine * np.sin(turn) - cosine * np.cos(turn))])
    for own, scale in zip(decays, scales):
        above = np.convolve(above, [1.0, -own]) + scale * np.append(0.0, below)
        below = np.convolve(below, [1.0, -own])
    settings = (
        ("decays", tuple(map(float, decays))),
        ("scales", tuple(map(float, scales))),
        ("pair", tuple(map(float, pair))),
    )
    return Strategy("blt", steps, tuple(above.tolist()), tuple(below.tolist()), settings)


def optimised_pair(
    steps: int, buffers: int, participations: int, min_separation: int, response: np.ndarray, counts: np.ndarray
) -> Strategy:
    """The strategy of `buffers` - 2 decaying buffers and a pair that L-BFGS finds from a known good shape.

    Args:
      steps, buffers: rows, and vectors of the model's size; 3 or more.
      participations, min_separation: 2 or more, of one unit.
      response, counts: workload and weight of each step, as in `banded.log_error`.
    """
    from scipy import optimize

    decaying = buffers - 2
    root = np.sqrt(min_separation)

    def parts(free: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float, float], np.ndarray]:
        rates = np.exp(np.minimum(free[: decaying + 2], 3.0))
        scales = free[decaying + 2 :] / root
        pair = (float(np.exp(-rates[-2])), float(rates[-1]), float(scales[-2]), float(scales[-1]))
        return np.exp(-rates[:-2]), scales[:-2], pair, rates

    def loss(free: np.ndarray, sharpness: float) -> tuple[float, np.ndarray]:
        decays, scales, pair, rates = parts(free)
        strategy = with_pair(steps, decays, scales, pair)
        value, slope = log_error(np.array(strategy.numerator), np.array(strategy.denominator), response, counts)
        squared, steeper = _squared_sensitivity(strategy.coefficients(), participations, min_separation, sharpness)
        if value >= _STEEP:
            return value, np.zeros(len(free))
        gradient = (correlated(slope, steps) + steeper / squared)[1:]
        age = np.arange(steps - 1)
        fading = np.exp(-np.multiply.outer(rates[:-2], age))
        swing = pair[0] ** age * np.stack([np.cos(pair[1] * age), np.sin(pair[1] * age)])
        late = gradient * age
        found = [-scale * rate * (late @ row) for scale, rate, row in zip(scales, rates, fading)]
        found.append(-rates[-2] * (late @ (pair[2] * swing[0] + pair[3] * swing[1])))
        found.append(rates[-1] * (late @ (pair[3] * swing[0] - pair[2] * swing[1])))
        by_scale = np.concatenate([fading, swing]) @ gradient / root
        return value + np.log(squared), np.concatenate([found, by_scale])

    # The buffers beside the first one forget faster, each within a share of the separation.
    faster = np.geomspace(_RATE, min_separation, decaying + 1)[1:-1] if decaying > 1 else np.empty(0)
    rates = np.log(np.array([_RATE, *faster, _PAIR_RATE, _TURN]) / min_separation)
    free = np.array([*rates, _SCALE, *np.full(decaying - 1, 0.5), _COSINE, _SINE])
    for sharpness in _SHARPNESS:
        options = {"maxiter": 300, "maxfun": 300}
        free = optimize.minimize(loss, free, args=(sharpness,), jac=True, method="L-BFGS-B", options=options).x
    return with_pair(steps, *parts(free)[:3])


def _squared_sensitivity(
    column: np.ndarray, participations: int, apart: int, sharpness: float
) -> tuple[float, np.ndarray]:
    """The bound by overlaps with a smooth norm in place of the maximum over lags, and its slope along the column."""
    from scipy import signal

    steps = len(column)
    overlaps = signal.fftconvolve(column, column[::-1])[steps - 1 :]
    far = np.where(np.arange(steps) >= apart, np.abs(overlaps), 0.0)
    largest = float(far.max()) or 1.0
    powers = np.power(far / largest, sharpness - 1)
    tails = np.cumsum((powers * far / largest)[::-1])[::-1]  # at this lag or a longer one
    total, weights = float(participations * overlaps[0]), np.zeros(steps)
    for gap in range(1, participations):
        first = gap * apart
        if first >= steps or tails[first] < _NOTHING:
            break
        pairs = 2.0 * (participations - gap)
        total += pairs * largest * tails[first] ** (1 / sharpness)
        weights[first] = pairs * tails[first] ** (1 / sharpness - 1)
    weights = np.cumsum(weights) * powers * np.sign(overlaps)
    slope = 2 * participations * column
    slope += signal.fftconvolve(column, weights[::-1])[steps - 1 :] + signal.fftconvolve(column, weights)[:steps]
    return total, slope


_NOTHING = 1e-250  # powers of overlaps that are too small to count
