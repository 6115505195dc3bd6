"""What a privacy statement is worth: a delta too large, too few hospitals to hide one, noise louder than the signal.

Nothing here changes an epsilon. These are warnings for tables and reports, each with the bound and what to do about it.
"""

from __future__ import annotations

import math

from tff_hospitals.accounting.gaussian import adaptive_noise_problem
from tff_hospitals.foundations.validation import Problem

FEW_HOSPITALS = 20
"""Below this a hospital is at least a twentieth of everything; hiding it needs noise of the size of the update."""


def delta_warning(delta: float, units: int, unit: str = "record") -> Problem | None:
    """A warning when delta is not below 1 / units: publishing one whole unit at random would then be allowed.

    >>> delta_warning(0.01, 30) is None
    True
    >>> print(delta_warning(0.05, 30))
    delta=0.05: should be < 1 / 30 records = 0.0333, or it allows publishing one. Remedy: take delta=0.00333 or less.
    """
    if delta < 1 / units:
        return None
    bound = f"should be < 1 / {units} {unit}s = {1 / units:.3g}, or it allows publishing one"
    return Problem("delta", delta, bound, f"take delta={0.1 / units:.3g} or less")


def largest_adaptive_noise(hospitals_per_round: int, bit_noise_stddev: float | None = None) -> float:
    """The noise multiplier that adaptive clipping must stay below: twice its noise on the clipping bits.

    Args:
      hospitals_per_round: hospitals in a round.
      bit_noise_stddev: default hospitals_per_round / 20, as in Andrew et al. 2021 and in TFF.

    >>> largest_adaptive_noise(4)
    0.4
    """
    return 2 * (hospitals_per_round / 20 if bit_noise_stddev is None else bit_noise_stddev)


def adaptive_clip_problem(noise_multiplier: float, hospitals_per_round: int) -> Problem | None:
    """What is wrong with adaptive clipping for so few hospitals, and the largest feasible noise; None if nothing is."""
    problem = adaptive_noise_problem(noise_multiplier, hospitals_per_round / 20)
    if problem is None:
        return None
    most = largest_adaptive_noise(hospitals_per_round)
    needed = math.floor(10 * noise_multiplier) + 1
    bound = f"must be > 0 and < {most:g} = hospitals per round / 10, here {hospitals_per_round}"
    remedy = f"use fixed clipping, record-level DP inside the hospitals, or at least {needed} hospitals per round"
    return Problem("noise_multiplier of adaptive clipping", noise_multiplier, bound, remedy)


def noise_to_signal(noise_multiplier: float, hospitals: int, dimension: int) -> float:
    """Expected norm of the noise on the mean update over the largest norm that the mean update can have.

    Args:
      noise_multiplier: noise on the *sum* over the clip norm.
      hospitals: how many the mean is over.
      dimension: parameters of the update.

    >>> noise_to_signal(1.0, hospitals=4, dimension=16)
    1.0
    """
    return noise_multiplier * math.sqrt(dimension) / hospitals


def hospital_level_warning(
    hospitals: int, *, noise_multiplier: float | None = None, dimension: int | None = None, epsilon: float | None = None
) -> str | None:
    """Why DP with the hospital as its unit says little here, in words for a table; None when there is nothing to say.

    Args:
      hospitals: hospitals in a round.
      noise_multiplier: of the sum, over the clip norm.
      dimension: parameters of the update.
      epsilon: that the run has or aims at.

    >>> for clause in hospital_level_warning(4, noise_multiplier=2.0, dimension=14).split("; "):
    ...     print(clause)
    4 hospitals are few to hide one of: each is 25 % of the mean
    the noise is 1.9 times as large as the largest possible mean update. The unit that protects patients is the record.
    """
    said = []
    if hospitals < FEW_HOSPITALS:
        said.append(f"{hospitals} hospitals are few to hide one of: each is {100 / hospitals:.0f} % of the mean")
    if noise_multiplier is not None and dimension is not None:
        ratio = noise_to_signal(noise_multiplier, hospitals, dimension)
        if ratio >= 1:
            said.append(f"the noise is {ratio:.1f} times as large as the largest possible mean update")
    if epsilon is not None and epsilon > 10:
        said.append(f"epsilon {epsilon:.3g} lets an observer tell almost surely whether a hospital took part")
    if not said:
        return None
    return "; ".join(said) + ". The unit that protects patients is the record."
