"""Self-tests and what they found, decided together: one error probability for the whole audit.

>>> from tff_hospitals.audits.self_tests.measures import AtMost, Loudness
>>> quiet = Finding("loudness", "all noise", "hungary", Loudness(total=360.0, draws=1000), "seen in 10 rounds")
>>> tight = Finding("clipping", "records", "hungary", AtMost(1.1, 1.1), "24 enlarged records")
>>> [(one.name, one.passed) for one in settle([quiet, tight])]
[('loudness: all noise', False), ('clipping: records', True)]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tff_hospitals.audits.self_tests.measures import Measure

FAMILY_WISE = 1e-3
"""Chance of any false alarm in a whole audit: half of it for self-tests, half for the bounds on epsilon."""
SELF_TESTS = FAMILY_WISE / 2
EXPECTED_TESTS = 1000
"""Draws are counted for so many tests in one audit; with fewer, every test finds a little more than it must."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one self-test saw, before it is known how many there are.

    Attributes:
      kind: such as "loudness".
      what: of which noise, batches, ...
      hospital: whose; None: the server's, or of all hospitals.
      measure: the figure and its chances.
      words: where and how often it was looked at.
    """

    kind: str
    what: str
    hospital: str | None
    measure: Measure
    words: str


@dataclasses.dataclass(frozen=True)
class SelfTest:
    """One self-test with its outcome.

    Attributes:
      name: kind and what was looked at.
      hospital: None: the server's, or of all hospitals.
      figure: what was seen.
      bound: smallest and largest figure that is no finding; null where there is no such side.
      passed: the outcome.
      power: chance to find the fault that the test is named for: noise of .9 or 1.1, a quarter in common, any excess.
      notices: what would have been found with a probability of 95 %.
      p_value: chance of such a figure if all is well; None for a fact that chance plays no part in.
      words: where and how often it was looked at.
    """

    name: str
    hospital: str | None
    figure: float
    bound: tuple[float | None, float | None]
    passed: bool
    power: float
    notices: str
    p_value: float | None
    words: str


@dataclasses.dataclass(frozen=True)
class NotTested:
    """What the audit could not test, and why: it is not a pass."""

    name: str
    hospital: str | None
    reason: str


def settle(findings: Sequence[Finding], error: float = SELF_TESTS) -> list[SelfTest]:
    """Decides all findings together, so that a sound mechanism raises an alarm with a chance of at most `error`.

    Limits and power are those of equal shares of the error; the decision is Holm's, which finds at least as much.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6.
    """
    tested = [one for one in findings if not one.measure.exact]
    share = error / max(1, len(tested))
    failed = {id(one) for one in findings if one.measure.exact and one.measure.p_value < 0.5}
    for rank, one in enumerate(sorted(tested, key=lambda one: one.measure.p_value)):
        if one.measure.p_value > error / (len(tested) - rank):
            break
        failed.add(id(one))
    return [_settled(one, share, id(one) not in failed) for one in findings]


def _settled(one: Finding, share: float, passed: bool) -> SelfTest:
    measure = one.measure
    return SelfTest(
        name=f"{one.kind}: {one.what}",
        hospital=one.hospital,
        figure=float(measure.figure),
        bound=measure.limits(share),
        passed=passed,
        power=round(float(measure.power(share)), 4),
        notices=measure.notices(share),
        p_value=None if measure.exact else float(measure.p_value),
        words=one.words,
    )


def share_of_error() -> float:
    """The error probability that a test should count on when it decides how often to draw."""
    return SELF_TESTS / EXPECTED_TESTS
