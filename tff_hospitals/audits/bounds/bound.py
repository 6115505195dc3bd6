"""One proved lower bound on epsilon beside the promise.

>>> made = bound("record", "hungary", "4,000 pairs", proved=0.4, stated=1.0, tight=0.9, confidence=0.999)
>>> made.passed
True
>>> print(bound("hospital", None, "4,000 pairs", proved=2.5, stated=1.0, tight=0.9, confidence=0.999).words)
FAIL at hospital level: 4,000 pairs prove epsilon >= 2.5 with 99.9 % confidence, above the ledger's 0.9 (stated: 1)
"""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Bound:
    """What an attack proves, held against the ledger.

    Attributes:
      unit: "record" or "hospital".
      hospital: whose record, or which hospital; None: of any.
      method: how the bound was obtained.
      lower_bound: epsilon that is proved with `confidence`, at the ledger's delta.
      ledger_epsilon: as the run states it; infinite without a promise (nothing can then fail).
      tight_epsilon: the smallest that the ledger's releases are known to have; what is proved must not exceed it.
      confidence: of the lower bound.
      notices_below: noise over the declared one below which the attack would have ruled the ledger out, with a
        probability of 95 %; None where that is not known.
      passed: whether the promise stands.
      words: one sentence for a report.
    """

    unit: str
    hospital: str | None
    method: str
    lower_bound: float
    ledger_epsilon: float
    tight_epsilon: float
    confidence: float
    notices_below: float | None
    passed: bool
    words: str


def bound(
    unit: str,
    hospital: str | None,
    method: str,
    *,
    proved: float,
    stated: float,
    tight: float,
    confidence: float,
    notices_below: float | None = None,
    passed: bool | None = None,
) -> Bound:
    """A bound with its verdict in words.

    Args:
      unit, hospital, method: see `Bound`.
      proved, stated, tight: epsilon by the attack, by the run and by the ledger's tight analysis.
      confidence: of the proof.
      notices_below: see `Bound`.
      passed: what a sharper test than the comparison of epsilons says; None: the comparison.
    """
    passed = proved <= tight if passed is None else passed
    where = f" ({hospital})" if hospital is not None else ""
    text = f"{method} prove epsilon >= {proved:.3g} with {100 * confidence:g} % confidence"
    if math.isinf(stated):
        words = f"NO PROMISE at {unit} level{where}: {text}, and the ledger promises nothing"
    else:
        of_ledger = f"the ledger's {tight:.3g}" + (f" (stated: {stated:.3g})" if stated != tight else "")
        verdict, how = ("PASS", "within") if passed else ("FAIL", "above")
        words = f"{verdict} at {unit} level{where}: {text}, {how} {of_ledger}"
    if notices_below:
        words += f"; would have noticed noise below {notices_below:.2g} of what is declared"
    return Bound(unit, hospital, method, proved, stated, tight, confidence, notices_below, passed, words)
