"""What was promised beside what was attacked: one line for each row of a comparison that promises or was attacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tff_hospitals.reports.rows import Row
from tff_hospitals.reports.wording import UNIT_SHORT, delta_text, epsilon_text, joint_sentences, row_title, significant

ATTACKS = ("membership_auc", "membership_tpr", "reconstruction_error", "epsilon_lower_bound")


def promised_and_attacked(rows: Sequence[Row], joint: Mapping[str, Any], splits: int) -> dict[str, Any] | None:
    """The panel's sentences and table; None where nothing was promised or attacked.

    Args:
      rows: in the order of the table.
      joint: epsilon of everything together, as in summary.json.
      splits: of the comparison.
    """
    shown = [row for row in rows if row.private or _attacked(row)]
    if not shown:
        return None
    lines = []
    for row in shown:
        promise = f"{epsilon_text(row.epsilon)} at delta {delta_text(row.delta)}" if row.private else "none"
        found = [significant(_value(row, name)) or "-" for name in ("membership_auc", "reconstruction_error")]
        lines.append([row_title(row), UNIT_SHORT[row.unit], promise, *found, *_bound(row)])
    several = joint_sentences(joint, splits)
    if not any(_attacked(row) for row in shown):
        several.append("No run was attacked here: compare with --audit, or start the command audit on a run.")
    columns = ["method", "what is hidden", "epsilon promised", "membership AUC", "reconstruction error"]
    columns += ["epsilon that an attack proved", "outcome"]
    return {
        "caption": "Membership AUC: 0.5 is guessing, 1 tells all members; reconstruction error: 0 is the exact record",
        "columns": columns,
        "rows": lines,
        "sentences": several,
    }


def _bound(row: Row) -> tuple[str, str]:
    """What an attack proved, and what that says of the promise."""
    proved = _value(row, "epsilon_lower_bound")
    if not _attacked(row):
        return "-", "not attacked"
    if not row.private:
        return significant(proved) or "-", "nothing was promised"
    if proved is None:
        return "-", "no bound was made"
    broken = row.epsilon is not None and proved > row.epsilon
    return significant(proved), "BROKEN: more than was promised" if broken else "does not contradict the promise"


def _attacked(row: Row) -> bool:
    return any(_value(row, name) is not None for name in ATTACKS)


def _value(row: Row, name: str) -> float | None:
    value = row.get(name)
    return value if isinstance(value, (int, float)) else None
