"""What a run costs on a network: bytes by the classic formula, seconds on stated links.

>>> classic_bytes(model_size_out=400, model_size_in=100, cohort_size=10, fraction_selected=0.5, number_of_rounds=3)
7500.0
>>> link = Link(uplink_mbps=10, downlink_mbps=50, latency_ms=20)
>>> link.round_seconds(bytes_down=1_000_000, bytes_up=1_000_000)
1.0
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from tff_hospitals.foundations import validation

_ROUNDS_ONE_BY_ONE = 1_000_000  # what comes later is like the last of them


def classic_bytes(
    model_size_out: float, model_size_in: float, cohort_size: int, fraction_selected: float, number_of_rounds: int
) -> float:
    """(model_size_out + model_size_in) * cohort_size * fraction_selected * number_of_rounds.

    Args:
      model_size_out: bytes that the server sends to one hospital in a round.
      model_size_in: bytes that one hospital sends back.
      cohort_size: hospitals there are.
      fraction_selected: the share of them that takes part in a round, 0 to 1.
      number_of_rounds: rounds of the run.

    Returns:
      Bytes of the whole run in both directions. What a run measures differs where sizes change from round to round
      (entropy coding, thresholds, skipped uploads), where a hospital drops out, and by the frames of the transport.
    """
    return (model_size_out + model_size_in) * cohort_size * fraction_selected * number_of_rounds


def catching_up_bytes(payload: float, whole: float, fraction_selected: float, rounds: int) -> float:
    """Bytes down to one hospital in a run whose broadcasts are differences from the model of the round before.

    With its first round a hospital fetches the model whole, later the differences that it missed, or the model whole
    where that is less. Rounds are taken as chosen independently; the mean over these choices.

    Args:
      payload: bytes of one difference.
      whole: bytes of the whole model.
      fraction_selected: share of the hospitals in a round, (0, 1].
      rounds: of the run.

    >>> catching_up_bytes(10, 400, fraction_selected=1.0, rounds=5)
    440.0
    """
    import numpy as np  # here: the options of a link load nothing heavy

    counted = min(rounds, _ROUNDS_ONE_BY_ONE)
    number = np.arange(counted)
    never_before = (1.0 - fraction_selected) ** number
    # After a gap of g rounds, g = 1 is that of a hospital which was in the round before.
    after_gap = fraction_selected * never_before * np.minimum((number + 1) * payload, whole)
    missed = np.concatenate([[0.0], np.cumsum(after_gap)[:-1]])
    by_round = fraction_selected * (never_before * whole + missed)
    return float(by_round.sum() + (rounds - counted) * by_round[-1])


def catching_up_by_round(payloads: Sequence[float], whole: float, fraction_selected: float) -> float:
    """As `catching_up_bytes`, with differences whose size is another one in every round.

    Args:
      payloads: bytes of the difference of each round; that of the first one is not sent.
      whole, fraction_selected: as there.

    >>> catching_up_by_round([10, 10, 20], 400, fraction_selected=1.0)
    430.0
    """
    import numpy as np

    total, before = 0.0, np.concatenate([[0.0], np.cumsum(payloads)])
    for number in range(len(payloads)):
        gaps = np.arange(1, number + 1)
        missed = np.minimum(before[number + 1] - before[number + 1 - gaps], whole)
        total += fraction_selected * (1.0 - fraction_selected) ** number * whole
        total += fraction_selected * float(((1.0 - fraction_selected) ** (gaps - 1) * fraction_selected) @ missed)
    return total


@dataclasses.dataclass(frozen=True)
class Link:
    """A hospital's connection to the server.

    Args:
      uplink_mbps: 10**6 bits per second from the hospital to the server.
      downlink_mbps: 10**6 bits per second from the server to the hospital.
      latency_ms: one-way delay of a message; a round has one each way.

    Raises:
      InvalidInput: for a speed that is not positive or a negative latency.
    """

    uplink_mbps: float
    downlink_mbps: float
    latency_ms: float = 0.0

    def __post_init__(self) -> None:
        speed = "give a speed in megabits per second"
        validation.raise_if(
            [
                validation.in_range("uplink_mbps", self.uplink_mbps, low=0, low_open=True, remedy=speed),
                validation.in_range("downlink_mbps", self.downlink_mbps, low=0, low_open=True, remedy=speed),
                validation.in_range("latency_ms", self.latency_ms, low=0, remedy="give a delay in milliseconds"),
            ]
        )

    def round_seconds(self, bytes_down: float, bytes_up: float) -> float:
        """Seconds on the wire of one round: broadcast, upload and two delays; training not included."""
        down = bytes_down * 8 / (self.downlink_mbps * 1e6)
        up = bytes_up * 8 / (self.uplink_mbps * 1e6)
        return down + up + 2 * self.latency_ms / 1e3


def slowest(
    links: Mapping[str, Link], bytes_down: Mapping[str, float], bytes_up: Mapping[str, float]
) -> tuple[str, float]:
    """The hospital that a synchronous round waits for, and its seconds on the wire.

    Args:
      links: by hospital id.
      bytes_down: of one round, by hospital id; hospitals without an entry do not take part.
      bytes_up: likewise.

    >>> links = {"city": Link(10, 50), "island": Link(1, 5)}
    >>> slowest(links, {"city": 1e6, "island": 1e6}, {"city": 1e6, "island": 1e6})
    ('island', 9.6)
    """
    if not bytes_down:
        bound, remedy = "must name at least one hospital", "leave rounds without hospitals out"
        raise validation.InvalidInput([validation.Problem("bytes_down", {}, bound, remedy)])
    remedy = "state a link for every hospital"
    validation.raise_if(
        validation.Problem("links", each, "is a hospital without a link", remedy)
        for each in bytes_down
        if each not in links
    )
    seconds = {each: links[each].round_seconds(bytes_down[each], bytes_up.get(each, 0.0)) for each in bytes_down}
    hospital_id = max(seconds, key=lambda each: seconds[each])
    return hospital_id, seconds[hospital_id]
