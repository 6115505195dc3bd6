"""How well an attack tells members from others, with intervals that hold for few records.

Scores are high for what the attack takes for a member. Nothing here knows what is attacked.

>>> import numpy as np
>>> outcome = evaluate(np.array([0.9, 0.8, 0.7, 0.2]), np.array([0.6, 0.3, 0.1, 0.1]), fprs=(0.25,))
>>> round(outcome.auc, 4), outcome.tprs[0].tpr, outcome.advantage
(0.875, 0.75, 0.75)
>>> smallest_fpr(254)
0.003937007874015748
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tff_hospitals.foundations.validation import Problem, in_range, raise_if, whole_number


@dataclasses.dataclass(frozen=True)
class Interval:
    """A confidence interval, both ends included."""

    low: float
    high: float

    def covers(self, value: float) -> bool:
        """Whether a value lies inside."""
        return self.low <= value <= self.high


@dataclasses.dataclass(frozen=True)
class TprAtFpr:
    """The true positive rate where false positives are rare.

    Attributes:
      asked_fpr: the false positive rate that was asked for.
      fpr, tpr: shares of non-members and members above the threshold; fpr <= asked_fpr.
      tpr_interval, fpr_interval: exact (Clopper-Pearson), given the threshold.
      p_value: exact chance of at least so many true positives if members and non-members were exchangeable.
    """

    asked_fpr: float
    fpr: float
    tpr: float
    tpr_interval: Interval
    fpr_interval: Interval
    p_value: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an attack reached on one set of records.

    Attributes:
      members, non_members: how many records of each.
      auc: chance that a member scores above a non-member, ties half; with `auc_interval`.
      advantage: largest TPR - FPR over thresholds; `advantage_interval` allows for having chosen the threshold.
      tprs: at the false positive rates that the sample supports.
      unsupported: asked rates below `smallest_fpr(non_members)`, for which nothing can be said.
      roc: (fpr, tpr) points from (0, 0) to (1, 1).
    """

    members: int
    non_members: int
    confidence: float
    auc: float
    auc_interval: Interval
    advantage: float
    advantage_interval: Interval
    tprs: tuple[TprAtFpr, ...]
    unsupported: tuple[float, ...]
    roc: tuple[tuple[float, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain types; the smallest supported rate stands beside those that are not."""
        corners = [
            point
            for before, point, after in zip((None, *self.roc), self.roc, (*self.roc[1:], None))
            if before is None
            or after is None
            or not (before[0] == point[0] == after[0] or before[1] == point[1] == after[1])
        ]
        return {**dataclasses.asdict(self), "roc": corners, "smallest_fpr": smallest_fpr(self.non_members)}


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """The exact two-sided interval of a binomial share.

    >>> interval = clopper_pearson(0, 10)
    >>> round(interval.low, 4), round(interval.high, 4)
    (0.0, 0.3085)

    Source: Clopper and Pearson 1934, Biometrika 26(4).
    """
    from scipy import stats

    raise_if(
        [
            whole_number("trials", trials, low=1, remedy="give 1 or more"),
            whole_number("successes", successes, low=0, high=trials, remedy="count successes out of the trials"),
            _confidence(confidence),
        ]
    )
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if successes == 0 else float(stats.beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(stats.beta.ppf(1.0 - tail, successes + 1, trials - successes))
    return Interval(low, high)


def _confidence(value: float) -> Problem | None:
    return in_range(
        "confidence", value, low=0.0, high=1.0, low_open=True, high_open=True, remedy="give a share such as 0.95"
    )


def smallest_fpr(non_members: int) -> float:
    """The smallest false positive rate that so many non-members can show: one of them."""
    raise_if([whole_number("non_members", non_members, low=1, remedy="keep records that were never trained on")])
    return 1.0 / non_members


def check_fpr(fpr: float, non_members: int) -> Problem | None:
    """What is wrong with asking for a false positive rate on so many non-members."""
    outside = in_range("fpr", fpr, low=0.0, high=1.0, low_open=True, high_open=True, remedy="give a share such as 0.01")
    if outside is not None:
        return outside
    least = smallest_fpr(non_members)
    if fpr < least:
        return Problem(
            "fpr",
            fpr,
            f"{non_members} records that were not trained on support no rate below {least:.4g}",
            f"ask for {least:.4g} or more, or bring {math.ceil(1 / fpr)} such records",
        )
    return None


def area_under_roc(members: np.ndarray, non_members: np.ndarray) -> float:
    """Chance that a member scores above a non-member; ties count half."""
    from scipy import stats

    _check_scores(members, non_members)
    ranks = stats.rankdata(np.concatenate([members, non_members]))
    m, n = len(members), len(non_members)
    return float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))


def auc_interval(auc: float, members: int, non_members: int, confidence: float = 0.95) -> Interval:
    """A score interval: all areas whose own standard error the observed one does not leave.

    At an area of one half the variance is that of the exact rank test, so that chance is covered as often as promised,
    also
    for a handful of records.

    Source: Newcombe 2006, Statistics in Medicine 25(4), method 5; variance of Hanley and McNeil 1982.
    """
    from scipy import optimize, stats

    raise_if([_confidence(confidence), in_range("auc", auc, low=0.0, high=1.0, remedy="give an area")])
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    middle = (members + non_members) / 2

    def distance(area: float) -> float:
        spread = 1 + (middle - 1) * ((1 - area) / (2 - area) + area / (1 + area))
        return (auc - area) ** 2 - z * z * area * (1 - area) * spread / (members * non_members)

    low = 0.0 if auc <= 0 else float(optimize.brentq(distance, 0.0, auc)) if distance(0.0) > 0 else 0.0
    high = 1.0 if auc >= 1 else float(optimize.brentq(distance, auc, 1.0)) if distance(1.0) > 0 else 1.0
    if auc <= 0:
        high = float(optimize.brentq(distance, 1e-12, 1.0))
    if auc >= 1:
        low = float(optimize.brentq(distance, 0.0, 1 - 1e-12))
    return Interval(low, high)


def roc_curve(members: np.ndarray, non_members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(fpr, tpr) at every threshold, from (0, 0) to (1, 1)."""
    _check_scores(members, non_members)
    thresholds = np.unique(np.concatenate([members, non_members]))[::-1]
    above_members = len(members) - np.searchsorted(np.sort(members), thresholds, side="left")
    above_others = len(non_members) - np.searchsorted(np.sort(non_members), thresholds, side="left")
    return (
        np.concatenate([[0.0], above_others / len(non_members)]),
        np.concatenate([[0.0], above_members / len(members)]),
    )


def tpr_at_fpr(members: np.ndarray, non_members: np.ndarray, fpr: float, confidence: float = 0.95) -> TprAtFpr:
    """The largest true positive rate with at most `fpr` false positives.

    Raises:
      validation.InvalidInput: too few non-members for that rate; names the smallest one that they support.
    """
    from scipy import stats

    _check_scores(members, non_members)
    raise_if([check_fpr(fpr, len(non_members)), _confidence(confidence)])
    m, n = len(members), len(non_members)
    allowed = math.floor(fpr * n + 1e-9)
    # Above the score of the first non-member that is one too many.
    ordered = np.sort(non_members)[::-1]
    hits = int((members > ordered[allowed]).sum()) if allowed < n else m
    false = int((non_members > ordered[allowed]).sum()) if allowed < n else n
    # Exchangeable scores: at least `hits` members come before non-member number allowed + 1 exactly when at most
    # `allowed` of the first hits + allowed records are non-members.
    chance = float(stats.hypergeom.cdf(allowed, m + n, n, hits + allowed)) if hits else 1.0
    return TprAtFpr(
        fpr, false / n, hits / m, clopper_pearson(hits, m, confidence), clopper_pearson(false, n, confidence), chance
    )


def advantage_interval(advantage: float, members: int, non_members: int, confidence: float = 0.95) -> Interval:
    """An interval of the largest TPR - FPR that holds whichever threshold was chosen on the same records.

    Both empirical distributions stay within their band at the same time (Massart 1990, Annals of Probability 18(3));
    the interval is wide, and exact in that it never promises too much.
    """
    share = (1.0 - confidence) / 2.0
    band = sum(math.sqrt(math.log(2.0 / share) / (2.0 * count)) for count in (members, non_members))
    return Interval(max(0.0, advantage - band), min(1.0, advantage + band))


def evaluate(
    members: np.ndarray,
    non_members: np.ndarray,
    *,
    fprs: Sequence[float] = (0.01, 0.001),
    confidence: float = 0.95,
) -> Outcome:
    """Everything about one attack on one set of records.

    Args:
      members, non_members: scores [records], higher for what looks like a member.
      fprs: false positive rates to report; those that the sample does not support are listed in `unsupported`.
      confidence: of every interval.

    Raises:
      validation.InvalidInput: no members or no non-members, scores that are not finite, shares out of range.
    """
    members, non_members = np.asarray(members, np.float64), np.asarray(non_members, np.float64)
    _check_scores(members, non_members)
    raise_if([_confidence(confidence)])
    m, n = len(members), len(non_members)
    supported = [rate for rate in fprs if check_fpr(rate, n) is None]
    for rate in fprs:
        raise_if([in_range("fpr", rate, low=0.0, high=1.0, low_open=True, high_open=True, remedy="give 0.01 or so")])
    false, true = roc_curve(members, non_members)
    auc = area_under_roc(members, non_members)
    advantage = float((true - false).max())
    return Outcome(
        members=m,
        non_members=n,
        confidence=confidence,
        auc=auc,
        auc_interval=auc_interval(auc, m, n, confidence),
        advantage=advantage,
        advantage_interval=advantage_interval(advantage, m, n, confidence),
        tprs=tuple(tpr_at_fpr(members, non_members, rate, confidence) for rate in supported),
        unsupported=tuple(rate for rate in fprs if rate not in supported),
        roc=tuple(zip(false.tolist(), true.tolist())),
    )


def _check_scores(members: np.ndarray, non_members: np.ndarray) -> None:
    found = []
    for name, scores in (("members", members), ("non_members", non_members)):
        if len(scores) == 0:
            found.append(Problem(name, 0, "must be one score or more", "attack a hospital with both kinds of records"))
        elif not np.isfinite(scores).all():
            found.append(Problem(name, "NaN or infinite", "must be finite scores", "check the attacked model"))
    raise_if(found)
