"""Reads and checks chains of encoders: `rotate,quantize:4,entropy`.

>>> from tff_hospitals.communication import parse_chain
>>> print(parse_chain("topk:0.010, ternary:mean, entropy"))
topk:0.01,ternary:mean,entropy
>>> try:
...     parse_chain("quantize:4,rotate")
... except validation.InvalidInput as error:
...     print(error.problems[0].bound)
rotate must come before quantize: a rotation makes floats of the few symbols again
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from tff_hospitals.communication import stage
from tff_hospitals.communication.casts import BFloat16, Float16
from tff_hospitals.communication.codebook import Eden, OneBit
from tff_hospitals.communication.rotation import Rotate
from tff_hospitals.communication.sparsify import RandomK, Threshold, TopK
from tff_hospitals.communication.ternary import Ternary
from tff_hospitals.communication.uniform import Quantize
from tff_hospitals.foundations import validation


@dataclasses.dataclass(frozen=True)
class Delta(stage.Stage):
    """`delta`: encodes the difference to a reference that both ends hold (the last decoded model), and adds it back.

    The reference being what was decoded, not what was meant, each payload also mends the error of the one before. For
    the first one, both ends may build the initial model from its seed, or start at zeros and send it whole.
    """

    rank = stage.DELTA
    name = "delta"


@dataclasses.dataclass(frozen=True)
class Entropy(stage.Stage):
    """`entropy`: codes positions and symbols in as few bytes as they need; loses nothing.

    The length of a payload then depends on the values (as with `threshold`), and whoever counts bytes sees it: where
    values must stay private, encode what has been noised already.
    """

    rank = stage.ENTROPY
    name = "entropy"


# What was before a stage that comes too late, by the rank of the late stage: why that order is unsound.
_WHY = {
    stage.DELTA: "a difference to the reference can only be taken from the values themselves",
    stage.ROTATE: {
        stage.SPARSIFY: "a rotation spreads the few values that were kept over all positions again",
        stage.QUANTISE: "a rotation makes floats of the few symbols again",
    },
    stage.SPARSIFY: "magnitudes are compared before they are rounded; symbols have no order of size",
    stage.QUANTISE: "entropy coding ends in bytes: there are no values left",
    stage.ENTROPY: "",
}


def _whole(name: str, text: str, low: int, high: int) -> tuple[int, list[validation.Problem | None]]:
    remedy = f"write for example {name}:{min(4, high)}"
    try:
        value = int(text)
    except ValueError:
        return low, [validation.Problem(f"{name} bits", text, f"must be a whole number from {low} to {high}", remedy)]
    return value, [validation.whole_number(f"{name} bits", value, low=low, high=high, remedy=remedy)]


def _real(name: str, what: str, text: str, **bounds: Any) -> tuple[float, list[validation.Problem | None]]:
    remedy = f"write for example {name}:0.01"
    try:
        value = float(text)
    except ValueError:
        return 1.0, [validation.Problem(f"{name} {what}", text, "must be a number", remedy)]
    return value, [validation.in_range(f"{name} {what}", value, remedy=remedy, **bounds)]


@dataclasses.dataclass(frozen=True)
class _Form:
    """How a stage is written: `name[:argument][:variant]`."""

    usage: str
    make: Callable[..., stage.Stage]
    argument: Callable[[str], tuple[float, list[validation.Problem | None]]] | None = None
    variant: str | None = None


def _fraction(name: str) -> Callable[[str], tuple[float, list[validation.Problem | None]]]:
    return lambda text: _real(name, "fraction", text, low=0, high=1, low_open=True)


FORMS: dict[str, _Form] = {
    "delta": _Form("delta", lambda plain: Delta()),
    "rotate": _Form("rotate", lambda plain: Rotate()),
    "threshold": _Form(
        "threshold:t",
        lambda bound, plain: Threshold(bound),
        lambda text: _real("threshold", "bound", text, low=0, low_open=True),
    ),
    "topk": _Form("topk:fraction", lambda fraction, plain: TopK(fraction), _fraction("topk")),
    "randk": _Form("randk:fraction[:unscaled]", RandomK, _fraction("randk"), "unscaled"),
    "quantize": _Form("quantize:bits[:nearest]", Quantize, lambda text: _whole("quantize", text, 1, 16), "nearest"),
    "onebit": _Form("onebit[:biased]", lambda plain: OneBit(unbiased=plain), None, "biased"),
    "eden": _Form("eden:bits[:biased]", Eden, lambda text: _whole("eden", text, 1, 4), "biased"),
    "ternary": _Form("ternary[:mean]", Ternary, None, "mean"),
    "float16": _Form("float16", lambda plain: Float16()),
    "bfloat16": _Form("bfloat16", lambda plain: BFloat16()),
    "entropy": _Form("entropy", lambda plain: Entropy()),
}
USAGE = ", ".join(form.usage for form in FORMS.values())


def parse_stages(text: str, name: str) -> tuple[stage.Stage, ...]:
    """The stages that `text` names, each checked for itself; "" and "none" are the empty chain.

    Raises:
      InvalidInput: all unknown stages and arguments out of bounds at once.
    """
    parts = [part.strip() for part in text.split(",")]
    if [part for part in parts if part] in ([], ["none"]):
        return ()
    found: list[stage.Stage] = []
    problems: list[validation.Problem | None] = []
    for part in parts:
        made, wrong = _parse_stage(part, name)
        found += [] if made is None else [made]
        problems += wrong
    validation.raise_if(problems)
    return tuple(found)


def _parse_stage(part: str, name: str) -> tuple[stage.Stage | None, list[validation.Problem | None]]:
    word, *rest = (piece.strip() for piece in part.split(":"))
    unknown = validation.one_of(name, word, FORMS)
    if unknown:
        return None, [unknown]
    form = FORMS[word]
    given: list[float] = []
    problems: list[validation.Problem | None] = []
    if form.argument is not None:
        if not rest:
            return None, [validation.Problem(name, part, f"{word} needs an argument", f"write {form.usage}")]
        value, problems = form.argument(rest.pop(0))
        given.append(value)
    plain = True
    if rest and rest[0] == form.variant:
        plain = False
        rest.pop(0)
    if rest:
        problems = [*problems, validation.Problem(name, part, f"{rest[0]!r} means nothing here", f"write {form.usage}")]
    if any(problem is not None for problem in problems):
        return None, problems
    return form.make(*given, plain), problems


def order_problems(stages: Sequence[stage.Stage], name: str) -> list[validation.Problem]:
    """Every reason why these stages, each sound in itself, do not make a sound chain in this order."""
    text = ",".join(map(str, stages))
    problems = []

    def refuse(bound: str, remedy: str) -> None:
        problems.append(validation.Problem(name, text, bound, remedy))

    for index, late in enumerate(stages):
        for early in stages[:index]:
            if early.rank == late.rank:
                what = stage.RANK_NAMES[late.rank]
                bound = f"{early} and {late} are both of the kind '{what}', of which a chain has one"
                refuse(bound, f"drop {early} or {late}")
            elif early.rank > late.rank:
                why = _WHY[late.rank] if early.rank != stage.ENTROPY else _WHY[stage.QUANTISE]
                reason = why[early.rank] if isinstance(why, dict) else why
                ordered = ",".join(map(str, sorted(stages, key=lambda each: each.rank)))
                refuse(f"{late.name} must come before {early.name}: {reason}", f"write {ordered}")
    if problems:
        return problems
    ranks = {each.rank: each for each in stages}
    quantiser = ranks.get(stage.QUANTISE)
    if isinstance(quantiser, Eden):
        needs_rotation = quantiser.unbiased or not isinstance(quantiser, OneBit)
        if needs_rotation and stage.ROTATE not in ranks:
            remedy = f"write rotate,{quantiser}" + (" or onebit:biased" if isinstance(quantiser, OneBit) else "")
            refuse(f"{quantiser} needs rotate before it: its levels and scale are made for rotated values", remedy)
        if quantiser.unbiased and stage.SPARSIFY in ranks:
            sparsifier = ranks[stage.SPARSIFY]
            bound = f"{quantiser} right after {sparsifier}: the scale is unbiased only for a whole rotated vector"
            refuse(bound, f"write {quantiser}:biased or drop {sparsifier}")
    if isinstance(quantiser, Ternary) and not quantiser.stochastic and stage.SPARSIFY not in ranks:
        bound = "ternary:mean needs a sparsifier before it: what that drops are the zeros"
        refuse(bound, "write topk:0.01,ternary:mean or ternary")
    return problems
