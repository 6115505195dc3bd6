"""How a record-level mechanism clips the gradients of single records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


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
