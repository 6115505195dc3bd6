"""The chain of encoders of every round: that of the plan, with as many bits as `by_round` gives the round."""

from __future__ import annotations

from tff_hospitals.communication import Chain
from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.plan import schedules


def of_rounds(chain: Chain, direction: str, by_round: str, rounds: int) -> tuple[Chain, ...]:
    """The chain of every round; one alone where all rounds have the same.

    Args:
      chain: with the bits at factor 1.
      direction: "broadcast" or "upload".
      by_round: the plan's settings by round.
      rounds: of the plan.

    Raises:
      InvalidInput: names by_round: a number of bits that the chain does not take, or a chain without one.

    >>> from tff_hospitals.communication import parse_chain
    >>> found = of_rounds(parse_chain("quantize:8"), "upload", "upload_bits=step:2:0.5", 3)
    >>> print(*found)
    quantize:8 quantize:8 quantize:4
    """
    name = f"{direction}_bits"
    if not schedules.changes(by_round, name):
        return (chain,)
    if chain.bits is None:
        bound = f"is of a quantize:B or eden:B, which --{direction} ({chain}) does not have"
        remedy = f"give --{direction}=rotate,quantize:8, or take it out of --by_round"
        raise InvalidInput([Problem("by_round", name, bound, remedy)])
    bits = [schedules.whole(chain.bits, one) for one in schedules.factors(by_round, name, rounds)]
    made: dict[int, Chain] = {}
    problems: list[Problem] = []
    for one in dict.fromkeys(bits):
        try:
            made[one] = chain.with_bits(one)
        except InvalidInput as error:
            problems += [
                Problem("by_round", f"{name} ({one} in some round)", found.bound, "take factors nearer to 1")
                for found in error.problems
            ]
    if problems:
        raise InvalidInput(problems)
    return tuple(made[one] for one in bits)
