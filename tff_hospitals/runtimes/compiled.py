"""The compiled runtime: the same parts as the native one, executed in this process at the machine's limit.

Two ways of running a round, both calling the composition's own functions:

* *fused*: whole rounds as one XLA program that scans over rounds, hospitals and steps; best where a step is too small
to
  pay for leaving the program (logistic regression, small MLP).
* *side by side*: one compiled function per hospital, as many at once as there are cores, contributions added in the
  cohort's order so that sums are reproducible; best for larger models, and the only way for what XLA cannot compile or
  compiles badly (convolutions on the CPU). Memory does not grow with the cohort: a chunk of hospitals at a time.

Programs are kept by the composition's signature: a second seed of the same plan compiles nothing. The runtime starts no
process and opens no port.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tff_hospitals.learning_process import Composition, ServerState
from tff_hospitals.runtimes import base
from tff_hospitals.runtimes.fused import FusedProgram
from tff_hospitals.runtimes.side_by_side import SideBySideProgram

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset

_FUSED_PARAMETERS = 20_000  # above it, a step is long enough to be worth a core of its own
_KEPT_PROGRAMS = 64
_programs: collections.OrderedDict[tuple, Any] = collections.OrderedDict()


class CompiledRuntime:
    """Runs rounds in this process.

    Args:
      composition: the composed plan.
      dataset: its hospitals.
      frozen: weights that do not travel.
      strategy: `fused`, `side_by_side`, or None to choose by the model.
    """

    name = "compiled"

    def __init__(
        self, composition: Composition, dataset: HospitalDataset, frozen: tuple, *, strategy: str | None = None
    ):
        self.strategy = strategy or choose_strategy(composition)
        key = (composition.signature, self.strategy)
        if key not in _programs:
            kind = FusedProgram if self.strategy == "fused" else SideBySideProgram
            _programs[key] = kind(composition)
            while len(_programs) > _KEPT_PROGRAMS:
                _programs.popitem(last=False)
        self._program = _programs[key]
        self._data = self._program.load(dataset)
        self._frozen = tuple(tf.constant(weight) for weight in frozen)

    def run_rounds(
        self, state: ServerState, rounds: Sequence[base.RoundInput]
    ) -> tuple[ServerState, list[base.RoundOutput]]:
        """Runs the rounds in order and returns numpy state."""
        if not rounds:
            return state, []
        state, outputs = self._program.run(state, rounds, self._data, self._frozen)
        return tf.nest.map_structure(np.asarray, state), outputs

    def close(self) -> None:
        """Frees the resident data."""
        self._data = None


def choose_strategy(composition: Composition) -> str:
    """`fused` for small models that XLA handles well, else `side_by_side`."""
    scalars = composition.client_work.scalars
    model = composition.model
    small = scalars <= _FUSED_PARAMETERS
    return "fused" if small and not model.draws_random_numbers and not has_convolution(model) else "side_by_side"


def has_convolution(model: Any) -> bool:
    """Whether a trainable or frozen weight belongs to a convolution (four axes: XLA on the CPU loses to oneDNN
    there).
    """
    return any(len(spec.shape) >= 3 for spec in (*model.trainable_specs, *model.frozen_specs))
