"""Banded strategies amplified by sampling: cyclic Poisson sampling, and which number of bands is best.

Every record belongs to one of p groups. In step t it is the turn of group t mod p: each of its records joins with
probability p q, so that a step holds as many records as without groups. A strategy of p bands has columns of one group
that do not overlap, so that a run of n steps is, for each group, n / p sampled Gaussian mechanisms with sampling
probability p q. Source: Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta and Xu 2023, "(Amplified) banded
matrix factorization", arXiv:2306.08153, Theorem 4.
"""

from __future__ import annotations

import dataclasses
import math

from tff_hospitals.accounting.calibration import calibrate_event
from tff_hospitals.accounting.event_kinds import REPLACE_SPECIAL
from tff_hospitals.accounting.events import MechanismEvent
from tff_hospitals.accounting.strategies.banded import optimised_banded
from tff_hospitals.accounting.strategies.errors import expected_error
from tff_hospitals.accounting.strategies.workload import Workload
from tff_hospitals.foundations.validation import in_range, raise_if, whole_number


@dataclasses.dataclass(frozen=True)
class AmplifiedPlan:
    """One choice of the number of bands, and what it costs.

    Attributes:
      bands: p; 1 is DP-SGD.
      sampling_probability: p q, of each record in the steps of its group.
      noise_multiplier: over the clip norm, for columns of length 1.
      rmse, max_error: of the released prefix sums, the noise multiplier included.
    """

    bands: int
    sampling_probability: float
    noise_multiplier: float
    rmse: float
    max_error: float


def amplified_noise(
    *, steps: int, sampling_probability: float, bands: int, target_epsilon: float, delta: float, conversion: str = "rdp"
) -> float:
    """The noise multiplier of a banded strategy with columns of length 1 under cyclic Poisson sampling.

    Args:
      steps: of the whole run.
      sampling_probability: q, the share of all records in a step.
      bands: p, with p q at most 1.
      target_epsilon, delta: of the whole run.
      conversion: `rdp` or `pld`.

    Raises:
      InvalidInput: when a number is out of range or no noise reaches the target.

    >>> round(amplified_noise(steps=1500, sampling_probability=1 / 50, bands=4, target_epsilon=8, delta=1e-3), 3)
    1.069
    """
    raise_if(
        [
            whole_number("steps", steps, low=1, remedy="give the number of steps"),
            whole_number("bands", bands, low=1, high=steps, remedy="give 1 to as many bands as steps"),
            in_range("sampling_probability", sampling_probability, low=0.0, low_open=True, high=1.0, remedy="give q"),
            in_range(
                "bands * sampling_probability",
                bands * sampling_probability,
                high=1.0 + 1e-9,
                remedy="give fewer bands: a group must hold all records of a step",
            ),
        ]
    )
    chance = min(1.0, bands * sampling_probability)
    event = MechanismEvent("gaussian", noise_multiplier=1.0)
    if chance < 1:
        event = MechanismEvent("poisson_gaussian", noise_multiplier=1.0, sampling_probability=chance)
    found = calibrate_event(
        event,
        target_epsilon,
        delta,
        count=math.ceil(steps / bands),
        adjacency=REPLACE_SPECIAL,
        conversion=conversion,
    )
    return float(found.noise_multiplier or 0.0)


def amplified_plans(
    *,
    steps: int,
    sampling_probability: float,
    target_epsilon: float,
    delta: float,
    most_bands: int | None = None,
    workload: Workload | None = None,
    conversion: str = "rdp",
) -> list[AmplifiedPlan]:
    """Choices of the number of bands with the error that each of them has at one target, those with few bands first.

    Args:
      steps, sampling_probability, target_epsilon, delta, conversion: see `amplified_noise`.
      most_bands: none above; None: as many as sampling allows.
      workload: what is released; None: prefix sums.

    Returns:
      A plan for 1, 2, 4, 8, ... bands up to the most that are possible; take the one of least `rmse`.
    """
    most = max(1, min(steps, int(1 / sampling_probability + 1e-9), most_bands or steps))
    counts = sorted({1 << power for power in range(most.bit_length()) if 1 << power <= most} | {most})
    found = []
    for bands in counts:
        noise = amplified_noise(
            steps=steps,
            sampling_probability=sampling_probability,
            bands=bands,
            target_epsilon=target_epsilon,
            delta=delta,
            conversion=conversion,
        )
        error = expected_error(optimised_banded(steps, bands, workload), workload=workload)
        scale = noise / error.sensitivity.value  # the columns have length 1
        found.append(
            AmplifiedPlan(
                bands, min(1.0, bands * sampling_probability), noise, error.rmse * scale, error.max_error * scale
            )
        )
    return found
