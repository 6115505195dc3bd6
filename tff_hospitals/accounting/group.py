"""A patient with several records: the epsilon of a group of records that stand or fall together.

Record-level DP protects one record. If one patient may have up to k of them, three answers are offered, all valid; the
smallest is worth quoting, with its name:

* "gaussian": without sampling, k records move a sum k times as far, so the noise multiplier is divided by k (exact);
* "mixture": under Poisson sampling a binomial number of the k records is in each step, so the loss is
  that of a mixture of normal distributions (Ganesh 2024, arXiv:2401.10294);
* "lemma": for every mechanism, (epsilon, delta) becomes (k epsilon, delta (exp(k epsilon) - 1) / (exp(epsilon) - 1))
  (Vadhan 2017, The complexity of differential privacy, Lemma 2.2).

>>> step = MechanismEvent("gaussian", noise_multiplier=10.0)
>>> [round(group_epsilon([(step, 5)], 1e-5, records_per_patient=k), 3) for k in (1, 2)]
[0.82, 1.76]
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from tff_hospitals.accounting import epsilon as epsilon_lib
from tff_hospitals.accounting import loss_shapes
from tff_hospitals.accounting.events import REPLACE_ONE, REPLACE_SPECIAL, MechanismEvent
from tff_hospitals.foundations import validation
from tff_hospitals.foundations.validation import InvalidInput, Problem

METHODS = ("gaussian", "mixture", "lemma")
_CLIPPED_SUMS = ("gaussian", "no_amplification", "laplace", "adaptive_clip")


def group_epsilon(
    events: Sequence[tuple[MechanismEvent, int]],
    delta: float,
    records_per_patient: int,
    *,
    adjacency: str = REPLACE_SPECIAL,
    conversion: str = "pld",
    method: str | None = None,
) -> float:
    """Epsilon at `delta` for all records of one patient together.

    Args:
      events: releases with counts; noise multipliers are relative to the clip norm of one *record*.
      delta: in (0, 1), for the patient.
      records_per_patient: k, the most records of one patient.
      adjacency: of single records.
      conversion: of the epsilon that the method builds on.
      method: one of `METHODS`; None: the first of "gaussian" (if nothing is sampled), "mixture" (if all is Poisson
        sampled or not sampled) and "lemma" that applies.

    Raises:
      InvalidInput: for values out of bounds, and a method that does not apply.
    """
    validation.raise_if(
        [
            epsilon_lib.delta_problem(delta),
            validation.whole_number(
                "records_per_patient", records_per_patient, low=1, remedy="give the most per patient"
            ),
            validation.one_of("method", method, METHODS) if method is not None else None,
        ]
    )
    if records_per_patient == 1:
        return epsilon_lib.epsilon_of(events, delta, adjacency=adjacency, conversion=conversion)
    plain = all(event.kind in _CLIPPED_SUMS and event.sampling_probability is None for event, _ in events)
    sampled = all(event.kind in (*_CLIPPED_SUMS[:2], "poisson_gaussian") for event, _ in events)
    usable = {"gaussian": plain, "mixture": sampled and adjacency != REPLACE_ONE, "lemma": True}
    chosen = method or next(name for name in METHODS if usable[name])
    if not usable[chosen]:
        able = " or ".join(repr(name) for name in METHODS if usable[name])
        kinds = ", ".join(sorted({event.kind for event, _ in events}))
        raise InvalidInput([Problem("method", chosen, f"does not cover these releases ({kinds})", f"use {able}")])
    if chosen == "gaussian":
        together = [(_weakened(event, records_per_patient), count) for event, count in events]
        return epsilon_lib.epsilon_of(together, delta, adjacency=adjacency, conversion=conversion)
    if chosen == "mixture":
        return _by_mixture(events, delta, records_per_patient, adjacency, conversion)
    return _by_lemma(events, delta, records_per_patient, adjacency, conversion)


def _weakened(event: MechanismEvent, factor: int) -> MechanismEvent:
    bit = None if event.bit_noise_stddev is None else event.bit_noise_stddev / factor
    return dataclasses.replace(event, noise_multiplier=(event.noise_multiplier or 0.0) / factor, bit_noise_stddev=bit)


def _by_mixture(
    events: Sequence[tuple[MechanismEvent, int]], delta: float, size: int, adjacency: str, conversion: str
) -> float:
    composition: list[tuple[loss_shapes.Part, float]] = []
    for part, count in loss_shapes.compose(events, adjacency):
        if isinstance(part, loss_shapes.PoissonPart):
            q = part.sampling_probability
            chances = tuple(math.comb(size, k) * q**k * (1 - q) ** (size - k) for k in range(size + 1))
            composition.append((loss_shapes.MixturePart(chances, part.sigma), count))
        elif isinstance(part, loss_shapes.GaussianPart):
            composition.append((loss_shapes.GaussianPart(part.mu_squared * size**2), count))
        else:
            composition.append((part, count))
    return epsilon_lib.composed_epsilon(tuple(composition), delta, conversion)


def _by_lemma(
    events: Sequence[tuple[MechanismEvent, int]], delta: float, size: int, adjacency: str, conversion: str
) -> float:
    """The smallest k epsilon such that the record's delta at epsilon, inflated by the lemma, is at most `delta`."""

    def allowed(single: float) -> float:  # the record's delta that the lemma turns into `delta`, in logarithms
        if single == 0:
            return math.log(delta / size)
        grown = size * single + math.log(-math.expm1(-size * single)) - single - math.log(-math.expm1(-single))
        return math.log(delta) - grown

    def holds(single: float) -> bool:
        log_delta = allowed(single)
        if log_delta < math.log(1e-300):
            return False
        record_delta = math.exp(log_delta)
        by = "rdp" if conversion == "pld" and record_delta < epsilon_lib.SMALLEST_PLD_DELTA else conversion
        return epsilon_lib.epsilon_of(events, record_delta, adjacency=adjacency, conversion=by) <= single

    if holds(0.0):
        return 0.0
    low, high = 0.0, 1e-3
    while not holds(high):
        low, high = high, 2 * high
        if allowed(high) < math.log(1e-300):  # noise too small for any statement about the group
            return math.inf
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return size * high
