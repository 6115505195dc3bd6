"""Error feedback: what a payload leaves out is added to the next update.

Without it a biased chain never sends what it always drops; with it everything arrives in the end, only later.

Source: Seide, Fu, Droppo, Li, Yu 2014 (1-bit SGD); Karimireddy, Rebjock, Stich, Jaggi 2019, arXiv:1901.09847.

>>> from tff_hospitals.communication import parse_chain
>>> chain, update = parse_chain("topk:0.5"), [("w", np.array([1.0, 0.75], np.float32))]
>>> state = Feedback.zeros([(2,)])
>>> for _ in range(2):
...     _, decoded, state = chain.encode(update, None, state)
...     print(decoded[0].tolist(), state.residual.tolist())
[1.0, 0.0] [0.0, 0.75]
[0.0, 1.5] [1.0, 0.0]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tff_hospitals.communication import tensors


@dataclasses.dataclass(frozen=True, eq=False)
class Feedback:
    """The state of error feedback: kept where the encoding is done (at the hospital) and saved in its checkpoint.

    Args:
      residual: float32 [values in all tensors together], in the unit of the updates.
    """

    residual: np.ndarray

    @classmethod
    def zeros(cls, shapes: Sequence[Sequence[int]]) -> Feedback:
        """The state before the first update of these shapes."""
        return cls(np.zeros(sum(tensors.sizes(shapes)), np.float32))

    def after_skip(self, arrays: Sequence[tuple[str, np.ndarray]]) -> Feedback:
        """The state after a round in which nothing was sent: the whole update waits for the next payload."""
        return Feedback(self.residual + tensors.flatten(arrays))
