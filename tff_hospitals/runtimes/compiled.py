"""The compiled runtime: the same parts as the native one, executed in this process at the machine's limit.

Three ways of running a round, all calling the composition's own functions:

* *fused*: whole rounds as one XLA program that scans over rounds, hospitals and steps; best where a step is too small
  to pay for leaving the program (logistic regression).
* *scanned*: chunks of the cohort, each scanned by one XLA program, several chunks at once; best for larger dense
  models.
* *side by side*: one TensorFlow function per hospital without XLA, as many at once as there are cores; for
  convolutions, where XLA on the CPU loses to oneDNN, and for models that draw random numbers, whose bits XLA would
  change.

Sums are taken in the cohort's order and do not depend on the number of cores. In the last two, memory does not grow
with the cohort. With `TF_NUM_INTRAOP_THREADS=1` (the scripts set it) an operation stays on one core and hospitals or
chunks share the cores between them, which is faster than the other way round.

A plan that encodes what it sends runs with the codec between the halves (see `encoded`), whatever strategy is asked
for.

Programs are kept by the composition's signature: a second seed of the same plan compiles nothing. Seeds of a sweep that
would run fused share the calls as well (see `together`). The runtime starts no process and opens no port.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tff_hospitals.learning_process import Composition, ServerState
from tff_hospitals.runtimes import base, resident
from tff_hospitals.runtimes.encoded import EncodedProgram
from tff_hospitals.runtimes.fused import FusedProgram
from tff_hospitals.runtimes.scanned import ScannedProgram
from tff_hospitals.runtimes.side_by_side import SideBySideProgram
from tff_hospitals.runtimes.together import TogetherProgram
from tff_hospitals.validation import Problem, raise_if

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset

_FUSED_PARAMETERS = 20_000  # above it, a hospital's steps are long enough to be worth a core of their own
_KINDS: dict[str, Any] = {
    "fused": FusedProgram,
    "scanned": ScannedProgram,
    "side_by_side": SideBySideProgram,
    "encoded": EncodedProgram,
    "together": TogetherProgram,
}
_KEPT_PROGRAMS = 64
_programs: collections.OrderedDict[tuple, Any] = collections.OrderedDict()


class CompiledRuntime:
    """Runs rounds in this process.

    Args:
      composition: the composed plan.
      dataset: its hospitals.
      frozen: weights that do not travel.
      strategy: `fused`, `scanned`, `side_by_side`, or None to choose by the model.
    """

    name = "compiled"

    def __init__(
        self, composition: Composition, dataset: HospitalDataset, frozen: tuple, *, strategy: str | None = None
    ):
        self.strategy = strategy or choose_strategy(composition)
        if composition.exchange is not None:  # payloads are made of bytes: the codec stands between the halves
            self.strategy = "encoded"
        if self.strategy == "fused" and (resident.is_streamed(dataset) or resident.is_uneven(dataset)):
            self.strategy = "scanned"  # whole rounds need all records at once, padded to the largest hospital
        self._composition = composition
        self._program = _program(composition, self.strategy)
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

    @property
    def shares_calls(self) -> bool:
        """Whether several runs are faster together: where rounds are so short that the call itself counts."""
        return self.strategy == "fused"

    def run_rounds_of_many(
        self,
        states: Sequence[ServerState],
        rounds_of_each: Sequence[Sequence[base.RoundInput]],
        frozen_of_each: Sequence[tuple],
    ) -> list[tuple[ServerState, list[base.RoundOutput]]]:
        """What `run_rounds` gives for each of several runs that differ in their seeds alone.

        Args:
          states: of each run.
          rounds_of_each: the rounds of each run, as many for all of them.
          frozen_of_each: weights of each run that do not travel.

        Raises:
          InvalidInput: the strategy has no calls to share.
        """
        if not self.shares_calls:
            bound = "must be fused to run several runs at once"
            raise_if([Problem("strategy", self.strategy, bound, "train the runs one after the other")])
        program = _program(self._composition, "together")
        return program.run_all(states, rounds_of_each, self._data, frozen_of_each)

    def close(self) -> None:
        """Frees the resident data."""
        self._data = None


def _program(composition: Composition, strategy: str) -> Any:
    key = (composition.signature, strategy)
    if key not in _programs:
        _programs[key] = _KINDS[strategy](composition)
        while len(_programs) > _KEPT_PROGRAMS:
            _programs.popitem(last=False)
    return _programs[key]


def choose_strategy(composition: Composition) -> str:
    """By what was measured (see benchmarks/round_time.py): XLA wins except for convolutions, where it loses to oneDNN;
    whole rounds in one program win where a round is short, chunks on all cores where it is long.
    """
    model = composition.model
    if model.draws_random_numbers or has_convolution(model):
        return "side_by_side"
    return "fused" if composition.client_work.scalars <= _FUSED_PARAMETERS else "scanned"


def has_convolution(model: Any) -> bool:
    """Whether a trainable or frozen weight belongs to a convolution (four axes: XLA on the CPU loses to oneDNN
    there).
    """
    return any(len(spec.shape) >= 3 for spec in (*model.trainable_specs, *model.frozen_specs))
