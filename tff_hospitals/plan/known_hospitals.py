"""Which hospitals a plan is about, as far as it is known before their records are read.

Simulated sites are numbered, so that what names or counts hospitals can be refused before anything is loaded.

>>> from tff_hospitals.plan.plan import Plan
>>> simulated = Plan().replace(data={"partition": "iid", "sites": 2})
>>> hospital_ids(simulated, None), hospital_count(simulated, None), hospital_ids(Plan(), None)
(('site-0001', 'site-0002'), 2, None)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.plan.plan import Plan

_MOST = 10_000  # names of more hospitals are checked once they are there
_NUMBERED = ("synthetic",)  # whose sites are numbered in its natural partition too


def hospital_count(plan: Plan, dataset: HospitalDataset | None) -> int | None:
    """How many hospitals there are; None where only their records can tell.

    Args:
      plan: any plan.
      dataset: its hospitals, where they are loaded.
    """
    if dataset is not None:
        return len(dataset.hospitals)
    sites = plan.data.sites
    return sites if isinstance(sites, int) and sites > 0 else None


def hospital_ids(plan: Plan, dataset: HospitalDataset | None) -> tuple[str, ...] | None:
    """Ids of the hospitals; None where only their records can tell.

    Args:
      plan: any plan.
      dataset: its hospitals, where they are loaded.
    """
    from tff_hospitals.hospitals.partitions import PARTITIONS, site_ids  # numpy is not needed to show --help

    if dataset is not None:
        return tuple(dataset.ids)
    count = hospital_count(plan, None)
    numbered = plan.data.partition in PARTITIONS or plan.data.name in _NUMBERED
    return site_ids(count) if count is not None and count <= _MOST and numbered else None
