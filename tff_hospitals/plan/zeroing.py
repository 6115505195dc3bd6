"""Zeroing: an update with a huge coordinate counts as zero before it is clipped; a wrapper around an aggregator."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class ZeroingKind:
    """One kind of bound.

    Attributes:
      name: as plans say it.
      words: for help and reports.
      counts: noised counts that a round releases for it.
      options: fields of `PrivacyPlan` that it reads.
    """

    name: str
    words: str
    active: bool = True
    counts: int = 0
    options: tuple[str, ...] = ("zeroing_norm",)

    @property
    def follows(self) -> bool:
        """Whether the bound follows a noised quantile."""
        return self.counts > 0


ZEROING: Mapping[str, ZeroingKind] = {
    kind.name: kind
    for kind in (
        ZeroingKind("none", "no bound", active=False, options=()),
        ZeroingKind("fixed", "a public bound on the largest coordinate"),
        ZeroingKind(
            "quantile",
            "a bound that follows a noised quantile of the largest coordinates",
            counts=1,
            options=("zeroing_norm", "clipped_count_stddev"),
        ),
    )
}
