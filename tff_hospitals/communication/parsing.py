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

from collections.abc import Sequence

from tff_hospitals.communication import stage
from tff_hospitals.communication.stages import FORMS
from tff_hospitals.foundations import validation

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


def order_problems(chain: Sequence[stage.Stage], name: str) -> list[validation.Problem]:
    """Every reason why these stages, each sound in itself, do not make a sound chain in this order."""
    text = ",".join(map(str, chain))
    problems = []

    def refuse(bound: str, remedy: str) -> None:
        problems.append(validation.Problem(name, text, bound, remedy))

    for index, late in enumerate(chain):
        for early in chain[:index]:
            if early.rank == late.rank:
                what = stage.RANK_NAMES[late.rank]
                bound = f"{early} and {late} are both of the kind '{what}', of which a chain has one"
                refuse(bound, f"drop {early} or {late}")
            elif early.rank > late.rank:
                why = _WHY[late.rank] if early.rank != stage.ENTROPY else _WHY[stage.QUANTISE]
                reason = why[early.rank] if isinstance(why, dict) else why
                ordered = ",".join(map(str, sorted(chain, key=lambda each: each.rank)))
                refuse(f"{late.name} must come before {early.name}: {reason}", f"write {ordered}")
    if problems:
        return problems
    by_rank = {each.rank: each for each in chain}
    for each in chain:
        for bound, remedy in each.order_problems(by_rank):
            refuse(bound, remedy)
    return problems
