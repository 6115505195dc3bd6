"""Is the noise as loud as the ledger declares, at every hospital, on every tensor, in every round, and is it normal?

Two-sided: noise that is too loud costs accuracy and means that something else is wrong. A mean over everything would
hide one silent round or tensor, so that each is tested by itself as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from tff_hospitals.audits.self_tests.findings import Finding
from tff_hospitals.audits.self_tests.measures import Loudness, Shape
from tff_hospitals.audits.self_tests.noises import Noise, Observed, together

_MOST_FOR_SHAPE = 100_000


def check(seen: Observed, kind: str = "loudness") -> list[Finding]:
    """Loudness of all noise, of each tensor and of each round, at each hospital and of all together.

    Args:
      seen: the noise.
      kind: what findings are called.
    """
    found: list[Finding] = []
    hospitals = seen.hospitals
    for hospital in hospitals:
        found += _groups(seen, [one for one in seen.noises if one.hospital == hospital], hospital)
    if len(hospitals) > 1:
        found += _groups(seen, seen.noises, None)
    found = [dataclasses.replace(one, kind=kind) for one in found]
    if seen.normal:
        found += [_shape(seen, hospital) for hospital in hospitals]
    return found


def _groups(seen: Observed, noises: Iterable[Noise], hospital: str | None) -> Iterator[Finding]:
    noises = list(noises)
    yield _loudness(seen.name, noises, slice(None), hospital)
    if len(seen.tensors) > 1:
        for tensor, part in seen.tensors.items():
            yield _loudness(f"{seen.name}, {tensor}", noises, part, hospital)
    for number in seen.rounds:
        of_round = [one for one in noises if one.round == number]
        if not of_round:  # a hospital that did not take part
            continue
        yield _loudness(f"{seen.name}, round {number}", of_round, slice(None), hospital)
        if hospital is None and len(seen.tensors) > 1:
            for tensor, part in seen.tensors.items():
                yield _loudness(f"{seen.name}, {tensor}, round {number}", of_round, part, None)


def _loudness(what: str, noises: list[Noise], part: slice, hospital: str | None) -> Finding:
    values = together(noises, part)
    measure = Loudness(float(np.square(values).sum()), len(values))
    runs = len({one.run for one in noises})
    words = f"{measure.figure:.4g} of what the ledger declares, over {len(values)} draws of {runs} runs"
    return Finding("loudness", what, hospital, measure, words)


def _shape(seen: Observed, hospital: str | None) -> Finding:
    values = together(one for one in seen.noises if one.hospital == hospital)
    values = values[:: -(-len(values) // _MOST_FOR_SHAPE)]
    measure = Shape.of(values)
    words = f"distribution functions differ by {measure.figure:.2g} at most, over {len(values)} draws"
    return Finding("shape", f"{seen.name} is normal", hospital, measure, words)
