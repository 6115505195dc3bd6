"""The page about one run's guarantee, one page for an ethics board."""

from __future__ import annotations

import math
from typing import Any

from tff_hospitals.reports import guarantee_words as words
from tff_hospitals.reports.guarantee import Facts, UnitGuarantee, conversions_words, strength
from tff_hospitals.reports.pages import figures, render
from tff_hospitals.reports.plot_guarantee import trade_off_picture
from tff_hospitals.reports.plot_style import drawing


def guarantee_page(found: Facts) -> str:
    """The HTML text."""
    with drawing():
        picture = trade_off_picture(found.units, found.ledger.delta)
    data = str((found.record.get("dataset") or {}).get("name") or found.plan.data.name)
    return render(
        "guarantee.html",
        title=f"The guarantee of {found.summary.get('label') or found.plan.label}",
        badges=[
            {"text": data, "caution": False},
            {"text": "guarantee" if found.units else "no guarantee", "caution": not found.units},
            {"text": "audited" if found.audit is not None else "not audited", "caution": found.audit is None},
        ],
        research=found.research,
        tiles=[tile for one in found.units for tile in _tiles(found, one)]
        or [{"name": "Epsilon", "value": "none", "note": "nothing protects the records"}],
        statement=str(found.summary.get("guarantee", "")),
        units=[
            {
                "facts": [
                    (f"Epsilon, {name}", f"{value} ({how})" + (", stated" if name == one.stated else ""))
                    for name, value, how in conversions_words(one)
                ],
                "lines": strength(one, found.ledger),
            }
            for one in found.units
        ],
        pictures=figures([picture] if picture is not None else [], files=False),
        sections=words.sections(found),
    )


def _tiles(found: Facts, one: UnitGuarantee) -> list[dict[str, Any]]:
    total = (found.joint or {}).get(one.unit)
    joint = "not known" if total is None else "none" if math.isinf(total.epsilon) else f"{total.epsilon:.4g}"
    note = "" if total is None else f"{total.runs} runs on the same data, at delta {total.delta:g}"
    whose = "the same for all" if one.worst is None else f"worst: {one.worst}"
    return [
        {
            "name": f"Epsilon per {one.unit}",
            "value": "none" if math.isinf(one.epsilon) else f"{one.epsilon:.4g}",
            "note": f"delta {found.ledger.delta:g}, {whose}",
        },
        {"name": f"With all else, per {one.unit}", "value": joint, "note": note},
    ]
