"""What a run costs on a network: bytes by the classic formula, seconds on stated links.

>>> classic_bytes(model_size_out=400, model_size_in=100, cohort_size=10, fraction_selected=0.5, number_of_rounds=3)
7500.0
>>> link = Link(uplink_mbps=10, downlink_mbps=50, latency_ms=20)
>>> link.round_seconds(bytes_down=1_000_000, bytes_up=1_000_000)
1.0
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tff_hospitals.foundations import validation


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
