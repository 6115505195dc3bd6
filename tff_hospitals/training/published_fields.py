"""Every field of every file and message of a run: what it says, who may see it, and which release covers it.

Whatever leaves a protected unit is inside the guarantee or does not leave. A run directory has three kinds of places:

| place | who may read it |
|---|---|
| the files at its top | what a run may show: settings, what was computed from noised releases, the accounting |
| `inside/` | people inside only: exact figures of records or hospitals, which no epsilon covers |
| `checkpoints/`, `updates/`, fields of kind seed or house | the program that goes on with the run, or audits it |

`publishing.publish` copies the first kind alone. A run without a mechanism protects nothing: its files hold everything
and nothing is set apart; publishing it still leaves out what a hospital-level guarantee would.

>>> from tff_hospitals.plan.plan import Plan
>>> private = Plan().replace(privacy={"mechanism": "fixed_clip", "noise_multiplier": 1.0}, weighting="equal")
>>> leaves(private)("metrics.csv", "train_loss"), leaves(Plan())("metrics.csv", "train_loss")
(False, True)
>>> leaves(private)("metrics.csv", "epsilon_rdp")
True
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.published_table import FIELDS, KINDS, Kind, is_private

INSIDE = "inside"
"""The folder of a run directory for what no epsilon covers."""
OWN_MODELS = "own_models"
"""The folder in it for the models of single hospitals."""


@functools.lru_cache(maxsize=8192)  # every run of a comparison asks for the same fields again
def kind_of(file: str, field: str) -> Kind | None:
    """The kind of a field: of the entry of the table that names it most closely; None when there is none.

    >>> kind_of("record.json", "dataset.hospitals.3.train_records") is KINDS["sizes"]
    True
    >>> kind_of("record.json", "something new"), kind_of("record.json", "dataset.something_new")
    (None, None)
    """
    path = field.split(".")
    found: tuple[tuple[bool, int], str] | None = None
    for pattern, name in FIELDS.get(file, {}).items():
        parts = pattern.split(".")
        below = parts[-1] == "**"
        parts = parts[:-1] if below else parts
        long_enough = len(path) > len(parts) if below else len(path) == len(parts)
        if long_enough and all(part in ("*", key) for part, key in zip(parts, path)):
            rank = (not below, len(parts) - parts.count("*"))
            if found is None or rank > found[0]:
                found = (rank, name)
    return None if found is None else KINDS[found[1]]


def leaves(plan: Plan) -> Callable[[str, str], bool]:
    """Says whether a field of a file may stand outside of `inside/` under a plan; one that the table does not know may
    not.
    """
    if not is_private(plan):
        return lambda file, field: True
    allowed = {kind for kind in KINDS.values() if kind.leaves(plan)}
    return lambda file, field: kind_of(file, field) in allowed


def may_be_published(plan: Plan) -> Callable[[str, str], bool]:
    """Says whether a field of a file may leave the house; without a mechanism only what a guarantee for hospitals would
    let out.
    """
    strict = plan if is_private(plan) else plan.replace(privacy={"mechanism": "fixed_clip"})
    allowed = {kind for kind in KINDS.values() if kind.published and kind.leaves(strict)}
    return lambda file, field: kind_of(file, field) in allowed


def part_of(file: str, value: Any, allowed: Callable[[str, str], bool], path: str = "") -> Any:
    """The part of a JSON value whose fields are allowed.

    >>> part_of("timing.csv", {"round": 1, "seconds": 2.0}, lambda file, field: field == "round")
    {'round': 1}
    """
    if path and not isinstance(value, (Mapping, list, tuple)):
        return value
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    kept = {}
    for key, item in items:
        name = str(key).replace(".", "_")  # of a hospital, for example: it must not lead elsewhere in the table
        here = f"{path}.{name}" if path else name
        nested = isinstance(item, (Mapping, list, tuple)) and item
        if nested or allowed(file, here):
            part = part_of(file, item, allowed, here) if nested else item
            if not nested or part or allowed(file, here):
                kept[key] = part
    return kept if isinstance(value, Mapping) else list(kept.values())


def described(plan: Plan) -> dict[str, Any]:
    """The table for one plan, for its summary: fields by file that stand outside of `inside/`, with their kinds; what
    is not covered; and what the kinds mean.
    """
    named: dict[str, dict[str, str]] = {}
    apart: dict[str, list[str]] = {}
    allowed = leaves(plan)
    for file, field, name in _entries():
        if allowed(file, field):
            named.setdefault(file, {})[field] = name
        else:
            apart.setdefault(file, []).append(field)
    kinds = {name for fields in named.values() for name in fields.values()}
    nothing = "nothing: this run has no mechanism, and no guarantee"
    private = is_private(plan)
    return {
        "fields": named,
        "not_covered": apart,
        "covered_by": {name: kind.covered_by if private else nothing for name, kind in KINDS.items() if name in kinds},
    }


_EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "record": {"privacy": {"mechanism": "dp_sgd"}},
    "hospital": {"privacy": {"mechanism": "fixed_clip"}},
    "hospital, sampled": {"privacy": {"mechanism": "fixed_clip"}, "cohort": {"kind": "poisson"}},
    "both": {"privacy": {"mechanism": "dp_sgd", "outer": "fixed_clip"}},
}


def markdown() -> str:
    """docs/published_fields.md."""
    units = {unit: leaves(Plan().replace(**changes)) for unit, changes in _EXAMPLES.items()}
    head = ["file or message", "field", "kind", *units, "published"]
    lines = [_DOCUMENT, f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for file, field, name in _entries():
        marks = ["yes" if allowed(file, field) else f"`{INSIDE}/`" for allowed in units.values()]
        out = "yes" if KINDS[name].published else "never"
        lines.append(f"| {file} | {field.replace('*', chr(92) + '*')} | {name} | {' | '.join(marks)} | {out} |")
    lines += ["", "| kind | says | covered by |", "|---|---|---|"]
    lines += [f"| {name} | {kind.says} | {kind.covered_by} |" for name, kind in KINDS.items()]
    return "\n".join(lines) + "\n"


def _entries() -> Iterator[tuple[str, str, str]]:
    for file, fields in FIELDS.items():
        for field, name in fields.items():
            yield file, field, name


_DOCUMENT = """# What a run shows, and which release covers it

Made by `./run -m tff_hospitals.training.published_fields` from the table in the code; a test holds the two equal.
Columns are units of privacy: `sampled` means hospitals drawn by Poisson sampling, which amplifies the guarantee.
`inside/` is a folder of the run directory for people inside only: no epsilon covers what lies there, and
`tff-hospitals publish` never copies it. A run without a mechanism protects nothing: its files hold everything.
A star stands for any key, two for everything below; a field that is not listed stays in `inside/` and is never
published. Messages and the terminal are listed too; what a terminal shows is for who runs it.
"""


if __name__ == "__main__":
    print(markdown(), end="")
