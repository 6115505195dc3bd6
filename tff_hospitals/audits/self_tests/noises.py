"""Noise over its declared deviation, as it was observed: what loudness and independence are tested on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Noise:
    """The noise of one hospital (None: the server) in one round of one run.

    Attributes:
      values: float64 [parts, parameters], independent unit normals if all is as declared; a part is one or several
        steps of the round.
      round: from 1.
      run: label of the run that it belongs to.
    """

    hospital: str | None
    round: int
    run: str
    values: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Observed:
    """All noise that was observed at one place of the mechanism.

    Attributes:
      name: such as "noise on records"; findings begin with it.
      noises: of the audited run, and of other seeds of its plan.
      tensors: where each trainable tensor lies in the parameters.
      own: label of the audited run.
      normal: whether single numbers should be normal (whole-number noise is normal only in sums).
    """

    name: str
    noises: Sequence[Noise]
    tensors: Mapping[str, slice]
    own: str
    normal: bool = True

    @property
    def hospitals(self) -> list[str | None]:
        """Whose noise it is, in order."""
        return list(dict.fromkeys(one.hospital for one in self.noises))

    @property
    def rounds(self) -> list[int]:
        """Rounds that were looked at."""
        return sorted({one.round for one in self.noises})

    def of_this_run(self) -> list[Noise]:
        """The noise that the audited run itself drew."""
        return [one for one in self.noises if one.run == self.own]


def together(noises: Iterable[Noise], part: slice = slice(None)) -> np.ndarray:
    """All numbers as one vector, of one tensor or of all."""
    return np.concatenate([one.values[:, part].ravel() for one in noises])
