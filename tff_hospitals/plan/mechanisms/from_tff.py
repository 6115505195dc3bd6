"""Aggregators of TensorFlow Federated and optimisers of TensorFlow Privacy: rows beside our own mechanisms.

They are run as their libraries wrote them, by TFF's executor. Where the library states an event, the ledger is charged
with it before a round, and after the round the runtime holds the library to it. Where it states none (trees, noise in
shares) nothing is promised: the noise is that of our mechanism of the same kind, and the row says "no event".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tff_hospitals.foundations.validation import Problem
from tff_hospitals.plan.mechanisms.adaptive_clip import AdaptiveClip
from tff_hospitals.plan.mechanisms.base import PRIVATE_OPTIONS, Mechanism, Seen, Unprotected
from tff_hospitals.plan.mechanisms.dp_sgd import DpSgd
from tff_hospitals.plan.mechanisms.fixed_clip import FixedClip
from tff_hospitals.plan.mechanisms.registry import register
from tff_hospitals.plan.parts import PrivacyPlan

if TYPE_CHECKING:
    from tff_hospitals.plan.plan import Plan

NATIVE = "native"
_WITHOUT_SECURE_NOISE = tuple(name for name in PRIVATE_OPTIONS if name != "secure_noise")
_COUNTING = ("clip_quantile", "clip_learning_rate", "clipped_count_stddev")


class Foreign(Mechanism):
    """What all aggregators have in common that TFF runs as they are.

    Attributes:
      runs_on: TFF's own executor.
    """

    runs_on = NATIVE
    seeded = False

    def problems(self, plan: Plan, privacy: PrivacyPlan) -> list[Problem | None]:
        """What our own encoders and sums would have to do between TFF's halves."""
        found: list[Problem | None] = []
        bound = f"stands between the two halves of an aggregator, and those of {self.name} belong to TFF"
        if plan.upload and plan.upload != "none":
            found.append(Problem("upload", plan.upload, bound, "drop --upload, or take one of our own aggregators"))
        if plan.privacy.secure_sum:
            found.append(Problem("secure_sum", True, bound, "drop --secure_sum, or take one of our own aggregators"))
        return found


@register
class TffGaussianFixed(Foreign, FixedClip):
    """`DifferentiallyPrivateFactory.gaussian_fixed`; our twin is `fixed_clip`."""

    name = "tff_gaussian_fixed"
    words = "TFF's own fixed clipping with Gaussian noise at the server"
    options = _WITHOUT_SECURE_NOISE
    zeroing = False


@register
class TffGaussianAdaptive(Foreign, AdaptiveClip):
    """`DifferentiallyPrivateFactory.gaussian_adaptive`; our twin is `adaptive_clip`."""

    name = "tff_gaussian_adaptive"
    words = "TFF's own adaptive clipping with Gaussian noise at the server"
    options = (*_WITHOUT_SECURE_NOISE, *_COUNTING)
    zeroing = False


class WithoutEvent(Foreign, Unprotected):
    """Aggregators whose library states no event: nothing is promised."""

    noise_by = "nobody"
    seen = Seen(
        server="every hospital's update as TFF's aggregator sends it",
        hospitals="the models of all rounds, for which nobody states an event",
        readers="a model for which nobody states an event",
    )


@register
class TffTreeAdaptive(WithoutEvent):
    """`DifferentiallyPrivateFactory.tree_adaptive`; our twin is `tree`."""

    name = "tff_tree_adaptive"
    words = "TFF's own DP-FTRL with adaptive clipping; TFF states no event for it, so that nothing is promised"
    options = (*_WITHOUT_SECURE_NOISE, *_COUNTING)
    noise_of = "tree"
    spans_rounds = True


@register
class TffDdpSecure(WithoutEvent):
    """`tff.learning.ddp_secure_aggregator`; our twin is `discrete_gaussian`."""

    name = "tff_ddp_secure"
    words = "TFF's own noise in shares under a secure sum; TFF states no event for it, so that nothing is promised"
    options = _WITHOUT_SECURE_NOISE
    noise_of = "discrete_gaussian"
    always_secure = True
    known_cohort = "scales its shares of noise for a fixed number of hospitals"


class OfMeans(WithoutEvent):
    """Means without noise."""

    known_cohort = "divides by the number of hospitals, and a sample of them may be empty"


@register
class TffRobust(OfMeans):
    """`tff.learning.robust_aggregator`; our twins are `none` and zeroing."""

    name = "tff_robust"
    seeded = True
    words = "TFF's own mean behind adaptive zeroing and clipping without noise; nothing is promised"


@register
class TffCompressed(OfMeans):
    """`tff.learning.compression_aggregator`; our twin is an upload of `quantize`."""

    name = "tff_compressed"
    words = "TFF's own mean of uniformly quantised updates behind adaptive zeroing and clipping; nothing is promised"


class FromTfp(Foreign, DpSgd):
    """Client work whose gradients come from TensorFlow Privacy; our twin is `dp_sgd`."""

    options = tuple(name for name in DpSgd.options if name not in ("secure_noise", "clip_style"))
    clip_styles = ("flat",)

    def problems(self, plan: Plan, privacy: PrivacyPlan) -> list[Problem | None]:
        """Nothing: what happens to the updates is our own."""
        return []


@register
class TfpDpSgd(FromTfp):
    """`tensorflow_privacy.DPKerasSGDOptimizer`."""

    name = "tfp_dp_sgd"
    words = "DP-SGD inside each hospital by TensorFlow Privacy's Keras optimiser"


@register
class TfpDpSgdFast(FromTfp):
    """TensorFlow Privacy's fast gradient clipping, which forms no gradient of a single record."""

    name = "tfp_dp_sgd_fast"
    words = "DP-SGD inside each hospital by TensorFlow Privacy's fast gradient clipping"
