"""The chain of encoders of every round: that of the plan, with as many bits as `by_round` gives the round."""

from __future__ import annotations

from tff_hospitals.communication import Chain
from tff_hospitals.plan import schedules


def of_rounds(chain: Chain, direction: str, by_round: str, rounds: int) -> tuple[Chain, ...]:
    """The chain of every round; one alone where all rounds have the same.

    Args:
      chain: with the bits at factor 1.
      direction: "broadcast" or "upload".
      by_round: the plan's settings by round.
      rounds: of the plan.

    Raises:
      InvalidInput: a number of bits that the chain does not take, or a chain without one.

    >>> from tff_hospitals.communication import parse_chain
    >>> found = of_rounds(parse_chain("quantize:8"), "upload", "upload_bits=step:2:0.5", 3)
    >>> print(*found)
    quantize:8 quantize:8 quantize:4
    """
    name = f"{direction}_bits"
    if not schedules.changes(by_round, name):
        return (chain,)
    bits = [schedules.whole(chain.bits or 1, one) for one in schedules.factors(by_round, name, rounds)]
    made = {one: chain.with_bits(one) for one in dict.fromkeys(bits)}
    return tuple(made[one] for one in bits)
