"""Hospitals that attack the training: `KIND:HOSPITAL[:AMOUNT]`, several of them separated by commas.

| kind | what the hospital does | amount |
|---|---|---|
| `sign_flip` | sends its update times -amount | default 1 |
| `scale` | sends its update times amount | default 10 |
| `label_flip` | trains on labels of another class (regression: mirrored targets) | share of its records, default 1 |
| `backdoor` | marks records and labels them as the first class | share of its records, default .5 |

>>> [(one.kind, one.hospital, one.amount) for one in parse("sign_flip:site_3:10,label_flip:site_4")]
[('sign_flip', 'site_3', 10.0), ('label_flip', 'site_4', 1.0)]
>>> parse("sign_flip:site_3:10")[0].factor
-10.0
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection

from tff_hospitals.foundations.validation import InvalidInput, Problem, one_of

KINDS = {"sign_flip": 1.0, "scale": 10.0, "label_flip": 1.0, "backdoor": 0.5}
_OF_DATA = ("label_flip", "backdoor")
_REMEDY = "write KIND:HOSPITAL or KIND:HOSPITAL:AMOUNT, such as sign_flip:site_3:10"


@dataclasses.dataclass(frozen=True)
class Poison:
    """What one hospital does.

    Attributes:
      kind: one of `KINDS`.
      hospital: its id.
      amount: a factor, or a share of records.
    """

    kind: str
    hospital: str
    amount: float

    @property
    def of_data(self) -> bool:
        """Whether its records are changed, not its update."""
        return self.kind in _OF_DATA

    @property
    def factor(self) -> float:
        """What its update is multiplied by."""
        if self.of_data:
            return 1.0
        return -self.amount if self.kind == "sign_flip" else self.amount

    @property
    def words(self) -> str:
        """For tables and logs."""
        what = {
            "sign_flip": f"sends its update times {self.factor:g}",
            "scale": f"sends its update times {self.factor:g}",
            "label_flip": f"trains on false labels ({self.amount:.0%} of its records)",
            "backdoor": f"hides a mark that means the first class in {self.amount:.0%} of its records",
        }
        return f"{self.hospital} {what[self.kind]}"


def parse(text: str) -> tuple[Poison, ...]:
    """The attacks that a text names.

    Raises:
      InvalidInput: what nobody can read.
    """
    found, problems = [], []
    for part in text.split(",") if text.strip() else []:
        kind, _, rest = part.strip().partition(":")
        known = one_of("poison", kind, KINDS)
        if known is not None or not rest:
            problems.append(known or Problem("poison", part, "names no hospital", _REMEDY))
            continue
        hospital, amount = rest, KINDS[kind]
        head, colon, tail = rest.rpartition(":")
        if colon:
            try:
                hospital, amount = head, float(tail)
            except ValueError:
                problems.append(Problem("poison", part, f"has an amount that is no number: {tail!r}", _REMEDY))
                continue
        high = 1.0 if kind in _OF_DATA else 1e6
        if not (math.isfinite(amount) and 0 < amount <= high):
            problems.append(Problem("poison", part, f"must have an amount > 0 and <= {high:g}", _REMEDY))
            continue
        found.append(Poison(kind, hospital, amount))
    if problems:
        raise InvalidInput(problems)
    return tuple(found)


def problems(text: str, hospitals: Collection[str] | None = None) -> list[Problem]:
    """What is wrong with a text, and hospitals that are not there or attack twice."""
    try:
        found = parse(text)
    except InvalidInput as error:
        return list(error.problems)
    names = [one.hospital for one in found]
    wrong = [
        Problem("poison", name, "attacks in two ways", "name each hospital once")
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if hospitals is not None:
        wrong += [problem for name in names if (problem := one_of("hospital of poison", name, hospitals)) is not None]
    return wrong


def factors(text: str) -> dict[str, float]:
    """What the updates of attacking hospitals are multiplied by; empty where none attacks by its update."""
    return {one.hospital: one.factor for one in parse(text) if not one.of_data}
