"""The options of a plan against their declarations: bounds, names, and values that nothing would use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tff_hospitals.foundations.validation import Problem
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.options import ALWAYS, Option, options_of
from tff_hospitals.plan.plan import Plan


def is_used(option: Option, plan: Plan) -> bool:
    """Whether anything in a plan uses an option.

    >>> (restart,) = (one for one in options_of(Plan) if one.flag == "restart_every")
    >>> is_used(restart, Plan()), is_used(restart, Plan().replace(privacy={"mechanism": "tree"}))
    (False, True)
    """
    if option.used.holds is not None:
        return option.used.holds(plan)
    return mechanisms.reads(plan.privacy, option.used.reads or option.field)


def needs(option: Option) -> str:
    """What must be chosen for an option to be used, in words; empty where it always is.

    >>> [needs(one) for one in options_of(Plan) if one.flag in ("restart_every", "modulus_bits", "rounds")]
    ['aggregator=tree', 'aggregator=discrete_gaussian or skellam', '']
    """
    if option.used is ALWAYS:
        return ""
    return option.used.words or "aggregator=" + " or ".join(mechanisms.readers(option.field))


def help_of(option: Option) -> str:
    """What an option means, its choices, and what it is used with, in a line for `--help`."""
    choices = "" if option.choices is None else f" [{'|'.join(option.choices())}]"
    return option.help + choices + (f" (with {needs(option)})" if needs(option) else "")


def problem_of(option: Option, plan: Plan) -> Problem | None:
    """What is wrong with the value that a plan has: out of bounds, missing, or set although nothing uses it."""
    value, used = option.of(plan), is_used(option, plan)
    if not used and not option.tolerated and value != option.default:
        return refusal(option.flag, value, needs(option))
    if value is None and option.may_be_none and not (used and option.required):
        return None
    if value is None and option.required:
        return Problem(option.flag, None, f"must be given with {needs(option)}: it is the {option.help}", option.advice)
    return option.problem(value)


def problems(plan: Plan) -> list[Problem]:
    """What is wrong with a plan's options, each by itself."""
    found = (problem_of(one, plan) for one in options_of(Plan))
    return [problem for problem in found if problem is not None]


def unused(plans: Iterable[Plan], given: Mapping[str, Any]) -> list[Problem]:
    """A problem for every given flag that none of the plans uses.

    Args:
      plans: those of a command.
      given: values by flag name, as given on the command line.
    """
    plans = list(plans)
    return [
        refusal(f"--{one.flag}", given[one.flag], needs(one))
        for one in options_of(Plan)
        if one.flag in given and not any(is_used(one, plan) for plan in plans)
    ]


def refusal(name: str, value: Any, needed: str) -> Problem:
    """The refusal of a value that nothing would use."""
    return Problem(name, value, f"is only used with {needed}", f"drop it or choose {needed}")
