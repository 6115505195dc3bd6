"""Prints the reference of every option of a plan: meaning, default, bounds, and what it is used with.

    tff-hospitals options > options.md

The page is Markdown; it is made from the declarations that the flags and the checks are made from.
"""

from __future__ import annotations

from collections.abc import Iterator

from tff_hospitals.plan.checks.options import needs
from tff_hospitals.plan.options import Option, options_of
from tff_hospitals.plan.plan import Plan


def define_flags() -> None:
    """It has none."""


def run() -> None:
    """Prints the page."""
    print(page())


def page() -> str:
    """The reference page as Markdown, one table per part of a plan.

    >>> [line for line in page().splitlines() if line.startswith("| `--rounds`")]
    ['| `--rounds` | round limit | whole number >= 1 and <= 1e+06 | rounds | 15 | |']
    """
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield "# Options of a plan"
    part = None
    for option in sorted(options_of(Plan), key=lambda one: bool(one.part)):
        if option.part != part:
            part = option.part
            words = (type(getattr(Plan(), part)).__doc__ or "") if part else "What a run does as a whole."
            yield from ("", f"## {part or 'plan'}", "", words.strip().splitlines()[0], "")
            yield "| option | meaning | values | unit | default | used with |"
            yield "|---|---|---|---|---|---|"
        yield _row(option)


def _row(option: Option) -> str:
    name = f"`--{option.flag}`" if option.on_command_line else f"`{option.flag}`"
    default = "" if option.default is None else str(option.default)
    cells = (name, option.help, option.range_words, option.unit, default, needs(option))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |".replace("  |", " |")
