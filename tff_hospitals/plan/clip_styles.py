"""How a record-level mechanism clips the gradients of single records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tff_hospitals.foundations.validation import Problem


@dataclasses.dataclass(frozen=True)
class ClipStyle:
    """One way of clipping.

    Attributes:
      name: as plans say it.
      words: for help and reports.
      in_model: the style of `models.per_record` that clips a step's gradients.
      follows: whether the clip norm follows a noised quantile of the record norms, which takes a noised count a step.
      options: fields of `PrivacyPlan` that it reads.
    """

    name: str
    words: str
    in_model: str
    follows: bool = False
    options: tuple[str, ...] = ()


CLIP_STYLES: Mapping[str, ClipStyle] = {
    style.name: style
    for style in (
        ClipStyle("flat", "one norm over all layers", "flat"),
        ClipStyle("per_layer", "each layer by itself, all of them together within the norm", "per_layer"),
        ClipStyle("automatic", "every gradient is normalised, whatever its size (Bu et al. 2023)", "automatic"),
        ClipStyle(
            "adaptive",
            "one norm that follows a noised quantile of the record norms (Andrew et al. 2021)",
            "flat",
            follows=True,
            options=("clip_quantile", "clip_learning_rate", "clipped_count_stddev"),
        ),
    )
}

ONE_NORM = tuple(name for name, style in CLIP_STYLES.items() if not style.follows)
"""Styles whose clip norm is the same in all steps."""


def norm_that_moves(mechanism: str, style: str) -> Problem | None:
    """Why a mechanism whose noise later steps take back cannot clip in a style, if so."""
    if style in ONE_NORM or style not in CLIP_STYLES:
        return None
    bound = f"{mechanism} adds noise that later steps take back, which needs one clip norm for all steps"
    return Problem("clip_style", style, bound, "set --clip_style=flat, per_layer or automatic, or take dp_sgd")
