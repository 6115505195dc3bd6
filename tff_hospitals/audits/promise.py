"""The promise against its audit: no attack may prove more epsilon than the ledger states.

>>> verdict("record", "repeated runs", lower_bound=0.4, ledger_epsilon=1.0, confidence=0.95).passed
True
>>> print(verdict("hospital", "repeated runs", lower_bound=2.5, ledger_epsilon=1.0, confidence=0.95).words)
FAIL at hospital level: repeated runs prove epsilon >= 2.5 with 95 % confidence, above the ledger's 1
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from tff_hospitals.audits.mechanism_checks import Check
from tff_hospitals.foundations.validation import in_range, one_of, raise_if


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One comparison of a proved lower bound with the ledger.

    Attributes:
      unit: "record" or "hospital".
      method: how the bound was obtained.
      lower_bound: epsilon that is proved with `confidence`.
      ledger_epsilon: the promise; infinite without one (nothing can then fail).
      passed: lower_bound <= ledger_epsilon.
      words: one sentence for a report.
    """

    unit: str
    method: str
    lower_bound: float
    ledger_epsilon: float
    confidence: float
    passed: bool
    words: str


def verdict(unit: str, method: str, *, lower_bound: float, ledger_epsilon: float, confidence: float) -> Verdict:
    """Compares a lower bound with the ledger's epsilon at the same unit and delta.

    Args:
      unit: "record" or "hospital".
      method: such as "one run with 243 canaries".
      lower_bound, ledger_epsilon: both >= 0; the ledger's may be infinite.
      confidence: of the lower bound.
    """
    raise_if(
        [
            one_of("unit", unit, ("record", "hospital")),
            in_range("lower_bound", lower_bound, low=0.0, remedy="give the proved epsilon"),
            in_range("confidence", confidence, low=0.0, high=1.0, low_open=True, high_open=True, remedy="give 0.95"),
        ]
    )
    passed = lower_bound <= ledger_epsilon
    proved = f"{method} prove epsilon >= {lower_bound:.3g} with {100 * confidence:g} % confidence"
    if math.isinf(ledger_epsilon):
        words = f"NO PROMISE at {unit} level: {proved}, and the ledger promises nothing"
    elif passed:
        words = f"PASS at {unit} level: {proved}, within the ledger's {ledger_epsilon:.3g}"
    else:
        words = f"FAIL at {unit} level: {proved}, above the ledger's {ledger_epsilon:.3g}"
    return Verdict(unit, method, float(lower_bound), float(ledger_epsilon), confidence, passed, words)


def holds(verdicts: Sequence[Verdict], checks: Sequence[Check]) -> bool:
    """Whether no bound exceeds the ledger and no self-test failed."""
    return all(one.passed for one in verdicts) and all(check.passed for check in checks)
