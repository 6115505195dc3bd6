"""How batches are drawn, and the event that DP-SGD with such batches amounts to.

The five assumptions are accounted apart; which one holds is a property of the code that draws the batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from tff_hospitals.accounting.events import REPLACE_ONE, REPLACE_SPECIAL, MechanismEvent
from tff_hospitals.foundations import validation
from tff_hospitals.foundations.validation import Problem

SAMPLINGS: Mapping[str, str] = {
    "poisson": "each record joins a step independently with the sampling probability",
    "fixed_size": "each step takes a batch of fixed size, uniformly and without replacement",
    "shuffled": "each epoch cuts all records into disjoint batches; no amplification is claimed",
    "random_allocation": "in each pass every record draws one of the batches at random (balls in bins)",
    "none": "every record is counted as taking part in every step",
}


LEAST_NOISE, MOST_NOISE = 1e-6, 1e9
"""Multipliers that a user may give: beyond them squares and their reciprocals leave the range of a float."""
MOST_STEPS = 10**15


def sampled_events(
    noise_multiplier: float,
    *,
    steps: int,
    sampling: str = "poisson",
    sampling_probability: float = 1.0,
    records: int | None = None,
    batch: int | None = None,
) -> tuple[MechanismEvent, int]:
    """The event of DP-SGD steps and how often it happened, under one of `SAMPLINGS`.

    Args:
      noise_multiplier: standard deviation of the noise on the sum, over the clip norm.
      steps: number of steps.
      sampling: a key of `SAMPLINGS`.
      sampling_probability: for "poisson" the chance of each record, for "shuffled" and "random_allocation" the
        fraction of records in a batch.
      records, batch: for "fixed_size".

    Raises:
      InvalidInput: for an unknown sampling or a value out of bounds.

    >>> event, epochs = sampled_events(1.1, steps=95, sampling="shuffled", sampling_probability=0.1)
    >>> event.kind, event.steps, epochs  # a begun epoch counts as a whole one
    ('shuffled', 10, 10)
    """
    validation.raise_if(sampling_problems(sampling, steps, sampling_probability))
    if sampling == "fixed_size":
        event = MechanismEvent("fixed_size_gaussian", noise_multiplier=noise_multiplier, records=records, batch=batch)
        return event, steps
    if sampling in ("shuffled", "random_allocation"):
        parts = 1 / sampling_probability
        # Rounded to the side that claims less: a long pass with all records in it, or few batches to hide in.
        batches = math.ceil(parts - 1e-9) if sampling == "shuffled" else math.floor(parts + 1e-9)
        event = MechanismEvent(sampling, noise_multiplier=noise_multiplier, steps=batches)
        return event, math.ceil(steps / batches)
    if sampling == "none" or sampling_probability == 1:
        return MechanismEvent("gaussian", noise_multiplier=noise_multiplier), steps
    event = MechanismEvent(
        "poisson_gaussian", noise_multiplier=noise_multiplier, sampling_probability=sampling_probability
    )
    return event, steps


def sampling_problems(sampling: str, steps: int, sampling_probability: float) -> list[Problem | None]:
    """What is wrong with the arguments of `sampled_events`."""
    remedy = "give a probability in (0, 1]"
    return [
        validation.one_of("sampling", sampling, SAMPLINGS),
        validation.whole_number("steps", steps, low=1, high=MOST_STEPS, remedy="give the number of steps"),
        validation.in_range(
            "sampling_probability", sampling_probability, low=0.0, low_open=True, high=1.0, remedy=remedy
        ),
    ]


def adjacency_of(sampling: str) -> str:
    """The adjacency for a kind of sampling: one record is blanked out, wherever that has a guarantee.

    Adding or removing a record would change the number of records, from which sampling probability and steps follow,
    and which is public. For Poisson sampling both have the same figures.

    >>> adjacency_of("poisson"), adjacency_of("fixed_size"), adjacency_of("shuffled")
    ('replace_special', 'replace_one', 'replace_special')
    """
    return REPLACE_ONE if sampling == "fixed_size" else REPLACE_SPECIAL


def sampling_probability_of(records: int, batch_size: int) -> float:
    """The chance of each record to join a step, such that an epoch has a whole number of expected batches.

    >>> sampling_probability_of(199, 4) == 1 / 50
    True
    """
    remedy = "give the number of training records and the batch size"
    validation.raise_if(
        [
            validation.whole_number("records", records, low=1, remedy=remedy),
            validation.whole_number("batch_size", batch_size, low=1, remedy=remedy),
        ]
    )
    return 1 / math.ceil(records / batch_size)
