"""What a search may change: fields of the plan, by the names of their flags, with the values that they may take.

    client_learning_rate:0.001:0.1:log        a number between two bounds, searched by its order of magnitude
    local_steps:10:200                        a whole number
    server_optimizer:sgd|adam|yogi            one of several values

>>> axis = parse_axis("client_learning_rate:0.001:0.1:log")
>>> axis.option.flag, axis.low, axis.high, axis.logarithmic
('client_learning_rate', 0.001, 0.1, True)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tff_hospitals.foundations.validation import InvalidInput, Problem, one_of, raise_if
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.options import Option, options_of
from tff_hospitals.plan.plan import Plan

_REMEDY = "write FLAG:LOW:HIGH, FLAG:LOW:HIGH:log or FLAG:one|other, such as client_learning_rate:0.001:0.1:log"
_NEVER = ("seed", "dataset", "partition", "sites", "data_seed", "target_epsilon", "outer_target_epsilon")
_NEVER_WORDS = "is what settings are compared for, not a setting"


@dataclasses.dataclass(frozen=True)
class Axis:
    """One field of the plan that a search changes.

    Attributes:
      option: the field.
      low, high: bounds of a number.
      logarithmic: whether orders of magnitude count.
      values: what it may be, instead of bounds.
    """

    option: Option
    low: float | None = None
    high: float | None = None
    logarithmic: bool = False
    values: tuple[Any, ...] = ()

    def suggest(self, trial: Any) -> Any:
        """A value, asked of an Optuna trial."""
        name = self.option.flag
        if self.values:
            return trial.suggest_categorical(name, list(self.values))
        if self.option.kind is int:
            return trial.suggest_int(name, int(self.low or 0), int(self.high or 0), log=self.logarithmic)
        return trial.suggest_float(name, self.low, self.high, log=self.logarithmic)


def parse_axis(text: str) -> Axis:
    """One axis from its text.

    Raises:
      InvalidInput: what nobody can read, an unknown flag, no value, bounds beyond those of the field.
    """
    flag, _, rest = text.strip().partition(":")
    options = {one.flag: one for one in options_of(Plan)}
    raise_if([one_of("search", flag, options)])
    option = options[flag]
    if flag in _NEVER:
        raise InvalidInput([Problem("search", flag, _NEVER_WORDS, "search over another flag")])
    if not rest:
        raise InvalidInput([Problem("search", text, "has no values", _REMEDY)])
    if "|" in rest or option.kind in (str, bool):
        values = tuple(_value(option, part) for part in rest.split("|") if part.strip())
        if not values:
            raise InvalidInput([Problem("search", text, "has no values", _REMEDY)])
        raise_if([option.problem(value) for value in values])
        return Axis(option, values=values)
    parts = rest.split(":")
    if len(parts) not in (2, 3) or parts[2:] not in ([], ["log"]):
        raise InvalidInput([Problem("search", text, "is no range", _REMEDY)])
    low, high = (_value(option, part) for part in parts[:2])
    problems = [option.problem(low), option.problem(high)]
    if low >= high:
        problems.append(Problem("search", text, "must have a lower bound below the upper one", _REMEDY))
    if parts[2:] and low <= 0:
        problems.append(Problem("search", text, "has no order of magnitude at 0", "give a lower bound above 0"))
    raise_if(problems)
    return Axis(option, float(low), float(high), bool(parts[2:]))


def _value(option: Option, text: str) -> Any:
    text = text.strip()
    if option.kind is bool:
        raise_if([one_of("search", text, ("true", "false"))])
        return text == "true"
    try:
        return option.kind(text)
    except ValueError:
        kind = "whole number" if option.kind is int else "number"
        raise InvalidInput([Problem(f"search of {option.flag}", text, f"must be a {kind}", _REMEDY)]) from None


def default_axes(plan: Plan) -> tuple[Axis, ...]:
    """What is worth a search in any plan: rates of hospital and server, local work, and the clip norm under noise.

    >>> [axis.option.flag for axis in default_axes(Plan())]
    ['client_learning_rate', 'local_steps', 'server_learning_rate']
    """
    rate = plan.client.learning_rate
    texts = [f"client_learning_rate:{rate / 30:.3g}:{rate * 10:.3g}:log"]
    if plan.client.local_steps is not None:
        texts.append(f"local_steps:{max(1, plan.client.local_steps // 10)}:{2 * plan.client.local_steps}:log")
    else:
        texts.append(f"local_epochs:1:{max(4, 2 * int(plan.client.local_epochs or 1))}")
    rate = plan.server.learning_rate
    texts.append(f"server_learning_rate:{rate / 4:.3g}:{rate * 2:.3g}:log")
    if mechanisms.of(plan.privacy).private:
        norm = plan.privacy.clip_norm
        texts.append(f"clip_norm:{norm / 10:.3g}:{norm * 3:.3g}:log")
    return tuple(map(parse_axis, texts))


def parse_axes(texts: Sequence[str], plan: Plan) -> tuple[Axis, ...]:
    """The axes of a search; the default ones where none is named.

    Raises:
      InvalidInput: every axis that nobody can read, and flags that come twice.
    """
    if not texts:
        return default_axes(plan)
    found, problems = [], []
    for text in texts:
        try:
            found.append(parse_axis(text))
        except InvalidInput as error:
            problems += list(error.problems)
    flags = [axis.option.flag for axis in found]
    for flag in dict.fromkeys(flags):
        if flags.count(flag) > 1:
            problems.append(Problem("search", flag, "comes twice", "name each flag once"))
    raise_if(problems)
    return tuple(found)
