"""The secure sum: contributions as whole numbers that only their total is shown of; a wrapper around an aggregator.

It is simulated wherever one process sees all hospitals, and every table says so; real hospitals have
`deployment.secure_sum`.
"""

from __future__ import annotations

from tff_hospitals.foundations.validation import Problem
from tff_hospitals.plan.mechanisms.base import HospitalLevel
from tff_hospitals.plan.parts import PrivacyPlan

SIMULATED = (
    "the secure sum is simulated: no cryptography keeps the server from a single hospital's contribution in this run"
)


def used(mechanism: HospitalLevel, privacy: PrivacyPlan) -> bool:
    """Whether contributions are added up under a secure sum: asked for, or needed by noise in shares."""
    return privacy.secure_sum or mechanism.always_secure


def problems(mechanism: HospitalLevel, privacy: PrivacyPlan) -> list[Problem]:
    """Why a mechanism cannot stand behind a secure sum."""
    if not privacy.secure_sum or mechanism.linear:
        return []
    bound = (
        f"shows the server the total alone, and {mechanism.name} has to see every single update: it is no function of "
        "their sum"
    )
    return [Problem("secure_sum", True, bound, "drop --secure_sum, or take a mechanism that adds updates up")]


def warnings(mechanism: HospitalLevel, privacy: PrivacyPlan) -> list[str]:
    """That it is only simulated."""
    if not used(mechanism, privacy):
        return []
    return [SIMULATED]
