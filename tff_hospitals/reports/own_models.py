"""What a run's summary says of models that hospitals made for themselves at its end.

>>> row = Row(
...     "fedavg", extra={"personal": {"kind": "ditto", "epochs": 5, "accuracy_per_hospital": {"a": 0.8, "b": 0.7}}}
... )
>>> words(row)
'ditto, 5 epochs: accuracy 75.0 % (mean of the hospitals): a 80.0, b 70.0'
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from tff_hospitals.reports.rows import Row
from tff_hospitals.reports.wording import score_text, with_unit

_MOST_NAMED = 8


def personal(row: Row) -> Mapping[str, Any]:
    """What the summary holds of them; empty where there are none."""
    found = row.extra.get("personal")
    return found if isinstance(found, Mapping) else {}


def per_hospital(row: Row) -> dict[str, float]:
    """The figure of each hospital's own model on its own test records, where it is known."""
    found = personal(row).get(f"{row.metric.name}_per_hospital")
    if not isinstance(found, Mapping):
        return {}
    return {str(one): float(value) for one, value in found.items() if isinstance(value, (int, float))}


def words(row: Row) -> str:
    """One line for the end of a run; empty where there is nothing to say."""
    known, metric = per_hospital(row), row.metric
    if not known:
        return ""
    mean = with_unit(metric, score_text(metric, statistics.fmean(known.values())))
    named = ", ".join(f"{one} {score_text(metric, value)}" for one, value in known.items())
    each = f": {named}" if len(known) <= _MOST_NAMED else ""
    about = personal(row)
    label = metric.label[0].lower() + metric.label[1:]
    return f"{about.get('kind')}, {about.get('epochs')} epochs: {label} {mean} (mean of the hospitals){each}"
