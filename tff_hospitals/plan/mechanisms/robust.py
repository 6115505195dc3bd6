"""Robust rules: how updates become one when some hospitals may send anything at all. None of them adds noise.

They need every single update, and so cannot stand behind a secure sum. What a rule bears, it bears in theory: with few
hospitals that is little, and `vacuous` says when it is nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tff_hospitals.foundations.validation import Problem
from tff_hospitals.plan.mechanisms.base import Seen, Unprotected
from tff_hospitals.plan.mechanisms.registry import register
from tff_hospitals.plan.parts import CohortPlan, PrivacyPlan

if TYPE_CHECKING:
    from tff_hospitals.plan.plan import Plan

MOST_HOSPITALS = 1000
"""Every update is kept until the rule has seen all of them."""


class RobustRule(Unprotected):
    """A rule that sees every update.

    Attributes:
      least: the fewest hospitals of a round that bear `byzantine` bad ones, as (factor, more): factor * f + more.
    """

    linear, tells = False, "place"
    seen = Seen(
        server="every hospital's update as it is",
        hospitals="what the rule made of the updates, in every round",
        readers="a model that was made of the updates as they are",
    )
    options: tuple[str, ...] = ("byzantine",)
    least: tuple[int, int] = (2, 1)

    def problems(self, plan: Plan, privacy: PrivacyPlan) -> list[Problem | None]:
        """Weights by records, which a bad hospital could choose; encoders, whose server adds updates up."""
        found: list[Problem | None] = []
        if plan.weighting != "equal":
            bound = f"must be equal under {self.name}: a bad hospital would claim as many records as it likes"
            found.append(Problem("weighting", plan.weighting, bound, "set --weighting=equal"))
        for name, value in (("upload", plan.upload), ("skip_below", plan.skip_below)):
            if value:
                bound = f"is not offered together with {self.name}, which needs every single update"
                found.append(Problem(name, value, bound, f"drop --{name}, or take norm_bound"))
        return found

    def cohort_problems(self, privacy: PrivacyPlan, cohort: CohortPlan, hospitals: int) -> list[Problem]:
        """More bad hospitals than the rule bears, or more hospitals than the server can hold."""
        found = []
        smallest = self._smallest(cohort, hospitals)
        if privacy.byzantine is not None and smallest < self._needed(privacy.byzantine):
            bound = (
                f"needs {self._needed(privacy.byzantine)} hospitals in a round under {self.name}, and there are "
                f"{smallest}: it bears at most {self.bears(smallest)}"
            )
            remedy = f"give --byzantine={self.bears(smallest)}, more hospitals, or another rule"
            found.append(Problem("byzantine", privacy.byzantine, bound, remedy))
        if hospitals > MOST_HOSPITALS:
            bound = f"must be at most {MOST_HOSPITALS} under {self.name}, which keeps every update of a round"
            found.append(Problem("hospitals", hospitals, bound, "take smaller cohorts of fewer sites, or norm_bound"))
        return found

    def cohort_warnings(self, privacy: PrivacyPlan, cohort: CohortPlan, hospitals: int) -> list[str]:
        """That it bears no bad hospital at all."""
        smallest = self._smallest(cohort, hospitals)
        if self.bears(smallest) > 0:
            return []
        return [
            f"{self.name} is vacuous with {smallest} hospitals in a round: it needs {self._needed(1)} to bear one that "
            "sends anything it likes. Remedy: more hospitals in a round, or a rule that needs fewer."
        ]

    def bears(self, hospitals: int) -> int:
        """The most bad hospitals among so many that the rule bears."""
        factor, more = self.least
        return max(0, (hospitals - more) // factor)

    def _needed(self, byzantine: int) -> int:
        factor, more = self.least
        return factor * byzantine + more

    def _smallest(self, cohort: CohortPlan, hospitals: int) -> int:
        """Hospitals in the smallest round that is planned; the mean where chance decides."""
        return int(cohort.expected_size(hospitals)) if cohort.kind == "poisson" else cohort.smallest_size(hospitals)


@register
class CoordinateMedian(RobustRule):
    """Yin et al. 2018, arXiv:1803.01498."""

    name = "coordinate_median"
    words = "the median of the updates in every coordinate"


@register
class TrimmedMean(RobustRule):
    """Yin et al. 2018, arXiv:1803.01498."""

    name = "trimmed_mean"
    words = "the mean of the updates in every coordinate, without the largest and the smallest"


@register
class Krum(RobustRule):
    """Blanchard et al. 2017, arXiv:1703.02757."""

    name = "krum"
    words = "the one update that lies nearest to most of the others"
    least = (2, 3)


@register
class MultiKrum(RobustRule):
    """Blanchard et al. 2017, arXiv:1703.02757."""

    name = "multi_krum"
    words = "the mean of the updates that lie nearest to most of the others"
    least = (2, 3)


@register
class GeometricMedian(RobustRule):
    """Pillutla, Kakade and Harchaoui 2022, arXiv:1912.13445 (RFA)."""

    name = "geometric_median"
    words = "the point of least summed distance to all updates (RFA)"


@register
class CentredClip(RobustRule):
    """Karimireddy, He and Jaggi 2021, arXiv:2012.10333."""

    name = "centred_clip"
    words = "the mean of the updates, each moved towards the last round's by at most the clip norm"
    options = ("byzantine", "clip_norm")


@register
class NormBound(Unprotected):
    """Sun et al. 2019, arXiv:1911.07963: a sum, so that it also works under a secure sum."""

    name = "norm_bound"
    words = "the mean of updates that are clipped to a norm, without noise"
    seen = Seen(
        server="every hospital's clipped update",
        hospitals="the mean of the clipped updates, in every round",
        readers="a model that was made of the updates as they are",
    )
    options = ("clip_norm",)
