"""From real updates to whole numbers under a modulus: how fine, how sensitive, and how likely to overflow.

A hospital clips its update, rotates it (which spreads its norm evenly over all coordinates), multiplies it by `scale`,
rounds it to whole numbers at random and adds its share of noise; hospitals are added up modulo 2**bits. Everything
here is arithmetic on public settings, so that the accountant and the hospitals use the same numbers.

Source: Kairouz, Liu and Steinke 2021, "The distributed discrete Gaussian mechanism for federated learning with secure
aggregation", arXiv:2102.06387 (Proposition 22 for the norm after rounding); Agarwal, Kairouz and Liu 2021, "The Skellam
mechanism for differentially private federated learning", arXiv:2110.04995.

>>> grid = discretise(clip_norm=1.0, noise_multiplier=1.0, modulus_bits=20, shares=100, parameters=1000)
>>> grid.dimension, round(grid.l2_sensitivity / (grid.scale * 1.0), 2)
(1024, 1.0)
>>> discretise(clip_norm=1.0, noise_multiplier=1.0, modulus_bits=6, shares=100, parameters=1000) is None
True
"""

from __future__ import annotations

import dataclasses
import math

SMALLEST_BITS, LARGEST_BITS = 4, 30
_DEVIATIONS = 6.0  # the modulus covers so many standard deviations of a coordinate of the sum
_LARGEST_SCALED_CLIP = 2.0**20  # beyond it float32 has no fractions left to round
_ROUNDING_ODDS = 1e-4  # how rarely a rounded vector exceeds the bound on its norm (it is then rounded towards zero)
_LARGEST_INFLATION = 4.0


@dataclasses.dataclass(frozen=True)
class Grid:
    """The whole numbers of one distributed mechanism.

    Attributes:
      scale: rounded units in one unit of the update.
      modulus_bits: sums are known modulo 2**modulus_bits.
      shares: the fewest hospitals of a round: so many shares of noise are counted on.
      dimension: parameters, padded to a power of two for the rotation.
      l2_sensitivity, l1_sensitivity: bounds on one hospital's rounded vector, in rounded units; the first is enforced.
      local_stddev: standard deviation of one hospital's noise in rounded units.
      overflow_odds: chance at most that any coordinate of one round's sum leaves the modulus (sub-Gaussian bound).
    """

    scale: float
    modulus_bits: int
    shares: int
    dimension: int
    l2_sensitivity: float
    l1_sensitivity: float
    local_stddev: float
    overflow_odds: float

    @property
    def central_stddev(self) -> float:
        """Standard deviation of the noise in the sum of the smallest cohort, in units of the update."""
        return math.sqrt(self.shares) * self.local_stddev / self.scale


def padded(parameters: int) -> int:
    """The next power of two.

    >>> padded(14), padded(16)
    (16, 16)
    """
    return 1 << max(0, parameters - 1).bit_length()


def discretise(
    *,
    clip_norm: float,
    noise_multiplier: float,
    modulus_bits: int,
    shares: int,
    parameters: int,
    most: int | None = None,
) -> Grid | None:
    """The finest grid whose sums stay within the modulus but for `overflow_odds`; None when no grid does.

    Args:
      clip_norm: L2 bound on one hospital's update.
      noise_multiplier: deviation of the noise in the sum over the L2 sensitivity (after rounding).
      modulus_bits: bits of the modulus.
      shares: the fewest hospitals in a round, whose noise has to suffice.
      parameters: of the model.
      most: the most hospitals in a round, whose sum has to fit; None: as many as `shares`.
    """
    dimension, most = padded(parameters), shares if most is None else most
    reach = 2.0 ** (modulus_bits - 1) / _DEVIATIONS
    room = reach**2 - most / 4  # rounding adds at most 1/4 to the variance of each hospital's coordinate
    if room <= 0:
        return None
    spread = clip_norm * math.sqrt(most**2 / dimension + (1.1 * noise_multiplier) ** 2 * (most / shares))
    scale = min(math.sqrt(room) / spread, _LARGEST_SCALED_CLIP / clip_norm)
    l2 = rounded_norm_bound(clip_norm * scale, dimension)
    if l2 > _LARGEST_INFLATION * clip_norm * scale:
        return None
    local_stddev = noise_multiplier * l2 / math.sqrt(shares)
    variance = (most * clip_norm * scale) ** 2 / dimension + most / 4 + most * local_stddev**2
    deviations = 2.0 ** (modulus_bits - 1) / math.sqrt(variance)
    odds = min(1.0, 2 * dimension * math.exp(-(deviations**2) / 2))
    l1 = min(math.sqrt(dimension) * l2, l2**2)  # whole numbers: |x| <= x**2
    return Grid(scale, modulus_bits, shares, dimension, l2, l1, local_stddev, odds)


def rounded_norm_bound(norm: float, dimension: int) -> float:
    """What the L2 norm of a vector of at most `norm` becomes at most when every coordinate is rounded at random.

    The smaller of a bound that always holds and one that fails with odds of `_ROUNDING_ODDS`; a vector beyond it is
    rounded towards zero instead, which cannot lengthen it, so that the bound holds for every hospital.

    >>> round(rounded_norm_bound(1000.0, 16), 1)
    1002.1
    """
    always = norm + math.sqrt(dimension)
    slack = math.sqrt(2 * math.log(1 / _ROUNDING_ODDS)) * (norm + math.sqrt(dimension) / 2)
    return min(always, math.sqrt(norm**2 + dimension / 4 + slack))


def enough_bits(
    *, clip_norm: float, noise_multiplier: float, shares: int, parameters: int, most: int | None = None
) -> int | None:
    """The smallest modulus that has a grid, in bits; None when even the largest has none."""
    for bits in range(SMALLEST_BITS, LARGEST_BITS + 1):
        grid = discretise(
            clip_norm=clip_norm,
            noise_multiplier=noise_multiplier,
            modulus_bits=bits,
            shares=shares,
            parameters=parameters,
            most=most,
        )
        if grid is not None:
            return bits
    return None
