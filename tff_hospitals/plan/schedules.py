"""Settings that change from round to round: `SETTING=SHAPE`, several of them separated by commas.

A shape gives the factor of a setting in round t (0-based) of T rounds; what the plan says elsewhere is the setting at
factor 1. Shapes may be multiplied, as in `warmup:3*cosine:0.1`.

| shape | factor |
|---|---|
| `constant` | 1 |
| `linear:END` | from 1 in the first round to END in the last one |
| `cosine:END` | the same along half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983); END is .01 if left out |
| `warmup:ROUNDS` | (t + 1) / ROUNDS in the first rounds, then 1 |
| `step:EVERY:FACTOR` | times FACTOR after every so many rounds |
| `exponential:RATE` | RATE ** t |
| `inverse_sqrt` | 1 / sqrt(t + 1) |
| `list:A:B:...` | one factor for each round; of a longer list the first |

>>> table("linear:0.5", 3), factors("clip_norm=step:2:0.5", "clip_norm", 4)
((1.0, 0.75, 0.5), (1.0, 1.0, 0.5, 0.5))
"""

from __future__ import annotations

import functools
import math

from tff_hospitals.foundations.validation import InvalidInput, Problem, one_of

BITS = ("upload_bits", "broadcast_bits")
"""The B of `quantize:B` or `eden:B` in the chain of one direction."""
SETTINGS = (
    "client_learning_rate",
    "server_learning_rate",
    "proximal_mu",
    "local_steps",
    "local_epochs",
    "hospitals_per_round",
    "clip_norm",
    "noise_multiplier",
    "outer_clip_norm",
    "outer_noise_multiplier",
    *BITS,
)
"""Flags of the settings that may change by round."""
_FIXED = {
    "upload": "is a chain of encoders: what may change by round is the number of bits of its quantize:B or eden:B",
    "broadcast": "is a chain of encoders: what may change by round is the number of bits of its quantize:B or eden:B",
    "modulus_bits": "is the ring of a secure sum, which all hospitals agree on before the first round",
    "batch_size": "decides the sampling probability that every event of the run is accounted with",
    "rounds": "is what the other settings change by",
}
_FORMS = {
    "constant": "constant",
    "linear": "linear:END, such as linear:0.1",
    "cosine": "cosine:END, such as cosine:0.1",
    "warmup": "warmup:ROUNDS, such as warmup:3",
    "step": "step:EVERY:FACTOR, such as step:10:0.5",
    "exponential": "exponential:RATE, such as exponential:0.99",
    "inverse_sqrt": "inverse_sqrt",
    "list": "list:A:B:..., one factor for each round",
}
_COUNTS = {"constant": (0,), "linear": (1,), "cosine": (0, 1), "warmup": (1,), "step": (2,), "exponential": (1,)}
_REMEDY = "write SETTING=SHAPE, such as --by_round=client_learning_rate=warmup:3*cosine:0.1,clip_norm=linear:0.5"
_MOST = 1e6


def parse(text: str) -> dict[str, str]:
    """The shapes of a text by the names of their settings.

    Raises:
      InvalidInput: entries that nobody can read, unknown settings, settings that come twice.
    """
    found: dict[str, str] = {}
    problems: list[Problem | None] = []
    for entry in text.split(",") if text.strip() else []:
        name, separator, shape = (part.strip() for part in entry.partition("="))
        if name in _FIXED:
            remedy = f"take it out of --by_round; these may change: {', '.join(SETTINGS)}"
            problems.append(Problem("by_round", name, _FIXED[name], remedy))
        elif not separator or not shape:
            problems.append(Problem("by_round", entry, "names no shape", _REMEDY))
        elif name in found:
            problems.append(Problem("by_round", name, "comes twice", "name each setting once"))
        else:
            problems.append(one_of("setting of by_round", name, SETTINGS))
            found[name] = shape
    if any(problems):
        raise InvalidInput([one for one in problems if one is not None])
    return found


def table(shape: str, rounds: int) -> tuple[float, ...]:
    """The factor of every round.

    Raises:
      InvalidInput: an unknown shape, numbers that do not fit, a list that is shorter than the run.
    """
    parts = [_one(part.strip(), rounds) for part in shape.split("*")]
    found = tuple(math.prod(of_round) for of_round in zip(*parts))
    if not all(math.isfinite(one) and 0 < one <= _MOST for one in found):
        bound = f"must give factors > 0 and <= {_MOST:g} in all {rounds} rounds"
        raise InvalidInput([Problem("by_round", shape, bound, "give numbers above 0, nearer to 1")])
    return found


def _one(part: str, rounds: int) -> list[float]:
    kind, _, rest = part.partition(":")
    unknown = one_of("shape of by_round", kind, _FORMS)
    if unknown is not None:
        raise InvalidInput([unknown])
    try:
        numbers = [float(one) for one in rest.split(":")] if rest else []
    except ValueError:
        numbers = [math.nan]
    allowed = _COUNTS.get(kind, (0,))
    if not all(math.isfinite(one) and one > 0 for one in numbers) or (kind != "list" and len(numbers) not in allowed):
        bound = "must have positive numbers in their places"
        raise InvalidInput([Problem("by_round", part, bound, f"write {_FORMS[kind]}")])
    if kind == "list":
        if len(numbers) < rounds:
            bound = f"is shorter than the run: {len(numbers)} factors for {rounds} rounds"
            remedy = f"give {rounds} factors, or --rounds={len(numbers) or 1}"
            raise InvalidInput([Problem("by_round", part, bound, remedy)])
        return numbers[:rounds]
    try:
        return [_at(kind, numbers, number, rounds) for number in range(rounds)]
    except OverflowError:
        return [math.inf] * rounds


def _at(kind: str, numbers: list[float], number: int, rounds: int) -> float:
    """The factor that a shape gives in a round (0-based)."""
    share = number / max(1, rounds - 1)
    end = numbers[0] if numbers else 0.01
    if kind == "linear":
        return 1 + (end - 1) * share
    if kind == "cosine":
        return end + (1 - end) * (1 + math.cos(math.pi * share)) / 2
    if kind == "warmup":
        return min(1.0, (number + 1) / numbers[0])
    if kind == "step":
        return float(numbers[1] ** (number // numbers[0]))
    if kind == "exponential":
        return float(numbers[0] ** number)
    return 1 / math.sqrt(number + 1) if kind == "inverse_sqrt" else 1.0


@functools.lru_cache(maxsize=256)
def factors(text: str, name: str, rounds: int) -> tuple[float, ...]:
    """The factors of one setting in every round; ones where it does not change."""
    shapes = parse(text)
    return table(shapes[name], rounds) if name in shapes else (1.0,) * rounds


def changes(text: str, name: str) -> bool:
    """Whether a setting changes by round."""
    return bool(text) and name in parse(text)


def factor(text: str, name: str, rounds: int, number: int) -> float:
    """The factor of a setting in a round (0-based); after the last planned one, that of the last."""
    return factors(text, name, rounds)[min(number, rounds - 1)] if text else 1.0


def whole(value: int, by: float) -> int:
    """A whole number times a factor, to the nearest whole number; one that comes to 0 in some round is refused.

    >>> whole(10, 0.25), whole(1, 0.25)
    (2, 0)
    """
    return round(value * by)
