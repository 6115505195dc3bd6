"""What an audit does: its parts and how much each of them looks at."""

from __future__ import annotations

import dataclasses

from tff_hospitals.foundations.validation import Problem, in_range, one_of, whole_number

PARTS = ("membership", "attribute", "reconstruction", "updates", "promise", "defences")


@dataclasses.dataclass(frozen=True)
class AuditOptions:
    """What an audit does.

    Attributes:
      parts: names in `PARTS`; None: all that apply, and what does not apply is listed as skipped with the reason.
      fprs: false positive rates; None: 1 % and 0.1 % where the records allow it.
      confidence: of every interval and bound.
      shadow_models: for calibrated and likelihood-ratio attacks.
      attributes: columns to infer; None: the first binary and the first numeric one.
      rebuilt_records: how many records are rebuilt.
      audit_runs: the most runs with, and as many without a unit, for each bound; fewer where fewer have the power.
      leave_out: names in `PARTS` that are not run when `parts` is None.
    """

    parts: tuple[str, ...] | None = None
    fprs: tuple[float, ...] | None = None
    confidence: float = 0.95
    shadow_models: int = 32
    attributes: tuple[str, ...] | None = None
    rebuilt_records: int = 20
    audit_runs: int = 30_000
    leave_out: tuple[str, ...] = ()

    def problems(self) -> list[Problem]:
        """What is wrong before a run is read."""
        found = [
            *(one_of("attacks", name, PARTS) for name in (*(self.parts or ()), *self.leave_out)),
            in_range("confidence", self.confidence, low=0.5, high=1.0, high_open=True, remedy="give 0.95"),
            whole_number("shadow_models", self.shadow_models, low=4, remedy="train 4 shadow models or more"),
            whole_number("rebuilt_records", self.rebuilt_records, low=1, remedy="rebuild 1 record or more"),
            whole_number("audit_runs", self.audit_runs, low=4, remedy="repeat 4 runs or more"),
        ]
        return [problem for problem in found if problem is not None]
